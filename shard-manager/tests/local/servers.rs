//! Test harness: a directory for a cluster, whose servers end with the test, and a client for them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use shard_manager::local::{LocalCluster, LocalNode, LocalSpec};
use tempfile::TempDir;

use crate::scratch;

/// A directory for a cluster. Its servers are stopped when it is dropped.
pub(crate) struct ClusterFolder {
    pub(crate) parent: TempDir,
}

impl ClusterFolder {
    pub(crate) fn new() -> Self {
        let parent = scratch::folder();
        // Another user runs the servers and needs access to the path.
        open_to_others(parent.path());
        Self { parent }
    }

    /// Directory of the cluster.
    pub(crate) fn dir(&self) -> PathBuf {
        self.parent.path().join("cluster")
    }

    /// A cluster of this size that does not wait for the disk.
    pub(crate) fn wanted(&self, shards: usize, replicas: usize) -> LocalSpec {
        let settings = vec![("fsync".to_owned(), "off".to_owned())];
        LocalSpec { shards, replicas, settings, ..LocalSpec::new(self.dir()) }
    }

    /// A cluster of one shard with these additional settings.
    pub(crate) fn with_settings(&self, replicas: usize, more: &[(&str, &str)]) -> LocalSpec {
        let mut wanted = self.wanted(1, replicas);
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        wanted.settings.extend(more);
        wanted
    }

    #[track_caller]
    pub(crate) fn up(&self, shards: usize, replicas: usize) -> LocalCluster {
        LocalCluster::up(&self.wanted(shards, replicas)).expect("the cluster starts")
    }

    /// Error of a start that must fail.
    #[track_caller]
    pub(crate) fn refused(&self, wanted: &LocalSpec) -> String {
        LocalCluster::up(wanted).map(|_| ()).expect_err("it is refused").to_string()
    }
}

impl Drop for ClusterFolder {
    fn drop(&mut self) {
        // Also stops servers that a failed test or an interrupted `up` has left running.
        if let Ok(cluster) = LocalCluster::open(&self.dir()) {
            let _ = cluster.destroy();
        }
    }
}

/// Lets other users traverse a folder.
pub(crate) fn open_to_others(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, mode).expect("the folder is ours");
}

/// Answer of a node, one line per row.
#[track_caller]
pub(crate) fn ask(node: &LocalNode, sql: &str) -> String {
    let ended = psql(node, sql);
    assert!(ended.status.success(), "{}: {ended:?}", node.name);
    String::from_utf8(ended.stdout).expect("UTF-8").trim().to_owned()
}

pub(crate) fn psql(node: &LocalNode, sql: &str) -> Output {
    let mut command = Command::new("psql");
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]).stdin(Stdio::null());
    command.arg(node.url(&node.database())).args(["-c", sql]).output().expect("psql runs")
}

/// Waits until a node gives this answer.
#[track_caller]
pub(crate) fn until(node: &LocalNode, sql: &str, answer: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let ended = psql(node, sql);
        let said = String::from_utf8_lossy(&ended.stdout).trim().to_owned();
        if ended.status.success() && said == answer {
            return;
        }
        assert!(Instant::now() < deadline, "{} never answers {answer}: {ended:?}", node.name);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program, isolated from the environment variables of this machine.
pub(crate) fn program(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shard-manager"));
    command.args(args).arg("--dir").arg(dir).stdin(Stdio::null());
    command
}

/// Exit code, standard output and standard error of the program.
#[track_caller]
pub(crate) fn run(args: &[&str], dir: &Path) -> (i32, String, String) {
    let ended = program(args, dir).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let code = ended.status.code().expect("no signal ended it");
    (code, text(ended.stdout), text(ended.stderr))
}
