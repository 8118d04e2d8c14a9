//! Tests of problems that need a fault inside the cluster: each fault is really caused, and the
//! HTTP response is the documented problem, without internal details.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backend::{ask_primary, files_only, is_servers, servers_only};
use crate::client::{lab, set, stored_in_time, tokenless, user, with_time_to_store};
use crate::harness::{PATIENCE, Reply, Router, command, isolated, refused_start};
use crate::prerequisites::{Prerequisite, skip};

/// Runs SQL on a shard's primary, without its router.
pub(crate) fn meddle(data: &Path, sql: &str) {
    if is_servers() {
        return drop(ask_primary(data, 0, &format!("SET search_path = tessera, public; {sql}")));
    }
    let file = data.join("shard1-primary.db");
    let mut file = SqliteConnection::establish(&file.to_string_lossy()).unwrap();
    file.batch_execute(&format!("PRAGMA busy_timeout=10000; {sql}")).unwrap();
}

fn folder() -> (TempDir, std::path::PathBuf) {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    (folder, data)
}

const ONE_SHARD: [&str; 4] = ["--shards", "1", "--replicas", "0"];

fn check(reply: &Reply, status: u16, code: &str) -> Value {
    assert_eq!((reply.status, &*reply.code()), (status, code), "{}", reply.text());
    let body = reply.json();
    for word in [
        "SELECT",
        "INSERT",
        "tessera_",
        "/tmp",
        crate::folders::MEMORY,
        ".db",
        "127.0.0.1",
        "SQLITE",
        "Error {",
        "constraint failed",
    ] {
        assert!(!reply.text().contains(word), "{word}: {}", reply.text());
    }
    assert_eq!(body["retryable"], json!(status >= 500), "{body}");
    assert_eq!(reply.header("retry-after").is_some(), status == 503, "{body}");
    body
}

#[test]
fn tsr003_when_every_connection_is_busy_until_the_deadline() {
    let router = Router::start_with(&ONE_SHARD);
    for part in 0..8 {
        let rows: Vec<Value> = (0..2_500)
            .map(|n| json!({"user_id": format!("u{part}-{n}"), "name": "n".repeat(400), "email": "e"}))
            .collect();
        let body = json!({"table": "users", "records": rows});
        assert_eq!(router.post("/api/bulk-write", &[], &body).status, 201);
    }
    // Each request tries patterns at every position of every row, as many as are allowed: more work
    // than any machine can do within the deadline. The requests are more than the connections.
    let pattern = format!("name.like.*{}x*", "n".repeat(45));
    let tests = vec![pattern; 4].join(",");
    let path = format!("/api/read?table=users&limit=1&or=({tests})");
    let (found, began) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                while !found.load(Ordering::Relaxed) && began.elapsed() < PATIENCE {
                    let headers = [("x-deadline-ms", "400")];
                    let reply = router.send("GET", &path, &headers, None);
                    if reply.status == 503 {
                        let body = check(&reply, 503, "TSR003");
                        assert_eq!(body["shard"], "shard1");
                        found.store(true, Ordering::Relaxed);
                    } else if reply.status != 200 {
                        check(&reply, 504, "TSR004");
                    }
                }
            });
        }
    });
    assert!(found.into_inner(), "the pool was never exhausted");
    assert_eq!(router.get("/api/read?table=users&limit=1").status, 200, "and it recovers");
}

#[test]
fn tsr004_when_a_write_times_out_before_it_begins() {
    let router = lab(&ONE_SHARD);
    set(&router, "shard1-primary", "paused");
    let headers = [("x-deadline-ms", "100")];
    let body =
        check(&tokenless(&router).write_with("ada", &headers, &user("ada", "Ada")), 504, "TSR004");
    assert_eq!(body["outcome"], "rejected");
    set(&router, "shard1-primary", "running");
    assert_eq!(router.read("ada", "table=users").json()["count"], 0);
}

#[test]
fn tsr201_when_the_shard_is_unreachable() {
    let router = lab(&ONE_SHARD);
    set(&router, "shard1-primary", "cut");
    let write = check(&router.write("ada", &user("ada", "Ada")), 503, "TSR201");
    assert_eq!((&write["outcome"], &write["shard"]), (&json!("rejected"), &json!("shard1")));
    let read = check(&router.read("ada", "table=users"), 503, "TSR201");
    assert_eq!(read["outcome"], Value::Null);
}

#[test]
fn tsr203_when_the_shard_does_not_own_the_slot() {
    let (_folder, data) = folder();
    let router = Router::start_in(&data, &ONE_SHARD);
    meddle(&data, "UPDATE tessera_slots SET state = 'moved'");
    // The write waits for the owner of its slot until this deadline.
    let headers = [("x-shard-key", "ada"), ("x-deadline-ms", "5000")];
    let refused = router.post("/api/write", &headers, &user("ada", "Ada"));
    let body = check(&refused, 503, "TSR203");
    assert_eq!(body["outcome"], "rejected");
    meddle(&data, "UPDATE tessera_slots SET state = 'owned'");
    assert_eq!(router.write("ada", &user("ada", "Ada")).status, 201);
}

#[test]
fn tsr204_when_the_disk_is_full_and_reads_go_on() {
    files_only!("the disk is that of the servers");
    let folder = crate::folders::temporary();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let inner = command(&disk.join("data"));
    let mount = format!("mount -t tmpfs -o size=6m tessera '{}' && exec \"$@\"", disk.display());
    let mut outer = isolated(Command::new("unshare"), folder.path());
    outer.args(["--user", "--map-root-user", "--mount", "sh", "-c", &mount, "sh"]);
    // Tries without the router if this machine lets a test mount a small disk.
    let mut trial = Command::new("unshare");
    trial.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
    trial.arg(format!("mount -t tmpfs -o size=6m tessera '{}'", disk.display()));
    if !trial.output().is_ok_and(|output| output.status.success()) {
        return skip(Prerequisite::Mount, "this machine does not let a test mount a small disk");
    }
    outer.arg(inner.get_program()).args(inner.get_args()).args(ONE_SHARD);
    let router = Router::start_command(outer);
    router.write_user("ada", "Ada");
    let large = "x".repeat(500_000);
    let full = (0..50).find_map(|n| {
        let reply = router.write(&format!("u{n}"), &user(&format!("u{n}"), &large));
        (reply.status != 201).then_some(reply)
    });
    let body = check(&full.expect("the disk is never full"), 503, "TSR204");
    assert_eq!((&body["outcome"], &body["shard"]), (&json!("rejected"), &json!("shard1")));
    assert_eq!(router.read("ada", "table=users").json()["count"], 1);
}

#[test]
fn a_start_on_a_full_disk_fails_and_names_the_directory() {
    files_only!("the disk is that of the servers");
    let (folder, used) = folder();
    let mut router = Router::start_in(&used, &ONE_SHARD);
    router.end();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let in_small_disk = |before: &str| {
        let mut outer = isolated(Command::new("unshare"), folder.path());
        outer.args(["--user", "--map-root-user", "--mount", "sh", "-c"]);
        let mount = format!("mount -t tmpfs -o size=4m tessera '{}'", disk.display());
        outer.arg(format!("{mount} && {before} && exec \"$@\"")).arg("sh");
        outer
    };
    if !in_small_disk("true").arg("true").output().is_ok_and(|trial| trial.status.success()) {
        return skip(Prerequisite::Mount, "this machine does not let a test mount a small disk");
    }
    let fill = format!("{{ cat /dev/zero > '{}/filler' 2>/dev/null || true; }}", disk.display());
    let copy = format!("cp -r '{}' '{}/data'", used.display(), disk.display());
    let data = disk.join("data");
    for before in [fill.clone(), format!("{copy} && {fill}")] {
        let inner = command(&data);
        let mut outer = in_small_disk(&before);
        outer.arg(inner.get_program()).args(inner.get_args()).args(ONE_SHARD);
        let (code, output) = refused_start(outer);
        assert_eq!(code, Some(2), "{output}");
        assert!(
            output.contains("no space left") && output.contains(&*data.to_string_lossy()),
            "{output}"
        );
    }
}

#[test]
fn tsr205_when_a_row_is_stored_on_fewer_nodes_than_requested() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    with_time_to_store(|deadline| {
        let router = lab(&["--shards", "1", "--replicas", "1"]);
        set(&router, "shard1-replica1", "paused");
        let headers = [("x-consistency", "all"), ("x-deadline-ms", deadline)];
        let reply = tokenless(&router).write_with("ada", &headers, &user("ada", "Ada"));
        let body = check(&stored_in_time(reply)?, 504, "TSR205");
        let reported = [&body["outcome"], &body["requested"], &body["achieved"]];
        assert_eq!(reported, [&json!("committed"), &json!("all"), &json!("one")]);
        Some(())
    });
}

#[test]
fn tsr304_when_a_rule_of_the_database_is_broken() {
    crate::backend::not_on_citus!("a unique index there has to hold the shard key");
    let (_folder, data) = folder();
    drop(Router::start_in(&data, &ONE_SHARD));
    meddle(&data, "CREATE UNIQUE INDEX one_email ON users (email)");
    let router = Router::start_in(&data, &ONE_SHARD);
    assert_eq!(router.write_user("ada", "Ada").status, 201);
    let twin = json!({"table": "users", "data": {"user_id": "eve", "name": "E", "email": "ada@example.com"}});
    let body = check(&router.write("eve", &twin), 409, "TSR304");
    assert_eq!(body["outcome"], "rejected");
    assert!(body["detail"].as_str().unwrap().contains("unique"), "{body}");
}

#[test]
fn tsr305_when_what_the_token_has_seen_was_put_back() {
    files_only!("a file is put back; a server would be promoted");
    let (_folder, data) = folder();
    let file = data.join("shard1-primary.db");
    let mut router = Router::start_in(&data, &ONE_SHARD);
    router.write_user("ada", "Ada");
    router.end();
    let copy = std::fs::read(&file).unwrap();
    let router = Router::start_in(&data, &ONE_SHARD);
    let mut client = tokenless(&router);
    client.write_user("ada", "Ada Lovelace");
    let token = client.token().to_owned();
    drop(router);
    std::fs::remove_file(data.join("shard1-primary.db-wal")).ok();
    std::fs::remove_file(data.join("shard1-primary.db-shm")).ok();
    std::fs::write(&file, copy).unwrap();
    let mut again = command(&data);
    again.args(ONE_SHARD);
    let router = Router::start_command(again);
    let headers = [("x-shard-key", "ada"), ("x-session-token", &*token)];
    let reply = router.exchange("GET", "/api/read?table=users", &headers, None).unwrap();
    let body = check(&reply, 409, "TSR305");
    assert_eq!(body["shard"], "shard1");
    assert_eq!(tokenless(&router).user("ada").names, ["Ada"], "a new session goes on");
}

#[test]
fn tsr306_when_the_database_discards_the_row() {
    crate::backend::not_on_citus!("its tables have no triggers of others");
    servers_only!("triggers of others exist on servers");
    let (_folder, data) = folder();
    let router = Router::start_in(&data, &ONE_SHARD);
    meddle(
        &data,
        "CREATE FUNCTION public.discard() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER discard BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION public.discard()",
    );
    let row = json!({"user_id": "ada", "name": "A", "email": "e"});
    for (op, key) in
        [("upsert", None), ("insert", None), ("upsert", Some("k")), ("insert", Some("k"))]
    {
        let mut headers = vec![("x-shard-key", "ada")];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        let write = json!({"table": "users", "op": op, "data": row});
        let body = check(&router.post("/api/write", &headers, &write), 409, "TSR306");
        let reported = (&body["outcome"], &body["retryable"]);
        assert_eq!(reported, (&json!("rejected"), &json!(false)), "{body}");
        assert!(body["detail"].as_str().unwrap().contains("`users`"), "{body}");
    }
    assert_eq!(router.read("ada", "table=users").json()["count"], 0);
    meddle(&data, "ALTER TABLE users SET UNLOGGED");
    let write = json!({"table": "users", "op": "insert", "data": row});
    let body = check(&router.write("ada", &write), 409, "TSR306");
    assert!(body["hint"].as_str().unwrap().contains("ALTER TABLE users SET LOGGED"), "{body}");
    let began = std::time::Instant::now();
    let health = loop {
        let health = router.get("/api/health").json();
        if health["status"] == "degraded" || began.elapsed() > crate::harness::PATIENCE {
            break health;
        }
    };
    assert_eq!(health["status"], "degraded", "{health}");
    let reason = health["degraded"][0].as_str().unwrap();
    assert!(reason.contains("ALTER TABLE public.users SET LOGGED"), "{health}");
    meddle(&data, "DROP FUNCTION public.discard CASCADE; ALTER TABLE users SET LOGGED");
    assert_eq!(router.write("ada", &write).status, 201);
}

#[test]
fn tsr500_names_a_request_id_and_nothing_of_the_inside() {
    let (_folder, data) = folder();
    let router = Router::start_in(&data, &ONE_SHARD);
    meddle(&data, "DROP TABLE transactions");
    let read = check(&router.get("/api/read?table=transactions"), 500, "TSR500");
    assert!(read["request_id"].is_string());
    let data = json!({"tx_id": "t", "account": "a", "amount": 1});
    let write =
        check(&router.write("a", &json!({"table": "transactions", "data": data})), 500, "TSR500");
    assert_eq!(write["outcome"], "rejected");
    assert_eq!(router.write_user("ada", "Ada").status, 201, "other tables go on");
}
