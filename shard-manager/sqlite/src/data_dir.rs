//! Data directory: the folder of an embedded cluster, and the lock of the process that writes
//! there.
//!
//! ```text
//! data/tessera.lock        held (flock) by the one process that writes
//! data/catalog.db          keyspace, placement, topology, epoch
//! data/shard1-primary.db   a shard's rows, its change log, its slots
//! data/shard1-replica1.db  the same rows, a moment later
//! ```
//!
//! The folder itself is locked as well, because a lock file could be deleted while its lock is
//! held. The lock file remains for programs that check only that file.
//!
//! The lock file contains the id of the process, and is emptied after all files were closed. If it
//! is not empty, the next start knows that the last stop was unclean, and so does every later start
//! until the files have been checked.
//!
//! **Invariant:** while a [`DataDir`] exists, no other process has one for the same folder.
//! **Not here:** the contents of the files (`catalog`, `shard_file`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::open_file_check::Inode;
use super::{OpenError, doubt_record, private_file};

/// Name of the lock file.
const LOCK: &str = "tessera.lock";

/// A locked data directory.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Locked file; the lock ends when the handle is closed, even if the process is killed.
    lock: File,
    /// Locked handle of the folder; `None` if the file system cannot lock folders.
    _folder: Option<File>,
    /// True if an earlier process ended without closing its files, and the files have not been
    /// checked since.
    unclean: Arc<AtomicBool>,
}

impl DataDir {
    /// Creates the folder if it is missing, for this user only, and locks it.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process holds the folder; [`OpenError::Io`] if the folder
    /// cannot be created or written.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        if path.is_file() {
            return Err(OpenError::io(path, "this is a file, where a folder is expected"));
        }
        if !path.exists() {
            private_file::create_folder(path).map_err(|error| OpenError::io(path, error))?;
            // Until the name of the folder is synced, a power loss may remove the folder with all
            // files in it.
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
            .mode(private_file::FILE_MODE)
            .open(&lock_path)
            .map_err(|error| OpenError::io(&lock_path, error))?;
        match lock_in_time(&lock) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(path)),
            Err(TryLockError::Error(error)) => return Err(OpenError::io(&lock_path, error)),
        }
        let unclean = lock.metadata().is_ok_and(|file| file.len() > 0);
        // The lock file is not truncated first, so it is never empty: a process that is killed here
        // leaves the old id in it.
        let pid = std::process::id().to_string();
        let noted = lock.write_all(pid.as_bytes()).and_then(|()| lock.set_len(pid.len() as u64));
        noted.map_err(|error| OpenError::io(&lock_path, error))?;
        let unclean = Arc::new(unclean.into());
        Ok(Self { path: path.to_owned(), lock, _folder: folder, unclean })
    }

    /// True if an earlier process ended without closing its files, and the files have not been
    /// checked since.
    pub fn is_unclean(&self) -> bool {
        self.unclean.load(Ordering::Acquire)
    }

    /// Returns a function that must be called once every file of the folder was checked and found
    /// intact.
    pub fn found_well(&self) -> impl FnOnce() + Send + use<> {
        let unclean = Arc::clone(&self.unclean);
        move || unclean.store(false, Ordering::Release)
    }

    /// Records that all files were closed. After an earlier unclean stop, this is recorded only if
    /// the files have been checked, because the next start must check them otherwise.
    pub fn close(&self) {
        if !self.is_unclean() {
            // An error is ignored: the next start then checks the files once more.
            let _ = self.lock.set_len(0);
        }
    }

    /// Returns the files whose names must not change while this [`DataDir`] exists.
    pub(super) fn watched_files(&self) -> WatchedFiles {
        let lock = self.lock.metadata().ok().map(|file| (lock_file(&self.path), Inode::of(&file)));
        WatchedFiles { lock, catalog: self.catalog() }
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of the catalog.
    pub fn catalog(&self) -> PathBuf {
        catalog_file(&self.path)
    }

    /// Returns the path of a shard's primary.
    pub fn primary(&self, shard: &str) -> PathBuf {
        primary_file(&self.path, shard)
    }

    /// Returns the path of a shard's replica, counted from 0.
    pub fn replica(&self, shard: &str, index: usize) -> PathBuf {
        replica_file(&self.path, shard, index)
    }
}

/// Files whose names must not change while a folder is locked.
#[derive(Debug)]
pub(super) struct WatchedFiles {
    lock: Option<(PathBuf, Inode)>,
    catalog: PathBuf,
}

impl WatchedFiles {
    /// Returns true if the path of the lock file no longer leads to the locked file, so that other
    /// processes do not see the lock.
    pub(super) fn lock_has_left(&self) -> bool {
        self.lock.as_ref().is_some_and(|(path, file)| file.has_left(path))
    }

    /// Returns true if there is no catalog file. A catalog that was moved away and put back is
    /// accepted.
    pub(super) fn catalog_is_gone(&self) -> bool {
        match fs::metadata(&self.catalog) {
            Ok(file) => file.len() == 0,
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }
}

/// Returns the path of the lock file in a folder.
pub(super) fn lock_file(folder: &Path) -> PathBuf {
    folder.join(LOCK)
}

/// Returns the path of the catalog in a folder.
pub(super) fn catalog_file(folder: &Path) -> PathBuf {
    folder.join("catalog.db")
}

/// Returns the path of a shard's primary in a folder.
pub(super) fn primary_file(folder: &Path, shard: &str) -> PathBuf {
    folder.join(format!("{shard}-primary.db"))
}

/// Returns the path of a shard's replica in a folder, counted from 0.
pub(super) fn replica_file(folder: &Path, shard: &str, index: usize) -> PathBuf {
    folder.join(format!("{shard}-replica{}.db", index + 1))
}

/// Returns the name of a shard's file in a folder, the first in order of the names; `None` if there
/// is none.
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

/// Returns true if a file of this name in a data directory belongs to a cluster with these shards.
pub(super) fn is_of_cluster(name: &str, shards: &[&str]) -> bool {
    /// Ends of the names of a database and of the files that SQLite keeps beside it.
    const ENDS: [&str; 4] = ["", "-wal", "-shm", "-journal"];
    if name == LOCK || name.strip_suffix(".new").unwrap_or(name) == doubt_record::NAME {
        return true;
    }
    let Some((stem, end)) = name.split_once(".db") else { return false };
    // A replica that is being built has a temporary name with this suffix.
    if !ENDS.contains(&end.strip_prefix("-building").unwrap_or(end)) {
        return false;
    }
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_node =
        |role: &str| role == "-primary" || role.strip_prefix("-replica").is_some_and(is_number);
    stem == "catalog" || shards.iter().any(|shard| stem.strip_prefix(shard).is_some_and(is_node))
}

/// Returns true if a disk is so full that SQLite may fail for that reason, whatever error it
/// reports.
pub(crate) fn has_no_room(folder: &Path) -> bool {
    /// Number of bytes of the files that SQLite creates beside each file before it writes a row.
    const NEEDED: u64 = 256 << 10;
    let disk = folder.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok());
    disk.is_some_and(|disk| {
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        free < NEEDED || (disk.f_files > 0 && disk.f_favail == 0)
    })
}

/// Returns the number of free bytes on the disk of a folder; `None` if the system does not report
/// it.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Number of attempts to lock, with a pause after each failure, because a command that checks for a
/// running router holds the lock for an instant.
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

/// Locks the folder itself; `None` if the file system cannot lock folders.
fn lock_folder(path: &Path) -> Result<Option<File>, OpenError> {
    let folder = File::open(path).map_err(|error| OpenError::io(path, error))?;
    match lock_in_time(&folder) {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Err(locked(path)),
        Err(TryLockError::Error(error)) => {
            let path = path.display();
            tracing::warn!(%path, %error, "only the lock file excludes other processes: the folder cannot be locked");
            Ok(None)
        }
    }
}

/// Returns true if a process holds the lock of the folder itself.
pub(crate) fn is_folder_locked(path: &Path) -> bool {
    let tried = File::open(path).map(|folder| folder.try_lock_shared());
    matches!(tried, Ok(Err(TryLockError::WouldBlock)))
}

/// Returns the id of the process that holds a folder, as the lock file states it.
pub(crate) fn noted_pid(path: &Path) -> String {
    let pid = fs::read_to_string(lock_file(path)).unwrap_or_default();
    if pid.is_empty() { "unknown".to_owned() } else { pid }
}

fn locked(path: &Path) -> OpenError {
    let pid = noted_pid(path);
    OpenError::Locked { dir: path.display().to_string(), pid }
}
