//! File watch: checks every second that the files of a cluster are still those that this process
//! has opened and locked.
//!
//! **Invariant:** a cluster whose lock is not where other processes look for it takes no writes.
//! **Not here:** the check after each commit (`open_file_check`).

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use model::error::Error;
use model::reason::Reason;

use super::data_dir::{DataDir, WatchedFiles};
use super::open_file_check::OpenFileCheck;

/// Interval between checks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Handle of the thread that checks, until it is dropped.
pub struct FileWatch {
    file_checks: Vec<Arc<OpenFileCheck>>,
    /// Nothing is ever sent.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FileWatch {
    /// Checks these shards of a data directory from now on.
    ///
    /// # Errors
    /// The system's, if it cannot start a thread.
    pub fn start(
        data_dir: &DataDir,
        file_checks: Vec<Arc<OpenFileCheck>>,
    ) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let mut watcher = WatchThread {
            watched_files: data_dir.watched_files(),
            file_checks: file_checks.clone(),
            reported: false,
        };
        let thread =
            std::thread::Builder::new().name("file-watch".to_owned()).spawn(move || {
                while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                    watcher.look();
                }
            })?;
        Ok(Self { file_checks, end: Some(end), thread: Some(thread) })
    }

    /// Returns the shards that are checked.
    pub(super) fn file_checks(&self) -> &[Arc<OpenFileCheck>] {
        &self.file_checks
    }

    /// Refuses writes to the directory, if a shard of it takes none.
    ///
    /// # Errors
    /// [`Error::FilesLost`].
    pub fn check(&self) -> Result<(), Error> {
        self.file_checks.iter().try_for_each(|file_check| file_check.check_writable())
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which was logged then.
            let _ = thread.join();
        }
    }
}

/// State of the thread.
struct WatchThread {
    watched_files: WatchedFiles,
    file_checks: Vec<Arc<OpenFileCheck>>,
    /// True if the missing catalog is already in the log.
    reported: bool,
}

impl WatchThread {
    fn look(&mut self) {
        self.file_checks.iter().for_each(|file_check| file_check.look());
        if self.watched_files.lock_has_left() {
            self.file_checks.iter().for_each(|file_check| file_check.lose(Reason::LockLost));
        }
        let gone = self.watched_files.catalog_is_gone();
        if gone && !self.reported {
            tracing::error!("{}", Reason::CatalogGone.sentence());
        }
        self.reported = gone;
        self.file_checks.iter().for_each(|file_check| file_check.set_catalog_gone(gone));
    }
}
