//! Tests of shards on PostgreSQL: two routers with the same shards keep the same promises as one
//! router.
//!
//! `TESSERA_TEST_POSTGRES` names a folder in which `shard-manager cluster up` has created `plain`
//! and `lab`, like `./setup.sh test` does.

mod all_faults;
mod crash_servers;
mod crashed_moves;
mod frozen_mover;
mod jumping_clocks;
mod one_statement_fence;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::prerequisites::{Prerequisite, skip};
use crate::router::{PROGRAM, bare_command, tester};
use crate::{operations, report, until_enough};

/// Router on the cluster's databases. Dropping this value kills the router.
pub(crate) struct Router {
    child: Child,
    pub(crate) address: String,
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Router {
    /// Returns the address without its scheme.
    fn host(&self) -> String {
        let (_, host) = self.address.split_once("://").unwrap_or(("", &self.address));
        host.trim_end_matches('/').to_owned()
    }

    /// Returns true if the router has frozen itself.
    fn is_frozen(&self) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        state.is_ok_and(|state| state.contains(") T "))
    }

    /// Resumes a frozen router.
    fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }
}

/// Starts a router on the servers that a file of environment variables names.
pub(crate) fn start(environment: &Path, folder: &Path, more: &[&str]) -> Router {
    start_program(&PROGRAM, environment, (folder, more), &[])
}

/// Starts a program of a router with these options and variables.
fn start_program(
    program: &Path,
    environment: &Path,
    (folder, more): (&Path, &[&str]),
    variables: &[(&str, &str)],
) -> Router {
    let mut command = bare_command(program);
    command.args(["--bind", "127.0.0.1:0", "--log", "error"]).args(more).current_dir(folder);
    command.envs(variables.iter().copied());
    let environment = std::fs::read_to_string(environment).unwrap();
    for line in environment.lines() {
        let (name, value) = line.split_once('=').unwrap();
        command.env(name, value.trim_matches(['\'', '"']));
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let banner = BufReader::new(child.stdout.take().unwrap());
    let mut lines = banner.lines().map(Result::unwrap);
    let line = lines.find(|line| line.trim_start().starts_with("API")).unwrap();
    let address = line.split_whitespace().nth(1).unwrap().to_owned();
    // The output is read to its end, because writing to a pipe without a reader would end the
    // program.
    std::thread::spawn(move || lines.count());
    Router { child, address }
}

/// Returns the folder of the clusters; `None` if there are none and the test is skipped.
fn cluster_folder() -> Option<PathBuf> {
    let cluster = std::env::var_os("TESSERA_TEST_POSTGRES").map(PathBuf::from);
    if cluster.is_none() {
        let reason = "TESSERA_TEST_POSTGRES names no cluster; ./setup.sh test makes one";
        skip(Prerequisite::Servers, reason);
    }
    cluster
}

#[test]
fn two_routers_on_the_same_shards_keep_every_promise() {
    let Some(cluster) = cluster_folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let environment = cluster.join("plain/tessera.env");
    let start = || start(&environment, folder.path(), &[]);
    let routers = [start(), start()];
    let run = |_| {
        let mut command = tester();
        command.args(["--verify", "--users", "8", "--json"]);
        command.args(["--run-time", "6", "--host", &routers[0].address]);
        let output = command.args(["--host", &routers[1].address]).output().unwrap();
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        report
    };
    until_enough(run, |report| operations(report) > 500);
}
