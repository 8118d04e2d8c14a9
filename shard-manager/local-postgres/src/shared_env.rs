//! Shared environment: the data that all nodes of a local cluster share, and the functions that run
//! PostgreSQL's programs.
//!
//! **Invariant:** no environment variable of this process influences the server to which a program
//! connects, and no password appears on a command line.
//! **Not here:** the choice of the programs (`node`, `provision`).

use std::env;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::cluster_dir::{ClusterDir, PASSFILE};
use crate::error::LocalError;
use crate::programs::Programs;

/// Database user that owns all databases.
pub const DATABASE_USER: &str = "tessera";
/// Maximum number of characters of a program's error output that a message contains.
const ERROR_OUTPUT_CHARS_MAX: usize = 600;

/// Address of a server from which another server replicates or is copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Host name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl Peer {
    /// Returns the address of a server on this machine.
    pub(super) fn here(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port }
    }

    /// Returns the `sslmode` for connections to this server: no TLS on this machine, and TLS if
    /// available on other machines.
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

/// Password that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    /// Wraps a password.
    pub fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Directory, programs, password and settings of a cluster.
#[derive(Debug)]
pub(super) struct SharedEnv {
    pub(super) cluster_dir: ClusterDir,
    pub(super) programs: Programs,
    pub(super) password: Secret,
    pub(super) settings: Vec<(String, String)>,
    /// True if each program runs in a process group of its own, so that Ctrl-C in the terminal
    /// reaches this process only.
    pub(super) has_own_groups: bool,
}

impl SharedEnv {
    /// Creates an environment whose programs receive Ctrl-C in the terminal like this process.
    pub(super) fn new(
        cluster_dir: ClusterDir,
        programs: Programs,
        password: Secret,
        settings: Vec<(String, String)>,
    ) -> Self {
        Self { cluster_dir, programs, password, settings, has_own_groups: false }
    }

    /// Returns a command that runs a program as the servers' user in the directory of the cluster.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.bin.join(program));
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG")
                || name.as_encoded_bytes().starts_with(b"LC_")
            {
                command.env_remove(name);
            }
        }
        command
            .env("LC_ALL", "C")
            .env("HOME", &self.cluster_dir.path)
            .env("PGPASSFILE", self.passfile());
        command.env("PGSSLMODE", "disable").env("PGCONNECT_TIMEOUT", "30");
        // The current folder of this process may be inaccessible to that user.
        command.current_dir(&self.cluster_dir.path).stdin(Stdio::null());
        self.cluster_dir.os_user.apply_to(&mut command);
        command
    }

    /// Returns a command that runs a client program of a server.
    pub(super) fn client(&self, program: &str, server: &Peer) -> Command {
        let mut command = self.command(program);
        command.args(["-U", DATABASE_USER, "--no-password", "-h", &server.host, "-p"]);
        command.arg(server.port.to_string()).env("PGSSLMODE", server.tls());
        command
    }

    /// Runs a program and returns its output, whether it succeeds or not.
    pub(super) fn output(&self, command: &mut Command) -> Result<Output, LocalError> {
        if self.has_own_groups {
            command.process_group(0);
        }
        command.output().map_err(|source| {
            let blocked = self.cluster_dir.os_user.first_closed_folder(&self.cluster_dir.path);
            if source.kind() == ErrorKind::PermissionDenied
                && let Some(at) = blocked
            {
                let (dir, user) = (self.cluster_dir.path.clone(), self.cluster_dir.os_user.name());
                return LocalError::Unreachable { dir, at, user };
            }
            let (path, user) =
                (PathBuf::from(command.get_program()), self.cluster_dir.os_user.name());
            LocalError::Spawn { path, user, source }
        })
    }

    /// Runs a program and returns an error unless it succeeds.
    pub(super) fn run(&self, node: &str, command: &mut Command) -> Result<(), LocalError> {
        self.text(node, command).map(drop)
    }

    /// Runs a program and returns its standard output, or an error unless it succeeds.
    pub(super) fn text(&self, node: &str, command: &mut Command) -> Result<String, LocalError> {
        let ended = self.output(command)?;
        if ended.status.success() {
            return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
        }
        let path = PathBuf::from(command.get_program());
        let program = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let output = error_output(&ended);
        Err(LocalError::Program { node: node.to_owned(), program, output })
    }

    /// Checks that the user that runs the servers can access the directory and the programs.
    pub(super) fn check_reach(&self) -> Result<(), LocalError> {
        self.run("cluster", self.command("postgres").arg("--version"))
    }

    /// Returns the path of the passfile.
    pub(super) fn passfile(&self) -> PathBuf {
        self.cluster_dir.path.join(PASSFILE)
    }
}

/// Returns the error output of a program in one line.
pub(super) fn error_output(ended: &Output) -> String {
    let text = String::from_utf8_lossy(&ended.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return ended.status.to_string();
    }
    lines.join("; ").chars().take(ERROR_OUTPUT_CHARS_MAX).collect()
}
