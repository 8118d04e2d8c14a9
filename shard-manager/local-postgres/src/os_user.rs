//! OS user: the user that runs the servers.
//!
//! PostgreSQL refuses to run as root. If this process runs as root, it therefore gives the
//! directory of a new cluster to an unprivileged user, and from then on runs the servers as the
//! owner of the directory.
//!
//! **Invariant:** no program of PostgreSQL is run as root, nor with root's groups.
//! **Not here:** running programs (`shared_env`).

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{MetadataExt, chown, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::LocalError;

/// Users that may run the servers if this process is root and no user is named; the first one that
/// exists is used.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// User and group id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OsUser {
    uid: u32,
    gid: u32,
    /// True if this process is root, so that programs must switch to this user.
    is_other: bool,
}

impl OsUser {
    /// Chooses the user for a new cluster: the named user or, without a name, the user of this
    /// process unless that is root.
    pub(super) fn for_new_dir(named: Option<&str>) -> Result<Self, LocalError> {
        let caller = rustix::process::geteuid().as_raw();
        let found = match named {
            Some(name) => lookup(name)?,
            None if caller != 0 => (caller, rustix::process::getegid().as_raw()),
            None => UNPRIVILEGED.iter().find_map(|name| lookup(name).ok()).ok_or_else(|| {
                let cause =
                    "PostgreSQL does not run as root, and there is neither postgres nor nobody";
                LocalError::User { user: "root".to_owned(), cause: cause.to_owned() }
            })?,
        };
        Self::checked(found, caller)
    }

    /// Returns the user of an existing directory: its owner.
    pub(super) fn for_dir(dir: &Path, named: Option<&str>) -> Result<Self, LocalError> {
        let found = fs::metadata(dir).map_err(LocalError::file(dir))?;
        if let Some(name) = named
            && lookup(name)?.0 != found.uid()
        {
            let cause = format!("{} belongs to user id {} already", dir.display(), found.uid());
            return Err(LocalError::User { user: name.to_owned(), cause });
        }
        let caller = rustix::process::geteuid().as_raw();
        if caller != 0 && caller != found.uid() {
            let dir = dir.to_owned();
            return Err(LocalError::OthersDirectory { dir, owner: found.uid() });
        }
        Self::checked((found.uid(), found.gid()), caller)
    }

    fn checked((uid, gid): (u32, u32), caller: u32) -> Result<Self, LocalError> {
        if uid == 0 {
            let cause = "PostgreSQL does not run as root".to_owned();
            return Err(LocalError::User { user: "root".to_owned(), cause });
        }
        if caller != 0 && caller != uid {
            let cause = "only root may run servers as another user".to_owned();
            return Err(LocalError::User { user: uid.to_string(), cause });
        }
        Ok(Self { uid, gid, is_other: caller != uid })
    }

    /// Makes a command run as this user.
    pub(super) fn apply_to(self, command: &mut Command) {
        if self.is_other {
            // When the user id is set, the standard library also drops root's groups.
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// Gives a folder to this user.
    pub(super) fn give_folder(self, folder: &Path) -> Result<(), LocalError> {
        if !self.is_other {
            return Ok(());
        }
        chown(folder, Some(self.uid), Some(self.gid)).map_err(LocalError::file(folder))
    }

    /// Gives an open file to this user.
    pub(super) fn give_file(self, file: &File, path: &Path) -> Result<(), LocalError> {
        if !self.is_other {
            return Ok(());
        }
        fchown(file, Some(self.uid), Some(self.gid)).map_err(LocalError::file(path))
    }

    /// Returns the first folder on the path that the user may not traverse, according to the file
    /// modes.
    pub(super) fn first_closed_folder(self, dir: &Path) -> Option<PathBuf> {
        let mut path: Vec<&Path> = dir.ancestors().collect();
        path.reverse();
        let closed = |folder: &&Path| fs::metadata(folder).is_ok_and(|found| !self.passes(&found));
        path.into_iter().find(closed).map(Path::to_owned)
    }

    fn passes(self, found: &Metadata) -> bool {
        let bit = if found.uid() == self.uid {
            0o100
        } else if found.gid() == self.gid {
            0o010
        } else {
            0o001
        };
        found.mode() & bit != 0
    }

    /// Returns the name of the user, or the id if it has no name.
    pub(super) fn name(self) -> String {
        let number = self.uid.to_string();
        run_id(&["-un", &number]).unwrap_or(number)
    }
}

/// Returns the ids of a user and of its group.
fn lookup(name: &str) -> Result<(u32, u32), LocalError> {
    let number = |flag| run_id(&[flag, name])?.parse().ok();
    let unknown = || LocalError::User {
        user: name.to_owned(),
        cause: "the system does not know this user".to_owned(),
    };
    if name.starts_with('-') {
        return Err(unknown());
    }
    number("-u").zip(number("-g")).ok_or_else(unknown)
}

/// Runs the program `id`, which can read the user database of the system, whatever its kind.
fn run_id(args: &[&str]) -> Option<String> {
    let ended = Command::new("id").args(args).stdin(Stdio::null()).output().ok()?;
    let output = String::from_utf8(ended.stdout).ok()?;
    ended.status.success().then(|| output.trim().to_owned())
}
