//! Ground: what all nodes of a local cluster share, and how programs of PostgreSQL are run for them.
//!
//! **Invariant:** no variable of the caller's decides which server a program talks to, and no password stands on a
//! command line.
//! **Not here:** which programs are run (`node`, `making`).

use std::env;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::place::{PASSFILE, Place};
use super::programs::Programs;
use super::trouble::LocalError;

/// The user of the databases, who owns all of them.
pub const DATABASE_USER: &str = "tessera";
/// Characters of what a program said that are shown.
const SAID_MAX: usize = 600;

/// What nodes of a cluster share.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) place: Place,
    pub(super) programs: Programs,
    pub(super) password: String,
    pub(super) settings: Vec<(String, String)>,
}

impl Ground {
    /// A program, run by the user of the servers in the directory of the cluster.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.bin.join(program));
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG")
                || name.as_encoded_bytes().starts_with(b"LC_")
            {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").env("HOME", &self.place.dir).env("PGPASSFILE", self.passfile());
        command.env("PGSSLMODE", "disable").env("PGCONNECT_TIMEOUT", "30");
        // The folder of the caller may be closed to that user.
        command.current_dir(&self.place.dir).stdin(Stdio::null());
        self.place.account.become_by(&mut command);
        command
    }

    /// A program that talks to a server.
    pub(super) fn client(&self, program: &str, port: u16) -> Command {
        let mut command = self.command(program);
        command
            .args(["-h", "127.0.0.1", "-U", DATABASE_USER, "--no-password", "-p"])
            .arg(port.to_string());
        command
    }

    /// Runs a program to its end, whatever that is.
    pub(super) fn end(&self, command: &mut Command) -> Result<Output, LocalError> {
        command.output().map_err(|source| {
            let blocked = self.place.account.barrier(&self.place.dir);
            if source.kind() == ErrorKind::PermissionDenied
                && let Some(at) = blocked
            {
                let (dir, user) = (self.place.dir.clone(), self.place.account.name());
                return LocalError::Unreachable { dir, at, user };
            }
            let (path, user) = (PathBuf::from(command.get_program()), self.place.account.name());
            LocalError::Spawn { path, user, source }
        })
    }

    /// Runs a program that has to succeed.
    pub(super) fn run(&self, node: &str, command: &mut Command) -> Result<(), LocalError> {
        let ended = self.end(command)?;
        if ended.status.success() {
            return Ok(());
        }
        let path = PathBuf::from(command.get_program());
        let program = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let said = said(&ended);
        Err(LocalError::Program { node: node.to_owned(), program, said })
    }

    /// Whether the user of the servers gets to the directory and to the programs.
    pub(super) fn check_reach(&self) -> Result<(), LocalError> {
        self.run("cluster", self.command("postgres").arg("--version"))
    }

    /// The file of passwords that programs read.
    pub(super) fn passfile(&self) -> PathBuf {
        self.place.dir.join(PASSFILE)
    }
}

/// What a program said before it failed, in one line.
pub(super) fn said(ended: &Output) -> String {
    let text = String::from_utf8_lossy(&ended.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return ended.status.to_string();
    }
    lines.join("; ").chars().take(SAID_MAX).collect()
}
