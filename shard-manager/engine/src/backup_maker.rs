//! Backup maker: the trait through which an open cluster is copied into a folder.
//!
//! **Not here:** the folders of backups (`backup_folder`), running one backup at a time
//! (`cluster`).

use std::path::Path;

use super::progress_observer::ProgressObserver;
use super::save_error::SaveError;

/// Maker of copies of an open cluster.
pub trait BackupMaker: Send + Sync {
    /// Copies the cluster into a folder that is missing or empty. Blocks until the copy is complete
    /// or the observer cancels it.
    ///
    /// # Errors
    /// [`SaveError`]; the folder is then missing or empty.
    fn make(&self, to: &Path, observer: &ProgressObserver<'_>) -> Result<(), SaveError>;
}
