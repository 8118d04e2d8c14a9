//! Tests of fences, which an operator sets, and of slots that change owners without the router's
//! knowledge: writes wait, or go to the shard that owns their slots, and each is applied once.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::backend::{ask_primary, is_servers, not_on_citus, servers_only, url_of};
use crate::client::{keys_on, refusal, refused, user_op};
use crate::commands::{Ended, PROGRAM};
use crate::folders;
use crate::harness::{Reply, Router, eventually, isolated};
use crate::moves::{OPERATE, until};
use crate::streams::{NDJSON, USERS, lines};

const ALL: &str = "0-16383";
const PATIENT: (&str, &str) = ("x-deadline-ms", "30000");
const JSON: (&str, &str) = ("content-type", "application/json");
/// Number of slots that a test moves together, less than the maximum.
const MOVED_TOGETHER: usize = 50;
/// Length of the name in a large row: 67 of these rows fit into the 64 MiB for rows that wait, and
/// leave room for a small one.
const LARGE: usize = 1_000_000;
const LARGE_ROWS: u64 = 67;

/// Runs `shard-manager slots` for the cluster of three shards in this directory, or its databases.
fn slots(data_dir: &Path, arguments: &[&str]) -> Ended {
    let mut command = isolated(Command::new(&*PROGRAM), &std::env::temp_dir());
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

pub(crate) fn fence(data_dir: &Path, slots_fenced: &str, seconds: &str) {
    let fenced = slots(data_dir, &["fence", "--slots", slots_fenced, "--seconds", seconds]).json(0);
    assert_eq!(fenced["fenced"], slots_fenced);
}

pub(crate) fn release(data_dir: &Path, slots_released: &str) {
    let released = slots(data_dir, &["release", "--slots", slots_released]).json(0);
    assert_eq!(released["released"], slots_released);
}

/// Waits until at least this number of rows wait in a router.
pub(crate) fn until_parked(router: &Router, rows: u64) {
    eventually("the rows wait", || {
        let parked = router.get("/api/health").json()["parked_rows"].as_u64().unwrap();
        (parked >= rows).then_some(())
    });
}

fn insert(router: &Router, key: &str) -> Reply {
    router.post("/api/write", &[("x-shard-key", key), PATIENT], &user_op("insert", key, "n"))
}

/// Sends a write of a fenced slot, again if its deadline passes before the shard has refused it, as
/// on a busy machine.
#[track_caller]
fn refused_in_time(router: &Router, headers: &[(&str, &str)], body: &Value) -> Reply {
    eventually("a refusal because of the fence", || {
        let reply = router.post("/api/write", headers, body);
        (reply.code() != "TSR004").then_some(reply)
    })
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
    // A router holds its data directory alone; servers have any number of routers.
    let other = is_servers().then(|| Router::start_in(&data, &[]));
    let routers: Vec<&Router> = std::iter::once(&router).chain(&other).collect();
    let share = if other.is_some() { 50 } else { 100 };
    assert_eq!(insert(&router, "before").status, 201);
    fence(&data, ALL, "60");
    let keys: Vec<String> = (0..100).map(|n| format!("u{n:03}")).collect();
    std::thread::scope(|scope| {
        let senders = routers.iter().copied().cycle();
        let writes: Vec<_> = keys
            .iter()
            .zip(senders)
            .map(|(key, router)| scope.spawn(move || insert(router, key)))
            .collect();
        routers.iter().for_each(|router| until_parked(router, share));
        assert_eq!(users(&router), ["before"], "reads go on");
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
    for router in routers {
        let metrics = router.get("/metrics").text();
        let count = |line: &str| assert!(metrics.contains(line), "{line}: {metrics}");
        count("tessera_parked_rows 0");
        count(&format!("tessera_parked_refusals_total{{result=\"waited\"}} {share}"));
        count(&format!("tessera_parked_wait_seconds_count {share}"));
        count(&format!("tessera_parked_wait_seconds_bucket{{le=\"+Inf\"}} {share}"));
    }
}

#[test]
fn a_write_that_finds_no_room_to_wait_is_refused_and_those_that_wait_are_all_stored() {
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let router = Router::start_in(&data, &[]);
    let name = "n".repeat(LARGE);
    let write = |key: &str, name: &str| {
        router.post("/api/write", &[("x-shard-key", key), PATIENT], &user_op("insert", key, name))
    };
    let large = |key: &str| write(key, &name);
    let mut keys: Vec<String> = (0..LARGE_ROWS).map(|n| format!("u{n:03}")).collect();
    fence(&data, ALL, "60");
    std::thread::scope(|scope| {
        let mut writes: Vec<_> = keys.iter().map(|key| scope.spawn(move || large(key))).collect();
        until_parked(&router, LARGE_ROWS);
        let late = large("late");
        assert_eq!(refusal(&late), refused(503, "TSR203"));
        assert_eq!(late.header("retry-after"), Some("1"));
        writes.push(scope.spawn(move || write("small", "n")));
        until_parked(&router, LARGE_ROWS + 1);
        release(&data, ALL);
        for write in writes {
            let reply = write.join().unwrap();
            assert_eq!(reply.status, 201, "{}", reply.text());
        }
    });
    keys.push("small".to_owned());
    keys.sort();
    assert_eq!(users(&router), keys, "the refused row is not stored");
    let metrics = router.get("/metrics").text();
    let count = |line: &str| assert!(metrics.contains(line), "{line}: {metrics}");
    count("tessera_parked_rows 0");
    count("tessera_parked_refusals_total{result=\"no_room\"} 1");
    count(&format!("tessera_parked_refusals_total{{result=\"waited\"}} {}", keys.len()));
    assert_eq!(large("late").status, 201, "there is room again");
}

#[test]
fn a_value_under_a_key_is_read_during_a_fence_and_written_after_it() {
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let router = Router::start_in(&data, &[]);
    let put =
        |value: &[u8]| router.send("PUT", "/api/kv/ada", &[JSON, PATIENT], Some(value)).status;
    let read = || router.get("/api/kv/ada").text();
    assert_eq!(put(b"1"), 201);
    fence(&data, ALL, "60");
    std::thread::scope(|scope| {
        let write = scope.spawn(|| put(b"2"));
        until_parked(&router, 1);
        assert_eq!(read(), "1");
        release(&data, ALL);
        assert_eq!(write.join().unwrap(), 200);
    });
    assert_eq!(read(), "2");
}

#[test]
fn slots_are_fenced_and_released_over_http_and_those_of_another_shard_are_refused() {
    not_on_citus!("Citus distributes rows itself");
    let router = Router::start_with(&["--operate"]);
    let key = keys_on(&router, "shard2", 1).remove(0);
    let slot = slots_of(&router, std::slice::from_ref(&key));
    let post = |path: &str, body: Value| router.post(&format!("/api/slots/{path}"), &[], &body);
    let foreign = post("fence", json!({"slots": slot, "shard": "shard1", "seconds": 60}));
    assert_eq!(refusal(&foreign), refused(400, "TSR328"));
    let sentence = format!("shard1 does not own the slots {slot}");
    assert!(foreign.text().contains(&sentence), "{}", foreign.text());
    assert_eq!(insert(&router, &key).status, 201, "it is not fenced");
    let changed = json!({"success": true, "slots": slot, "count": 1});
    let fenced = post("fence", json!({"slots": slot, "shard": "shard2", "seconds": 60}));
    assert_eq!((fenced.status, fenced.json()), (200, changed.clone()));
    let headers = [("x-shard-key", &*key), ("x-deadline-ms", "500")];
    let late = refused_in_time(&router, &headers, &user_op("update", &key, "late"));
    assert_eq!(refusal(&late), refused(503, "TSR203"));
    let released = post("release", json!({"slots": slot}));
    assert_eq!((released.status, released.json()), (200, changed));
    assert_eq!(router.write_user(&key, "again").status, 200);
}

#[test]
fn a_fence_ends_by_itself_and_a_write_may_end_before_it() {
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let router = Router::start_in(&data, &[]);
    fence(&data, ALL, "60");
    let headers = [("x-shard-key", "a"), ("x-deadline-ms", "1500")];
    let row = json!({"table": "kv", "data": {"key": "a", "value": 1}});
    let late = refused_in_time(&router, &headers, &row);
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
fn commands_for_slots_report_the_reason_of_a_refusal() {
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let mut router = Router::start_in(&data, &[]);
    let refused = |arguments: &[&str], sentence: &str| {
        let ended = slots(&data, arguments);
        assert_eq!(ended.code, Some(2), "{ended:?}");
        assert!(ended.err.contains(sentence), "{sentence}: {}", ended.err);
        ended.err
    };
    let bad = |arguments: &[&str], sentence: &str| {
        let said = refused(arguments, sentence);
        assert!(said.contains("(TSR328)"), "{sentence}: {said}");
    };
    bad(&["fence", "--slots", "16384", "--seconds", "1"], "there is no slot 16384");
    bad(&["fence", "--slots", "9-3", "--seconds", "1"], "the range `9-3` ends before");
    bad(&["release", "--slots", "x"], "`x` is not a slot");
    for seconds in ["0", "61", "-1"] {
        let seconds = format!("--seconds={seconds}");
        bad(&["fence", "--slots", "1", &seconds], "a fence lasts from 0.001 to 60 seconds");
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

/// Sends an insert without waiting for its response: a router that stands still gets it later.
fn send_insert(router: &Router, key: &str) -> TcpStream {
    let (body, host) = (user_op("insert", key, "n").to_string(), router.address());
    let head = format!(
        "POST /api/write HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nx-shard-key: {key}\r\n\
         {}: {}\r\n{}: {}\r\ncontent-length: {}\r\n\r\n",
        JSON.0,
        JSON.1,
        PATIENT.0,
        PATIENT.1,
        body.len()
    );
    let mut stream = router.connect();
    stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
    stream
}

/// Reads the response to [`send_insert`]: the row was made, by this shard.
#[track_caller]
fn assert_stored_by(mut stream: TcpStream, shard: &str) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
    let header = format!("\r\nx-shard: {shard}\r\n");
    assert!(answer.to_lowercase().contains(&header), "{answer}");
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
    // The router gets the requests, which wait in its sockets, only after the slots have changed
    // hands.
    let sent: Vec<TcpStream> = keys.iter().map(|key| send_insert(&router, key)).collect();
    hand_over(&data, &moved, 0, 1);
    router.signal("CONT");
    sent.into_iter().for_each(|stream| assert_stored_by(stream, "shard2"));
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
    for (router, value) in [(&router, "1"), (&other, "2")] {
        let path = format!("/api/kv/{}", keys[0]);
        let put = router.send("PUT", &path, &[JSON, PATIENT], Some(value.as_bytes()));
        assert!(put.status < 300, "{}", put.text());
        assert_eq!(put.header("x-shard"), Some("shard2"));
        let read = router.get(&path);
        assert_eq!((read.header("x-shard"), &*read.text()), (Some("shard2"), value));
    }
}

/// Moves slots from the first shard to the second one, until the first one has none of their rows.
fn move_slots(router: &Router, moved: &BTreeSet<String>) {
    let moved: Vec<&str> = moved.iter().map(String::as_str).collect();
    for together in moved.chunks(MOVED_TOGETHER) {
        let slots = together.join(",");
        let wished = json!({"slots": slots, "from": "shard1", "to": "shard2", "keep": 0});
        let begun = eventually("the replicas follow and the move begins", || {
            let reply = router.post("/api/moves", &[], &wished);
            (reply.status == 202).then(|| reply.json())
        });
        until(router, &begun, "done");
    }
}

#[test]
fn writes_to_a_router_that_stood_still_during_a_whole_move_are_applied_once_by_the_new_owner() {
    servers_only!("a router holds its data directory alone");
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let (other, router) = (Router::start_in(&data, OPERATE), Router::start_in(&data, &[]));
    let keys = keys_on(&router, "shard1", 100);
    let moved = slots_of(&router, &keys).split(',').map(str::to_owned).collect();
    for key in &keys {
        let body = json!({"table": "kv", "data": {"key": key, "value": 1}});
        assert_eq!(other.write(key, &body).status, 201);
    }
    router.signal("STOP");
    move_slots(&other, &moved);
    let sent: Vec<TcpStream> = keys.iter().map(|key| send_insert(&router, key)).collect();
    router.signal("CONT");
    sent.into_iter().for_each(|stream| assert_stored_by(stream, "shard2"));
    let mut all = keys.clone();
    all.sort();
    for table in ["users", "kv"] {
        let stored = |shard| {
            let mut keys = ask_primary(&data, shard, &format!("SELECT shard_key FROM {table}"));
            keys.sort();
            keys
        };
        assert_eq!(stored(1), all, "{table}: each row once, on the new owner");
        assert_eq!(stored(0), Vec::<String>::new(), "{table}: the source was cleaned");
    }
    for router in [&router, &other] {
        let written = router.write_user(&keys[0], "again");
        assert_eq!((written.status, written.header("x-shard")), (200, Some("shard2")));
    }
}

#[test]
fn a_command_that_fences_one_shard_and_fails_at_another_leaves_no_fence() {
    servers_only!("the process that holds the files changes them itself");
    not_on_citus!("Citus distributes rows itself");
    let (_folder, data) = new_cluster();
    let router = Router::start_in(&data, &[]);
    let keys = ["shard1", "shard3"].map(|shard| keys_on(&router, shard, 1).remove(0));
    let both = slots_of(&router, &keys);
    ask_primary(&data, 2, "ALTER FUNCTION tessera_change_slots RENAME TO renamed_by_a_test");
    let ended = slots(&data, &["fence", "--slots", &both, "--seconds", "60"]);
    assert_ne!(ended.code, Some(0), "{ended:?}");
    // The deadline of the writes is before the end of a fence.
    for key in &keys {
        assert_eq!(insert(&router, key).status, 201, "{key} is not fenced");
    }
    ask_primary(&data, 2, "ALTER FUNCTION renamed_by_a_test RENAME TO tessera_change_slots");
    fence(&data, &both, "60");
    release(&data, &both);
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
