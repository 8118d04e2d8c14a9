//! Tests of the commands that change the shards of a stopped cluster.

use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};

use crate::cluster::{Cluster, Ended, program, run_in, serve};
use crate::scratch;

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
fn while_variables_name_servers_a_command_acts_on_files_only_if_they_are_named() {
    let dir = Cluster::filled().stop();
    let folder = scratch::folder();
    symlink(dir.path(), folder.path().join("data")).expect("a link");
    let here = |args: &[&str], variables: &[(&str, &str)]| {
        let mut command = program(args);
        command.current_dir(folder.path()).envs(variables.iter().copied());
        Ended::of(&command.output().expect("the program starts"))
    };
    let state = || run_in(dir.path(), &["shard", "list", "--json"]).expect(0).out;
    let (before, weight) = (state(), ["shard", "weight", "shard1", "2"]);
    let server = "postgres://app@127.0.0.1:1/app";
    for name in ["SHARD_URLS", "MAINDB_URL"] {
        for args in [
            &weight[..],
            &["status"],
            &["route", "user_1"],
            &["placement", "show"],
            &["move", "list"],
            &["rebalance", "list"],
            &["index", "list", "users"],
            &["migrate", "--dry-run"],
        ] {
            for dir in ["", "data"] {
                let refused = here(args, &[(name, server), ("TESSERA_DATA_DIR", dir)]);
                refused.refused(&format!("{name} names servers: name "));
            }
        }
    }
    assert_eq!(state(), before);
    here(&["placement", "show"], &[("SHARD_URLS", "")]).expect(0);
    let named = [&weight[..], &["--data-dir", "data"]].concat();
    here(&named, &[("SHARD_URLS", server)]).expect(0);
    assert_ne!(state(), before, "the weight and the epoch have changed");
    let url = serve(&[("/api/moves", 200, r#"{"success":true,"moves":[]}"#)]);
    let list = ["move", "list", "--url", &url];
    here(&list, &[("SHARD_URLS", server), ("TESSERA_DATA_DIR", "")]).expect(0);
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
        (&["shard", "weight", "shard1", "1000001"], "a whole number from 0 to 1000000"),
        (&["shard", "weight", "shard1", "x"], "a whole number from 0 to 1000000"),
        (&["shard", "add", "east", "--weight", "1e99"], "a whole number from 0 to 1000000"),
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

#[test]
fn a_shard_of_a_stopped_cluster_takes_its_share_and_is_drained_by_commands_that_wait() {
    let cluster = Cluster::new(2, 0);
    let dir = cluster.stop();
    let dir = dir.path();
    run_in(dir, &["shard", "add", "east", "--weight", "0", "--json"]).expect(0);
    // A small share: each move takes its time.
    for (shard, weight) in [("shard1", "60"), ("shard2", "60"), ("east", "1")] {
        run_in(dir, &["shard", "weight", shard, weight]).expect(0);
    }
    let slots = |found: &Value| found["shards"][2]["slots"].as_u64();
    let listed = || run_in(dir, &["shard", "list", "--json"]).expect(0).json();
    let grown = run_in(dir, &["rebalance", "--yes", "--keep", "0", "--wait", "--json"]);
    assert_eq!(grown.expect(0).json()["state"], "done");
    let grown = slots(&listed()).expect("a number");
    assert!((135..=136).contains(&grown), "a share of 16384 / 121 slots: {grown}");
    let begun = run_in(dir, &["shard", "drain", "east", "--keep", "0", "--json"]).expect(0).json();
    let id = begun["id"].as_str().expect("an id");
    let drained = run_in(dir, &["rebalance", "wait", id, "--json"]).expect(0).json();
    assert_eq!(drained["state"], "done");
    assert_eq!(slots(&listed()).unwrap_or_default(), 0);
}

#[test]
fn a_stopped_cluster_plans_rebalances_and_drains() {
    let dir = Cluster::filled().stop();
    let dir = dir.path();
    let compared = run_in(dir, &["placement", "simulate", "--add", "--json"]).expect(0).json();
    let algorithms = compared["algorithms"].as_array().expect("algorithms");
    let simulated = algorithms.iter().find(|found| found["algorithm"] == "rebalance");
    let share = simulated.expect("rebalance")["changes"][0]["share"].as_f64().expect("a share");
    run_in(dir, &["shard", "add", "east", "--json"]).expect(0);
    let plan =
        |words: &[&str]| run_in(dir, &[words, &["--dry-run", "--json"]].concat()).expect(0).json();
    let by_slots = plan(&["rebalance"]);
    assert_eq!((&by_slots["by"], &by_slots["slots"]), (&json!("slots"), &json!(4_096)));
    assert_eq!((share * 16_384.0).round(), 4_096.0, "`placement simulate` has the same result");
    run_in(dir, &["shard", "weight", "east", "3"]).expect(0);
    assert_eq!(plan(&["rebalance"])["slots"], 8_192, "the plan follows the weight");
    let drain = plan(&["shard", "drain", "shard2"]);
    assert_eq!((&drain["by"], &drain["shard"]), (&json!("drain"), &json!("shard2")));
    assert_eq!(drain["slots"], 5_461);
    let before = listed(dir);
    run_in(dir, &["rebalance"]).refused("add --yes to begin");
    for (words, code) in [
        (&["shard", "drain", "west"][..], "TSR320"),
        (&["rebalance", "--by", "load", "--dry-run"], "TSR335"),
        (&["rebalance", "--by", "placement", "--placement", "circle", "--dry-run"], "TSR335"),
    ] {
        run_in(dir, words).refused(code);
    }
    let weight = |shard: &str, weight: &str| run_in(dir, &["shard", "weight", shard, weight]);
    for shard in ["east", "shard1", "shard2"] {
        weight(shard, "0").expect(0);
    }
    weight("shard3", "0").refused("TSR321");
    run_in(dir, &["shard", "drain", "shard3", "--dry-run"]).refused("could own the slots");
    assert_eq!(
        run_in(dir, &["rebalance", "list", "--json"]).expect(0).json(),
        json!({"rebalances": []})
    );
    let slots =
        |shards: &[Value]| shards.iter().map(|shard| shard["slots"].clone()).collect::<Vec<_>>();
    assert_eq!(slots(&listed(dir)), slots(&before));
}
