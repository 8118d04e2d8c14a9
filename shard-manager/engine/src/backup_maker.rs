//! Backup maker: the trait through which an open cluster is copied into a folder.
//!
//! **Not here:** the folders of backups (`backup_folder`), running one backup at a time
//! (`cluster`).

use std::path::Path;

use super::save_error::SaveError;
use super::save_watch::Watch;

/// Maker of copies of an open cluster.
pub trait BackupMaker: Send + Sync {
    /// Copies the cluster into a folder that is missing or empty. Blocks until the copy is complete
    /// or the watch cancels it.
    ///
    /// # Errors
    /// [`SaveError`]; the folder is then missing or empty.
    fn make(&self, to: &Path, watch: &Watch<'_>) -> Result<(), SaveError>;
}
