//! Cluster directory: the directory of a local cluster, its owner and its lock.
//!
//! **Invariant:** a directory with foreign contents is never used; the files in a cluster's
//! directory belong to the user that runs the servers and are readable by that user only; only one
//! command at a time changes the directory.
//! **Not here:** the contents of the cluster's manifest (`manifest`).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::error::LocalError;
use crate::os_user::OsUser;

pub(super) const LOCK: &str = "cluster.lock";
pub(super) const MANIFEST: &str = "cluster.json";
pub(super) const PASSWORD: &str = "password";
pub(super) const PASSFILE: &str = "pgpass";
pub(super) const ENVIRONMENT: &str = "tessera.env";
/// Number of attempts to remove a folder in which a process still creates files.
const REMOVALS_MAX: u32 = 20;
/// Files that may exist if `up` was interrupted before it wrote the manifest.
const EARLY: [&str; 5] = [LOCK, PASSWORD, PASSFILE, "password.part", "pgpass.part"];

/// Directory of a cluster.
#[derive(Clone, Debug)]
pub(super) struct ClusterDir {
    /// Absolute path without symbolic links.
    pub(super) path: PathBuf,
    /// User that runs the servers.
    pub(super) os_user: OsUser,
}

/// Exclusive lock of a cluster. Programs that create nodes inherit the lock, so that if this
/// process is killed, the cluster stays locked until these programs have exited too.
#[derive(Debug)]
pub(super) struct Lock(File);

impl ClusterDir {
    /// Opens the directory of an existing cluster, which is recognized by its manifest file, or
    /// prepares an empty or missing directory for a new cluster. Also returns true if the directory
    /// was created.
    pub(super) fn prepare(
        dir: &Path,
        user: Option<&str>,
        manifest: &str,
    ) -> Result<(Self, bool), LocalError> {
        let error = |source| LocalError::File { path: dir.to_owned(), source };
        let is_made = match fs::metadata(dir) {
            Ok(found) if found.is_dir() => false,
            Ok(_) => return Err(LocalError::ForeignContents(dir.to_owned())),
            Err(missing) if missing.kind() == ErrorKind::NotFound => true,
            Err(other) => return Err(error(other)),
        };
        if is_made {
            let os_user = OsUser::for_new_dir(user)?;
            if let Some(parent) = dir.parent() {
                fs::create_dir_all(parent).map_err(LocalError::file(parent))?;
            }
            DirBuilder::new().mode(0o700).create(dir).map_err(error)?;
            os_user.give_folder(dir)?;
            return Ok((Self { path: fs::canonicalize(dir).map_err(error)?, os_user }, true));
        }
        let cluster_dir =
            |os_user| Ok((Self { path: fs::canonicalize(dir).map_err(error)?, os_user }, false));
        if dir.join(manifest).exists() {
            return cluster_dir(OsUser::for_dir(dir, user)?);
        }
        let begun = format!("{manifest}.part");
        for entry in fs::read_dir(dir).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            if name != *begun && !EARLY.iter().any(|early| name == **early) {
                return Err(LocalError::ForeignContents(dir.to_owned()));
            }
        }
        // An empty folder that root owns is given to the user that runs the servers. Any other
        // folder keeps its owner.
        if fs::metadata(dir).map_err(error)?.uid() == 0 {
            let os_user = OsUser::for_new_dir(user)?;
            os_user.give_folder(dir)?;
            return cluster_dir(os_user);
        }
        cluster_dir(OsUser::for_dir(dir, user)?)
    }

    /// Opens the directory of an existing cluster.
    pub(super) fn open(dir: &Path, manifest: &str) -> Result<Self, LocalError> {
        let manifest = dir.join(manifest);
        match fs::metadata(&manifest) {
            Ok(_) => {}
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
            {
                return Err(LocalError::NoCluster(dir.to_owned()));
            }
            Err(source) => return Err(LocalError::File { path: manifest, source }),
        }
        let os_user = OsUser::for_dir(dir, None)?;
        Ok(Self { path: fs::canonicalize(dir).map_err(LocalError::file(dir))?, os_user })
    }

    /// Locks the directory, or fails at once if another process holds the lock.
    pub(super) fn lock(&self) -> Result<Lock, LocalError> {
        let path = self.path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(LocalError::file(&path))?;
        self.os_user.give_file(&file, &path)?;
        match file.try_lock() {
            // The previous holder of the lock may have deleted this file, in which case the lock
            // would protect nothing.
            Ok(()) if is_same_file(&file, &path) => Ok(Lock(file)),
            Ok(()) | Err(TryLockError::WouldBlock) => Err(LocalError::Busy(self.path.clone())),
            Err(TryLockError::Error(source)) => Err(LocalError::File { path, source }),
        }
    }

    /// Replaces a file atomically, so that a reader sees either the complete new contents or the
    /// complete old contents.
    pub(super) fn write(&self, path: &Path, text: &str) -> Result<(), LocalError> {
        if fs::read(path).is_ok_and(|now| now == text.as_bytes()) {
            return Ok(());
        }
        let part = part_of(path);
        remove_if_there(&part)?;
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let mut file = opened.map_err(LocalError::file(&part))?;
        self.os_user.give_file(&file, &part)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(LocalError::file(&part))?;
        fs::rename(&part, path).map_err(LocalError::file(path))?;
        path.parent().map_or(Ok(()), sync_folder)
    }

    /// Creates a folder that only the user that runs the servers may open, unless the folder
    /// exists.
    pub(super) fn folder(&self, path: &Path) -> Result<(), LocalError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(LocalError::File { path: path.to_owned(), source: error });
            }
            Ok(()) | Err(_) => self.os_user.give_folder(path)?,
        }
        path.parent().map_or(Ok(()), sync_folder)
    }
}

impl Lock {
    /// Returns a standard input for a child program that contains nothing, but keeps the lock held
    /// until the program exits.
    pub(super) fn shared(&self) -> Stdio {
        self.0.try_clone().map_or_else(|_| Stdio::null(), Stdio::from)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The lock is released explicitly, because closing the file is not enough: a program that
        // another thread is starting holds a copy of every open file between fork and exec.
        let _ = self.0.unlock();
    }
}

/// Returns the path at which [`ClusterDir::write`] writes a file before it renames it to this one.
pub(super) fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// Reads a manifest, if the file exists.
pub(super) fn read_manifest<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LocalError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(LocalError::file(path))?,
    };
    let unsuitable = |error: serde_json::Error| LocalError::Manifest {
        path: path.to_owned(),
        cause: format!("this is not a manifest of this program ({error})"),
    };
    serde_json::from_str(&text).map(Some).map_err(unsuitable)
}

/// Returns whether an open file is still the file at this path.
fn is_same_file(file: &File, path: &Path) -> bool {
    let number = |found: fs::Metadata| (found.dev(), found.ino());
    let (own, named) = (file.metadata().map(number), fs::metadata(path).map(number));
    own.ok().zip(named.ok()).is_some_and(|(own, named)| own == named)
}

/// Makes changes to the entries of a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), LocalError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(LocalError::file(path))
}

/// Removes a file, if it exists.
pub(super) fn remove_if_there(path: &Path) -> Result<(), LocalError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(LocalError::File { path: path.to_owned(), source: error })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a folder and its contents, if it exists. Retries, because a process that was just killed
/// may still create a file in it.
pub(super) fn remove_folder(path: &Path) -> Result<(), LocalError> {
    let mut tries = 1;
    loop {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && tries < REMOVALS_MAX => {
                tries += 1;
                sleep(Duration::from_millis(50));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(LocalError::File { path: path.to_owned(), source: error });
            }
            Ok(()) | Err(_) => return Ok(()),
        }
    }
}
