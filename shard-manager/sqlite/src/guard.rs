//! Guard: checks every second that the files of a cluster are still those that this process has
//! opened and locked.
//!
//! **Invariant:** a cluster whose lock is not where other processes look for it takes no writes.
//! **Not here:** the check after each commit (`footing`).

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use model::error::Error;
use model::reason::Reason;

use super::data_dir::{DataDir, WatchedFiles};
use super::footing::Footing;

/// Interval between checks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Handle of the thread that checks, until it is dropped.
pub struct Guard {
    footings: Vec<Arc<Footing>>,
    /// Nothing is ever sent.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Checks these shards of a data directory from now on.
    ///
    /// # Errors
    /// The system's, if it cannot start a thread.
    pub fn start(data_dir: &DataDir, footings: Vec<Arc<Footing>>) -> std::io::Result<Self> {
        let (end, ended) = channel();
        let mut watch = Watch {
            watched_files: data_dir.watched_files(),
            footings: footings.clone(),
            told: false,
        };
        let thread = std::thread::Builder::new().name("guard".to_owned()).spawn(move || {
            while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                watch.look();
            }
        })?;
        Ok(Self { footings, end: Some(end), thread: Some(thread) })
    }

    /// Returns the shards that are checked.
    pub(super) fn footings(&self) -> &[Arc<Footing>] {
        &self.footings
    }

    /// Refuses writes to the directory, if a shard of it takes none.
    ///
    /// # Errors
    /// [`Error::FilesLost`].
    pub fn check(&self) -> Result<(), Error> {
        self.footings.iter().try_for_each(|footing| footing.check_writable())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which was logged then.
            let _ = thread.join();
        }
    }
}

/// State of the thread.
struct Watch {
    watched_files: WatchedFiles,
    footings: Vec<Arc<Footing>>,
    /// True if the missing catalog is already in the log.
    told: bool,
}

impl Watch {
    fn look(&mut self) {
        self.footings.iter().for_each(|footing| footing.look());
        if self.watched_files.lock_has_left() {
            self.footings.iter().for_each(|footing| footing.lose(Reason::LockLost));
        }
        let gone = self.watched_files.catalog_is_gone();
        if gone && !self.told {
            tracing::error!("{}", Reason::CatalogGone.sentence());
        }
        self.told = gone;
        self.footings.iter().for_each(|footing| footing.set_catalog_gone(gone));
    }
}
