//! `check` of clusters that are well.

use std::sync::atomic::{AtomicBool, Ordering};

use shard_manager::brake::{Gear, Hold};

use crate::cluster::{Cluster, run_in, write, write_users};

#[test]
fn a_good_cluster_is_well_while_it_runs_and_after() {
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
    assert!(ended.out.contains("all is well"), "{ended:#?}");
}

#[test]
fn a_cluster_that_is_written_to_meanwhile_is_well() {
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
fn a_replica_that_lags_behind_a_running_primary_is_compared_by_the_rest() {
    let cluster = Cluster::filled();
    for shard in 1..=3 {
        let replica = format!("shard{shard}-replica1");
        let hold = Hold { gear: Gear::Paused, ..Hold::default() };
        cluster.manager.brake(&replica).expect("a replica").set(hold);
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
fn a_new_cluster_without_rows_is_well() {
    let dir = Cluster::new(2, 0).stop();
    let report = run_in(dir.path(), &["check", "--json"]).expect(0).json();
    assert_eq!(report["rows"], 0);
}
