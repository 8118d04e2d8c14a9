//! Tests of moves, joins and drains of shards on PostgreSQL beside all other faults: two routers
//! with a cache, over two shards with two replicas each.
//!
//! **Not here:** the same over files (`moves`, `growth`).

use std::process::Output;

use super::cluster_folder;
use crate::cluster::{Cluster, OTHERS_OF_CLUSTER};
use crate::growth::{self, GROWTH_AND_MOVES};
use crate::moves::{RATE, assert_kept, moves, number, until_a_quarter_has_moved};
use crate::until_enough;
use crate::verify::assert_paced;

/// Length of a short run, in seconds.
const SHORT: &str = "10";

/// Returns a cluster in which each shard has a majority even while one of its nodes is down.
fn cluster() -> Option<Cluster> {
    Cluster::up("2", "2")
}

/// Runs the workload while the given faults and all other kinds are injected. Writes are at level
/// `quorum`, because a promotion must not lose any of them.
fn run(cluster: &Cluster, (seed, seconds): (u64, &str), faults: &str) -> Output {
    let faults = format!("{faults},{OTHERS_OF_CLUSTER}");
    let seed = seed.to_string();
    let routers = ["--routers", "2", "--cache", "--level", "quorum"];
    let load = ["--rate", RATE, "--json", "--seed", &seed];
    cluster.under_chaos(seconds, &faults, &[&routers[..], &load].concat())
}

#[test]
fn no_promise_is_broken_while_slots_move_beside_all_other_faults() {
    let Some(_) = cluster_folder() else { return };
    let Some(cluster) = cluster() else { return };
    let run = |_| {
        let report = assert_kept(&run(&cluster, (1, SHORT), "move,rollback"));
        assert_paced(&report, RATE);
        report
    };
    until_enough(run, |report| {
        let moves = moves(report);
        number(&moves, " done") + number(&moves, " rolled back") >= 1
    });
    cluster.check();
}

#[test]
fn no_promise_is_broken_while_shards_join_and_are_drained_beside_all_other_faults() {
    let Some(_) = cluster_folder() else { return };
    let Some(cluster) = cluster() else { return };
    let run = |_| growth::assert_kept(&run(&cluster, (1, SHORT), GROWTH_AND_MOVES));
    until_enough(run, |grown| grown.joined >= 1);
    cluster.check();
}

#[test]
#[ignore = "takes minutes: cargo test -p loadtest --test it a_quarter_of_the_slots -- --ignored --nocapture --test-threads 1"]
fn a_quarter_of_the_slots_of_servers_moves_beside_all_other_faults() {
    let Some(cluster) = cluster() else { return };
    until_a_quarter_has_moved(|seed, seconds| run(&cluster, (seed, seconds), "move,rollback"));
    cluster.check();
}
