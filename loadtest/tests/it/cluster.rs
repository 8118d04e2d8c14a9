//! Tests of `--chaos --cluster`: promises are kept while PostgreSQL nodes behind the router fail.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::prerequisites::{Prerequisite, skip};
use crate::router::{MANAGER, PROGRAM, bare_command, tester};
use crate::{operations, report, text, until_enough};

/// Kinds of faults of two routers with a cache on a cluster: all except moves of slots and joins
/// and drains of shards.
pub(crate) const OTHERS_OF_CLUSTER: &str = "router-kill,router-freeze,router-restart,stop,freeze,\
    cut,half-open,delay,lost-answer,promote,fence,redis-flush,redis-freeze,redis-kill";

/// Cluster of PostgreSQL servers. Dropping this value removes the cluster.
pub(crate) struct Cluster {
    folder: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.command(&["destroy", "--yes"]);
    }
}

impl Cluster {
    /// Creates a cluster with `shards` shards, each with `replicas` replicas. Returns `None` if
    /// PostgreSQL is not installed.
    pub(crate) fn up(shards: &str, replicas: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        // Another user runs the servers and needs access to the path.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let cluster = Self { folder };
        let made = cluster.command(&[
            "up",
            "--shards",
            shards,
            "--replicas",
            replicas,
            "--set",
            "fsync=off",
        ]);
        if !made.status.success() {
            let said = text(&made.stderr);
            assert!(said.contains("install PostgreSQL"), "{said}");
            skip(Prerequisite::Postgres, &said);
            return None;
        }
        Some(cluster)
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// Runs a command for the cluster.
    pub(crate) fn command(&self, words: &[&str]) -> Output {
        let mut command = bare_command(&*MANAGER);
        command.arg("cluster").args(words).arg("--dir").arg(self.dir()).output().unwrap()
    }

    /// Asserts that `shard-manager check` finds no fault in the databases.
    pub(crate) fn check(&self) {
        let mut command = bare_command(&*MANAGER);
        let variables = std::fs::read_to_string(self.dir().join("tessera.env")).unwrap();
        for line in variables.lines() {
            let (name, value) = line.split_once('=').unwrap();
            let value = value.trim_matches(['\'', '"']);
            // A cluster without replicas has an empty list of them.
            if !value.is_empty() {
                command.env(name, value);
            }
        }
        let checked = command.arg("check").output().unwrap();
        let (stdout, stderr) = (text(&checked.stdout), text(&checked.stderr));
        assert_eq!(checked.status.code(), Some(0), "{stdout} {stderr}");
    }

    /// Runs the verifying workload while faults are injected into the cluster.
    pub(crate) fn under_chaos(&self, seconds: &str, faults: &str, more: &[&str]) -> Output {
        self.tester(seconds, faults).args(more).output().unwrap()
    }

    fn tester(&self, seconds: &str, faults: &str) -> Command {
        let mut command = tester();
        command.args(["--verify", "--chaos", "--users", "8"]);
        command.arg("--router").arg(&*PROGRAM).arg("--cluster").arg(self.dir());
        command.arg("--shard-manager").arg(&*MANAGER);
        command.args(["--run-time", seconds, "--faults", faults]);
        command
    }
}

#[test]
fn writes_that_a_majority_stored_are_kept_while_nodes_are_broken() {
    let Some(cluster) = Cluster::up("1", "2") else { return };
    let run = |_| {
        let output = cluster.under_chaos(
            "8",
            "stop,freeze,cut,lost-answer",
            &["--level", "quorum", "--json", "--seed", "2936"],
        );
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "{report:#}");
        report
    };
    let report = until_enough(run, |report| {
        let loses_answers = report["faults"][1]["what"]
            .as_str()
            .is_some_and(|what| what.contains(" lost)") && !what.contains("(0 lost)"));
        operations(report) > 500 && loses_answers
    });
    let faults = report["faults"].as_array().unwrap();
    // These are the first faults of this seed. On a busy machine, fewer than five responses may be
    // lost in time.
    for (reported, words) in faults.iter().zip([
        "the primary of shard1 loses 5 answers",
        " lost)",
        "shard1-primary stopped at once",
        "over: ",
        "shard1-primary cut off",
    ]) {
        assert!(reported["what"].as_str().unwrap().contains(words), "{words}: {report:#}");
    }
    assert_eq!(faults.last().unwrap()["what"], "all nodes run and follow");
    let status = cluster.command(&["status"]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status.stdout));
}

/// Runs once for each seed and keeps the histories beside the build; returns seeds and reports.
///
/// By default there is one seed, with promotions only; with `LONG_TESTS=1` the seeds are 1 to 20,
/// each with a longer run and faults of many kinds.
fn seeded(cluster: &Cluster, level: &str) -> Vec<(u64, Output)> {
    let long = std::env::var("LONG_TESTS").is_ok_and(|value| value == "1");
    let (seeds, seconds, faults) = if long {
        (1..=20, "20", "promote,stop,freeze,cut,half-open,delay,lost-answer,router-kill")
    } else {
        (1..=1, "7", "promote")
    };
    let histories = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("histories");
    std::fs::create_dir_all(&histories).unwrap();
    let run = |seed: u64| {
        let history = histories.join(format!("{level}-{seed}.ndjson"));
        let more = ["--level", level, "--json", "--seed", &seed.to_string(), "--history"];
        let mut tester = cluster.tester(seconds, faults);
        (seed, tester.args(more).arg(history).output().unwrap())
    };
    seeds.map(run).collect()
}

fn promotions(report: &Value) -> usize {
    let faults = report["faults"].as_array().unwrap();
    let what = faults.iter().filter_map(|fault| fault["what"].as_str());
    what.filter(|what| what.starts_with("promotion in shard1")).count()
}

#[test]
fn a_promoted_replica_has_all_that_a_majority_stored() {
    let Some(cluster) = Cluster::up("1", "2") else { return };
    let mut seen = 0;
    for (seed, output) in seeded(&cluster, "quorum") {
        let report = report(&output);
        assert_eq!(output.status.code(), Some(0), "seed {seed}: {report:#}");
        assert!(
            report["verified"]["operations"].as_u64().unwrap() > 500,
            "seed {seed}: {report:#}"
        );
        seen += promotions(&report);
    }
    assert!(seen > 0, "no node was promoted");
}

#[test]
fn losses_of_a_promotion_at_level_one_are_the_only_violations() {
    let Some(cluster) = Cluster::up("1", "2") else { return };
    let mut seen = 0;
    for (seed, output) in seeded(&cluster, "one") {
        let report = report(&output);
        let lost = report["verified"]["losses"].as_array().map_or(0, Vec::len);
        let code = if lost == 0 { 0 } else { 3 };
        assert_eq!(output.status.code(), Some(code), "seed {seed}, {lost} lost: {report:#}");
        seen += promotions(&report);
    }
    assert!(seen > 0, "no node was promoted");
}

#[test]
fn a_tester_that_is_ended_leaves_no_node_frozen() {
    let Some(cluster) = Cluster::up("1", "2") else { return };
    let mut tester = cluster.tester("60", "freeze");
    let mut tester = tester.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = || text(&cluster.command(&["status"]).stdout);
    let deadline = Instant::now() + Duration::from_secs(55);
    while !status().contains("frozen") {
        assert!(Instant::now() < deadline, "nothing is ever frozen: {}", status());
    }
    let pid = tester.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(tester.wait().unwrap().code(), Some(2));
    assert_eq!(cluster.command(&["status"]).status.code(), Some(0), "{}", status());
}

#[test]
fn faults_that_are_impossible_are_reported_before_the_run() {
    let refused = |output: Output, message: &str| {
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    };
    let mut without = tester();
    without.args(["--verify", "--chaos", "--faults", "stop"]);
    refused(without.output().unwrap(), "without --cluster DIR there is only the router to break");
    let Some(cluster) = Cluster::up("1", "1") else { return };
    let output = cluster.under_chaos("1", "delay,freeze", &[]);
    refused(output, "shard1 has 2 nodes, so one of them is not a minority");
    assert!(cluster.command(&["stop", "shard1-replica1"]).status.success());
    refused(
        cluster.under_chaos("1", "delay", &[]),
        "shard1-replica1 is stopped: the cluster must be up",
    );
}
