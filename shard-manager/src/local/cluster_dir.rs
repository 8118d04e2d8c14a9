//! Place: the directory of a local cluster, whose it is, and who works in it.
//!
//! **Invariant:** a directory that holds other things is never taken; what is written there belongs to the user who runs
//! the servers and is read by nobody else; one command works there at a time.
//! **Not here:** what is noted about the cluster (`manifest`).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::error::LocalError;
use super::os_user::Account;

pub(super) const LOCK: &str = "cluster.lock";
pub(super) const NOTES: &str = "cluster.json";
pub(super) const PASSWORD: &str = "password";
pub(super) const PASSFILE: &str = "pgpass";
pub(super) const ENVIRONMENT: &str = "tessera.env";
/// How often a folder is removed in which somebody still makes files.
const REMOVALS_MAX: u32 = 20;
/// What an `up` that was cut off at its very beginning may have left, without notes.
const EARLY: [&str; 5] = [LOCK, PASSWORD, PASSFILE, "password.part", "pgpass.part"];

/// The directory of a cluster.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// An absolute path without links.
    pub(super) dir: PathBuf,
    /// Who runs the servers.
    pub(super) account: Account,
}

/// The right to work on a cluster. Programs that make nodes hold it with us: if this process is killed, nobody works
/// there until they have ended too.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Place {
    /// The directory of a cluster that is or will be, known by its file of notes: made if it is not there. Tells whether
    /// it was made.
    pub(super) fn prepare(
        dir: &Path,
        user: Option<&str>,
        notes: &str,
    ) -> Result<(Self, bool), LocalError> {
        let error = |source| LocalError::File { path: dir.to_owned(), source };
        let is_made = match fs::metadata(dir) {
            Ok(found) if found.is_dir() => false,
            Ok(_) => return Err(LocalError::NotOurs(dir.to_owned())),
            Err(missing) if missing.kind() == ErrorKind::NotFound => true,
            Err(other) => return Err(error(other)),
        };
        if is_made {
            let account = Account::of_new(user)?;
            if let Some(parent) = dir.parent() {
                fs::create_dir_all(parent).map_err(LocalError::file(parent))?;
            }
            DirBuilder::new().mode(0o700).create(dir).map_err(error)?;
            account.own(dir)?;
            return Ok((Self { dir: fs::canonicalize(dir).map_err(error)?, account }, true));
        }
        let place =
            |account| Ok((Self { dir: fs::canonicalize(dir).map_err(error)?, account }, false));
        if dir.join(notes).exists() {
            return place(Account::of_owner(dir, user)?);
        }
        let begun = format!("{notes}.part");
        for entry in fs::read_dir(dir).map_err(error)? {
            let name = entry.map_err(error)?.file_name();
            if name != *begun && !EARLY.iter().any(|early| name == **early) {
                return Err(LocalError::NotOurs(dir.to_owned()));
            }
        }
        // An empty folder of root's becomes the servers'; that of a user says who that is.
        if fs::metadata(dir).map_err(error)?.uid() == 0 {
            let account = Account::of_new(user)?;
            account.own(dir)?;
            return place(account);
        }
        place(Account::of_owner(dir, user)?)
    }

    /// The directory of a cluster that is there.
    pub(super) fn of(dir: &Path, notes: &str) -> Result<Self, LocalError> {
        let notes = dir.join(notes);
        match fs::metadata(&notes) {
            Ok(_) => {}
            Err(error)
                if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) =>
            {
                return Err(LocalError::NoCluster(dir.to_owned()));
            }
            Err(source) => return Err(LocalError::File { path: notes, source }),
        }
        let account = Account::of_owner(dir, None)?;
        Ok(Self { dir: fs::canonicalize(dir).map_err(LocalError::file(dir))?, account })
    }

    /// Takes the right to work here, if nobody else has it.
    pub(super) fn lock(&self) -> Result<Lock, LocalError> {
        let path = self.dir.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(LocalError::file(&path))?;
        self.account.own_file(&file, &path)?;
        match file.try_lock() {
            // Whoever had it until now may have removed this very file.
            Ok(()) if is_at(&file, &path) => Ok(Lock(file)),
            Ok(()) | Err(TryLockError::WouldBlock) => Err(LocalError::Busy(self.dir.clone())),
            Err(TryLockError::Error(source)) => Err(LocalError::File { path, source }),
        }
    }

    /// Writes a file as a whole: under its name there is all of it, or what was there before.
    pub(super) fn write(&self, path: &Path, text: &str) -> Result<(), LocalError> {
        if fs::read(path).is_ok_and(|now| now == text.as_bytes()) {
            return Ok(());
        }
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        match fs::remove_file(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(LocalError::File { path: part, source: error });
            }
            Ok(()) | Err(_) => {}
        }
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let mut file = opened.map_err(LocalError::file(&part))?;
        self.account.own_file(&file, &part)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(LocalError::file(&part))?;
        fs::rename(&part, path).map_err(LocalError::file(path))?;
        path.parent().map_or(Ok(()), sync_folder)
    }

    /// Makes a folder that only the user who runs the servers may open, unless it is there.
    pub(super) fn folder(&self, path: &Path) -> Result<(), LocalError> {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(LocalError::File { path: path.to_owned(), source: error });
            }
            Ok(()) | Err(_) => self.account.own(path)?,
        }
        path.parent().map_or(Ok(()), sync_folder)
    }
}

impl Lock {
    /// What a program reads that must hold the lock with us; there is nothing in it.
    pub(super) fn shared(&self) -> Stdio {
        self.0.try_clone().map_or_else(|_| Stdio::null(), Stdio::from)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a program that another thread is starting has a copy of every open file for a moment.
        let _ = self.0.unlock();
    }
}

/// What is noted in a file, if it is there.
pub(super) fn read_notes<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LocalError> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(LocalError::file(path))?,
    };
    let unfit = |error: serde_json::Error| LocalError::Notes {
        path: path.to_owned(),
        cause: format!("these are no notes of this program ({error})"),
    };
    serde_json::from_str(&text).map(Some).map_err(unfit)
}

/// Whether a file that is open is the one that has this name.
fn is_at(file: &File, path: &Path) -> bool {
    let number = |found: fs::Metadata| (found.dev(), found.ino());
    let (own, named) = (file.metadata().map(number), fs::metadata(path).map(number));
    own.ok().zip(named.ok()).is_some_and(|(own, named)| own == named)
}

/// What has been made or removed in a folder outlives a loss of power.
pub(super) fn sync_folder(path: &Path) -> Result<(), LocalError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(LocalError::file(path))
}

/// Removes a folder with all that is in it, if it is there. Who was just killed may still leave a file in it.
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
