//! Tests of the commands that change the shards of a stopped cluster.

use std::path::Path;

use serde_json::{Value, json};

use crate::cluster::{Cluster, run_in};

fn listed(dir: &Path) -> Vec<Value> {
    let listing = run_in(dir, &["shard", "list", "--json"]).expect(0).json();
    listing["shards"].as_array().expect("shards").clone()
}

#[test]
fn a_shard_joins_a_stopped_cluster_gets_another_weight_and_retires() {
    let dir = Cluster::filled().stop();
    let dir = dir.path();
    for _ in 0..2 {
        let added = run_in(dir, &["shard", "add", "east", "--weight", "2", "--json"]).expect(0);
        assert_eq!(added.json(), json!({"joined": "east", "weight": 2}));
    }
    let east = |state: &str, weight: u32| json!({"number": 3, "shard": "east", "state": state, "weight": weight, "slots": 0, "address": null});
    assert_eq!(listed(dir)[3], east("serving", 2));
    run_in(dir, &["shard", "weight", "east", "5"]).expect(0);
    assert_eq!(listed(dir)[3], east("serving", 5));
    run_in(dir, &["check", "--deep"]).expect(0);
    run_in(dir, &["shard", "remove", "east"]).expect(0);
    assert_eq!(listed(dir)[3], east("retired", 5));
    assert_eq!(run_in(dir, &["export", "--table", "users"]).expect(0).out.lines().count(), 60);
}

#[test]
fn changes_of_shards_that_are_refused_have_a_code_and_change_nothing() {
    let dir = Cluster::filled().stop();
    let dir = dir.path();
    let before = listed(dir);
    for (args, reason) in [
        (&["shard", "add", "4th"][..], "TSR321"),
        (&["shard", "add", "shard1", "--weight", "9"], "TSR326"),
        (&["shard", "weight", "east", "1"], "TSR320"),
        (&["shard", "weight", "shard1", "1000001"], "TSR321"),
        (&["shard", "remove", "east"], "TSR320"),
        (&["shard", "remove", "shard1"], "TSR326"),
        (&["shard", "add", "east", "--database", "postgres://db/app"], "--url"),
    ] {
        run_in(dir, args).refused(reason);
    }
    assert_eq!(listed(dir), before);
    let nowhere = dir.join("nowhere");
    run_in(&nowhere, &["shard", "add", "east"]).refused("there is no cluster here");
    assert!(!nowhere.exists());
}
