//! Tests of `check` on healthy clusters.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use shard_manager::engine::fault_injector::{NodeFault, NodeMode};

use crate::cluster::{Cluster, await_replicas, file, meddle, open, run_in, write, write_users};

#[test]
fn a_healthy_cluster_passes_while_it_runs_and_when_stopped() {
    let cluster = Cluster::filled();
    let order = |number| {
        let row = format!(r#"{{"order_id":"o{number}","user_id":"user_1","amount":{number}}}"#);
        ("user_1".to_owned(), row)
    };
    write(&cluster.manager, "orders", (0..9).map(order));
    run_in(cluster.path(), &["check"]).expect(0);
    let dir = cluster.stop();
    let report = run_in(dir.path(), &["check", "--deep", "--json"]).expect(0).json();
    assert_eq!(report["found"], 0);
    let shards = report["shards"].as_array().unwrap();
    let rows = |table: &str| -> u64 {
        shards.iter().map(|shard| shard["tables"][table].as_u64().unwrap()).sum()
    };
    assert_eq!((rows("users"), rows("orders")), (60, 9));
    for shard in shards {
        let name = shard["shard"].as_str().unwrap();
        assert_eq!(shard["replicas"][0], format!("{name}-replica1"));
    }
    let ended = run_in(dir.path(), &["check"]).expect(0);
    assert!(ended.out.contains("no fault was found"), "{ended:#?}");
}

#[test]
fn a_cluster_passes_while_it_is_written_to() {
    let cluster = Cluster::new(2, 2);
    write_users(&cluster.manager, 0..500);
    let (manager, done) = (&cluster.manager, AtomicBool::new(false));
    let mut compared = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !done.load(Ordering::Relaxed) {
                write_users(manager, round % 400..round % 400 + 50);
                round += 7;
            }
        });
        for _ in 0..5 {
            let report = run_in(cluster.path(), &["check", "--json"]);
            if report.code != 0 {
                done.store(true, Ordering::Relaxed);
            }
            let report = report.expect(0).json();
            let shards = report["shards"].as_array().unwrap();
            compared +=
                shards.iter().map(|s| s["replicas"].as_array().unwrap().len()).sum::<usize>();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(compared > 0, "replicas are compared although they move");
}

#[test]
fn a_lagging_replica_is_compared_by_the_rows_that_it_has() {
    let cluster = Cluster::filled();
    for shard in 1..=3 {
        let replica = format!("shard{shard}-replica1");
        let hold = NodeFault { mode: NodeMode::Paused, ..NodeFault::default() };
        cluster.manager.faults().node(&replica).expect("a replica").set(hold);
    }
    write_users(&cluster.manager, 0..10);
    let report = run_in(cluster.path(), &["check", "--json"]).expect(0).json();
    let notes = report["notes"].as_array().unwrap();
    assert!(
        notes.iter().any(|note| note.as_str().unwrap().contains("were not compared")),
        "{report}"
    );
    assert_eq!(report["shards"][0]["replicas"][0], "shard1-replica1");
}

#[test]
fn a_new_cluster_without_rows_passes() {
    let dir = Cluster::new(2, 0).stop();
    let report = run_in(dir.path(), &["check", "--json"]).expect(0).json();
    assert_eq!(report["rows"], 0);
}

/// Notes that `status` and `check` print about a healthy cluster.
#[track_caller]
fn notes(dir: &Path) -> [Vec<String>; 2] {
    ["status", "check"].map(|command| {
        let reported = run_in(dir, &[command, "--json"]).expect(0).json();
        let notes = reported["notes"].as_array().expect("notes").iter();
        let notes: Vec<_> = notes.map(|note| note.as_str().expect("a text").to_owned()).collect();
        let ended = run_in(dir, &[command]).expect(0);
        for note in &notes {
            assert!(ended.out.contains(&format!("note: {note}")), "{ended:#?}");
        }
        assert!(!ended.out.contains("DOWN"), "{ended:#?}");
        notes
    })
}

/// Asserts that both commands print the same notes, one per shard.
#[track_caller]
fn assert_noted(dir: &Path, says: &str) {
    for mut notes in notes(dir) {
        notes.retain(|note| note.contains(says));
        let nodes: BTreeSet<_> = notes.iter().filter_map(|note| note.split(' ').next()).collect();
        let expected = ["shard1-replica1", "shard2-replica1", "shard3-replica1"];
        assert_eq!(nodes, BTreeSet::from(expected), "{notes:?}");
    }
}

/// Starts a router, which looks after the replicas, and stops it when they follow.
fn start_and_stop(home: &Path) {
    let manager = open(home, 3, 1);
    await_replicas(&manager);
    manager.close();
}

#[test]
fn missing_and_lagging_replicas_of_a_stopped_cluster_are_noted_but_no_fault() {
    let dir = tempfile::tempdir().unwrap();
    let (home, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let restored = dir.path().join("restored");
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    run_in(&home, &["generate", "--users", "60", "--data-dir", &text(&home)]).expect(0);
    assert_noted(&home, "has not been made yet; the next start of the router makes it");
    start_and_stop(&home);
    assert!(notes(&home).concat().is_empty(), "a start has looked after them");
    run_in(&home, &["generate", "--users", "80", "--data-dir", &text(&home)]).expect(0);
    assert_noted(&home, "the next start of the router brings it up");
    run_in(&home, &["backup", "--to", &text(&copy)]).expect(0);
    run_in(&restored, &["restore", "--from", &text(&copy)]).expect(0);
    assert_noted(&restored, "the next start of the router makes it");
    start_and_stop(&home);
    assert!(notes(&home).concat().is_empty(), "a start has looked after them");
}

#[test]
fn a_replica_that_lags_further_than_the_log_reaches_is_no_fault_either() {
    let dir = Cluster::filled().stop();
    for shard in 1..=3 {
        let primary = file(dir.path(), &format!("shard{shard}-primary"));
        meddle(
            &primary,
            "DELETE FROM tessera_log; UPDATE tessera_shard SET position = position + 9",
        );
    }
    assert_noted(dir.path(), "the next start of the router brings it up");
}

#[test]
fn a_row_that_is_missing_on_a_replica_that_lags_is_a_fault() {
    let dir = Cluster::filled().stop();
    let home = dir.path().to_str().unwrap();
    run_in(dir.path(), &["generate", "--users", "80", "--data-dir", home]).expect(0);
    assert_noted(dir.path(), "the next start of the router brings it up");
    let sql = "DELETE FROM users WHERE shard_key = (SELECT min(shard_key) FROM users)";
    meddle(&file(dir.path(), "shard1-replica1"), sql);
    let report = run_in(dir.path(), &["check", "--json"]).expect(1).json();
    let found = report["findings"].as_array().unwrap();
    assert!(found.iter().all(|finding| finding["node"] == "shard1-replica1"), "{report}");
    assert!(found.iter().any(|finding| finding["what"] == "the row is missing on the replica"));
}
