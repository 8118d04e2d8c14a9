//! Process: runs the service as a child process.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::eventually;
use crate::http::{self, Answer};
use crate::killed_child::KilledChild;

/// Running service. Dropping this value kills the process.
pub(crate) struct Service {
    child: KilledChild,
    pub(crate) address: SocketAddr,
    said: Arc<Mutex<String>>,
    pub(crate) folder: PathBuf,
}

/// Returns a command that runs the program in a folder, without the settings in this machine's
/// environment variables.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_analytics"));
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("TESSERA_")) {
            command.env_remove(name);
        }
    }
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR").current_dir(folder);
    command.stdin(Stdio::null());
    command
}

/// Runs the program with arguments that it must refuse, and returns its exit code, stdout and
/// stderr.
pub(crate) fn refused(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command(folder).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

impl Service {
    /// Starts a service in this folder, with these arguments.
    pub(crate) fn start(folder: &Path, arguments: &[&str]) -> Self {
        Self::start_command(command(folder).args(arguments), folder)
    }

    pub(crate) fn start_command(command: &mut Command, folder: &Path) -> Self {
        command.args(["--bind", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        let mut errors = child.stderr.take().unwrap();
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = errors.read(&mut bytes) {
                heard.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.trim_start().starts_with("API"));
        let line = line.unwrap_or_else(|| panic!("{}", said.lock().unwrap()));
        let address = line.split_whitespace().nth(1).unwrap();
        let address = address.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        // The output is read to its end, because writing to a pipe without a reader would end the
        // program.
        std::thread::spawn(move || lines.count());
        Self { child: KilledChild(child), address, said, folder: folder.to_owned() }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        http::get(self.address, path)
    }

    /// Returns the metrics for this query string.
    pub(crate) fn metrics(&self, query: &str) -> Value {
        let answer = self.get(&format!("/api/analytics/metrics?{query}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["metrics"].clone()
    }

    /// Returns the state of a router.
    pub(crate) fn router(&self, name: &str) -> Value {
        let metrics = self.metrics("window=1m");
        let routers = metrics["routers"].as_array().unwrap().iter();
        let found = routers.clone().find(|router| router["router"] == name);
        found.unwrap_or_else(|| panic!("{metrics:#}")).clone()
    }

    /// Waits until the service reports a router as up (or down, if `up` is false), and returns the
    /// router's state.
    pub(crate) fn await_router(&self, name: &str, up: bool) -> Value {
        eventually(&format!("{name} up: {up}"), || {
            Some(self.router(name)).filter(|router| router["up"] == up)
        })
    }

    /// Waits until the metrics of a query have this many requests.
    pub(crate) fn await_total(&self, query: &str, total: u64) -> Value {
        let mut last = Value::Null;
        let began = std::time::Instant::now();
        loop {
            let metrics = self.metrics(query);
            if metrics["total"] == total {
                return metrics;
            }
            last.clone_from(&metrics["total"]);
            assert!(
                began.elapsed() < crate::PATIENCE,
                "{query}: {last}, not {total}: {}",
                self.said()
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// Returns everything that the service has logged.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Ends the service by a signal, and returns its exit code.
    pub(crate) fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.0.wait().unwrap().code()
    }
}
