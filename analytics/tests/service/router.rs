//! Router: runs a real router as a child process, from which the service collects.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use crate::http;
use crate::killed_child::KilledChild;
use crate::other_program::program;

/// Path of the router's program, which belongs to another package.
static PROGRAM: LazyLock<PathBuf> =
    LazyLock::new(|| program(env!("CARGO_BIN_EXE_analytics"), "api-router"));

/// Router with its own files. Dropping this value kills the process.
pub(crate) struct Router {
    child: KilledChild,
    pub(crate) address: SocketAddr,
    folder: PathBuf,
}

impl Router {
    pub(crate) fn start(folder: &Path) -> Self {
        Self::serve(folder, "127.0.0.1:0", &[])
    }

    pub(crate) fn serve(folder: &Path, bind: &str, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mut command = Command::new(&*PROGRAM);
        for (name, _) in std::env::vars_os() {
            let own = |name: &str| name.starts_with("TESSERA_") || name.ends_with("_URLS");
            if name.to_str().is_some_and(own) {
                command.env_remove(name);
            }
        }
        command.args(["--bind", bind, "--log", "error"]).args(arguments).current_dir(folder);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let line = lines.find(|line| line.trim_start().starts_with("API")).unwrap();
        let address = line.split_whitespace().nth(1).unwrap();
        let (_, address) = address.trim_end_matches('/').split_once("://").unwrap();
        let address = address.parse().unwrap();
        std::thread::spawn(move || lines.count());
        Self { child: KilledChild(child), address, folder: folder.to_owned() }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stores these users, one after the other.
    pub(crate) fn write(&self, keys: std::ops::Range<u32>) {
        for key in keys {
            let key = format!("user_{key}");
            let body = serde_json::json!({"table": "users", "data": {"user_id": key, "name": "Ada", "email": "a@b.c"}});
            let headers = [("Content-Type", "application/json"), ("x-shard-key", &*key)];
            let answer =
                http::send(self.address, ("POST", "/api/write"), &headers, &body.to_string());
            let answer = answer.unwrap();
            assert!(answer.status < 300, "{}", answer.text());
        }
    }

    /// Reads these users, one after the other.
    pub(crate) fn read(&self, keys: std::ops::Range<u32>) {
        for key in keys {
            let path = format!("/api/read?table=users&shardKey=user_{key}");
            assert_eq!(http::get(self.address, &path).status, 200);
        }
    }

    /// Causes errors: reads from a table that does not exist, this many times.
    pub(crate) fn fail(&self, times: u32) {
        for _ in 0..times {
            assert_eq!(http::get(self.address, "/api/read?table=nothing").status, 404);
        }
    }

    /// Kills the router, as `kill -9` does, and starts another one with the same files and port.
    pub(crate) fn kill_and_restart(mut self, arguments: &[&str]) -> Self {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
        let (folder, bind) = (self.folder.clone(), self.address.to_string());
        drop(self);
        Self::serve(&folder, &bind, arguments)
    }
}
