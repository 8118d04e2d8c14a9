//! File watch: checks every second that the files of a cluster are still those that this process
//! has opened and locked.
//!
//! **Invariant:** a cluster accepts no writes if its lock file is no longer at the path where other
//! processes look for it.
//! **Not here:** the check after each commit (`open_file_check`).

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use model::error::Error;
use model::reason::Reason;

use super::data_dir::{DataDir, WatchedFiles};
use super::open_file_check::OpenFileCheck;

/// Interval between checks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Checks of the files of all shards. Checks for shards that join are added, and those for shards
/// that retire are removed.
#[derive(Default)]
pub(super) struct FileChecks(ArcSwap<Vec<Arc<OpenFileCheck>>>);

impl FileChecks {
    /// Adds a check of a shard's file.
    pub(super) fn add(&self, file_check: &Arc<OpenFileCheck>) {
        self.0.rcu(|all| {
            let mut all = Vec::clone(all);
            all.push(Arc::clone(file_check));
            all
        });
    }

    /// Removes the check of the file of a shard that has retired, so that the file may be moved
    /// away.
    pub(super) fn remove(&self, file_check: &Arc<OpenFileCheck>) {
        self.0.rcu(|all| {
            let mut all = Vec::clone(all);
            all.retain(|known| !Arc::ptr_eq(known, file_check));
            all
        });
    }

    /// Refuses writes to the data directory if one of its shards accepts no writes.
    ///
    /// # Errors
    /// [`Error::FilesLost`].
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        self.0.load().iter().try_for_each(|file_check| file_check.check_writable())
    }

    fn each(&self, check: impl Fn(&OpenFileCheck)) {
        self.0.load().iter().for_each(|file_check| check(file_check));
    }
}

/// Handle of the thread that checks the files; dropping it ends the thread.
pub struct FileWatch {
    file_checks: Arc<FileChecks>,
    /// Channel through which nothing is ever sent: dropping the sender ends the thread.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FileWatch {
    /// Starts checking a data directory, and the files of shards that are added later.
    ///
    /// # Errors
    /// The error of the system, if it cannot start a thread.
    pub fn start(data_dir: &DataDir) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let file_checks = Arc::<FileChecks>::default();
        let mut watcher = WatchThread {
            watched_files: data_dir.watched_files(),
            file_checks: Arc::clone(&file_checks),
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

    /// Returns the checks of the files of all shards.
    pub(super) fn file_checks(&self) -> &Arc<FileChecks> {
        &self.file_checks
    }

    /// Refuses writes to the data directory if one of its shards accepts no writes.
    ///
    /// # Errors
    /// [`Error::FilesLost`].
    pub fn check(&self) -> Result<(), Error> {
        self.file_checks.check_writable()
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // An error means that the thread has panicked, and the panic was already logged.
            let _ = thread.join();
        }
    }
}

/// State of the thread that checks the files.
struct WatchThread {
    watched_files: WatchedFiles,
    file_checks: Arc<FileChecks>,
    /// True if the missing catalog was already logged.
    reported: bool,
}

impl WatchThread {
    fn look(&mut self) {
        self.file_checks.each(OpenFileCheck::look);
        if self.watched_files.lock_has_left() {
            self.file_checks.each(|file_check| file_check.record_loss(Reason::LockLost));
        }
        let gone = self.watched_files.catalog_is_gone();
        if gone && !self.reported {
            tracing::error!("{}", Reason::CatalogGone.sentence());
        }
        self.reported = gone;
        self.file_checks.each(|file_check| file_check.set_catalog_gone(gone));
    }
}
