//! Served router: a router with embedded shards in a temporary folder, for one test.
//!
//! Its log is the file `log` in that folder, and its data directory the folder `data`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A router that serves on a free port. Killed when it is dropped.
pub(crate) struct ServedRouter {
    child: Child,
    /// Address, as `host:port`.
    pub(crate) host: String,
    folder: TempDir,
}

impl Drop for ServedRouter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl ServedRouter {
    /// Starts a router in a folder, and waits until it serves.
    pub(crate) fn start(folder: TempDir, mut command: Command) -> Self {
        let log = File::create(folder.path().join("log")).unwrap();
        command.current_dir(folder.path()).stdin(Stdio::null()).stderr(log);
        command.args(["--bind", "127.0.0.1:0", "--data-dir", "data"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let address = lines.find_map(|line| {
            let (_, address) = line.split_once("http://")?;
            Some(address.split('/').next()?.to_owned())
        });
        let Some(host) = address else {
            let _ = child.wait();
            panic!("{}", fs::read_to_string(folder.path().join("log")).unwrap())
        };
        // Writing to a pipe without a reader would end the program.
        std::thread::spawn(move || lines.count());
        Self { child, host, folder }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns what the router has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap()
    }
}
