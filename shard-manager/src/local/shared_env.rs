//! Ground: what all nodes of a local cluster share, and how programs of PostgreSQL are run for them.
//!
//! **Invariant:** no variable of the caller's decides which server a program talks to, and no password stands on a
//! command line.
//! **Not here:** which programs are run (`node`, `provision`).

use std::env;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::cluster_dir::{PASSFILE, Place};
use super::error::LocalError;
use super::programs::Programs;

/// The user of the databases, who owns all of them.
pub const DATABASE_USER: &str = "tessera";
/// Characters of what a program said that are shown.
const SAID_MAX: usize = 600;

/// Where a server is that another one follows or is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
}

impl Peer {
    /// A server of this machine.
    pub(super) fn here(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port }
    }

    /// How the way there is secured, as libpq says it: on this machine there is nobody on the way, and others are
    /// spoken to under TLS if they know it.
    pub(super) fn tls(&self) -> &'static str {
        if self.host == "127.0.0.1" { "disable" } else { "prefer" }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A password, which nothing shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    /// What was read from where it is kept.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What nodes of a cluster share.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) place: Place,
    pub(super) programs: Programs,
    pub(super) password: Secret,
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
    pub(super) fn client(&self, program: &str, server: &Peer) -> Command {
        let mut command = self.command(program);
        command.args(["-U", DATABASE_USER, "--no-password", "-h", &server.host, "-p"]);
        command.arg(server.port.to_string()).env("PGSSLMODE", server.tls());
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
