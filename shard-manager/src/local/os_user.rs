//! Account: which user runs the servers.
//!
//! PostgreSQL refuses to run as root. So whoever is root gives the directory of a new cluster to a user without
//! privileges, and from then on whoever owns the directory runs its servers.
//!
//! **Invariant:** no program of PostgreSQL is run as root; groups of root are dropped with its number.
//! **Not here:** running programs (`shared_env`).

use std::fs::{self, File, Metadata};
use std::os::unix::fs::{MetadataExt, chown, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::LocalError;

/// Who runs the servers when root does not say: the first of these that the system knows.
const UNPRIVILEGED: [&str; 2] = ["postgres", "nobody"];

/// A user, by numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
    /// Whether this process is root, and has to become this user.
    is_other: bool,
}

impl Account {
    /// Who is to run a cluster that is not there yet: the one named, else whoever calls, but not root.
    pub(super) fn of_new(named: Option<&str>) -> Result<Self, LocalError> {
        let caller = rustix::process::geteuid().as_raw();
        let found = match named {
            Some(name) => look_up(name)?,
            None if caller != 0 => (caller, rustix::process::getegid().as_raw()),
            None => UNPRIVILEGED.iter().find_map(|name| look_up(name).ok()).ok_or_else(|| {
                let cause =
                    "PostgreSQL does not run as root, and there is neither postgres nor nobody";
                LocalError::User { user: "root".to_owned(), cause: cause.to_owned() }
            })?,
        };
        Self::checked(found, caller)
    }

    /// Who runs the cluster of a directory: its owner.
    pub(super) fn of_owner(dir: &Path, named: Option<&str>) -> Result<Self, LocalError> {
        let found = fs::metadata(dir).map_err(LocalError::file(dir))?;
        if let Some(name) = named
            && look_up(name)?.0 != found.uid()
        {
            let cause = format!("{} belongs to the number {} already", dir.display(), found.uid());
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

    /// Lets a command run as this user.
    pub(super) fn become_by(self, command: &mut Command) {
        if self.is_other {
            // The groups of root go with it: the standard library drops them.
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// Gives a folder to this user.
    pub(super) fn own(self, folder: &Path) -> Result<(), LocalError> {
        if !self.is_other {
            return Ok(());
        }
        chown(folder, Some(self.uid), Some(self.gid)).map_err(LocalError::file(folder))
    }

    /// Gives an open file to this user.
    pub(super) fn own_file(self, file: &File, path: &Path) -> Result<(), LocalError> {
        if !self.is_other {
            return Ok(());
        }
        fchown(file, Some(self.uid), Some(self.gid)).map_err(LocalError::file(path))
    }

    /// The first folder on the way to this one that the user may not pass through, as far as modes tell.
    pub(super) fn barrier(self, dir: &Path) -> Option<PathBuf> {
        let mut way: Vec<&Path> = dir.ancestors().collect();
        way.reverse();
        let closed = |folder: &&Path| fs::metadata(folder).is_ok_and(|found| !self.passes(&found));
        way.into_iter().find(closed).map(Path::to_owned)
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

    /// The name of the user, or the number of one without.
    pub(super) fn name(self) -> String {
        let number = self.uid.to_string();
        ask(&["-un", &number]).unwrap_or(number)
    }
}

/// The numbers of a user and of that user's group.
fn look_up(name: &str) -> Result<(u32, u32), LocalError> {
    let number = |flag| ask(&[flag, name])?.parse().ok();
    let unknown = || LocalError::User {
        user: name.to_owned(),
        cause: "the system does not know this user".to_owned(),
    };
    if name.starts_with('-') {
        return Err(unknown());
    }
    number("-u").zip(number("-g")).ok_or_else(unknown)
}

/// The program `id` asks whatever the system keeps its users in.
fn ask(args: &[&str]) -> Option<String> {
    let ended = Command::new("id").args(args).stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8(ended.stdout).ok()?;
    ended.status.success().then(|| said.trim().to_owned())
}
