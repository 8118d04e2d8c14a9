//! Router: a real router process on a loopback port, with embedded shards in a temporary directory.
//!
//! When the [`Router`] is dropped, the process is ended by its id, and the directory is removed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::killed_child::KilledChild;

/// Longest time for anything that must happen before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running router.
pub(crate) struct Router {
    child: KilledChild,
    address: SocketAddr,
    agent: ureq::Agent,
    data: TempDir,
    flags: Vec<String>,
}

impl Router {
    /// Returns a router with three shards, and with these flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_in(crate::folders::temporary(), flags)
    }

    fn start_in(data: TempDir, flags: &[&str]) -> Self {
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let (child, address) = launch(data.path(), "127.0.0.1:0", &flags);
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(PATIENCE))
            .build();
        Self { child: KilledChild(child), address, agent: agent.into(), data, flags }
    }

    /// Returns a router with these settings in its file, three shards, and these flags.
    pub(crate) fn start_with_settings(settings: &str, flags: &[&str]) -> Self {
        let data = crate::folders::temporary();
        std::fs::write(data.path().join("tessera.toml"), settings).unwrap();
        Self::start_in(data, flags)
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }

    /// Starts it again, over the same rows and at the same address.
    pub(crate) fn come_back(&mut self) {
        let (child, address) = launch(self.data.path(), &self.address.to_string(), &self.flags);
        assert_eq!(address, self.address);
        self.child = KilledChild(child);
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn agent(&self) -> ureq::Agent {
        self.agent.clone()
    }

    /// Gets JSON.
    pub(crate) fn get(&self, path: &str) -> Value {
        let mut response = self.agent.get(self.url(path)).call().unwrap();
        response.body_mut().read_json().unwrap()
    }

    /// Status and headers of an answer.
    pub(crate) fn headers(&self, path: &str) -> (u16, ureq::http::HeaderMap) {
        let response = self.agent.get(self.url(path)).header("accept", "text/html").call().unwrap();
        (response.status().as_u16(), response.headers().clone())
    }

    /// Sets a node of the laboratory to `running`, `paused` or `cut`.
    pub(crate) fn set_node(&self, node: &str, state: &str) {
        let body = serde_json::json!({ "state": state });
        let url = self.url(&format!("/api/lab/nodes/{node}"));
        let mut response = self.agent.put(url).send_json(&body).unwrap();
        let answer = response.body_mut().read_to_string().unwrap();
        assert_eq!(response.status(), 200, "{answer}");
    }

    /// Writes a user whose id is the key; the status.
    pub(crate) fn write_user(&self, key: &str) -> u16 {
        write_user(&self.agent, &self.url("/api/write"), key)
    }
}

/// Writes a user whose id is the key; the status.
pub(crate) fn write_user(agent: &ureq::Agent, url: &str, key: &str) -> u16 {
    let data = serde_json::json!({"user_id": key, "name": "Ada", "email": "ada@example.com"});
    let body = serde_json::json!({"table": "users", "data": data});
    let sent = agent.post(url).header("x-shard-key", key).send_json(&body);
    sent.unwrap().status().as_u16()
}

/// Starts the process; waits until it serves.
fn launch(data: &Path, bind: &str, flags: &[String]) -> (Child, SocketAddr) {
    let mut command = command(Path::new(env!("CARGO_BIN_EXE_api-router")));
    command
        .current_dir(data)
        .args(["--bind", bind, "--data-dir"])
        .arg(data.join("data"))
        .args(flags);
    serving(command)
}

/// Returns the command of a program, with no settings but those of its test.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("TESSERA_") || name.ends_with("_URLS") || name.ends_with("_URL") {
            command.env_remove(name);
        }
    }
    command
}

/// Starts a program; waits until its banner has the address.
pub(crate) fn serving(mut command: Command) -> (Child, SocketAddr) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().expect("it ended before it served").unwrap();
        if let Some(rest) = line.trim().strip_prefix("API") {
            let url = rest.split_whitespace().next().unwrap();
            break url.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        }
    };
    // Kept open and read, so that it never writes into a closed pipe.
    std::thread::spawn(move || lines.for_each(drop));
    (child, address)
}
