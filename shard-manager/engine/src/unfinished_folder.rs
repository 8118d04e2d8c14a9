//! Unfinished folder: creates a folder under a temporary name, and renames it when it is complete.
//!
//! The folder is filled beside its final place, as `<name>-unfinished`, so on the same disk, and
//! renamed when all of it is synced. The folder of a process that was killed is recognised by its
//! free lock, and removed by the next process that needs the place.
//!
//! **Invariant:** under the final name there is a complete folder or none.
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
/// Lock of the process that fills the folder.
const LOCK: &str = "unfinished.lock";

/// A folder that is being filled. Dropping it unfinished removes it.
#[derive(Debug)]
pub struct Unfinished {
    path: PathBuf,
    target: PathBuf,
    lock: Option<File>,
    finished: bool,
}

impl Unfinished {
    /// Creates the folder for `target`, a [`free_place`]; other users may not read it.
    ///
    /// # Errors
    /// [`SaveError`] if there is no such place, or another process fills it.
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
        // An empty folder that is replaced keeps the permissions that its owner gave it.
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
            // The next process removes what cannot be removed now.
            let _ = remove(&self.path);
        }
    }
}

/// Returns the place of a folder with this name, links followed: nothing exists there, or an empty
/// folder that another can replace.
///
/// # Errors
/// [`SaveError`], which states what is there.
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
    // A mount point cannot be replaced, and its sibling is on another disk.
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
    // Only `statx` detects a folder that is mounted from its own disk; if the kernel does not
    // report it, the folder is treated as no mount point.
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

/// Removes an unfinished folder. The lock is removed last, so that the rest is recognised again if
/// the process is killed.
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

/// Removes a folder with everything in it, also with folders that their owner has made read-only.
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

/// Makes the names in a folder durable.
fn sync_folder(path: &Path) -> Result<(), SaveError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|error| SaveError::io(path, error))
}

/// Refuses a [`free_place`] whose disk has no room for this many bytes.
///
/// # Errors
/// [`SaveError::NoRoom`].
pub fn check_room(place: &Path, needed: u64) -> Result<(), SaveError> {
    /// Margin for logs, catalogs and the last writes.
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
