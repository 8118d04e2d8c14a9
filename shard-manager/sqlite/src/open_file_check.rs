//! Open file check: checks that the paths of a primary's files still lead to the files that are
//! open.
//!
//! A process can go on writing to files that were deleted, and these writes are lost when the
//! process ends. Therefore the writer keeps a handle of its file and of the WAL beside it, and
//! checks after each commit that both still have a name. In addition, `file_watch` checks once a
//! second that the paths still lead to these files. The same check is made before a file is opened
//! again by its path, because SQLite might otherwise replay the WAL of one file into another.
//!
//! The handles are opened with `O_PATH`, because closing an ordinary handle of a file would release
//! SQLite's locks on it.
//!
//! **Invariant:** once a file is recorded as lost, it accepts no writes until the cluster is opened
//! again.
//! **Not here:** the files of replicas, which are rebuilt (`replica`).

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use model::error::Error;
use model::reason::Reason;
use rustix::fs::{Mode, OFlags, fstat};

use super::OpenError;

/// Identity of a file, independent of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    /// Returns the identity of the file at a path; `None` if it cannot be read.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|file| Self::of(&file))
    }

    /// Returns the identity of the file that the metadata belongs to.
    pub(super) fn of(file: &fs::Metadata) -> Self {
        Self { device: file.dev(), number: file.ino() }
    }

    /// Returns true if the path leads to another file, or to none; false if that cannot be
    /// determined now.
    pub(super) fn has_left(self, path: &Path) -> bool {
        match fs::metadata(path) {
            Ok(file) => Self::of(&file) != self,
            Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }
}

/// Check of the files of one shard's primary.
#[derive(Debug)]
pub struct OpenFileCheck {
    shard: String,
    path: PathBuf,
    /// Identity of the file; `None` if it was missing when this check was created.
    file: Option<Inode>,
    loss: OnceLock<Reason>,
    catalog_gone: AtomicBool,
    /// Files that SQLite keeps beside the primary's file; empty unless the writer has that file
    /// open.
    beside: Mutex<Vec<(PathBuf, Inode)>>,
}

impl OpenFileCheck {
    /// Records the identity of the file that is now at the path of the primary.
    pub fn of(shard: &str, path: &Path) -> Arc<Self> {
        Arc::new(Self {
            shard: shard.to_owned(),
            path: path.to_owned(),
            file: Inode::at(path),
            loss: OnceLock::new(),
            catalog_gone: AtomicBool::new(false),
            beside: Mutex::default(),
        })
    }

    /// Returns the reason why the files accept no writes any more; `None` if writes are allowed.
    pub fn loss(&self) -> Option<Reason> {
        self.loss.get().copied()
    }

    /// Returns the reason why the primary does not work, or will not work after a restart; `None`
    /// if there is no such reason.
    pub fn reason(&self) -> Option<Reason> {
        let catalog = || self.catalog_gone.load(Ordering::Acquire).then_some(Reason::CatalogGone);
        self.loss().or_else(catalog)
    }

    /// Refuses a write to lost files.
    ///
    /// # Errors
    /// [`Error::FilesLost`].
    pub fn check_writable(&self) -> Result<(), Error> {
        let lost = |loss| Err(Error::FilesLost { shard: self.shard.clone(), loss });
        self.loss().map_or(Ok(()), lost)
    }

    /// Returns the folder of the file; `None` if its path contains no folder.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.path.parent()
    }

    /// Records that the files are lost, which stops all writes from now on.
    pub fn record_loss(&self, loss: Reason) {
        if self.loss.set(loss).is_ok() {
            let (shard, file) = (&self.shard, self.path.display());
            let loss = loss.sentence();
            tracing::error!(%shard, %file, loss, "the shard takes no more writes");
        }
    }

    pub(super) fn set_catalog_gone(&self, gone: bool) {
        self.catalog_gone.store(gone, Ordering::Release);
    }

    /// Checks that the paths still lead to the same files, and records the loss otherwise.
    pub(super) fn look(&self) {
        // The list stays locked during the check, because an orderly close clears it before SQLite
        // removes the files.
        let beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.file.iter().map(|file| (&self.path, file));
        let mut names = names.chain(beside.iter().map(|(path, file)| (path, file)));
        if names.any(|(path, file)| file.has_left(path)) {
            self.record_loss(Reason::FilesLost);
        }
    }

    /// Checks that the paths still lead to the same files. Must be called before the file is opened
    /// again by its path, because SQLite might open another file, or create an empty WAL in place
    /// of a removed one.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if a path may lead to another file, or to none.
    pub fn check(&self) -> Result<(), OpenError> {
        self.look();
        match self.loss() {
            Some(loss) => Err(OpenError::foreign(&self.path, loss.sentence())),
            None => Ok(()),
        }
    }

    /// Opens handles of the file that the writer has just opened, and of the files that SQLite
    /// keeps beside it.
    pub(super) fn open_handles(self: &Arc<Self>) -> FileHandles {
        // SQLite follows symbolic links, and names the files beside the database after the target.
        let real = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let [wal, shm] = ["-wal", "-shm"].map(|suffix| {
            let mut name = real.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        });
        let handles = [&real, &wal].into_iter().filter_map(|path| handle(path));
        let handles = handles.collect();
        let beside = [wal, shm].into_iter();
        let beside = beside.filter_map(|path| Inode::at(&path).map(|file| (path, file)));
        *self.beside.lock().unwrap_or_else(PoisonError::into_inner) = beside.collect();
        FileHandles { file_check: Arc::clone(self), handles }
    }
}

/// Opens a handle of a file; `None` if that fails or if the file system does not count links.
fn handle(path: &Path) -> Option<OwnedFd> {
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.ok().filter(has_name)
}

fn has_name(file: &OwnedFd) -> bool {
    fstat(file).is_ok_and(|found| found.st_nlink > 0)
}

/// Handles that a writer holds while it has the file open. They must be dropped before the writer's
/// connection.
#[derive(Debug)]
pub(super) struct FileHandles {
    file_check: Arc<OpenFileCheck>,
    handles: Vec<OwnedFd>,
}

impl FileHandles {
    /// Returns true if the file and its WAL still have names.
    pub(super) fn have_names(&self) -> bool {
        self.handles.iter().all(has_name)
    }
}

/// Clears the list of files, which SQLite itself removes when the last connection is closed.
impl Drop for FileHandles {
    fn drop(&mut self) {
        self.file_check.beside.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use diesel::connection::{Connection, SimpleConnection};
    use diesel::sqlite::SqliteConnection;

    use super::*;

    #[test]
    fn a_file_is_not_opened_again_once_its_wal_was_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shard1-primary.db");
        let mut connection = SqliteConnection::establish(&path.to_string_lossy()).expect("a file");
        let created = connection.batch_execute("PRAGMA journal_mode=WAL; CREATE TABLE t (a)");
        created.expect("a table");
        let file_check = OpenFileCheck::of("shard1", &path);
        let handles = file_check.open_handles();
        assert!(handles.have_names() && file_check.check().is_ok());
        fs::remove_file(folder.path().join("shard1-primary.db-wal")).expect("a WAL");
        assert!(file_check.check().is_err());
        assert_eq!(file_check.loss(), Some(Reason::FilesLost));
    }
}
