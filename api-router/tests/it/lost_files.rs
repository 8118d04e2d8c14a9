//! Tests of data directories whose files are removed while a router has them open: no write is
//! acknowledged that would be lost when the process ends, and every client gets an error with the
//! reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backend::files_only;
use crate::client::user;
use crate::harness::{PATIENCE, Reply, Router, command, refused_start};

const ONE_SHARD: [&str; 4] = ["--shards", "1", "--replicas", "0"];
const WITH_REPLICA: [&str; 4] = ["--shards", "1", "--replicas", "1"];

fn folder() -> (TempDir, PathBuf) {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    (folder, data)
}

/// Starts a router and stores a row.
fn used(data: &Path, flags: &[&str]) -> Router {
    let router = Router::start_in(data, flags);
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    router
}

/// Repeats the request until health reports the expected state.
fn await_health(router: &Router, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    await_response(router, "/api/health", what, is_so)
}

/// Repeats a request until its response is as expected.
fn await_response(
    router: &Router,
    path: &str,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Value {
    let began = Instant::now();
    loop {
        let reported = router.get(path).json();
        if is_so(&reported) {
            return reported;
        }
        assert!(began.elapsed() < PATIENCE, "never {what}: {reported}");
        std::thread::yield_now();
    }
}

/// Returns the reasons that health reports for the primary of the only shard.
fn trouble(health: &Value) -> String {
    health["shards"][0]["nodes"][0]["reasons"].to_string()
}

/// Checks that a write was refused for this reason, which names no path.
fn check_refused(reply: &Reply, outcome: &str, reason: &str) {
    assert_eq!((reply.status, &*reply.code()), (503, "TSR201"), "{}", reply.text());
    let body = reply.json();
    assert_eq!((&body["outcome"], &body["shard"]), (&json!(outcome), &json!("shard1")), "{body}");
    assert!(body["detail"].as_str().unwrap().contains(reason), "{body}");
    for word in [".db", "/tmp", crate::folders::MEMORY] {
        assert!(!reply.text().contains(word), "{body}");
    }
}

/// Checks that writes are refused, reads continue, and health and metrics report the reason.
fn check_lost(router: &Router, reason: &str) {
    let health = await_health(router, "down for that reason", |health| {
        health["status"] == "down" && trouble(health).contains(reason)
    });
    assert_eq!(health["health"]["shard1"]["primary"], false);
    check_refused(&router.write_user("eve", "Eve"), "rejected", reason);
    let table = json!({"name": "things", "columns": [{"name": "thing_id", "type": "text"}], "key": "thing_id"});
    let made = router.post("/api/tables", &[], &table);
    assert!(made.status >= 400, "{}", made.text());
    assert_eq!(router.read("ada", "table=users").json()["count"], 1);
    let reported = "/metrics/shards/0/nodes/0/reasons";
    await_response(router, "/api/analytics/metrics", "reported in the metrics", |figures| {
        figures.pointer(reported).is_some_and(|reported| reported.to_string().contains(reason))
    });
}

#[test]
fn a_second_router_is_refused_though_the_lock_file_was_removed() {
    files_only!("the lock is one of the data directory");
    let (_folder, data) = folder();
    let router = used(&data, &ONE_SHARD);
    fs::remove_file(data.join("tessera.lock")).unwrap();
    let (code, output) = refused_start(command(&data));
    assert_eq!(code, Some(2), "{output}");
    assert!(output.contains("in use by another router"), "{output}");
    assert!(!data.join("tessera.lock").exists(), "a start that is refused leaves nothing behind");
    assert_eq!(router.read("ada", "table=users").json()["count"], 1);
}

#[test]
fn a_router_whose_lock_file_was_removed_refuses_writes_with_the_reason() {
    files_only!("the lock is one of the data directory");
    let (_folder, data) = folder();
    let mut router = used(&data, &ONE_SHARD);
    fs::remove_file(data.join("tessera.lock")).unwrap();
    check_lost(&router, "lock of the data directory");
    router.end();
    let router = Router::start_in(&data, &ONE_SHARD);
    assert_eq!(router.write_user("eve", "Eve").status, 201, "a new start takes a new lock");
    assert_eq!(router.read("ada", "table=users").json()["count"], 1);
}

#[test]
fn no_write_is_acknowledged_that_is_in_a_removed_file() {
    files_only!("files are removed");
    for removed in ["shard1-primary.db", "shard1-primary.db-wal"] {
        let (_folder, data) = folder();
        let router = used(&data, &ONE_SHARD);
        fs::remove_file(data.join(removed)).unwrap();
        let reply = router.write_user("eve", "Eve");
        let outcome = reply.json()["outcome"].as_str().unwrap_or_default().to_owned();
        // The loss may have been noticed before.
        assert!(["unknown", "rejected"].contains(&&*outcome), "{removed}: {}", reply.text());
        check_refused(&reply, &outcome, "removed or replaced");
        // A connection that was being opened while the file was removed may have created a WAL;
        // none does so later. Those that were being opened are open after the first check.
        check_lost(&router, "removed or replaced");
        let _ = fs::remove_file(data.join(removed));
        check_lost(&router, "removed or replaced");
        assert!(!data.join(removed).exists(), "{removed} was created again");
    }
}

#[test]
fn a_bulk_write_into_a_removed_directory_is_not_acknowledged() {
    files_only!("files are removed");
    let (_folder, data) = folder();
    let router = used(&data, &WITH_REPLICA);
    // The whole folder is removed while files are created and removed in it.
    let began = Instant::now();
    while data.exists() {
        let _ = fs::remove_dir_all(&data);
        assert!(began.elapsed() < PATIENCE, "the folder cannot be removed");
    }
    let records: Vec<Value> =
        (0..100).map(|n| user(&format!("u{n}"), "U")["data"].clone()).collect();
    let bulk = router.post("/api/bulk-write", &[], &json!({"table": "users", "records": records}));
    assert_eq!(bulk.json()["stored"], 0, "{}", bulk.text());
    check_lost(&router, "removed or replaced");
    assert!(!data.exists(), "nothing is made where the folder was");
}

#[test]
fn a_file_that_takes_the_place_of_another_is_never_written() {
    files_only!("a file is replaced");
    let (_folder, data) = folder();
    let file = data.join("shard1-primary.db");
    let mut router = used(&data, &WITH_REPLICA);
    let moved = data.join("moved");
    fs::rename(&file, &moved).unwrap();
    fs::copy(&moved, &file).unwrap();
    let copied = fs::read(&file).unwrap();
    check_lost(&router, "removed or replaced");
    router.end();
    assert!(fs::read(&file).unwrap() == copied, "the other file is as it was");
    fs::rename(&moved, &file).unwrap();
    let router = Router::start_in(&data, &WITH_REPLICA);
    assert_eq!(router.read("ada", "table=users").json()["count"], 1);
    assert_eq!(router.write_user("eve", "Eve").status, 201);
}

#[test]
fn a_removed_catalog_is_reported_while_writes_go_on() {
    files_only!("a file is removed");
    let (_folder, data) = folder();
    let router = used(&data, &ONE_SHARD);
    let (catalog, moved) = (data.join("catalog.db"), data.join("moved"));
    fs::rename(&catalog, &moved).unwrap();
    let health = await_health(&router, "degraded", |health| health["status"] == "degraded");
    assert!(trouble(&health).contains("catalog"), "{health}");
    assert_eq!(router.write_user("eve", "Eve").status, 201);
    assert!(!catalog.exists(), "an empty one was not created");
    fs::rename(&moved, &catalog).unwrap();
    await_health(&router, "well again", |health| health["status"] == "ok");
}
