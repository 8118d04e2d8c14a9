//! Data directory: where an embedded cluster lives, and who may write there.
//!
//! ```text
//! data/tessera.lock        held (flock) by the one process that writes
//! data/catalog.db          keyspace, placement, topology, epoch
//! data/shard1-primary.db   a shard's rows, its change log, its slots
//! data/shard1-replica1.db  the same rows, a moment later
//! ```
//!
//! The folder itself is locked as well: that lock can only be removed together with everything in
//! the folder. The lock's file is for programs that know only that one, and names the process that
//! holds it.
//!
//! The lock's file holds the number of the process, and is emptied when all files were closed: so a stop in bad order is
//! known to the next, and to all after it until the files were found well.
//!
//! **Invariant:** while a [`DataDir`] lives, no other process has one for the same folder.
//! **Not here:** what the files hold (`catalog`, `shard_file`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::OpenError;
use super::footing::Inode;

/// A locked data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock goes with the file handle, also when the process dies.
    lock: File,
    /// `None` where the file system locks no folders.
    _folder: Option<File>,
    /// Whether a process before ended without closing its files, and nobody has found them well since.
    unclean: Arc<AtomicBool>,
}

impl DataDir {
    /// Makes the folder if it is not there, and locks it.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process writes there; [`OpenError::Io`] if it cannot be made or
    /// written.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if !path.exists() {
            fs::create_dir_all(path).map_err(|error| OpenError::io(path, error))?;
            // Until its name is synced, a loss of power may take the folder with all that is in it.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let synced =
                File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
            synced.map_err(|error| OpenError::io(path, error))?;
        }
        let folder = lock_folder(path)?;
        let lock_path = lock_file(path);
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&lock_path)
            .map_err(|error| OpenError::io(&lock_path, error))?;
        match lock_in_time(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(path)),
            Err(TryLockError::Error(error)) => return Err(OpenError::io(&lock_path, error)),
        }
        let unclean = lock.metadata().is_ok_and(|file| file.len() > 0);
        // Never empty in between: whoever is killed now leaves the note that it found.
        let pid = std::process::id().to_string();
        let noted = lock.write_all(pid.as_bytes()).and_then(|()| lock.set_len(pid.len() as u64));
        noted.map_err(|error| OpenError::io(&lock_path, error))?;
        let unclean = Arc::new(unclean.into());
        Ok(Self { path: path.to_owned(), lock, _folder: folder, unclean })
    }

    /// Whether a process before ended without closing its files, and nobody has found them well since.
    pub fn is_unclean(&self) -> bool {
        self.unclean.load(Ordering::Acquire)
    }

    /// What to call when every file of the folder has been looked at and is well.
    pub fn found_well(&self) -> impl FnOnce() + Send + use<> {
        let unclean = Arc::clone(&self.unclean);
        move || unclean.store(false, Ordering::Release)
    }

    /// Notes that all files were closed in good order. After a stop in bad order before this one that is known only of
    /// files that were found well: else the next start is still to look at them.
    pub fn close(&self) {
        if !self.is_unclean() {
            // Best effort: without the note the next start checks the files once more.
            let _ = self.lock.set_len(0);
        }
    }

    /// Files that must stay in their places as long as this lives.
    pub(super) fn marks(&self) -> Marks {
        let lock = self.lock.metadata().ok().map(|file| (lock_file(&self.path), Inode::of(&file)));
        Marks { lock, catalog: self.catalog() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The catalog's file.
    pub fn catalog(&self) -> PathBuf {
        catalog_file(&self.path)
    }

    /// The file of a shard's primary.
    pub fn primary(&self, shard: &str) -> PathBuf {
        primary_file(&self.path, shard)
    }

    /// The file of a shard's replica, counted from 0.
    pub fn replica(&self, shard: &str, index: usize) -> PathBuf {
        replica_file(&self.path, shard, index)
    }
}

/// Files that must stay in their places while a folder is held.
#[derive(Debug)]
pub(super) struct Marks {
    lock: Option<(PathBuf, Inode)>,
    catalog: PathBuf,
}

impl Marks {
    /// True if other processes no longer find the locked file.
    pub(super) fn lock_has_left(&self) -> bool {
        self.lock.as_ref().is_some_and(|(path, file)| file.has_left(path))
    }

    /// True if there is no catalog. One that was put back is as good as the first.
    pub(super) fn catalog_is_gone(&self) -> bool {
        match fs::metadata(&self.catalog) {
            Ok(file) => file.len() == 0,
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }
}

/// The file whose lock tells who writes in a folder.
pub(super) fn lock_file(folder: &Path) -> PathBuf {
    folder.join("tessera.lock")
}

/// The catalog's file in a folder.
pub(super) fn catalog_file(folder: &Path) -> PathBuf {
    folder.join("catalog.db")
}

/// The file of a shard's primary in a folder.
pub(super) fn primary_file(folder: &Path, shard: &str) -> PathBuf {
    folder.join(format!("{shard}-primary.db"))
}

/// The file of a shard's replica in a folder, counted from 0.
pub(super) fn replica_file(folder: &Path, shard: &str, index: usize) -> PathBuf {
    folder.join(format!("{shard}-replica{}.db", index + 1))
}

/// Returns the name of a file of rows in a folder, if there is any; the first by name.
pub(super) fn shard_file_in(folder: &Path) -> Option<String> {
    let is_shard = |name: &String| {
        let stem = name.strip_suffix(".db").unwrap_or_default();
        let stem = stem.trim_end_matches(|c: char| c.is_ascii_digit());
        stem.ends_with("-primary") || stem.ends_with("-replica")
    };
    let files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let files = files.filter(|file| file.metadata().is_ok_and(|file| file.len() > 0));
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    names.filter(is_shard).min()
}

/// True if a disk is so full that SQLite may fail over it, whatever its message.
pub(crate) fn has_no_room(folder: &Path) -> bool {
    /// Files that SQLite creates beside each file before it writes a row.
    const NEEDED: u64 = 256 << 10;
    let disk = folder.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
    disk.is_some_and(|disk| {
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        free < NEEDED || (disk.f_files > 0 && disk.f_favail == 0)
    })
}

/// How often a lock is tried, and how long after each failure: a command that looks whether a router runs has it
/// for an instant.
const LOCK_TRIES: usize = 400;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

fn lock_in_time(lock: &File) -> Result<(), TryLockError> {
    for _ in 1..LOCK_TRIES {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            ended => return ended,
        }
    }
    lock.try_lock()
}

/// Locks a folder itself; `None` where the file system cannot.
fn lock_folder(path: &Path) -> Result<Option<File>, OpenError> {
    let folder = File::open(path).map_err(|error| OpenError::io(path, error))?;
    match lock_in_time(&folder) {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(locked(path)),
        Err(TryLockError::Error(error)) => {
            let path = path.display();
            tracing::warn!(%path, %error, "only the lock's file keeps others out: the folder cannot be locked");
            Ok(None)
        }
    }
}

/// True if a process holds a folder, according to the lock of the folder itself.
pub(crate) fn is_folder_locked(path: &Path) -> bool {
    let tried = File::open(path).map(|folder| folder.try_lock_shared());
    matches!(tried, Ok(Err(TryLockError::WouldBlock)))
}

/// Returns the process that holds a folder, as it noted it.
pub(crate) fn noted_pid(path: &Path) -> String {
    let pid = fs::read_to_string(lock_file(path)).unwrap_or_default();
    if pid.is_empty() { "unknown".to_owned() } else { pid }
}

fn locked(path: &Path) -> OpenError {
    let pid = noted_pid(path);
    OpenError::Locked { dir: path.display().to_string(), pid }
}
