//! Tests of generated user ids in keyspaces that do not accept every key, and of the data directory
//! that the commands use.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Output;

use shard_manager::engine::cluster_spec::ClusterSpec;
use tempfile::TempDir;

use crate::cluster::{open, shards, texts};
use crate::command::{fail, program, run, succeed, text};
use crate::scratch;

fn cluster_of(keyspace: &str) -> TempDir {
    let dir = scratch::folder();
    let keyspace = Some(keyspace.parse().expect("a keyspace"));
    open(dir.path(), ClusterSpec { keyspace, ..shards(3) }).expect("a new cluster").close();
    dir
}

fn keys(dir: &Path, table: &str) -> BTreeSet<String> {
    let files = (1..=3).map(|shard| dir.join(format!("shard{shard}-primary.db")));
    files
        .flat_map(|file| texts(&file, &format!("SELECT shard_key AS value FROM {table}")))
        .collect()
}

#[test]
fn generated_user_ids_are_valid_in_every_keyspace() {
    let keyspaces = [
        ("hash", "user_A_0"),
        ("modulo", "user_A_0"),
        ("range:100,200", "0"),
        ("range-text:g,n", "user_A_0"),
        ("list:eu-west=3,us=1", "eu-west:user_0"),
        ("matrix:id", "@user_A_0:s"),
        ("matrix:server", "@user_A_0:s"),
    ];
    for (keyspace, first) in keyspaces {
        let dir = cluster_of(keyspace);
        let arguments = ["generate", "--users", "400", "--orders-per-user", "2", "--json"];
        let arguments = [&arguments[..], &["--data-dir", text(dir.path())]].concat();
        let reported: serde_json::Value =
            serde_json::from_str(&succeed(&arguments)).expect("one JSON document");
        assert_eq!(reported["stored"], 1200, "{keyspace}: {reported}");
        let users = keys(dir.path(), "users");
        assert_eq!(users.len(), 400, "{keyspace}: ids are unique");
        assert!(users.iter().any(|key| key.starts_with(first)), "{keyspace}: {users:?}");
        assert_eq!(users, keys(dir.path(), "orders"), "{keyspace}");
        // The same seed generates the same ids.
        succeed(&arguments);
        assert_eq!(users, keys(dir.path(), "users"), "{keyspace}");
    }
}

#[test]
fn users_of_a_list_keyspace_follow_its_partition_weights_unless_overridden() {
    let dir = cluster_of("list:A=3,B=1,C=1");
    let generate = |more: &[&str]| {
        let arguments = ["generate", "--users", "100", "--data-dir", text(dir.path()), "--json"];
        run(&[&arguments[..], more].concat())
    };
    let shares = |reported: &Output| -> serde_json::Value {
        let reported: serde_json::Value =
            serde_json::from_slice(&reported.stdout).expect("a document");
        reported["wanted"]["partitions"].clone()
    };
    assert_eq!(shares(&generate(&[])), serde_json::json!({"A": 60, "B": 20, "C": 20}));
    let reported = shares(&generate(&["--weights", "B=1,C=3"]));
    assert_eq!(reported, serde_json::json!({"B": 25, "C": 75}));
    let refused = generate(&["--weights", "A=1,D=1"]);
    let reported = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{reported}");
    assert!(reported.contains("has no partition D; there are: A, B, C"), "{reported}");
}

#[test]
fn a_number_of_users_that_overflows_is_refused() {
    let dir = scratch::folder();
    let nowhere = dir.path().join("nowhere");
    for users in ["18446744073709551615", "1099511627777"] {
        let (code, output) = fail(&["generate", "--users", users, "--data-dir", text(&nowhere)]);
        assert!(code == 2 && output.contains("--users"), "{output}");
        assert!(!nowhere.exists());
    }
}

#[test]
fn tessera_data_dir_sets_the_data_directory_of_every_command() {
    let dir = cluster_of("hash");
    let with = |arguments: &[&str]| {
        let output = program().args(arguments).env("TESSERA_DATA_DIR", dir.path()).output();
        let output = output.expect("the program starts");
        let reported = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().expect("it exits without a signal"), reported)
    };
    assert_eq!(with(&["generate", "--users", "10"]), (0, String::new()));
    assert_eq!(keys(dir.path(), "users").len(), 10);
    let input = dir.path().join("users.ndjson");
    std::fs::write(&input, r#"{"user_id":"u","name":"n","email":"e"}"#).expect("a file");
    let import = ["import", "--table", "users", "--input", text(&input)];
    assert_eq!(with(&import), (0, String::new()));
    assert_eq!(keys(dir.path(), "users").len(), 11);
    let copies = scratch::folder();
    let copy = copies.path().join("copy");
    assert_eq!(with(&["backup", "--to", text(&copy)]), (0, String::new()));
    assert_eq!(with(&["backup", "--verify", text(&copy)]), (0, String::new()));
    // An explicit router URL takes precedence over the variable.
    let (code, reported) = with(&[&import[..], &["--url", "http://127.0.0.1:1"]].concat());
    assert!(code == 2 && reported.contains("does not answer"), "{reported}");
    let both = ["--url", "http://127.0.0.1:1", "--data-dir", text(dir.path())];
    let (code, reported) = with(&[&import[..], &both].concat());
    assert!(code == 2 && reported.contains("cannot be used with"), "{reported}");
}
