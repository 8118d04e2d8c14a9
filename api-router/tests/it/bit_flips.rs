//! Tests of bits that flip on the disk. SQLite keeps no checksums that would reveal such damage, so
//! the router compares the copies of each shard while it runs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backend::files_only;
use crate::client::{Seen, settle, tokenless, user, user_op};
use crate::harness::{Router, command};
use crate::replicas::assert_replicas_equal;

/// All rows are compared repeatedly, with pauses, which takes long in a debug build under load.
const COMPARED_WITHIN: Duration = Duration::from_secs(180);

/// A name that is stored nowhere else.
const RIGHT: &str = "Ada Lovelace the first";
/// The name [`RIGHT`] after a bit flip.
const WRONG: &str = "Adc Lovelace the first";

fn until(what: &str, is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < COMPARED_WITHIN, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Creates a data directory with one shard of this many replicas, all of them intact and closed.
fn closed_directory(replicas: &str) -> (TempDir, PathBuf) {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &["--shards", "1", "--replicas", replicas]);
    let mut client = tokenless(&router);
    for n in 0..200 {
        client.write_user(&format!("other-{n}"), &format!("other {n}"));
    }
    client.write_user("ada", RIGHT);
    settle(&router);
    router.end();
    (folder, data)
}

/// Starts a router over the directory, which has received no request.
fn reopened(data: &Path, replicas: &str) -> Router {
    let mut again = command(data);
    again.args(["--shards", "1", "--replicas", replicas]);
    Router::start_command(again)
}

/// Returns the places of a text in a file as a column of a row, and not in the JSON of the change
/// log.
fn places(bytes: &[u8], text: &str) -> Vec<usize> {
    let found = bytes.windows(text.len()).enumerate();
    let found = found.filter(|(_, window)| *window == text.as_bytes());
    found.map(|(at, _)| at).filter(|at| bytes.get(at + text.len()) != Some(&b'"')).collect()
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let places = places(&bytes, RIGHT);
    assert!(!places.is_empty(), "the row is in the file");
    for at in places {
        bytes[at + 2] ^= 0b10;
    }
    fs::write(file, bytes).unwrap();
}

/// Changes the partition key of the row from null to a number: the row can be read, and only a
/// check of the whole file finds that a text column has a number.
fn flip_type(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let row = format!("adaada{RIGHT}");
    // Before the slot, which is below 128 and so one byte, are the types of the columns: the last
    // four are those of the partition key and the three columns after it.
    let types: Vec<usize> = places(&bytes, &row).into_iter().map(|at| at - 1 - 4).collect();
    assert!(!types.is_empty(), "the row is in the file");
    for at in types {
        assert_eq!(bytes[at], 0, "the type of null");
        bytes[at] ^= 0b1000;
    }
    fs::write(file, bytes).unwrap();
}

fn holds(file: &Path, text: &str) -> bool {
    !places(&fs::read(file).unwrap(), text).is_empty()
}

/// Returns the status of the cluster, and node and name of each reason for it.
fn reasons(router: &Router) -> (String, Vec<(String, String)>) {
    let health = router.get("/api/health").json();
    let mut reported = Vec::new();
    for node in health["shards"][0]["nodes"].as_array().unwrap() {
        for reason in node["reasons"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            reported.push((text(&node["node"]), text(&reason["name"])));
        }
    }
    (health["status"].as_str().unwrap().to_owned(), reported)
}

fn reason(node: &str, name: &str) -> (String, String) {
    (node.to_owned(), name.to_owned())
}

/// Returns a counter about copies of the one shard from `/metrics`.
fn copy_counter(router: &Router, name: &str) -> u64 {
    let text = router.get("/metrics").text();
    let begin = format!("tessera_copies_{name}_total{{shard=\"shard1\"}} ");
    let count = text.lines().find_map(|line| line.strip_prefix(&begin));
    count.unwrap_or_else(|| panic!("{begin}: {text}")).parse().unwrap()
}

#[test]
fn a_bit_that_flipped_in_one_of_two_replicas_is_found_and_the_replica_is_rebuilt() {
    files_only!("a file is changed");
    let (_folder, data) = closed_directory("2");
    let file = data.join("shard1-replica1.db");
    flip(&file);
    let mut router = reopened(&data, "2");
    until("the difference is counted", || copy_counter(&router, "differences") > 0);
    until("all is well again", || reasons(&router) == ("ok".to_owned(), Vec::new()));
    for _ in 0..10 {
        assert_eq!(tokenless(&router).user_at("ada", "one"), Seen::by("replica", &[RIGHT]));
    }
    assert_replicas_equal(&router);
    router.end();
    assert!(holds(&file, RIGHT) && !holds(&file, WRONG));
}

#[test]
fn of_a_primary_whose_rows_are_wrong_nothing_is_read_and_nothing_is_built_on_them() {
    files_only!("a file is changed");
    let (_folder, data) = closed_directory("2");
    flip(&data.join("shard1-primary.db"));
    let router = reopened(&data, "2");
    let named = ("degraded".to_owned(), vec![reason("shard1-primary", "rows_wrong")]);
    until("the primary alone is named", || reasons(&router) == named);
    for _ in 0..10 {
        assert_eq!(tokenless(&router).user_at("ada", "one"), Seen::by("replica", &[RIGHT]));
    }
    let at_all = [("x-consistency", "all")];
    let read = tokenless(&router).read_with(Some("ada"), &at_all, "table=users");
    assert_eq!((read.status, &*read.code()), (503, "TSR201"), "{}", read.text());
    let part = json!({"table": "users", "op": "update", "data": {"user_id": "ada", "email": "x"}});
    let whole = json!({"table": "users", "data":
        {"user_id": "ada", "name": "Ada", "email": "e", "partition_key": null}});
    let if_match = [("if-match", "*")];
    for refused in [
        tokenless(&router).write("ada", &part),
        tokenless(&router).write("ada", &user("ada", "Ada")),
        tokenless(&router).write_with("ada", &if_match, &whole),
    ] {
        assert_eq!((refused.status, &*refused.code()), (503, "TSR201"), "{}", refused.text());
        assert_eq!(refused.json()["outcome"], "rejected");
        assert!(
            refused.json()["detail"]
                .as_str()
                .unwrap()
                .contains("rows of shard1's primary are wrong")
        );
    }
    let written = tokenless(&router).write("ada", &whole);
    assert_eq!(written.status, 200, "{}", written.text());
    until("the row that was written whole is mended", || reasons(&router).0 == "ok");
    assert_eq!(tokenless(&router).user_at("ada", "all"), Seen::by("primary", &["Ada"]));
    assert_replicas_equal(&router);
}

#[test]
fn of_two_copies_that_differ_both_are_named_and_neither_is_touched() {
    files_only!("a file is changed");
    let (_folder, data) = closed_directory("1");
    let (primary, replica) = (data.join("shard1-primary.db"), data.join("shard1-replica1.db"));
    flip(&replica);
    let mut router = reopened(&data, "1");
    let named = ["shard1-primary", "shard1-replica1"].map(|node| reason(node, "copies_differ"));
    let reported = ("degraded".to_owned(), named.to_vec());
    until("the difference is reported", || reasons(&router) == reported);
    let passes = copy_counter(&router, "compared");
    until("it was compared again", || copy_counter(&router, "compared") > passes + 1);
    let still = reasons(&router).1;
    assert!(named.iter().all(|named| still.contains(named)), "{still:?}");
    assert_eq!(tokenless(&router).user_at("ada", "all"), Seen::by("primary", &[RIGHT]));
    router.end();
    assert!(holds(&primary, RIGHT) && holds(&replica, WRONG));
}

#[test]
fn copies_that_are_written_to_all_the_time_are_never_found_to_differ() {
    files_only!("files are compared");
    let router = Router::start_with(&["--shards", "1", "--replicas", "2"]);
    let done = AtomicBool::new(false);
    let write = |writer: usize| {
        let mut client = tokenless(&router);
        let key = |n: usize| format!("w{writer}-{n}");
        let patient = [("x-deadline-ms", "25000")];
        for round in 0.. {
            for part in 0..15 {
                let rows = (part * 100..(part + 1) * 100)
                    .map(|n| user(&key(n), &format!("round {round}"))["data"].clone());
                let body = json!({"table": "users", "records": rows.collect::<Vec<_>>()});
                let reply = client.send("POST", "/api/bulk-write", &patient, Some(&body));
                assert!(reply.status < 300, "{}", reply.text());
                let n = part * 100 + round % 100;
                client.write(&key(n), &user_op("update", &key(n), "alone"));
                client.write(&key(n + 1), &user_op("delete", &key(n + 1), ""));
            }
            if done.load(Ordering::Relaxed) {
                return;
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write(0));
        scope.spawn(|| write(1));
        let began = Instant::now();
        while copy_counter(&router, "compared") < 2 && began.elapsed() < COMPARED_WITHIN {
            std::thread::sleep(Duration::from_millis(50));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(copy_counter(&router, "compared") >= 2, "it was compared under load");
    // Replicas may have fallen behind under the load, which is reported as well.
    until("all is well", || reasons(&router) == ("ok".to_owned(), Vec::new()));
    assert_eq!(copy_counter(&router, "differences"), 0);
}

#[test]
fn of_two_copies_that_differ_the_one_whose_file_contradicts_itself_is_wrong_and_rebuilt() {
    files_only!("a file is changed");
    let (_folder, data) = closed_directory("1");
    let (primary, replica) = (data.join("shard1-primary.db"), data.join("shard1-replica1.db"));
    flip_type(&replica);
    let damaged = fs::read(&replica).unwrap();
    let mut router = reopened(&data, "1");
    until("the difference is counted", || copy_counter(&router, "differences") > 0);
    until("all is well again", || reasons(&router) == ("ok".to_owned(), Vec::new()));
    assert_eq!(tokenless(&router).user_at("ada", "one"), Seen::by("replica", &[RIGHT]));
    assert_replicas_equal(&router);
    router.end();
    assert!(holds(&primary, RIGHT) && holds(&replica, RIGHT));
    assert_ne!(fs::read(&replica).unwrap(), damaged);
}

#[test]
fn a_primary_whose_file_contradicts_itself_is_reported_over_a_restart_until_it_is_replaced() {
    files_only!("a file is changed");
    let (_folder, data) = closed_directory("1");
    let (primary, replica) = (data.join("shard1-primary.db"), data.join("shard1-replica1.db"));
    flip_type(&primary);
    let named = ("degraded".to_owned(), vec![reason("shard1-primary", "rows_wrong")]);
    let mut router = reopened(&data, "1");
    until("the primary alone is named", || reasons(&router) == named);
    router.end();

    let mut router = reopened(&data, "1");
    assert_eq!(reasons(&router), named, "known from the first answer on");
    let read =
        tokenless(&router).read_with(Some("ada"), &[("x-consistency", "all")], "table=users");
    assert_eq!((read.status, &*read.code()), (503, "TSR201"), "{}", read.text());
    assert_eq!(tokenless(&router).user_at("ada", "one"), Seen::by("replica", &[RIGHT]));
    router.end();

    for beside in ["-wal", "-shm"] {
        let beside = primary.with_file_name(format!("shard1-primary.db{beside}"));
        assert!(!beside.exists() || fs::remove_file(&beside).is_ok());
    }
    fs::copy(&replica, primary.with_extension("new")).unwrap();
    fs::rename(primary.with_extension("new"), &primary).unwrap();
    let router = reopened(&data, "1");
    assert_eq!(reasons(&router), ("ok".to_owned(), Vec::new()), "the doubt was about that file");
    until("nothing is left of it", || !data.join("doubtful-copies.json").exists());
    assert_eq!(tokenless(&router).user_at("ada", "all"), Seen::by("primary", &[RIGHT]));
}

#[test]
fn a_doubt_survives_restarts_until_a_comparison_finds_the_copies_equal() {
    files_only!("a file is changed");
    let (_folder, data) = closed_directory("2");
    flip(&data.join("shard1-primary.db"));
    let named = ("degraded".to_owned(), vec![reason("shard1-primary", "rows_wrong")]);
    let mut router = reopened(&data, "2");
    until("the primary alone is named", || reasons(&router) == named);
    for _ in 0..2 {
        router.end();
        router = reopened(&data, "2");
        assert_eq!(reasons(&router), named, "known from the first answer on");
    }
    let whole = json!({"table": "users", "data":
        {"user_id": "ada", "name": "Ada", "email": "e", "partition_key": null}});
    let written = tokenless(&router).write("ada", &whole);
    assert_eq!(written.status, 200, "{}", written.text());
    until("the row that was written whole is mended", || reasons(&router).0 == "ok");
    router.end();
    assert!(!data.join("doubtful-copies.json").exists(), "nothing is left of it");
    let router = reopened(&data, "2");
    assert_eq!(reasons(&router), ("ok".to_owned(), Vec::new()));
}
