//! Served router: a router with embedded shards in a temporary folder, for one test.
//!
//! The router writes its log to the file `log` in that folder, and its data to the folder `data`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Router that serves on a free port. Dropping this value kills the router.
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
    pub(crate) fn start(folder: TempDir, command: Command) -> Self {
        let (child, host) = serve(folder.path(), command);
        Self { child, host, folder }
    }

    /// Starts a router in the same folder after this one has ended.
    pub(crate) fn start_again(&mut self, command: Command) {
        (self.child, self.host) = serve(self.folder.path(), command);
    }

    /// Returns the exit status of the router, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Ends the router by SIGTERM, and checks that it ended with success.
    pub(crate) fn end(&mut self) {
        kill_process(self.process(), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }

    /// Returns true if the router has frozen itself.
    pub(crate) fn is_frozen(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        state.is_ok_and(|state| state.contains(") T "))
    }

    /// Resumes a frozen router.
    pub(crate) fn thaw(&self) {
        kill_process(self.process(), Signal::CONT).unwrap();
    }

    fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the log of the router.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder().join("log")).unwrap()
    }
}

/// Starts a router in a folder, and returns it and its address once it serves.
fn serve(folder: &Path, mut command: Command) -> (Child, String) {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    command.current_dir(folder).stdin(Stdio::null()).stderr(log);
    command.args(["--bind", "127.0.0.1:0", "--data-dir", "data"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| {
        let (_, address) = line.split_once("http://")?;
        Some(address.split('/').next()?.to_owned())
    });
    let Some(host) = address else {
        let _ = child.wait();
        panic!("{}", fs::read_to_string(folder.join("log")).unwrap())
    };
    // The output is read to its end, because writing to a pipe without a reader would end the
    // program.
    std::thread::spawn(move || lines.count());
    (child, host)
}
