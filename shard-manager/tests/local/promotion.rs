//! Tests of single nodes: stopped, frozen, promoted, and rejoined.

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use shard_manager::local::{LocalCluster, LocalNode, NodeState, Rejoined, Stop};
use shard_manager::topology::Role;

use crate::servers::{ClusterFolder, ask, run, until};

const ROWS: &str = "SELECT string_agg(n::text, ',' ORDER BY n) FROM t";
const PRIMARY: &str = "shard1-primary";
const FIRST: &str = "shard1-replica1";
const SECOND: &str = "shard1-replica2";

fn node<'c>(cluster: &'c LocalCluster, name: &str) -> &'c LocalNode {
    cluster.node(name).unwrap_or_else(|| panic!("no node {name}"))
}

fn leader(cluster: &LocalCluster) -> &str {
    &cluster.primaries().next().expect("the shard has one").name
}

/// A shard with this many replicas, all of which have row 1.
fn shard(place: &ClusterFolder, replicas: usize) -> LocalCluster {
    let cluster = place.up(1, replicas);
    ask(node(&cluster, PRIMARY), "CREATE TABLE t (n int); INSERT INTO t VALUES (1)");
    for replica in cluster.replicas_of(0) {
        until(replica, ROWS, "1");
    }
    cluster
}

fn add(node: &LocalNode, row: u32) {
    ask(node, &format!("INSERT INTO t VALUES ({row})"));
}

/// Nodes whose URLs a variable of the router's environment file lists.
fn listed<'c>(cluster: &'c LocalCluster, variable: &str) -> Vec<&'c str> {
    let text = fs::read_to_string(cluster.environment_file()).expect("a file");
    let line = text.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
    let urls: Vec<_> = line.expect("the variable").split(',').collect();
    let has = |node: &&LocalNode| urls.contains(&&*node.url(&node.database()));
    cluster.nodes().iter().filter(has).map(|node| &*node.name).collect()
}

#[test]
fn a_promoted_replica_leads_and_the_others_follow_even_after_a_restart() {
    let place = ClusterFolder::new();
    let mut cluster = shard(&place, 2);
    let said = cluster.commands().promote(FIRST).unwrap_err().to_string();
    assert!(said.contains("shard1-primary: it is the primary and runs"), "{said}");
    cluster.commands().stop(PRIMARY, Stop::Immediate).unwrap();
    let promoted = cluster.commands().promote(FIRST).unwrap();
    assert_eq!((promoted.node.as_str(), promoted.behind.len()), (FIRST, 0));
    add(node(&cluster, FIRST), 2);
    until(node(&cluster, SECOND), ROWS, "1,2");
    assert_eq!(cluster.commands().promote(FIRST).unwrap(), promoted, "it leads already");

    assert_eq!(listed(&cluster, "SHARD_URLS"), [FIRST]);
    assert_eq!(listed(&cluster, "REPLICA_URLS"), [PRIMARY, SECOND]);
    let (code, out, err) = run(&["cluster", "status"], &place.dir());
    assert_eq!((code, err.as_str()), (1, "not running: shard1-primary\n"));
    for row in ["shard1-primary\tformer primary\tstopped", "shard1-replica1\tprimary\trunning"] {
        assert!(out.contains(row), "{out}");
    }
    assert!(out.contains("cluster rejoin shard1-primary"), "{out}");

    // A start does not make a former primary lead again.
    cluster.down().unwrap();
    let mut cluster = place.up(1, 2);
    assert_eq!(leader(&cluster), FIRST);
    assert_eq!(node(&cluster, PRIMARY).state(), NodeState::Stopped);
    let said = cluster.commands().start(PRIMARY).unwrap_err().to_string();
    assert!(said.contains("cluster rejoin shard1-primary"), "{said}");
    add(node(&cluster, FIRST), 3);
    until(node(&cluster, SECOND), ROWS, "1,2,3");
}

#[test]
fn a_former_primary_rejoins_without_the_rows_that_were_not_replicated() {
    let place = ClusterFolder::new();
    let mut cluster = shard(&place, 1);
    cluster.commands().stop(FIRST, Stop::Fast).unwrap();
    for row in 100..200 {
        add(node(&cluster, PRIMARY), row);
    }
    cluster.commands().stop(PRIMARY, Stop::Immediate).unwrap();
    cluster.commands().start(FIRST).unwrap();
    cluster.commands().promote(FIRST).unwrap();
    add(node(&cluster, FIRST), 2);
    assert_eq!(cluster.commands().rejoin(PRIMARY).unwrap(), Rejoined::Rewound);
    until(node(&cluster, PRIMARY), ROWS, "1,2");
    assert_eq!(node(&cluster, PRIMARY).role, Role::Replica);
    add(node(&cluster, FIRST), 3);
    until(node(&cluster, PRIMARY), ROWS, "1,2,3");
    assert_eq!(cluster.commands().rejoin(PRIMARY).unwrap(), Rejoined::Followed);
    assert_eq!(run(&["cluster", "status"], &place.dir()).0, 0);

    // The same again in the other direction.
    cluster.commands().stop(FIRST, Stop::Immediate).unwrap();
    cluster.commands().promote(PRIMARY).unwrap();
    add(node(&cluster, PRIMARY), 4);
    cluster.commands().rejoin(FIRST).unwrap();
    until(node(&cluster, FIRST), ROWS, "1,2,3,4");
    assert_eq!(listed(&cluster, "SHARD_URLS"), [PRIMARY]);
}

#[test]
fn a_node_that_cannot_be_rewound_is_rebuilt() {
    let place = ClusterFolder::new();
    let mut cluster = shard(&place, 1);
    cluster.commands().stop(PRIMARY, Stop::Immediate).unwrap();
    cluster.commands().promote(FIRST).unwrap();
    add(node(&cluster, FIRST), 2);
    // Without its own WAL there is no record of what has to be undone.
    let log = node(&cluster, PRIMARY).dir.data().join("pg_wal");
    for entry in fs::read_dir(log).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(cluster.commands().rejoin(PRIMARY).unwrap(), Rejoined::Rebuilt);
    until(node(&cluster, PRIMARY), ROWS, "1,2");
}

#[test]
fn a_replica_that_was_down_follows_the_new_primary_once_it_is_started() {
    let place = ClusterFolder::new();
    let mut cluster = shard(&place, 2);
    cluster.commands().stop(SECOND, Stop::Fast).unwrap();
    add(node(&cluster, PRIMARY), 2);
    until(node(&cluster, FIRST), ROWS, "1,2");
    cluster.commands().freeze(PRIMARY).unwrap();
    let said = cluster.commands().promote_best("shard1").unwrap_err().to_string();
    assert!(said.contains("1 of its replicas answer and 2 are needed"), "{said}");
    cluster.commands().promote(FIRST).unwrap();
    add(node(&cluster, FIRST), 3);
    cluster.commands().start(SECOND).unwrap();
    until(node(&cluster, SECOND), ROWS, "1,2,3");
    // The former primary continues, and nothing replicates its writes.
    cluster.commands().thaw(PRIMARY).unwrap();
    add(node(&cluster, PRIMARY), 9);
    let cluster_now = LocalCluster::open(&place.dir()).unwrap();
    assert_eq!(leader(&cluster_now), FIRST);
    let (code, _, err) = run(&["cluster", "status"], &place.dir());
    assert_eq!((code, err.as_str()), (1, "beside the primary: shard1-primary\n"));
    assert_eq!(ask(node(&cluster, SECOND), ROWS), "1,2,3");
    cluster.commands().rejoin(PRIMARY).unwrap();
    until(node(&cluster, PRIMARY), ROWS, "1,2,3");
}

#[test]
fn the_best_replica_is_the_most_advanced_one() {
    let place = ClusterFolder::new();
    let mut cluster = shard(&place, 2);
    cluster.commands().stop(FIRST, Stop::Fast).unwrap();
    add(node(&cluster, PRIMARY), 2);
    until(node(&cluster, SECOND), ROWS, "1,2");
    cluster.commands().stop(PRIMARY, Stop::Immediate).unwrap();
    cluster.commands().start(FIRST).unwrap();
    assert_eq!(cluster.commands().promote_best("shard1").unwrap().node, SECOND);
    until(node(&cluster, FIRST), ROWS, "1,2");
}

#[test]
fn a_manual_promotion_is_kept_and_the_others_follow_after_up() {
    let place = ClusterFolder::new();
    let mut cluster = shard(&place, 2);
    cluster.commands().stop(PRIMARY, Stop::Immediate).unwrap();
    assert_eq!(ask(node(&cluster, SECOND), "SELECT pg_promote()"), "t");
    add(node(&cluster, SECOND), 2);
    let cluster = place.up(1, 2);
    assert_eq!(leader(&cluster), SECOND);
    until(node(&cluster, FIRST), ROWS, "1,2");
    assert_eq!(node(&cluster, PRIMARY).state(), NodeState::Stopped);
}

#[test]
fn a_frozen_node_answers_when_it_is_thawed() {
    let place = ClusterFolder::new();
    let cluster = shard(&place, 1);
    let (code, out, err) = run(&["cluster", "freeze", PRIMARY], &place.dir());
    assert_eq!((code, out.as_str()), (0, "shard1-primary is frozen\n"), "{err}");
    assert_eq!(run(&["cluster", "freeze", PRIMARY], &place.dir()).0, 0);
    let url = node(&cluster, PRIMARY).url("shard1");
    let mut asked = Command::new("psql");
    let mut asked = asked.args(["-XAtc", ROWS, &url]).stdout(Stdio::piped()).spawn().unwrap();
    sleep(Duration::from_millis(500));
    assert!(asked.try_wait().unwrap().is_none(), "it hangs");
    let (code, _, err) = run(&["cluster", "status"], &place.dir());
    assert_eq!((code, err.as_str()), (1, "not running: shard1-primary\n"));
    let (code, out, _) = run(&["cluster", "thaw", PRIMARY, "--json"], &place.dir());
    let shown: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &shown["state"]), (0, &Value::from("running")));
    let ended = asked.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout).trim(), "1");
}

#[test]
fn a_frozen_node_can_be_stopped_started_and_destroyed() {
    let place = ClusterFolder::new();
    let mut cluster = shard(&place, 1);
    // Each wait for a frozen server lasts ten seconds or more.
    let at_once = Duration::from_secs(9);
    // A busy machine may delay one attempt, but not each.
    let is_stopped_at_once = (0..3).any(|_| {
        cluster.commands().freeze(PRIMARY).unwrap();
        let began = Instant::now();
        cluster.commands().stop(PRIMARY, Stop::Immediate).unwrap();
        let took = began.elapsed();
        cluster.commands().start(PRIMARY).unwrap();
        took < at_once
    });
    assert!(is_stopped_at_once, "each stop waits for the frozen server");
    cluster.commands().freeze(FIRST).unwrap();
    let is_destroyed_at_once = (0..3).any(|_| {
        let cluster = place.up(1, 1);
        assert!(cluster.nodes().iter().all(|node| node.state() == NodeState::Running));
        for node in cluster.nodes() {
            node.freeze().unwrap();
        }
        let began = Instant::now();
        let (code, _, err) = run(&["cluster", "destroy", "--yes"], &place.dir());
        assert_eq!(code, 0, "{err}");
        assert!(!place.dir().exists());
        began.elapsed() < at_once
    });
    assert!(is_destroyed_at_once, "each removal waits for a frozen server");
}

#[test]
fn impossible_operations_are_refused_with_a_remedy() {
    let place = ClusterFolder::new();
    let mut cluster = shard(&place, 1);
    let refused = |args: &[&str], words: &str| {
        let (code, out, err) = run(&[&["cluster"], args].concat(), &place.dir());
        assert_eq!((code, out.as_str()), (2, ""), "{err}");
        assert!(err.contains(words), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    };
    for verb in ["stop", "start", "freeze", "thaw", "promote", "rejoin"] {
        refused(&[verb, "shard9-primary"], "this cluster has no such node; see `cluster status`");
    }
    refused(&["promote", "--best", "shard9"], "this cluster has no such node");
    refused(&["promote", "--best", "shard1"], "it is the primary and runs");
    refused(&["rejoin", PRIMARY], "it is the primary of its shard");
    assert_eq!(run(&["cluster", "stop", PRIMARY], &place.dir()).0, 0);
    assert_eq!(run(&["cluster", "stop", PRIMARY, "--immediate"], &place.dir()).0, 0);
    refused(&["thaw", PRIMARY], "it does not run");
    refused(&["freeze", PRIMARY], "it does not run");
    refused(&["rejoin", FIRST], "no primary of its shard runs");
    assert_eq!(run(&["cluster", "promote", FIRST], &place.dir()).0, 0);
    refused(&["promote", PRIMARY], "it is a former primary and no replica");
    let (code, out, _) = run(&["cluster", "rejoin", PRIMARY], &place.dir());
    assert_eq!((code, out.starts_with("shard1-primary follows: ")), (0, true), "{out}");
    cluster.commands().stop(FIRST, Stop::Fast).unwrap();
    let said = cluster.commands().promote(FIRST).unwrap_err().to_string();
    assert!(said.contains("start it first"), "{said}");
}
