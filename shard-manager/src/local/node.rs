//! Node: one server of a local cluster, which runs or does not.
//!
//! ```text
//! shard1-replica1/
//!   data/          what PostgreSQL keeps; its postgresql.conf includes ../tessera.conf
//!   tessera.conf   port and settings, written at each start
//!   server.log     what the server says
//!   unfinished     there while the node is being made: whatever else is there has never been used
//! ```
//!
//! **Invariant:** a process is taken for the server of a folder only if the folder says its number and, where the system
//! tells, it works in that folder; nothing else is ever signalled.
//! **Not here:** making a node (`provision`).

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::error::LocalError;
use super::ports;
use super::processes;
use super::settings::{lines, quoted};
use super::shared_env::{DATABASE_USER, Ground, Peer, said};
use crate::topology::Role;

pub(super) const UNFINISHED: &str = "unfinished";
/// How long a server may take to start: it may have to recover first.
const START_SECONDS: &str = "120";
/// How long what a killed server left in memory may still be in use.
const LEFT_OVER_MAX: Duration = Duration::from_secs(10);
/// How long a killed process may take to be gone.
const KILL_MAX: Duration = Duration::from_secs(5);

/// One server of a local cluster.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// `shard1-primary`, `shard1-replica1`, …
    pub name: String,
    /// Which shard, from 0.
    pub shard: usize,
    /// What it was when it was looked at.
    pub role: Role,
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// Its folder.
    pub dir: PathBuf,
    pub(super) is_noted: bool,
    /// Whether it is noted to lead its shard.
    pub(super) is_leading: bool,
    pub(super) database: String,
    pub(super) source: Option<Peer>,
    pub(super) ground: Arc<Ground>,
}

/// How a server is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Transactions are undone, and all is written.
    Fast,
    /// At once, as if the power were gone: the next start recovers.
    Immediate,
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Its server runs.
    Running,
    /// Its server is there and does nothing.
    Frozen,
    /// It is complete, and its server does not run.
    Stopped,
    /// It is missing or half-made.
    NotMade,
}

impl NodeState {
    /// As people read it.
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
    /// How to reach a database of this node; the password is in it.
    pub fn url(&self, database: &str) -> String {
        let password = &self.ground.password.0;
        format!("postgres://{DATABASE_USER}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// The name of the shard, which is also that of its database.
    pub fn database(&self) -> String {
        self.database.clone()
    }

    /// Where programs of this machine find it.
    pub(super) fn peer(&self) -> Peer {
        Peer::here(self.port)
    }

    /// What PostgreSQL knows this node by as a replica: its slot and its application.
    pub fn slot(&self) -> String {
        self.name.replace('-', "_")
    }

    /// The data directory of its server.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What its server says.
    pub fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// How it is.
    pub fn state(&self) -> NodeState {
        match self.server() {
            _ if !self.is_complete() => NodeState::NotMade,
            Some(pid) if processes::is_frozen(pid) => NodeState::Frozen,
            Some(_) => NodeState::Running,
            None => NodeState::Stopped,
        }
    }

    /// Whether its server follows another one, as it stands on the disk.
    pub fn is_standby(&self) -> bool {
        self.data_dir().join("standby.signal").exists()
    }

    /// The process of its server, if that runs.
    pub fn pid(&self) -> Option<u32> {
        self.server().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    fn server(&self) -> Option<Pid> {
        self.noted_pid().filter(|pid| works_in(*pid, &self.data_dir()))
    }

    /// Whether its server runs.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Starts its server and waits until that takes connections; a frozen one is thawed, and one that runs left alone.
    ///
    /// # Errors
    /// [`LocalError::Port`] if somebody else has its port, [`LocalError::NotStarted`] if the server ends again,
    /// [`LocalError::Unfit`] for a former primary: its shard would have two.
    pub fn start(&self) -> Result<(), LocalError> {
        if self.is_former_primary() {
            let cause = format!(
                "another node was promoted in its place; let it follow that with `cluster rejoin {}`, which takes \
                 back what no other node has",
                self.name
            );
            return Err(LocalError::Unfit { node: self.name.clone(), cause });
        }
        if self.is_running() {
            return self.thaw();
        }
        let told = |source| LocalError::Port { node: self.name.clone(), port: self.port, source };
        ports::try_out(self.port).map_err(told)?;
        self.write_settings()?;
        self.forget_number()?;
        let deadline = Instant::now() + LEFT_OVER_MAX;
        loop {
            let before = fs::metadata(self.log()).map_or(0, |found| found.len());
            let mut command = self.ground.command("pg_ctl");
            command.args(["start", "--silent", "--wait", "-t", START_SECONDS, "-D"]);
            let ended = self.ground.end(command.arg(self.data_dir()).arg("-l").arg(self.log()))?;
            if ended.status.success() {
                return Ok(());
            }
            let said = self.complaint(before).unwrap_or_else(|| said(&ended));
            if !said.contains("still in use") || Instant::now() > deadline {
                return Err(LocalError::NotStarted {
                    node: self.name.clone(),
                    said,
                    log: self.log(),
                });
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Of a server that does not run: if it was killed and its number is another's now, PostgreSQL would take that for
    /// its own.
    pub(super) fn forget_number(&self) -> Result<(), LocalError> {
        if !self.noted_pid().is_some_and(exists) {
            return Ok(());
        }
        let path = self.data_dir().join("postmaster.pid");
        fs::remove_file(&path).map_err(LocalError::file(&path))
    }

    /// Lets its server, with all processes of that, stand still as if the machine were gone for a while; nothing if it
    /// does already.
    ///
    /// # Errors
    /// [`LocalError::Unfit`] if it does not run, or one of its processes goes on.
    pub fn freeze(&self) -> Result<(), LocalError> {
        let unfit =
            |cause: &str| LocalError::Unfit { node: self.name.clone(), cause: cause.to_owned() };
        let server = self.server().ok_or_else(|| unfit("it does not run; start it first"))?;
        if processes::freeze(server) {
            return Ok(());
        }
        Err(unfit("not all of its processes stand still; try again, or thaw it"))
    }

    /// Lets a frozen server go on; nothing if it does already.
    ///
    /// # Errors
    /// [`LocalError::Unfit`] if it does not run.
    pub fn thaw(&self) -> Result<(), LocalError> {
        let cause = || "it does not run; start it".to_owned();
        let unfit = || LocalError::Unfit { node: self.name.clone(), cause: cause() };
        processes::thaw(self.server().ok_or_else(unfit)?);
        Ok(())
    }

    /// Ends its server and waits until that is gone; nothing if it does not run. What does not end in time is ended at
    /// once, and what does not end then is killed.
    ///
    /// # Errors
    /// [`LocalError::NotStopped`] if it is still there after less than a minute.
    pub fn stop(&self, how: Stop) -> Result<(), LocalError> {
        let ways: &[_] = match how {
            Stop::Fast => &[("fast", "30"), ("immediate", "10")],
            Stop::Immediate => &[("immediate", "10")],
        };
        for (mode, seconds) in ways {
            let Some(server) = self.server() else { return Ok(()) };
            if processes::is_frozen(server) {
                // It hears nothing; and what it had begun is not ended first if that is not asked for.
                match how {
                    Stop::Fast => processes::thaw(server),
                    Stop::Immediate => processes::end_frozen(server),
                }
            }
            let mut command = self.ground.command("pg_ctl");
            command.args(["stop", "--silent", "--wait", "-t", seconds, "-m", mode, "-D"]);
            self.ground.end(command.arg(self.data_dir()))?;
        }
        let deadline = Instant::now() + KILL_MAX;
        while self.is_running() {
            if let Some(pid) = self.noted_pid() {
                // If it is gone already, that is as well.
                let _ = kill_process(pid, Signal::KILL);
            }
            if Instant::now() > deadline {
                let said = "it outlives even being killed".to_owned();
                return Err(LocalError::NotStopped {
                    node: self.name.clone(),
                    said,
                    log: self.log(),
                });
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Whether all of it has been made.
    pub(super) fn is_complete(&self) -> bool {
        self.data_dir().join("PG_VERSION").exists() && !self.dir.join(UNFINISHED).exists()
    }

    /// What its server answers.
    pub(super) fn ask(&self, sql: &str) -> Result<String, LocalError> {
        let mut command = self.ground.client("psql", &self.peer());
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        let ended = self.ground.end(command.args(["-c", sql]))?;
        if ended.status.success() {
            return Ok(String::from_utf8_lossy(&ended.stdout).trim().to_owned());
        }
        let (node, program) = (self.name.clone(), "psql".to_owned());
        Err(LocalError::Program { node, program, said: said(&ended) })
    }

    /// How a server reaches another one to follow it.
    pub(super) fn conninfo(&self, source: &Peer) -> String {
        let passfile = quoted(&self.ground.passfile().to_string_lossy());
        let (slot, Peer { host, port }, tls) = (self.slot(), source, source.tls());
        format!(
            "host={host} port={port} user={DATABASE_USER} passfile={passfile} application_name={slot} sslmode={tls} \
             gssencmode=disable"
        )
    }

    /// What its server is told at its next start, which only this machine can reach.
    pub(super) fn write_settings(&self) -> Result<(), LocalError> {
        self.write_settings_with(Vec::new())
    }

    /// The same, and more.
    pub(super) fn write_settings_with(&self, more: Vec<(&str, String)>) -> Result<(), LocalError> {
        let mut own = vec![("port", self.port.to_string()), ("cluster_name", self.name.clone())];
        if let Some(source) = &self.source {
            own.push(("primary_conninfo", self.conninfo(source)));
            own.push(("primary_slot_name", self.slot()));
        }
        own.extend(more);
        let text = lines(&own, &self.ground.settings);
        self.ground.place.write(&self.dir.join("tessera.conf"), &text)
    }

    /// The process that its folder names, which may be gone, and its number another's.
    fn noted_pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        let number: i32 = text.lines().next()?.trim().parse().ok()?;
        // Below zero it is no server, but what `initdb` runs, cut off.
        if number > 1 { Pid::from_raw(number) } else { None }
    }

    /// The last thing that its server said was wrong, of what it said since.
    fn complaint(&self, since: u64) -> Option<String> {
        let mut file = fs::File::open(self.log()).ok()?;
        file.seek(SeekFrom::Start(since)).ok()?;
        let mut bytes = Vec::new();
        file.take(1 << 20).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let said = |line: &str| line.split_once(": ").map(|(_, said)| said.trim().to_owned());
        let lines: Vec<&str> = text.lines().collect();
        let last = lines
            .iter()
            .rposition(|line| ["FATAL:", "PANIC:"].iter().any(|it| line.contains(it)))?;
        // What it stumbled over often stands in the line before.
        let told: Vec<_> =
            lines[last.saturating_sub(1)..=last].iter().filter_map(|line| said(line)).collect();
        Some(told.join("; "))
    }
}

/// Whether a process is the server of a data directory.
fn works_in(pid: Pid, data: &Path) -> bool {
    let proc = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    match fs::read_link(proc.join("cwd")) {
        Ok(folder) => folder == data,
        // A container may keep this from root; what a process was started with everybody may read.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let started = fs::read(proc.join("cmdline")).unwrap_or_default();
            started.split(|byte| *byte == 0).any(|word| word == data.as_os_str().as_encoded_bytes())
        }
        // Of a process that has ended and whose end nobody has asked for there is a number, but no folder.
        Err(_) if Path::new("/proc/self/cwd").exists() => false,
        Err(_) => exists(pid),
    }
}

/// Whether there is such a process, whoever's it is.
fn exists(pid: Pid) -> bool {
    !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}
