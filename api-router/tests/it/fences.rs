//! Tests of fences, which an operator sets, and of slots that change owners without the router's
//! knowledge: writes wait, or go to the shard that owns their slots, and each is applied once.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::backend::{ask_primary, is_servers, not_on_citus, servers_only, url_of};
use crate::client::{keys_on, refusal, refused, user_op};
use crate::commands::{Ended, PROGRAM};
use crate::folders;
use crate::harness::{Reply, Router, eventually, sightless};
use crate::streams::{NDJSON, USERS, lines};

const ALL: &str = "0-16383";
const PATIENT: (&str, &str) = ("x-deadline-ms", "30000");

/// Runs `shard-manager slots` for the cluster of three shards in this directory, or its databases.
fn slots(data_dir: &Path, arguments: &[&str]) -> Ended {
    let mut command = sightless(Command::new(&*PROGRAM), &std::env::temp_dir());
    command.arg("slots").args(arguments).arg("--json").stdin(Stdio::null());
    if is_servers() {
        let urls: Vec<String> = (0..3).map(|shard| url_of(data_dir, shard)).collect();
        command.env("SHARD_URLS", urls.join(","));
    } else {
        command.arg("--data-dir").arg(data_dir);
    }
    let ended = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { code: ended.status.code(), out: text(ended.stdout), err: text(ended.stderr) }
}

fn fence(data_dir: &Path, slots_fenced: &str, seconds: &str) {
    let fenced = slots(data_dir, &["fence", "--slots", slots_fenced, "--seconds", seconds]).json(0);
    assert_eq!(fenced["fenced"], slots_fenced);
}

fn release(data_dir: &Path, slots_released: &str) {
    let released = slots(data_dir, &["release", "--slots", slots_released]).json(0);
    assert_eq!(released["released"], slots_released);
}

/// Waits until at least this number of rows wait in a router.
fn until_parked(router: &Router, rows: u64) {
    eventually("the rows wait", || {
        let parked = router.get("/api/health").json()["parked_rows"].as_u64().unwrap();
        (parked >= rows).then_some(())
    });
}

fn insert(router: &Router, key: &str) -> Reply {
    router.post("/api/write", &[("x-shard-key", key), PATIENT], &user_op("insert", key, "n"))
}

fn users(router: &Router) -> Vec<String> {
    let reply = router.get("/api/read?table=users&select=user_id&order=user_id&limit=1000");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let rows = reply.json()["data"].as_array().unwrap().clone();
    rows.iter().map(|row| row["user_id"].as_str().unwrap().to_owned()).collect()
}

fn new_cluster() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = folders::temporary();
    let data = folder.path().join("data");
    (folder, data)
}

#[test]
fn writes_wait_for_the_end_of_a_fence_and_each_is_applied_once() {
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let router = Router::start_in(&data, &[]);
    assert_eq!(insert(&router, "before").status, 201);
    fence(&data, ALL, "60");
    let keys: Vec<String> = (0..100).map(|n| format!("u{n:03}")).collect();
    std::thread::scope(|scope| {
        let router = &router;
        let writes: Vec<_> =
            keys.iter().map(|key| scope.spawn(move || insert(router, key))).collect();
        until_parked(router, 100);
        assert_eq!(users(router), ["before"], "reads go on");
        release(&data, ALL);
        for write in writes {
            let reply = write.join().unwrap();
            assert_eq!(
                reply.status,
                201,
                "an insert that is applied twice fails: {}",
                reply.text()
            );
        }
    });
    assert_eq!(users(&router).len(), 101);
    let metrics = router.get("/metrics").text();
    let count = |line: &str| assert!(metrics.contains(line), "{line}: {metrics}");
    count("tessera_parked_rows 0");
    count("tessera_parked_refusals_total{result=\"waited\"} 100");
}

#[test]
fn a_fence_ends_by_itself_and_a_write_may_end_before_it() {
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let router = Router::start_in(&data, &[]);
    fence(&data, ALL, "60");
    let late = router.post(
        "/api/write",
        &[("x-shard-key", "a"), ("x-deadline-ms", "1500")],
        &json!({"table": "kv", "data": {"key": "a", "value": 1}}),
    );
    assert_eq!(refusal(&late), refused(503, "TSR203"));
    // The second fence replaces the first.
    fence(&data, ALL, "1.5");
    assert_eq!(insert(&router, "a").status, 201);
    assert_eq!(router.read("a", "table=kv").json()["data"], json!([]), "it was rejected");
}

#[test]
fn rows_of_all_kinds_of_bulk_writes_wait() {
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let router = Router::start_in(&data, &[]);
    fence(&data, ALL, "60");
    let bulk = |prefix: &str, headers: &[(&str, &str)]| {
        let rows: Vec<Value> = (0..50)
            .map(|n| user_op("insert", &format!("{prefix}{n}"), "n")["data"].clone())
            .collect();
        let body = json!({"table": "users", "op": "insert", "records": rows});
        router.post("/api/bulk-write", &[headers, &[PATIENT]].concat(), &body)
    };
    let key = [("idempotency-key", "k1")];
    let body = lines(0..5_000);
    std::thread::scope(|scope| {
        let each = scope.spawn(|| bulk("each", &[]));
        let whole = scope.spawn(|| bulk("whole", &[("prefer", "tx=per-shard")]));
        let once = scope.spawn(|| bulk("once", &key));
        let streamed = scope.spawn(|| {
            let headers = [NDJSON, PATIENT];
            router.send("POST", USERS, &headers, Some(body.as_bytes()))
        });
        until_parked(&router, 150);
        release(&data, ALL);
        for (written, stored) in [(each, 50), (whole, 50), (once, 50), (streamed, 5_000)] {
            let reply = written.join().unwrap();
            assert_eq!(reply.status, 201, "{}", reply.text());
            assert_eq!(reply.json()["stored"], stored);
        }
        let again = bulk("once", &key);
        assert_eq!(again.json()["stored"], 50);
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
    });
}

#[test]
fn commands_for_slots_say_what_is_wrong() {
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let mut router = Router::start_in(&data, &[]);
    let refused = |arguments: &[&str], sentence: &str| {
        let ended = slots(&data, arguments);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains(sentence), "{sentence}: {}", ended.err);
    };
    refused(&["fence", "--slots", "16384", "--seconds", "1"], "there is no slot 16384");
    refused(&["fence", "--slots", "9-3", "--seconds", "1"], "the range `9-3` ends before");
    refused(&["release", "--slots", "x"], "`x` is not a slot");
    for seconds in ["0", "61", "-1"] {
        let seconds = format!("--seconds={seconds}");
        refused(&["fence", "--slots", "1", &seconds], "a fence lasts from 0.001 to 60 seconds");
    }
    router.end();
    if !is_servers() {
        refused(&["release", "--slots", "1"], "a stopped cluster has no writes that could wait");
    }
}

/// Changes the owner of slots directly in the databases, without the knowledge of any router.
fn hand_over(data: &Path, slots: &str, from: usize, to: usize) {
    let change = |shard: usize, step: &str, to: &str| {
        let sql = format!(
            "SELECT cardinality(tessera_change_slots('{{{slots}}}', '{step}', NULL, {to}))"
        );
        eventually("the fence lock is free", || {
            (ask_primary(data, shard, &sql) == ["0"]).then_some(())
        });
    };
    change(from, "hand over", &format!("'{to}'"));
    change(to, "take over", "NULL");
}

fn slots_of(router: &Router, keys: &[String]) -> String {
    let slot = |key: &String| {
        router.get(&format!("/api/route?key={key}")).json()["slot"].as_u64().unwrap().to_string()
    };
    keys.iter().map(slot).collect::<Vec<_>>().join(",")
}

#[test]
fn a_router_that_stood_still_while_slots_changed_hands_follows_them() {
    servers_only!("a router holds its data directory alone");
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let (router, other) = (Router::start_in(&data, &[]), Router::start_in(&data, &[]));
    let keys = keys_on(&router, "shard1", 100);
    let moved = slots_of(&router, &keys);
    router.signal("STOP");
    std::thread::scope(|scope| {
        let router = &router;
        let writes: Vec<_> =
            keys.iter().map(|key| scope.spawn(move || insert(router, key))).collect();
        hand_over(&data, &moved, 0, 1);
        router.signal("CONT");
        for write in writes {
            let reply = write.join().unwrap();
            assert_eq!(reply.status, 201, "{}", reply.text());
            assert_eq!(reply.header("x-shard"), Some("shard2"), "where it really went");
        }
    });
    let mut all = keys.clone();
    all.sort();
    for router in [&router, &other] {
        assert_eq!(users(router), all);
        let read = router.read(&keys[0], "table=users");
        assert_eq!((read.status, read.header("x-shard")), (200, Some("shard2")));
        assert_eq!(read.json()["data"].as_array().unwrap().len(), 1);
        let written = router.write_user(&keys[0], "again");
        assert_eq!((written.status, written.header("x-shard")), (200, Some("shard2")));
    }
}

#[test]
fn reads_of_all_shards_show_each_slot_once_while_slots_change_hands() {
    servers_only!("a router holds its data directory alone");
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let router = Router::start_in(&data, &[]);
    // Only slots without rows change owners, because no rows are copied.
    let keys = keys_on(&router, "shard1", 40);
    let (stays, moves) = keys.split_at(20);
    let fixed = slots_of(&router, stays);
    let moved = slots_of(&router, moves);
    let is_free = |slot: &&str| fixed.split(',').all(|other| other != *slot);
    let moved = moved.split(',').filter(is_free).collect::<Vec<_>>().join(",");
    stays.iter().for_each(|key| assert_eq!(insert(&router, key).status, 201));
    let mut all = stays.to_vec();
    all.sort();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let mut reads = 0;
            while !ended.load(std::sync::atomic::Ordering::SeqCst) || reads == 0 {
                assert_eq!(users(&router), all);
                reads += 1;
            }
        });
        for _ in 0..5 {
            hand_over(&data, &moved, 0, 1);
            hand_over(&data, &moved, 1, 0);
        }
        ended.store(true, std::sync::atomic::Ordering::SeqCst);
        reads.join().unwrap();
    });
}
