//! Open file check: checks that the names of a primary's files still lead to the files that are
//! open.
//!
//! A process may write for long to files that were removed, and these writes are gone when it ends.
//! So the writer keeps a handle of its file and of the WAL beside it, and checks after each commit
//! that they still have a name; every second `file_watch` checks that the names still lead to them.
//! This check is also made before a file is opened again by its name, because SQLite would replay
//! the WAL of one file into another.
//!
//! The handles only lead to the files (`O_PATH`). Closing any other handle would release SQLite's
//! locks.
//!
//! **Invariant:** a lost file stays lost until the cluster is opened again.
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

/// Identity of a file, independent of its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    /// Returns the identity of the file that a name leads to.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|file| Self::of(&file))
    }

    /// Returns the identity of the file that this metadata was read from.
    pub(super) fn of(file: &fs::Metadata) -> Self {
        Self { device: file.dev(), number: file.ino() }
    }

    /// True if the name leads to another file, or to none; false if it cannot be followed now.
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
    /// `None` if the file was missing.
    file: Option<Inode>,
    loss: OnceLock<Reason>,
    catalog_gone: AtomicBool,
    /// Files that SQLite keeps beside the primary's file, while the writer has that file open.
    beside: Mutex<Vec<(PathBuf, Inode)>>,
}

impl OpenFileCheck {
    /// Records the identity of the file that the primary's name leads to now.
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

    /// Returns the reason why nothing may be written any more; `None` if writes are allowed.
    pub fn loss(&self) -> Option<Reason> {
        self.loss.get().copied()
    }

    /// Returns the reason why the primary does not work, or will not after a restart; `None` if
    /// there is none.
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

    /// Returns the folder of the file; `None` if its path names none.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.path.parent()
    }

    /// Stops all writes from now on.
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

    /// Checks that the names still lead to the same files, and records the loss otherwise.
    pub(super) fn look(&self) {
        // Locked during the check: an orderly close clears this list before SQLite removes the
        // files.
        let beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.file.iter().map(|file| (&self.path, file));
        let mut names = names.chain(beside.iter().map(|(path, file)| (path, file)));
        if names.any(|(path, file)| file.has_left(path)) {
            self.record_loss(Reason::FilesLost);
        }
    }

    /// Checks that the names still lead to the same files. Must be called before the file is opened
    /// again by its name: SQLite would open another file, or would create an empty WAL in the place
    /// of a removed one.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if a name may lead to another file, or to none.
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
        // SQLite follows links, and names its own files after the target.
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

/// Opens a handle of a file if the file system counts links, which not every one does.
fn handle(path: &Path) -> Option<OwnedFd> {
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.ok().filter(has_name)
}

fn has_name(file: &OwnedFd) -> bool {
    fstat(file).is_ok_and(|found| found.st_nlink > 0)
}

/// Handles that a writer holds while it has the file open. Must be dropped before its connection.
#[derive(Debug)]
pub(super) struct FileHandles {
    file_check: Arc<OpenFileCheck>,
    handles: Vec<OwnedFd>,
}

impl FileHandles {
    /// True if the file and its WAL still have names.
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
