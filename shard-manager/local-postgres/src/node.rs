//! Node: one server of a local cluster, running or not.
//!
//! **Invariant:** signals are sent only to the server that the pid file in the node's folder names
//! (`node_dir`), and to the descendants of this server.
//! **Not here:** creating a node (`provision`).

use std::fs;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::error::LocalError;
use crate::node_dir::NodeDir;
use crate::ports;
use crate::processes;
use crate::settings::{lines, quoted};
use crate::shared_env::{DATABASE_USER, Peer, SharedEnv, error_output};
use crate::standby_settings::settings_of_standby;
use model::topology::Role;

/// Time limit for a start, in seconds; it is long because the server may first have to recover.
const START_SECONDS: &str = "120";
/// Longest time to wait until a server that is already running accepts connections.
const RESUMED_MAX: Duration = Duration::from_secs(120);
/// Time limit for the shared memory of a killed server to be released.
const LEFT_OVER_MAX: Duration = Duration::from_secs(10);
/// Time limit for a killed process to disappear.
const KILL_MAX: Duration = Duration::from_secs(5);

/// One server of a local cluster.
#[derive(Clone, Debug)]
pub struct LocalNode {
    /// Name of the node, such as `shard1-primary` or `shard1-replica1`.
    pub name: String,
    /// Index of the shard, from 0.
    pub shard: usize,
    /// Role when the cluster was last inspected.
    pub role: Role,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Folder of the node.
    pub dir: NodeDir,
    /// True if the manifest records the node as complete.
    pub(super) was_complete: bool,
    /// True if the manifest records the node as the primary of its shard.
    pub(super) is_recorded_primary: bool,
    pub(super) database: String,
    pub(super) source: Option<Peer>,
    pub(super) env: Arc<SharedEnv>,
}

/// Way of stopping a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Rolls back open transactions and writes a checkpoint.
    Fast,
    /// Stops at once without a checkpoint, like a power failure, so that the next start must
    /// recover.
    Immediate,
    /// Kills all processes with SIGKILL, so that the next start must recover.
    Kill,
}

/// State of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// The server runs.
    Running,
    /// The server is suspended, so that it exists but does not respond.
    Frozen,
    /// The node is complete, and its server is not running.
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
    /// Returns the URL of a database of this node, including the password.
    pub fn url(&self, database: &str) -> String {
        let password = &self.env.password.0;
        format!("postgres://{DATABASE_USER}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the name of the shard, which is also the name of its database.
    pub fn database(&self) -> String {
        self.database.clone()
    }

    /// Returns the address of the node's server.
    pub(super) fn peer(&self) -> Peer {
        Peer::here(self.port)
    }

    /// Returns the name of the node's replication slot, which is also its application name.
    pub fn slot(&self) -> String {
        self.name.replace('-', "_")
    }

    /// Returns the current state of the node.
    pub fn state(&self) -> NodeState {
        match self.dir.server() {
            _ if !self.dir.is_complete() => NodeState::NotMade,
            Some(pid) if processes::is_frozen(pid) => NodeState::Frozen,
            Some(_) => NodeState::Running,
            None => NodeState::Stopped,
        }
    }

    /// Returns the process id of the node's server, if it is running.
    pub fn pid(&self) -> Option<u32> {
        self.dir.server().map(|pid| pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Returns true if the node's server is running.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Returns true if the node was the primary until another node was promoted, and does not
    /// follow the new primary yet. It may have rows that no other node has.
    pub fn is_former_primary(&self) -> bool {
        self.role == Role::Replica && self.dir.is_complete() && !self.dir.is_standby()
    }

    /// Starts the node's server and waits until it accepts connections. A frozen server is resumed
    /// instead; for a running server nothing is done.
    ///
    /// # Errors
    /// [`LocalError::Port`] if another program uses the port, [`LocalError::NotStarted`] if the
    /// server exits, [`LocalError::Program`] if it runs but accepts no connections,
    /// [`LocalError::Unsuitable`] for a former primary, because the shard would then have two
    /// primaries.
    pub fn start(&self) -> Result<(), LocalError> {
        if self.is_former_primary() {
            let cause = format!(
                "another node was promoted in its place; let it follow that with `cluster rejoin {}`, which removes \
                 the rows that only it has",
                self.name
            );
            return Err(LocalError::Unsuitable { node: self.name.clone(), cause });
        }
        if resume(self)? {
            return Ok(());
        }
        let in_use = |source| LocalError::Port { node: self.name.clone(), port: self.port, source };
        ports::check_free(self.port).map_err(in_use)?;
        self.write_settings(&[])?;
        self.dir.remove_stale_pid_file()?;
        let deadline = Instant::now() + LEFT_OVER_MAX;
        loop {
            let before = fs::metadata(self.dir.log()).map_or(0, |found| found.len());
            let mut command = self.env.command("pg_ctl");
            command.args(["start", "--silent", "--wait", "-t", START_SECONDS, "-D"]);
            let ended =
                self.env.output(command.arg(self.dir.data()).arg("-l").arg(self.dir.log()))?;
            if ended.status.success() {
                return Ok(());
            }
            let reason = self.dir.last_error(before).unwrap_or_else(|| error_output(&ended));
            if !reason.contains("still in use") || Instant::now() > deadline {
                return Err(LocalError::NotStarted {
                    node: self.name.clone(),
                    reason,
                    log: self.dir.log(),
                });
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// Suspends all processes of the node's server, as if the machine were unreachable. Does
    /// nothing if they are already suspended.
    ///
    /// # Errors
    /// [`LocalError::Unsuitable`] if the server is not running, or if one of its processes cannot
    /// be suspended.
    pub fn freeze(&self) -> Result<(), LocalError> {
        let unsuitable = |cause: &str| LocalError::Unsuitable {
            node: self.name.clone(),
            cause: cause.to_owned(),
        };
        let server =
            self.dir.server().ok_or_else(|| unsuitable("it does not run; start it first"))?;
        if processes::freeze(server) {
            return Ok(());
        }
        Err(unsuitable("not all of its processes stand still; try again, or thaw it"))
    }

    /// Resumes a frozen server. Does nothing if it is not frozen.
    ///
    /// # Errors
    /// [`LocalError::Unsuitable`] if the server is not running.
    pub fn thaw(&self) -> Result<(), LocalError> {
        let cause = || "it does not run; start it".to_owned();
        let unsuitable = || LocalError::Unsuitable { node: self.name.clone(), cause: cause() };
        processes::thaw(self.dir.server().ok_or_else(unsuitable)?);
        Ok(())
    }

    /// Stops the node's server and waits until it has exited. Does nothing if the server is not
    /// running. If the server does not stop in time, an immediate stop is attempted, and finally
    /// the server is killed. Child processes of a killed server may exit a moment later; the next
    /// start waits for them.
    ///
    /// # Errors
    /// [`LocalError::NotStopped`] if the server still exists after about a minute.
    pub fn stop(&self, how: Stop) -> Result<(), LocalError> {
        let ways: &[_] = match how {
            Stop::Fast => &[("fast", "30"), ("immediate", "10")],
            Stop::Immediate => &[("immediate", "10")],
            Stop::Kill => &[],
        };
        if how == Stop::Kill
            && let Some(server) = self.dir.server()
        {
            processes::kill(server);
        }
        for (mode, seconds) in ways {
            let Some(server) = self.dir.server() else { return Ok(()) };
            if processes::is_frozen(server) {
                // A suspended server handles no signals. For a fast stop it is therefore resumed
                // first. For an immediate stop its processes are signalled before they are resumed,
                // so that none of them completes any work.
                match how {
                    Stop::Fast => processes::thaw(server),
                    Stop::Immediate | Stop::Kill => processes::end_frozen(server),
                }
            }
            let mut command = self.env.command("pg_ctl");
            command.args(["stop", "--silent", "--wait", "-t", seconds, "-m", mode, "-D"]);
            self.env.output(command.arg(self.dir.data()))?;
        }
        let deadline = Instant::now() + KILL_MAX;
        while self.is_running() {
            if let Some(pid) = self.dir.recorded_pid() {
                // An error means that the process has exited already.
                let _ = kill_process(pid, Signal::KILL);
            }
            if Instant::now() > deadline {
                let reason = "it still exists after it was killed".to_owned();
                return Err(LocalError::NotStopped {
                    node: self.name.clone(),
                    reason,
                    log: self.dir.log(),
                });
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Executes a query on the node's server and returns the output of `psql`.
    pub(super) fn query(&self, sql: &str) -> Result<String, LocalError> {
        let mut command = self.env.client("psql", &self.peer());
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        let output = self.env.text(&self.name, command.args(["-c", sql]))?;
        Ok(output.trim().to_owned())
    }
    /// Returns the connection string with which the node's server replicates from `source`.
    pub(super) fn conninfo(&self, source: &Peer) -> String {
        let passfile = quoted(&self.env.passfile().to_string_lossy());
        let (slot, Peer { host, port }, tls) = (self.slot(), source, source.tls());
        format!(
            "host={host} port={port} user={DATABASE_USER} passfile={passfile} application_name={slot} sslmode={tls} \
             gssencmode=disable"
        )
    }

    /// Writes the settings file for the next start of the node's server: the settings that the node
    /// itself determines, and the given ones, which override them.
    pub(super) fn write_settings(&self, more: &[(&str, String)]) -> Result<(), LocalError> {
        let mut own = vec![("port", self.port.to_string()), ("cluster_name", self.name.clone())];
        if let Some(source) = &self.source {
            own.push(("primary_conninfo", self.conninfo(source)));
            own.push(("primary_slot_name", self.slot()));
        }
        own.extend_from_slice(more);
        let text = if self.dir.is_standby() {
            let source = self.source.as_ref();
            lines(&own, &settings_of_standby(&self.env, &self.name, &self.dir, source)?)
        } else {
            lines(&own, &self.env.settings)
        };
        self.env.cluster_dir.write(&self.dir.settings(), &text)
    }
}

/// Resumes the server of a node and waits until it accepts connections. Returns false if no server
/// is running, or if it exits meanwhile. The latter is possible because a killed server exists
/// until the kernel has removed it.
fn resume(node: &LocalNode) -> Result<bool, LocalError> {
    let deadline = Instant::now() + RESUMED_MAX;
    while let Some(server) = node.dir.server() {
        processes::thaw(server);
        match node.query("SELECT") {
            Ok(_) => return Ok(true),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_millis(20)),
        }
    }
    Ok(false)
}
