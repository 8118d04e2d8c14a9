//! Node: one server of a local cluster, running or not.
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
//! and, where the system shows that, it works in that folder; no other process is ever signalled.
//! **Not here:** making a node (`provision`).

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::error::LocalError;
use crate::ports;
use crate::processes;
use crate::settings::{lines, quoted};
use crate::shared_env::{DATABASE_USER, Peer, SharedEnv, error_output};
use model::topology::Role;

pub(super) const UNFINISHED: &str = "unfinished";
/// Time limit of a start, in seconds: the server may have to recover first.
const START_SECONDS: &str = "120";
/// Time limit for the shared memory of a killed server to be released.
const LEFT_OVER_MAX: Duration = Duration::from_secs(10);
/// Time limit for a killed process to disappear.
const KILL_MAX: Duration = Duration::from_secs(5);

/// One server of a local cluster.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// Name: `shard1-primary`, `shard1-replica1`, …
    pub name: String,
    /// Index of the shard, from 0.
    pub shard: usize,
    /// Role when the cluster was last inspected.
    pub role: Role,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Folder of the node.
    pub dir: PathBuf,
    /// True if the manifest records that it was complete.
    pub(super) was_complete: bool,
    /// True if the manifest records it as the primary of its shard.
    pub(super) is_recorded_primary: bool,
    pub(super) database: String,
    pub(super) source: Option<Peer>,
    pub(super) env: Arc<SharedEnv>,
}

/// Mode of stopping a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Rolls back open transactions and writes a checkpoint.
    Fast,
    /// Stops at once, as a loss of power would: the next start recovers.
    Immediate,
}

/// State of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Its server runs.
    Running,
    /// Its server is suspended.
    Frozen,
    /// The node is complete, and its server does not run.
    Stopped,
    /// The node is missing or incomplete.
    NotMade,
}

impl NodeState {
    /// Returns the name of the state.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Stopped => "stopped",
            Self::NotMade => "not made",
        }
    }
}

impl LocalNode {
    /// Returns the URL of a database of this node, password included.
    pub fn url(&self, database: &str) -> String {
        let password = &self.env.password.0;
        format!("postgres://{DATABASE_USER}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the name of the shard, which is also that of its database.
    pub fn database(&self) -> String {
        self.database.clone()
    }

    /// Returns the address of its server.
    pub(super) fn peer(&self) -> Peer {
        Peer::here(self.port)
    }

    /// Returns the name of its replication slot, which is also its application name.
    pub fn slot(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Returns the data directory of its server.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Returns the path of its server's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// Returns its present state.
    pub fn state(&self) -> NodeState {
        match self.server() {
            _ if !self.is_complete() => NodeState::NotMade,
            Some(pid) if processes::is_frozen(pid) => NodeState::Frozen,
            Some(_) => NodeState::Running,
            None => NodeState::Stopped,
        }
    }

    /// Returns whether its data directory is that of a standby.
    pub fn is_standby(&self) -> bool {
        self.data_dir().join("standby.signal").exists()
    }

    /// Returns the process id of its server, if that runs.
    pub fn pid(&self) -> Option<u32> {
        self.server().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    fn server(&self) -> Option<Pid> {
        self.recorded_pid().filter(|pid| is_server_of(*pid, &self.data_dir()))
    }

    /// Returns whether its server runs.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Starts its server and waits until it accepts connections. A frozen server is thawed; a
    /// running one is left alone.
    ///
    /// # Errors
    /// [`LocalError::Port`] if another program uses its port, [`LocalError::NotStarted`] if the
    /// server exits, [`LocalError::Unsuitable`] for a former primary: its shard would have two.
    pub fn start(&self) -> Result<(), LocalError> {
        if self.is_former_primary() {
            let cause = format!(
                "another node was promoted in its place; let it follow that with `cluster rejoin {}`, which removes \
                 the rows that only it has",
                self.name
            );
            return Err(LocalError::Unsuitable { node: self.name.clone(), cause });
        }
        if self.is_running() {
            return self.thaw();
        }
        let in_use = |source| LocalError::Port { node: self.name.clone(), port: self.port, source };
        ports::check_free(self.port).map_err(in_use)?;
        self.write_settings()?;
        self.remove_stale_pid_file()?;
        let deadline = Instant::now() + LEFT_OVER_MAX;
        loop {
            let before = fs::metadata(self.log()).map_or(0, |found| found.len());
            let mut command = self.env.command("pg_ctl");
            command.args(["start", "--silent", "--wait", "-t", START_SECONDS, "-D"]);
            let ended = self.env.output(command.arg(self.data_dir()).arg("-l").arg(self.log()))?;
            if ended.status.success() {
                return Ok(());
            }
            let reason = self.last_error(before).unwrap_or_else(|| error_output(&ended));
            if !reason.contains("still in use") || Instant::now() > deadline {
                return Err(LocalError::NotStarted {
                    node: self.name.clone(),
                    reason,
                    log: self.log(),
                });
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Removes the pid file of a killed server if another process has that pid now: PostgreSQL
    /// would take that process for its own.
    pub(super) fn remove_stale_pid_file(&self) -> Result<(), LocalError> {
        if !self.recorded_pid().is_some_and(exists) {
            return Ok(());
        }
        let path = self.data_dir().join("postmaster.pid");
        fs::remove_file(&path).map_err(LocalError::file(&path))
    }

    /// Suspends its server and all processes of it, as if the machine were unreachable. Does
    /// nothing if they are suspended already.
    ///
    /// # Errors
    /// [`LocalError::Unsuitable`] if it does not run, or one of its processes continues.
    pub fn freeze(&self) -> Result<(), LocalError> {
        let unsuitable = |cause: &str| LocalError::Unsuitable {
            node: self.name.clone(),
            cause: cause.to_owned(),
        };
        let server = self.server().ok_or_else(|| unsuitable("it does not run; start it first"))?;
        if processes::freeze(server) {
            return Ok(());
        }
        Err(unsuitable("not all of its processes stand still; try again, or thaw it"))
    }

    /// Resumes a frozen server. Does nothing if it is not frozen.
    ///
    /// # Errors
    /// [`LocalError::Unsuitable`] if it does not run.
    pub fn thaw(&self) -> Result<(), LocalError> {
        let cause = || "it does not run; start it".to_owned();
        let unsuitable = || LocalError::Unsuitable { node: self.name.clone(), cause: cause() };
        processes::thaw(self.server().ok_or_else(unsuitable)?);
        Ok(())
    }

    /// Stops its server and waits until that has exited. Does nothing if it does not run. A server
    /// that does not stop in time is stopped at once, and killed if that fails too.
    ///
    /// # Errors
    /// [`LocalError::NotStopped`] if it still exists after about a minute.
    pub fn stop(&self, how: Stop) -> Result<(), LocalError> {
        let ways: &[_] = match how {
            Stop::Fast => &[("fast", "30"), ("immediate", "10")],
            Stop::Immediate => &[("immediate", "10")],
        };
        for (mode, seconds) in ways {
            let Some(server) = self.server() else { return Ok(()) };
            if processes::is_frozen(server) {
                // A suspended server handles no signals. For a fast stop it resumes first. For an
                // immediate stop its processes get their signals before they resume, so that none
                // of them completes any work first.
                match how {
                    Stop::Fast => processes::thaw(server),
                    Stop::Immediate => processes::end_frozen(server),
                }
            }
            let mut command = self.env.command("pg_ctl");
            command.args(["stop", "--silent", "--wait", "-t", seconds, "-m", mode, "-D"]);
            self.env.output(command.arg(self.data_dir()))?;
        }
        let deadline = Instant::now() + KILL_MAX;
        while self.is_running() {
            if let Some(pid) = self.recorded_pid() {
                // An error means that the process has exited already.
                let _ = kill_process(pid, Signal::KILL);
            }
            if Instant::now() > deadline {
                let reason = "it still exists after it was killed".to_owned();
                return Err(LocalError::NotStopped {
                    node: self.name.clone(),
                    reason,
                    log: self.log(),
                });
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Returns whether the node was made completely.
    pub(super) fn is_complete(&self) -> bool {
        self.data_dir().join("PG_VERSION").exists() && !self.dir.join(UNFINISHED).exists()
    }

    /// Runs a query on its server and returns the output of `psql`.
    pub(super) fn query(&self, sql: &str) -> Result<String, LocalError> {
        let mut command = self.env.client("psql", &self.peer());
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        let ended = self.env.output(command.args(["-c", sql]))?;
        if ended.status.success() {
            return Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned());
        }
        let (node, program) = (self.name.clone(), "psql".to_owned());
        Err(LocalError::Program { node, program, output: error_output(&ended) })
    }

    /// Returns the connection string by which its server follows another one.
    pub(super) fn conninfo(&self, source: &Peer) -> String {
        let passfile = quoted(&self.env.passfile().to_string_lossy());
        let (slot, Peer { host, port }, tls) = (self.slot(), source, source.tls());
        format!(
            "host={host} port={port} user={DATABASE_USER} passfile={passfile} application_name={slot} sslmode={tls} \
             gssencmode=disable"
        )
    }

    /// Writes the settings for the next start of its server, which only this machine can reach.
    pub(super) fn write_settings(&self) -> Result<(), LocalError> {
        self.write_settings_with(Vec::new())
    }

    /// Writes the settings for the next start, and additional ones.
    pub(super) fn write_settings_with(&self, more: Vec<(&str, String)>) -> Result<(), LocalError> {
        let mut own = vec![("port", self.port.to_string()), ("cluster_name", self.name.clone())];
        if let Some(source) = &self.source {
            own.push(("primary_conninfo", self.conninfo(source)));
            own.push(("primary_slot_name", self.slot()));
        }
        own.extend(more);
        let text = lines(&own, &self.env.settings);
        self.env.cluster_dir.write(&self.dir.join("tessera.conf"), &text)
    }

    /// Returns the pid that its pid file names; the process may be gone, and the pid another's.
    fn recorded_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        let number: i32 = text.lines().next()?.trim().parse().ok()?;
        // A negative number belongs to the single-user server of an interrupted `initdb`.
        if number > 1 { Pid::from_raw(number) } else { None }
    }

    /// Returns the last error that its server has logged since the log had this length.
    fn last_error(&self, since: u64) -> Option<String> {
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
        // The cause is often in the line before.
        let messages: Vec<_> =
            lines[last.saturating_sub(1)..=last].iter().filter_map(|line| reason(line)).collect();
        Some(messages.join("; "))
    }
}

/// Returns whether a process is the server of a data directory.
fn is_server_of(pid: Pid, data: &Path) -> bool {
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    match fs::read_link(proc.join("cwd")) {
        Ok(folder) => folder == data,
        // A container may deny this even to root; the command line is readable by all users.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let started = fs::read(proc.join("cmdline")).unwrap_or_default();
            started.split(|byte| *byte == 0).any(|word| word == data.as_os_str().as_encoded_bytes())
        }
        // A zombie has a pid, but no working directory.
        Err(_) if Path::new("/proc/self/cwd").exists() => false,
        Err(_) => exists(pid),
    }
}

/// Returns whether a process of any user has this pid.
fn exists(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}
