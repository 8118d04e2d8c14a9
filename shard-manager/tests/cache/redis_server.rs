//! Redis server of a single test, on a free loopback port, in a temporary folder.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{Commands as _, Connection};
use rustix::process::{Pid, Signal, kill_process};
use shard_manager::cache::{CacheAddress, CacheSettings};
use tempfile::TempDir;

use crate::free_port::free_port;
use crate::prerequisites::{Prerequisite, skip};

/// Longest wait of a read for Redis: longer than operators may set, and than a busy machine stands
/// still.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a condition holds. The limit is generous: a test that reaches it has found a defect.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A running Redis server.
pub(crate) struct Server {
    child: Child,
    port: u16,
    dir: TempDir,
    options: Vec<String>,
    password: Option<String>,
}

/// Settings with an address where no server listens.
pub(crate) fn nowhere() -> CacheSettings {
    settings(free_port(), None)
}

fn settings(port: u16, password: Option<&str>) -> CacheSettings {
    let user = password.map(|password| format!(":{password}@")).unwrap_or_default();
    let address = format!("redis://{user}127.0.0.1:{port}/0");
    let mut settings = CacheSettings::at(address.parse::<CacheAddress>().unwrap());
    // Generous, because the machine may be busy; tests of wait limits set their own.
    settings.patience = PATIENCE;
    // Caches from the first read, so that the second one is a hit.
    settings.min_uses = CacheSettings::MIN_USES_LEAST;
    settings
}

impl Server {
    /// Starts a server with these options; prints a message and returns `None` if the program is
    /// not installed.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            skip(Prerequisite::Redis, "there is no redis-server on this machine");
            return None;
        }
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        let password = options.windows(2).find(|pair| pair[0] == "--requirepass");
        let password = password.map(|pair| pair[1].clone());
        let dir = tempfile::tempdir().unwrap();
        // Another process may take a port that was free a moment ago.
        for _ in 0..20 {
            let port = free_port();
            let mut child = spawn(port, &dir, &options);
            if listens(&mut child, port) {
                return Some(Self { child, port, dir, options, password });
            }
        }
        panic!("no Redis starts");
    }

    /// Settings to reach this server.
    pub(crate) fn settings(&self) -> CacheSettings {
        settings(self.port, self.password.as_deref())
    }

    /// Port of the server.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Settings with a wrong password.
    pub(crate) fn settings_with_a_wrong_password(&self) -> CacheSettings {
        settings(self.port, Some("guessed"))
    }

    /// Settings without a password.
    pub(crate) fn settings_without_a_password(&self) -> CacheSettings {
        settings(self.port, None)
    }

    /// Opens a direct connection that bypasses the cache.
    pub(crate) fn direct_connection(&self) -> Connection {
        let user = self.password.as_ref().map(|password| format!(":{password}@"));
        let address = format!("redis://{}127.0.0.1:{}/0", user.unwrap_or_default(), self.port);
        redis::Client::open(address).unwrap().get_connection().unwrap()
    }

    /// Lists all keys.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.direct_connection().keys("*").unwrap()
    }

    /// Number of times that Redis has executed a command, directly or in a script.
    pub(crate) fn calls(&self, command: &str) -> u64 {
        let stats: String =
            redis::cmd("INFO").arg("commandstats").query(&mut self.direct_connection()).unwrap();
        let prefix = format!("cmdstat_{command}:calls=");
        let calls = stats.lines().find_map(|line| line.strip_prefix(&prefix)?.split(',').next());
        calls.map_or(0, |calls| calls.parse().unwrap())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Kills the server, as if its machine had lost power.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again on the same port and folder.
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.port, &self.dir, &self.options);
        assert!(listens(&mut self.child, self.port), "its port is taken");
    }

    /// Folder of the server.
    pub(crate) fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(port: u16, dir: &TempDir, options: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    let port = port.to_string();
    if options.iter().any(|option| option == "--tls-cert-file") {
        command.args(["--tls-port", &port, "--port", "0"]);
    } else {
        command.args(["--port", &port]);
    }
    command.args(["--bind", "127.0.0.1", "--save", ""]);
    command.arg("--dir").arg(dir.path()).args(options);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn listens(child: &mut Child, port: u16) -> bool {
    let mut listens = false;
    eventually("Redis listens, or ends", || {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        listens = TcpStream::connect(("127.0.0.1", port)).is_ok();
        listens
    });
    listens && child.try_wait().unwrap().is_none()
}
