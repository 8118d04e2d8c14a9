//! Footing: proof that the files of a primary are still those that their names lead to.
//!
//! A process may write for long to files that were removed, and what it writes is gone when it
//! ends. So the writer keeps a handle of its file and of the WAL beside it, and asks after each
//! commit if they still have a name; every second it is looked if the names still lead to them
//! (`guard`). Before a file is opened by its name once more, that is looked at as well: SQLite
//! would replay the WAL of one file into another.
//!
//! The handles only lead to the files (`O_PATH`). Any other handle would take away SQLite's locks when it is closed.
//!
//! **Invariant:** what was lost stays lost until the cluster is opened again.
//! **Not here:** the files of replicas, which are made anew (`replica`).

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::fs::{Mode, OFlags, fstat};

use super::OpenError;
use crate::error::Error;
use crate::reason::Reason;

/// A file, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

impl Inode {
    /// The file that a name leads to.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|file| Self::of(&file))
    }

    /// The file that this was read from.
    pub(super) fn of(file: &fs::Metadata) -> Self {
        Self { device: file.dev(), number: file.ino() }
    }

    /// Whether the name leads to another file, or to none. A name that cannot be followed now tells neither.
    pub(super) fn has_left(self, path: &Path) -> bool {
        match fs::metadata(path) {
            Ok(file) => Self::of(&file) != self,
            Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
        }
    }
}

/// What stands under the writes of one shard.
#[derive(Debug)]
pub struct Footing {
    shard: String,
    path: PathBuf,
    /// `None`: it was not there to be looked at.
    file: Option<Inode>,
    loss: OnceLock<Reason>,
    catalog_gone: AtomicBool,
    /// What SQLite keeps beside the file, as long as the writer has it open.
    beside: Mutex<Vec<(PathBuf, Inode)>>,
}

impl Footing {
    /// The file of a shard's primary as it is now.
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

    /// Why nothing may be written any more; `None` if all is well.
    pub fn loss(&self) -> Option<Reason> {
        self.loss.get().copied()
    }

    /// Why the primary does not do its work, or will not after a restart; `None` if all is well.
    pub fn reason(&self) -> Option<Reason> {
        let catalog = || self.catalog_gone.load(Ordering::Acquire).then_some(Reason::CatalogGone);
        self.loss().or_else(catalog)
    }

    /// Refuses a write, if nothing may be written.
    ///
    /// # Errors
    /// [`Error::FilesLost`].
    pub fn check_writable(&self) -> Result<(), Error> {
        let lost = |loss| Err(Error::FilesLost { shard: self.shard.clone(), loss });
        self.loss().map_or(Ok(()), lost)
    }

    /// From now on nothing is written.
    pub fn lose(&self, loss: Reason) {
        if self.loss.set(loss).is_ok() {
            let (shard, file) = (&self.shard, self.path.display());
            let loss = loss.sentence();
            tracing::error!(%shard, %file, loss, "the shard takes no more writes");
        }
    }

    pub(super) fn set_catalog_gone(&self, gone: bool) {
        self.catalog_gone.store(gone, Ordering::Release);
    }

    /// Looks where the names lead.
    pub(super) fn look(&self) {
        // Held while it is looked: what is closed in good order is taken away first.
        let beside = self.beside.lock().unwrap_or_else(PoisonError::into_inner);
        let names = self.file.iter().map(|file| (&self.path, file));
        let mut names = names.chain(beside.iter().map(|(path, file)| (path, file)));
        if names.any(|(path, file)| file.has_left(path)) {
            self.lose(Reason::FilesLost);
        }
    }

    /// To be asked before the file is opened by its name once more.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if another file may be meant by it.
    pub fn check(&self) -> Result<(), OpenError> {
        if self.file.is_some_and(|file| file.has_left(&self.path)) {
            self.lose(Reason::FilesLost);
        }
        match self.loss() {
            Some(loss) => Err(OpenError::foreign(&self.path, loss.sentence())),
            None => Ok(()),
        }
    }

    /// Handles of the file that the writer has just opened, and of what SQLite keeps beside it.
    pub(super) fn grip(self: &Arc<Self>) -> Grip {
        // SQLite follows links, and calls what it makes after what it finds.
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
        Grip { footing: Arc::clone(self), handles }
    }
}

/// A handle of a file whose names are counted, as not every file system does.
fn handle(path: &Path) -> Option<OwnedFd> {
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    opened.ok().filter(has_name)
}

fn has_name(file: &OwnedFd) -> bool {
    fstat(file).is_ok_and(|found| found.st_nlink > 0)
}

/// What a writer holds as long as it has the file open. To be dropped before its connection is.
#[derive(Debug)]
pub(super) struct Grip {
    footing: Arc<Footing>,
    handles: Vec<OwnedFd>,
}

impl Grip {
    /// Whether the file and its WAL still have names.
    pub(super) fn is_firm(&self) -> bool {
        self.handles.iter().all(has_name)
    }
}

/// SQLite itself removes what is beside the file when the last connection is closed.
impl Drop for Grip {
    fn drop(&mut self) {
        self.footing.beside.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
