//! Audit: the log that records which caller did what, so that an operator can prove it later.
//!
//! A request gets an [`AuditDraft`] when it begins. Its caller, table and shard key are added as
//! they become known. After the response, the draft becomes an event, which a separate thread
//! writes as one line of the log.
//!
//! **Invariant:** no request waits for the log: if the queue is full, the event is counted as lost.
//! A line contains no request body and no secret.
//! **Not here:** the text of lines, and the chain of hashes that joins them
//! (`shard_manager::access::audit`).

mod draft;
mod file;
mod head;
mod tail;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use analytics::AuditNow;
use shard_manager::access::audit::chain::AuditHead;
use shard_manager::access::audit::event::{AuditEvent, AuditKeys};
use shard_manager::access::audit::{AuditLevel, AuditSecret};
use shard_manager::error::Error;

use self::file::{AuditFile, RotationLimits};
use self::writer::{AuditSink, AuditWriter};
use crate::config::{AuditConfig, AuditTarget};

pub use self::draft::{AuditDraft, begin, finish, identify, name, note_row, note_rows_refused};
pub use self::head::{begin_keeping_head, keep_last_head};

/// Maximum number of events in the queue of the thread that writes them.
const QUEUE_MAX: usize = 8_192;

/// Reason why an audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditStartError {
    /// The log file cannot be used.
    #[error("audit_log ({}): {cause}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Reason why the file cannot be used, with the remedy.
        cause: String,
    },
    /// The system provides no random bytes, or cannot start a thread.
    #[error("audit_log: {0}")]
    System(String),
}

impl From<Error> for AuditStartError {
    fn from(error: Error) -> Self {
        Self::System(error.to_string())
    }
}

/// Message to the thread that writes the log.
enum Message {
    /// Requests that the event is written.
    Event(Box<AuditEvent>),
    /// Requests a sync of the file, and then the position of its last line; `None` if the sync
    /// fails.
    Head(SyncSender<Option<AuditHead>>),
    /// Requests the end of the log, and then the position of its last line, like `Head`.
    End(SyncSender<Option<AuditHead>>),
}

/// Counts and state of a log.
#[derive(Debug, Default)]
struct AuditCounts {
    lines: AtomicU64,
    dropped: AtomicU64,
    /// Reason why the log cannot be written at present; `None` if it can.
    fault: Mutex<Option<String>>,
}

/// Audit log of a router.
#[derive(Debug)]
pub struct AuditLog {
    level: AuditLevel,
    queue: SyncSender<Message>,
    counts: Arc<AuditCounts>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// True if the log is written to files; the catalog then keeps a copy of the last line's hash.
    has_files: bool,
}

impl AuditLog {
    /// Opens the log, continues its chain, and starts the thread that writes it. Returns `None` if
    /// no audit log is configured. Blocks.
    ///
    /// # Errors
    /// [`AuditStartError`] names the cause, and the file if it cannot be used.
    pub fn start(
        config: &AuditConfig,
        secret: AuditSecret,
    ) -> Result<Option<Arc<Self>>, AuditStartError> {
        let (log, queue) = Self::with_queue(config.level, QUEUE_MAX);
        let (sink, resumed) = match &config.target {
            AuditTarget::None => return Ok(None),
            AuditTarget::Stderr => (AuditSink::Stderr, None),
            AuditTarget::File(path) => {
                let (file, resumed) = AuditFile::open(path, RotationLimits::DEFAULT)?;
                (AuditSink::File(file), resumed)
            }
        };
        let keys = AuditKeys::new(config.keys, secret);
        let has_files = matches!(sink, AuditSink::File(_));
        let mut writer = AuditWriter::new(sink, resumed, keys, Arc::clone(&log.counts))?;
        writer.begin().map_err(|error| match &config.target {
            AuditTarget::File(path) => {
                AuditStartError::File { path: path.clone(), cause: error.to_string() }
            }
            AuditTarget::None | AuditTarget::Stderr => AuditStartError::System(error.to_string()),
        })?;
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let thread = thread.spawn(move || writer.run(&queue));
        let thread = thread.map_err(|error| AuditStartError::System(error.to_string()))?;
        let thread = Mutex::new(Some(thread));
        Ok(Some(Arc::new(Self { thread, has_files, ..log })))
    }

    /// Creates a log without its thread. Also returns the receiving end of the queue, which the
    /// thread would read.
    fn with_queue(level: AuditLevel, queue_max: usize) -> (Self, Receiver<Message>) {
        let (queue, received) = sync_channel(queue_max);
        let counts = Arc::default();
        let thread = Mutex::default();
        (Self { level, queue, counts, thread, has_files: false }, received)
    }

    /// Returns true if the log records events of this level.
    pub fn has(&self, level: AuditLevel) -> bool {
        level <= self.level
    }

    /// Adds an event to the queue, or counts it as lost if the queue is full. Never waits.
    fn record(&self, event: AuditEvent) {
        let sent = self.queue.try_send(Message::Event(Box::new(event)));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = sent {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of lines and of lost events since the start of the router.
    pub fn now(&self) -> AuditNow {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        AuditNow { lines: count(&self.counts.lines), dropped: count(&self.counts.dropped) }
    }

    /// Returns the reason why the log cannot be written at present; `None` if it can.
    pub fn fault(&self) -> Option<String> {
        self.counts.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Syncs the file, and returns the position of its last line. Blocks.
    fn sync(&self) -> Option<AuditHead> {
        let (answer, answered) = sync_channel(1);
        self.queue.send(Message::Head(answer)).ok()?;
        answered.recv().ok()?.filter(|_| self.has_files)
    }

    /// Writes the events that are left, ends the log, and returns the position of its last line.
    /// Blocks.
    fn end(&self) -> Option<AuditHead> {
        let (answer, answered) = sync_channel(1);
        self.queue.send(Message::End(answer)).ok()?;
        let head = answered.recv().ok()?.filter(|_| self.has_files);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // If the thread has panicked, the panic was already logged.
            let _ = thread.join();
        }
        head
    }
}
