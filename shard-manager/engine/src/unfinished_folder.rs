//! Unfinished folder: creates a folder under a temporary name, and renames it when it is complete.
//!
//! The folder is filled next to its final place, as `<name>-unfinished`, so that it is on the same
//! disk. It is renamed when all of its contents are synced. If the process is killed, the lock file
//! in the folder is no longer locked; the next process that needs the place recognises this, and
//! removes the folder.
//!
//! **Invariant:** a folder with the final name is always complete.
//! **Not here:** the contents of the folder (backups and restores of the engines).

use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};

use super::private_file;
use super::save_error::SaveError;

/// End of the name of an unfinished folder.
pub const UNFINISHED: &str = "-unfinished";
/// Name of the lock file of the process that fills the folder.
const LOCK: &str = "unfinished.lock";

/// A folder that is being filled. If the value is dropped before it is finished, the folder is
/// removed.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    target: PathBuf,
    lock: Option<File>,
    finished: bool,
}

impl Unfinished {
    /// Creates the unfinished folder for `target`, which must be a [`free_place`]. Other users
    /// cannot read the folder.
    ///
    /// # Errors
    /// [`SaveError`] if `target` is not a free place, or another process fills the folder.
    pub fn begin(target: &Path) -> Result<Self, SaveError> {
        let target = free_place(target)?;
        let (Some(parent), Some(path)) = (target.parent(), unfinished_path(&target)) else {
            return Err(SaveError::target(&target, "this folder cannot be created"));
        };
        fs::create_dir_all(parent).map_err(|error| SaveError::io(parent, error))?;
        remove_left_over(&path)?;
        match DirBuilder::new().mode(private_file::FOLDER_MODE).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(SaveError::TargetInUse { path: target.display().to_string() });
            }
            Err(error) => return Err(SaveError::io(&path, error)),
        }
        let mut begun = Self { path, target, lock: None, finished: false };
        let lock_path = begun.path.join(LOCK);
        let lock =
            private_file::create(&lock_path).map_err(|error| SaveError::io(&lock_path, error))?;
        lock.lock().map_err(|error| SaveError::io(&lock_path, error))?;
        begun.lock = Some(lock);
        Ok(begun)
    }

    /// Returns the path of the unfinished folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Renames the folder to its final name. Its files must have been synced.
    ///
    /// # Errors
    /// [`SaveError::Io`].
    pub fn finish(mut self) -> Result<(), SaveError> {
        let with_path = |error| SaveError::io(&self.path, error);
        fs::remove_file(self.path.join(LOCK)).map_err(with_path)?;
        // If the new folder replaces an empty folder, it gets the permissions that the owner gave
        // to that folder.
        if let Ok(replaced) = fs::metadata(&self.target) {
            fs::set_permissions(&self.path, replaced.permissions()).map_err(with_path)?;
        }
        sync_folder(&self.path)?;
        fs::rename(&self.path, &self.target).map_err(|error| SaveError::io(&self.target, error))?;
        // From here on another process may use the name.
        self.finished = true;
        let parent = self.target.parent().unwrap_or(Path::new("/")).to_owned();
        sync_folder(&parent)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.finished {
            // The next process removes the remains that cannot be removed now.
            let _ = remove(&self.path);
        }
    }
}

/// Returns the path at which a folder with this name can be created, after following links: nothing
/// exists there, or only an empty folder that can be replaced.
///
/// # Errors
/// [`SaveError`], which states what exists there.
pub fn free_place(target: &Path) -> Result<PathBuf, SaveError> {
    let failed = |error| SaveError::io(target, error);
    let target = std::path::absolute(target).map_err(failed)?;
    let place = match target.canonicalize() {
        Ok(place) => place,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if target.is_symlink() {
                return Err(SaveError::target(&target, "the target of this link does not exist"));
            }
            return Ok(target);
        }
        Err(error) => return Err(failed(error)),
    };
    if !place.is_dir() {
        return Err(SaveError::target(&target, "there is a file with this name"));
    }
    // A mount point cannot be replaced, and a folder next to it is on another disk.
    if is_mount_point(&place).map_err(failed)? {
        let cause = "this is a mount point, which nothing can replace; name a folder inside it";
        return Err(SaveError::target(&target, cause));
    }
    if fs::read_dir(&place).map_err(failed)?.next().is_some() {
        return Err(SaveError::target(&target, "the folder is not empty"));
    }
    Ok(place)
}

fn is_mount_point(place: &Path) -> io::Result<bool> {
    let Some(parent) = place.parent() else { return Ok(true) };
    if fs::metadata(place)?.dev() != fs::metadata(parent)?.dev() {
        return Ok(true);
    }
    // Only `statx` detects a mount point whose contents come from the same disk (a bind mount). If
    // the kernel does not report it, the folder is not treated as a mount point.
    match statx(CWD, place, AtFlags::empty(), StatxFlags::empty()) {
        Ok(found) => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(_) => Ok(false),
    }
}

/// Returns the path of the unfinished folder for `target`; `None` if no folder can have this name.
fn unfinished_path(target: &Path) -> Option<PathBuf> {
    let mut unfinished = target.file_name()?.to_owned();
    unfinished.push(UNFINISHED);
    Some(target.parent()?.join(unfinished))
}

/// Removes the unfinished folder for `target` if the process that filled it no longer runs.
///
/// # Errors
/// [`SaveError::TargetInUse`] if the process is running, and [`SaveError`] if the folder was not
/// left by a killed process, or cannot be removed.
pub fn remove_left_over_of(target: &Path) -> Result<(), SaveError> {
    unfinished_path(target).map_or(Ok(()), |path| remove_left_over(&path))
}

fn remove_left_over(path: &Path) -> Result<(), SaveError> {
    if !path.exists() {
        return Ok(());
    }
    let in_the_way = "the folder is in the way; check it, and remove it";
    let lock = match File::open(path.join(LOCK)) {
        Ok(lock) => lock,
        // A process that is killed before it creates the lock leaves an empty folder.
        Err(error) if error.kind() == ErrorKind::NotFound && fs::remove_dir(path).is_ok() => {
            return Ok(());
        }
        Err(_) => return Err(SaveError::target(path, in_the_way)),
    };
    match lock.try_lock() {
        Ok(()) => remove(path).map_err(|error| SaveError::io(path, error)),
        Err(TryLockError::WouldBlock) => {
            Err(SaveError::TargetInUse { path: path.display().to_string() })
        }
        Err(TryLockError::Error(error)) => Err(SaveError::io(path, error)),
    }
}

/// Removes an unfinished folder. The lock file is removed last, so that the remains are still
/// recognised if this process is killed.
fn remove(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => remove_folder(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    fs::remove_dir_all(path)
}

/// Removes a folder and all of its contents, including folders that their owner has made read-only.
fn remove_folder(path: &Path) -> io::Result<()> {
    fs::remove_dir_all(path).or_else(|error| match error.kind() == ErrorKind::PermissionDenied {
        true => make_writable(path).and_then(|()| fs::remove_dir_all(path)),
        false => Err(error),
    })
}

/// Makes a folder and all folders in it writable for their owner.
fn make_writable(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(private_file::FOLDER_MODE))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

/// Makes the directory entries of a folder durable (fsync).
fn sync_folder(path: &Path) -> Result<(), SaveError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|error| SaveError::io(path, error))
}

/// Refuses a [`free_place`] whose disk has no room for this many bytes.
///
/// # Errors
/// [`SaveError::NoRoom`].
pub fn check_room(place: &Path, needed: u64) -> Result<(), SaveError> {
    /// Additional number of bytes for logs, catalogs and the last writes.
    const SPARE: u64 = 16 << 20;
    let needed = needed + SPARE;
    let exists = place.ancestors().find(|folder| folder.exists());
    let folder = exists.unwrap_or(Path::new("/"));
    let disk = rustix::fs::statvfs(folder);
    let disk = disk.map_err(|error| SaveError::io(folder, error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < needed {
        let path = folder.display().to_string();
        let (needed_mib, free_mib) = (needed >> 20, free >> 20);
        return Err(SaveError::NoRoom { path, needed_mib, free_mib });
    }
    Ok(())
}
