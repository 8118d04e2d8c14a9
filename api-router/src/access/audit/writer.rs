//! Writer: the thread that turns events into lines and writes them.
//!
//! **Invariant:** the chain of hashes never includes a line that is not in the file. Lost events
//! are counted, and as soon as lines can be written again, a line reports their number.
//! **Not here:** files (`file`), the text of a line (`shard_manager::access::audit`).

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shard_manager::access::audit::chain::{AuditChain, AuditEntry, AuditHead};
use shard_manager::access::audit::event::{AuditEvent, AuditKeys};
use shard_manager::access::audit::merging::RefusalMerger;
use shard_manager::engine::access_store::audit::begin_log;

use super::file::{AuditFile, ResumedLog};
use super::{AuditCounts, AuditStartError, Message};

/// Interval at which the writer looks for merged refusals whose line is due, while it holds any.
const TICK: Duration = Duration::from_millis(100);
/// Maximum number of events that are written at once.
const BATCH_MAX: usize = 256;

/// Destination of the lines of a log.
#[derive(Debug)]
pub(super) enum AuditSink {
    /// Standard error.
    Stderr,
    /// Files.
    File(AuditFile),
}

/// Writer of a log, which runs on its own thread.
pub(super) struct AuditWriter {
    sink: AuditSink,
    chain: AuditChain,
    keys: AuditKeys,
    counts: Arc<AuditCounts>,
    merger: RefusalMerger,
    batch: Vec<AuditEvent>,
    /// Lines of the batch that is being written.
    text: String,
    /// Number of lost events that lines of the log have already reported.
    reported_lost: u64,
    torn_bytes: u64,
    began: Instant,
}

impl AuditWriter {
    /// Creates a writer that continues a log, or begins one.
    ///
    /// # Errors
    /// [`AuditStartError::System`] if the system has no random bytes.
    pub(super) fn new(
        sink: AuditSink,
        resumed: Option<ResumedLog>,
        keys: AuditKeys,
        counts: Arc<AuditCounts>,
    ) -> Result<Self, AuditStartError> {
        let torn_bytes = resumed.as_ref().map_or(0, |resumed| resumed.torn_bytes);
        let chain = match resumed {
            Some(resumed) => AuditChain::resume(resumed.head),
            None => begin_log()?,
        };
        Ok(Self {
            sink,
            chain,
            keys,
            counts,
            merger: RefusalMerger::default(),
            batch: Vec::new(),
            text: String::new(),
            reported_lost: 0,
            torn_bytes,
            began: Instant::now(),
        })
    }

    /// Writes the line that records the start of a router.
    ///
    /// # Errors
    /// The I/O error.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        let (version, torn_bytes) = (env!("CARGO_PKG_VERSION"), self.torn_bytes);
        self.write_entry(AuditEntry::Start { version, torn_bytes })?;
        self.sync()
    }

    /// Writes events until the log ends.
    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        loop {
            let received = if self.merger.is_empty() {
                queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                queue.recv_timeout(TICK)
            };
            let mut asked = Vec::new();
            let mut ending = None;
            let mut next = match received {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return self.end(None),
            };
            while let Some(message) = next {
                match message {
                    Message::Event(event) => self.take(*event),
                    Message::Head(answer) => asked.push(answer),
                    Message::End(answer) => {
                        ending = Some(answer);
                        break;
                    }
                }
                next = if self.batch.len() < BATCH_MAX { queue.try_recv().ok() } else { None };
            }
            let due = self.merger.take_due(self.now());
            self.batch.extend(due);
            self.write_batch();
            for answer in asked {
                let head = self.head();
                // The task that requested the head may have ended.
                let _ = answer.send(head);
            }
            if let Some(answer) = ending {
                return self.end(Some(&answer));
            }
        }
    }

    fn end(mut self, answer: Option<&SyncSender<Option<AuditHead>>>) {
        self.batch = self.merger.take_all();
        self.write_batch();
        if let Err(error) = self.write_entry(AuditEntry::End) {
            tracing::warn!(%error, "the end of the audit log cannot be written");
        }
        let head = self.head();
        if let Some(answer) = answer {
            let _ = answer.send(head);
        }
    }

    fn take(&mut self, event: AuditEvent) {
        let now = self.now();
        self.batch.extend(self.merger.take(event, now));
    }

    /// Writes the batch, or counts its events as lost if that fails.
    fn write_batch(&mut self) {
        if self.batch.is_empty() && self.lost() == 0 {
            return;
        }
        let before = self.chain.last();
        let events = std::mem::take(&mut self.batch);
        match self.try_write(&events) {
            Ok(lost) => {
                self.reported_lost += lost;
                self.counts.lines.fetch_add(events.len() as u64, Ordering::Relaxed);
                self.set_fault(None);
            }
            Err(error) => {
                self.chain.rewind(before);
                let lost = events.iter().map(|event| event.count).sum();
                self.counts.dropped.fetch_add(lost, Ordering::Relaxed);
                self.set_fault(Some(error.to_string()));
            }
        }
        self.batch = events;
        self.batch.clear();
    }

    /// Writes a line with the number of lost events that no line has reported, if there are any,
    /// and then these events. Returns that number.
    fn try_write(&mut self, events: &[AuditEvent]) -> io::Result<u64> {
        let now = unix_ms();
        self.text.clear();
        if let AuditSink::File(file) = &mut self.sink
            && file.is_full()
        {
            file.rotate()?;
        }
        if let AuditSink::File(file) = &self.sink
            && file.is_new()
        {
            self.chain.push(&mut self.text, now, AuditEntry::File, &self.keys);
        }
        let lost = self.lost();
        if lost > 0 {
            self.chain.push(&mut self.text, now, AuditEntry::Lost(lost), &self.keys);
        }
        for event in events {
            let entry = AuditEntry::Request(event);
            self.chain.push(&mut self.text, event.time_ms, entry, &self.keys);
        }
        self.write_text()?;
        Ok(lost)
    }

    /// Returns the number of lost events that no line has reported.
    fn lost(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed) - self.reported_lost
    }

    fn write_entry(&mut self, entry: AuditEntry<'_>) -> io::Result<()> {
        let before = self.chain.last();
        self.text.clear();
        self.chain.push(&mut self.text, unix_ms(), entry, &self.keys);
        self.write_text().inspect_err(|_| self.chain.rewind(before))
    }

    fn write_text(&mut self) -> io::Result<()> {
        match &mut self.sink {
            AuditSink::Stderr => io::stderr().lock().write_all(self.text.as_bytes()),
            AuditSink::File(file) => file.append(self.text.as_bytes()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        match &self.sink {
            AuditSink::Stderr => Ok(()),
            AuditSink::File(file) => file.sync(),
        }
    }

    /// Syncs the log and returns its head: the position and hash of its last line. Returns `None`
    /// if the sync fails.
    fn head(&self) -> Option<AuditHead> {
        let synced = self.sync();
        synced
            .inspect_err(|error| tracing::warn!(%error, "the audit log cannot be synced"))
            .ok()
            .map(|()| self.chain.head())
    }

    /// Sets the reason why the log cannot be written, and logs when writing begins to fail and when
    /// it works again.
    fn set_fault(&self, fault: Option<String>) {
        let mut known = self.counts.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*known, &fault) {
            (None, Some(cause)) => {
                tracing::error!(cause, "the audit log cannot be written: events are lost");
            }
            (Some(_), None) => tracing::info!("the audit log is written again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        *known = fault;
    }

    /// Returns the time since the start of the writer in milliseconds.
    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

/// Returns the milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_millis() as u64
}

#[cfg(test)]
mod tests;
