//! Tests of `--faults join,drain`: promises are kept while shards join, take their share of the
//! slots, and are drained again.

use std::process::{Command, Output};

use serde_json::Value;

use crate::cluster::{Cluster, OTHERS_OF_CLUSTER};
use crate::moves::{OTHERS_OF_FILES, number};
use crate::router::{MANAGER, PROGRAM, tester};
use crate::{report, text, until_enough};

/// Faults that move slots.
pub(crate) const GROWTH_AND_MOVES: &str = "join,drain,move,rollback";
/// Options for two routers of one cluster, so that one of them serves while the other one is down.
const TWO_ROUTERS: [&str; 2] = ["--routers", "2"];
/// Number of joins and of drains in a long run.
const LONG: u64 = 20;
/// Maximum number of seeds that a long run may use to reach [`LONG`].
const SEEDS_MAX: u64 = 60;

/// Returns the command of a run on files in which shards join and are drained.
fn on_files((seed, seconds): (u64, &str), faults: &str) -> Command {
    let mut command = tester();
    command.args(["--verify", "--chaos", "--users", "8", "--json", "--faults", faults]);
    command.args(["--run-time", seconds, "--seed", &seed.to_string(), "--router"]).arg(&*PROGRAM);
    command.args(["--router-options", "--shards 3 --replicas 1"]);
    command
}

/// Returns the command of a run on files under all faults, of a router with a cache.
fn under_all_faults(run: (u64, &str)) -> Command {
    let mut command = on_files(run, &format!("{GROWTH_AND_MOVES},{OTHERS_OF_FILES}"));
    command.args(["--cache", "--shard-manager"]).arg(&*MANAGER);
    command
}

/// Numbers of a run in which every promise was kept.
#[derive(Debug)]
pub(crate) struct Grown {
    pub(crate) joined: u64,
    retired: u64,
    /// Number of rebalances that failed, for example because the rollback of another move gave
    /// slots back to a shard that was being drained.
    failed: u64,
}

/// Asserts that every promise was kept in a run, and that every rebalance has ended.
#[track_caller]
pub(crate) fn assert_kept(output: &Output) -> Grown {
    let report = report(output);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr} {report:#}");
    let notes = report["verified"]["notes"].as_array().unwrap();
    let mut notes = notes.iter().filter_map(Value::as_str);
    let growth = notes.find(|note| note.starts_with("growth: ")).unwrap();
    assert_eq!(number(growth, " without an end"), 0, "{report:#}");
    assert_eq!(number(growth, " of them broken"), 0, "{report:#}");
    assert!(number(growth, " maps looked at") >= 1, "{report:#}");
    let (joined, retired) = (number(growth, " shards joined"), number(growth, " retired"));
    assert_eq!(joined, retired, "{report:#}");
    eprintln!("{growth}");
    Grown { joined, retired, failed: number(growth, " failed") }
}

#[test]
fn no_promise_is_broken_while_shards_join_and_are_drained() {
    let run = |_| {
        let grown = assert_kept(&on_files((1, "10"), "join,drain").output().unwrap());
        assert_eq!(grown.failed, 0);
        grown
    };
    until_enough(run, |grown| grown.joined >= 1 && grown.retired >= 1);
}

#[test]
fn no_promise_is_broken_while_the_router_is_killed_and_shards_join_and_are_drained() {
    let run = |_| assert_kept(&under_all_faults((2, "10")).output().unwrap());
    until_enough(run, |grown| grown.joined >= 1);
}

#[test]
fn databases_join_and_are_drained_and_no_promise_is_broken() {
    let Some(cluster) = Cluster::up("2", "0") else { return };
    let more = [&["--json", "--seed", "1"][..], &TWO_ROUTERS].concat();
    let run = |_| {
        let grown = assert_kept(&cluster.under_chaos("10", "join,drain,router-kill", &more));
        assert_eq!(grown.failed, 0);
        grown
    };
    until_enough(run, |grown| grown.joined >= 1);
    cluster.check();
}

#[test]
fn a_drain_needs_shards_that_join() {
    let output = on_files((1, "1"), "drain").output().unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("a shard is drained that has joined"), "{stderr}");
}

/// Runs one seed after the other until shards have joined and retired often enough.
fn repeat(mut run: impl FnMut(u64) -> Output) {
    let mut retired = 0;
    for seed in 1..=SEEDS_MAX {
        retired += assert_kept(&run(seed)).retired;
        eprintln!("seed {seed}: {retired} shards have joined and retired so far");
        if retired >= LONG {
            return;
        }
    }
    panic!("{retired} of {LONG} joins in {SEEDS_MAX} runs");
}

#[test]
#[ignore = "takes half an hour: cargo test -p loadtest --test it drained_twenty_times -- --ignored --nocapture"]
fn shards_of_files_join_and_are_drained_twenty_times_under_all_faults() {
    repeat(|seed| under_all_faults((seed, "40")).output().unwrap());
}

#[test]
#[ignore = "takes half an hour: cargo test -p loadtest --test it drained_twenty_times -- --ignored --nocapture"]
fn databases_join_and_are_drained_twenty_times_under_all_faults() {
    let Some(cluster) = Cluster::up("2", "2") else { return };
    let faults = format!("{GROWTH_AND_MOVES},{OTHERS_OF_CLUSTER}");
    repeat(|seed| {
        let seed = seed.to_string();
        let more = ["--cache", "--level", "quorum", "--json", "--seed", &seed];
        cluster.under_chaos("60", &faults, &[&more[..], &TWO_ROUTERS].concat())
    });
    cluster.check();
}
