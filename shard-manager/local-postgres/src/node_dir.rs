//! Node folder: the files of one node, and the facts about the node that can be read from them.
//!
//! ```text
//! shard1-replica1/
//!   data/          PostgreSQL's data directory; its postgresql.conf includes ../tessera.conf
//!   tessera.conf   port and settings, written at each start
//!   server.log     log of the server
//!   unfinished     exists while the node is being made: the other files have never been used
//! ```
//!
//! **Invariant:** a process counts as the server of a folder only if the folder's pid file names it
//! and the process has that folder as its working directory, provided that the system shows this.
//! **Not here:** signals to that process (`node`), creating the files (`provision`).

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::process::{Pid, test_kill_process};

use crate::error::LocalError;

/// Folder of a node.
#[derive(Clone, Debug)]
pub struct NodeDir {
    /// Absolute path of the folder.
    pub path: PathBuf,
}

impl NodeDir {
    /// Returns the data directory of the node's server.
    pub fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// Returns the path of the server's log.
    pub fn log(&self) -> PathBuf {
        self.path.join("server.log")
    }

    /// Returns the path of the settings file, which the configuration in the data directory
    /// includes.
    pub(super) fn settings(&self) -> PathBuf {
        self.path.join("tessera.conf")
    }

    /// Returns the path of the marker file that exists while a node is being created.
    pub(super) fn unfinished(&self) -> PathBuf {
        self.path.join("unfinished")
    }

    /// Returns true if the node was created completely.
    pub(super) fn is_complete(&self) -> bool {
        self.data().join("PG_VERSION").exists() && !self.unfinished().exists()
    }

    /// Returns true if the data directory is that of a standby.
    pub(super) fn is_standby(&self) -> bool {
        self.data().join("standby.signal").exists()
    }

    /// Returns the timeline of the data. PostgreSQL keeps a history file for each promotion, so
    /// this is the highest timeline that has one, or 1 if there is no such file.
    pub(super) fn timeline(&self) -> u32 {
        let found = fs::read_dir(self.data().join("pg_wal"));
        let names = found.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let number = |name: &str| u32::from_str_radix(name.strip_suffix(".history")?, 16).ok();
        let timelines = names.filter_map(|name| number(name.to_str()?));
        timelines.max().unwrap_or(1)
    }

    /// Returns the process id of the server, if it is running.
    pub(super) fn server(&self) -> Option<Pid> {
        self.recorded_pid().filter(|pid| is_server_of(*pid, &self.data()))
    }

    /// Returns the process id in the pid file. The process may have exited meanwhile, and another
    /// process may have the same id.
    pub(super) fn recorded_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.pid_file()).ok()?;
        let number: i32 = text.lines().next()?.trim().parse().ok()?;
        // A negative number belongs to the single-user server of an interrupted `initdb`.
        if number > 1 { Pid::from_raw(number) } else { None }
    }

    /// Removes the pid file of a killed server if another process has the same pid now, because
    /// PostgreSQL would mistake that process for a running server.
    pub(super) fn remove_stale_pid_file(&self) -> Result<(), LocalError> {
        if !self.recorded_pid().is_some_and(exists) {
            return Ok(());
        }
        let path = self.pid_file();
        fs::remove_file(&path).map_err(LocalError::file(&path))
    }

    fn pid_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    /// Returns the last error that the server has logged after the first `since` bytes of its log.
    pub(super) fn last_error(&self, since: u64) -> Option<String> {
        let mut file = fs::File::open(self.log()).ok()?;
        file.seek(SeekFrom::Start(since)).ok()?;
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let reason = |line: &str| line.split_once(": ").map(|(_, reason)| reason.trim().to_owned());
        let lines: Vec<&str> = text.lines().collect();
        let last = lines
            .iter()
            .rposition(|line| ["FATAL:", "PANIC:"].iter().any(|it| line.contains(it)))?;
        // The cause is often in the line before the last one.
        let messages: Vec<_> =
            lines[last.saturating_sub(1)..=last].iter().filter_map(|line| reason(line)).collect();
        Some(messages.join("; "))
    }
}

/// Returns true if a process is the server of a data directory.
fn is_server_of(pid: Pid, data: &Path) -> bool {
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    // The system reports the working directory of a process with all symbolic links resolved.
    let resolved = fs::canonicalize(data).unwrap_or_else(|_| data.to_owned());
    match fs::read_link(proc.join("cwd")) {
        Ok(folder) => folder == resolved,
        // A container may deny this even to root. The command line is then used instead, which all
        // users may read.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let started = fs::read(proc.join("cmdline")).unwrap_or_default();
            let names = [data, resolved.as_path()].map(|path| path.as_os_str().as_encoded_bytes());
            started.split(|byte| *byte == 0).any(|word| names.contains(&word))
        }
        // A zombie has a pid, but no working directory.
        Err(_) if Path::new("/proc/self/cwd").exists() => false,
        Err(_) => exists(pid),
    }
}

/// Returns true if a process of any user has this pid.
fn exists(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_server_is_found_by_a_path_with_a_symbolic_link() {
        let here = std::env::current_dir().expect("a folder");
        let dir = tempfile::tempdir().expect("a folder");
        let link = dir.path().join("link");
        symlink(&here, &link).expect("a link");
        let pid = rustix::process::getpid();
        for data in [&here, &link] {
            assert!(is_server_of(pid, data), "{}", data.display());
        }
        // On systems without `/proc`, any process with the pid counts as the server.
        if Path::new("/proc/self/cwd").exists() {
            assert!(!is_server_of(pid, dir.path()));
        }
    }
}
