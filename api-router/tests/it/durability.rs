//! Tests of durability: acknowledged rows exist after the process is killed, and were synced before
//! the response.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};
use shard_manager::store::sqlite::digest::digest;

use crate::backend::{files_only, is_servers};
use crate::client::settle;
use crate::harness::{PATIENCE, Router, command, isolated};
use crate::prerequisites::{Prerequisite, skip};
use crate::replicas::assert_replicas_equal;

/// Clients that write at the same time.
const CLIENTS: usize = 6;

/// Knowledge of the clients about one user.
#[derive(Debug, Default)]
struct Known {
    /// The newest name that was acknowledged, and its version if the response has it.
    acknowledged: Option<(String, Option<i64>)>,
    /// Every name that was ever sent.
    sent: BTreeSet<String>,
}

type Ledger = BTreeMap<String, Known>;

fn user(id: &str, name: &str, round: usize) -> Value {
    json!({"user_id": id, "name": name, "email": "e", "partition_key": round.to_string()})
}

/// Writes until the router has ended, and sends a message to `acknowledged` for each acknowledged
/// write.
fn client(router: &Router, round: usize, number: usize, acknowledged: &mpsc::Sender<()>) -> Ledger {
    let mut ledger = Ledger::new();
    for turn in 0.. {
        let id = format!("user-{round}-{number}-{turn}");
        let gone = insert_then_change(router, &mut ledger, &id, round, acknowledged).is_none()
            || turn % 3 == 0
                && write_several(router, &mut ledger, &id, round, acknowledged).is_none();
        if gone {
            break;
        }
    }
    ledger
}

/// Inserts a user and changes its name. Returns `None` when the router has ended.
fn insert_then_change(
    router: &Router,
    ledger: &mut Ledger,
    id: &str,
    round: usize,
    acknowledged: &mpsc::Sender<()>,
) -> Option<()> {
    for (op, status) in [("insert", 201), ("upsert", 200)] {
        let name = format!("{op} of {id}");
        let body = json!({"table": "users", "op": op, "data": user(id, &name, round)});
        let known = ledger.entry(id.to_owned()).or_default();
        known.sent.insert(name.clone());
        let headers = [("x-shard-key", id), ("content-type", "application/json")];
        let body = body.to_string();
        let reply = router.try_send("POST", "/api/write", &headers, Some(body.as_bytes())).ok()?;
        assert_eq!(reply.status, status, "{op} {id}: {}", reply.text());
        let answer = reply.json();
        assert_eq!(answer["data"]["name"], *name);
        known.acknowledged = Some((name, answer["version"].as_i64()));
        acknowledged.send(()).unwrap();
    }
    Some(())
}

/// Writes five users of different keys at once. Returns `None` when the router has ended.
fn write_several(
    router: &Router,
    ledger: &mut Ledger,
    id: &str,
    round: usize,
    acknowledged: &mpsc::Sender<()>,
) -> Option<()> {
    let ids: Vec<String> = (0..5).map(|n| format!("{id}-bulk-{n}")).collect();
    let records: Vec<Value> = ids.iter().map(|id| user(id, id, round)).collect();
    for id in &ids {
        ledger.entry(id.clone()).or_default().sent.insert(id.clone());
    }
    let body = json!({"table": "users", "records": records}).to_string();
    let headers = [("content-type", "application/json")];
    let reply = router.try_send("POST", "/api/bulk-write", &headers, Some(body.as_bytes())).ok()?;
    assert_eq!((reply.status, &reply.json()["stored"]), (201, &json!(5)), "{}", reply.text());
    for id in ids {
        let known = ledger.get_mut(&id).expect("it was sent");
        known.acknowledged = Some((id, None));
    }
    acknowledged.send(()).unwrap();
    Some(())
}

/// Kills the router as soon as its clients have this many acknowledgements, and returns their
/// ledger.
fn kill_under_load(mut router: Router, round: usize, acknowledgements: usize) -> Ledger {
    let ledger = thread::scope(|scope| {
        let (sender, acknowledged) = mpsc::channel();
        let router = &router;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let sender = sender.clone();
                scope.spawn(move || client(router, round, number, &sender))
            })
            .collect();
        for _ in 0..acknowledgements {
            acknowledged.recv_timeout(PATIENCE).expect("the clients write");
        }
        router.signal("KILL");
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(router.wait().code(), None, "killed by a signal");
    ledger
}

/// Returns all users of all shards. Rounds are read one by one: a response has at most 1000 rows.
fn all_users(router: &Router, rounds: usize) -> Vec<Value> {
    let mut users = Vec::new();
    for round in 0..rounds {
        let query = format!("partition_key=eq.{round}&select=user_id,name,version,slot&limit=1000");
        let reply = router.get(&format!("/api/read?table=users&{query}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let rows = reply.json()["data"].as_array().unwrap().clone();
        assert!(rows.len() < 1_000, "too many rows for one answer");
        users.extend(rows);
    }
    users
}

fn check_users(users: &[Value], ledger: &Ledger) {
    let mut found = BTreeMap::new();
    for user in users {
        let id = user["user_id"].as_str().unwrap();
        assert!(found.insert(id, user).is_none(), "{id} is there twice");
        let known = ledger.get(id).unwrap_or_else(|| panic!("{id} was never written"));
        assert!(known.sent.contains(user["name"].as_str().unwrap()), "{user} was never written");
    }
    for (id, known) in ledger {
        let Some((name, version)) = &known.acknowledged else { continue };
        let user = found.get(&**id).unwrap_or_else(|| panic!("{id} was acknowledged, and is lost"));
        let Some(version) = version else { continue };
        let now = user["version"].as_i64().unwrap();
        assert!(now >= *version, "{id} went back from version {version} to {now}");
        if now == *version {
            assert_eq!(user["name"], **name, "{id} is not what was acknowledged");
        }
    }
}

/// Checks that `/api/shards` counts the rows that a read of all shards finds, on every shard.
fn check_counts(router: &Router, users: &[Value]) {
    let map = router.get("/api/shard-map").json();
    for shard in router.get("/api/shards").json()["shards"].as_array().unwrap() {
        let tables = shard["tables"].as_array().unwrap();
        let counted = tables.iter().find(|table| table["table"] == "users").unwrap();
        let ranges = map["ranges"].as_array().unwrap().iter().filter(|r| r[2] == shard["shard"]);
        let ranges: Vec<_> = ranges.map(|r| r[0].as_u64()..=r[1].as_u64()).collect();
        let owned = |user: &&Value| ranges.iter().any(|r| r.contains(&user["slot"].as_u64()));
        let read = users.iter().filter(owned).count();
        assert_eq!(counted["rows"], read, "{}", shard["shard"]);
    }
}

/// Changes a few rows of every shard, and checks that their versions are higher than all earlier
/// ones of the shard.
fn check_versions_grow(router: &Router, users: &[Value], ledger: &mut Ledger) {
    let newest = |shard: &Value, seen: &BTreeMap<String, i64>| {
        seen.get(shard.as_str().unwrap()).copied().unwrap_or(0)
    };
    let mut seen: BTreeMap<String, i64> = BTreeMap::new();
    let mut shards = BTreeMap::new();
    for user in users {
        let id = user["user_id"].as_str().unwrap();
        let shard = router.get(&format!("/api/route?key={id}")).json()["shard"].clone();
        let version = user["version"].as_i64().unwrap();
        let most = newest(&shard, &seen).max(version);
        seen.insert(shard.as_str().unwrap().to_owned(), most);
        shards.entry(shard.as_str().unwrap().to_owned()).or_insert_with(Vec::new).push(id);
    }
    assert_eq!(shards.len(), 3, "every shard has users");
    for id in shards.values().flat_map(|ids| ids.iter().take(3)) {
        let body =
            json!({"table": "users", "op": "update", "data": {"user_id": id, "name": "New"}});
        let answer = router.write(id, &body).json();
        let version = answer["version"].as_i64().unwrap();
        let before = newest(&answer["shard"], &seen);
        assert!(version > before, "{answer} is not above version {before} of its shard");
        seen.insert(answer["shard"].as_str().unwrap().to_owned(), version);
        let known = ledger.get_mut(*id).unwrap();
        known.sent.insert("New".to_owned());
        known.acknowledged = Some(("New".to_owned(), Some(version)));
    }
}

/// Checks that every replica has the rows of its primary; files are compared by their digests.
fn check_replicas(router: &Router, data: &Path) {
    if is_servers() {
        return assert_replicas_equal(router);
    }
    settle(router);
    for shard in 1..=3 {
        let digest = |node: &str| digest(&data.join(format!("shard{shard}-{node}.db"))).unwrap();
        assert_eq!(digest("replica1"), digest("primary"), "shard{shard}");
    }
}

/// Returns the number of kills: five, or with LONG_TESTS=1 in the environment fifty.
fn kills() -> usize {
    if std::env::var_os("LONG_TESTS").is_some() { 50 } else { 5 }
}

#[test]
fn what_was_acknowledged_survives_kill_9_once_and_versions_go_on() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut ledger = Ledger::new();
    for round in 0..kills() {
        let acknowledgements = [23, 90, 150, 7, 60][round % 5];
        let router = Router::start_in(&data, &[]);
        ledger.extend(kill_under_load(router, round, acknowledgements));
        let known = ledger.values().filter(|known| known.acknowledged.is_some()).count();
        assert!(known >= acknowledgements / 2, "the clients have written too little");

        let router = Router::start_in(&data, &[]);
        let users = all_users(&router, round + 1);
        check_users(&users, &ledger);
        check_counts(&router, &users);
        check_versions_grow(&router, &users, &mut ledger);
        check_replicas(&router, &data);
    }
}

/// Returns the command of a router whose syncs of log files are written to `log`. The harness knows
/// the process id of the traced process itself: `strace -D` runs beside it.
fn traced(data: &Path, log: &Path) -> Command {
    let router = command(data);
    let strace = isolated(Command::new("strace"), data.parent().unwrap());
    let mut strace = strace;
    strace.args(["-D", "-f", "-y", "-e", "trace=fsync,fdatasync", "-o"]).arg(log);
    strace.arg(router.get_program()).args(router.get_args());
    strace
}

fn can_trace(folder: &Path) -> bool {
    let log = folder.join("try");
    let mut strace = Command::new("strace");
    strace.args(["-D", "-f", "-e", "trace=fsync", "-o"]).arg(&log).arg("true");
    strace.output().is_ok_and(|output| output.status.success())
}

/// Starts a router whose syncs are written to a file, in a folder that must live as long as the
/// router. Returns `None` if processes cannot be traced.
fn start_traced() -> Option<(tempfile::TempDir, PathBuf, Router)> {
    let folder = crate::folders::temporary();
    if !can_trace(folder.path()) {
        let reason = "strace is not installed (./setup.sh tools), or may not trace processes";
        skip(Prerequisite::Strace, reason);
        return None;
    }
    let log = folder.path().join("syncs");
    let router = Router::start_command(traced(&folder.path().join("data"), &log));
    Some((folder, log, router))
}

/// Counts the syncs of the write-ahead logs of all shards' nodes of this name. `strace` writes a
/// line before the call returns, so the syncs before a response are in the file before the response
/// is sent.
fn syncs_of(node: &str, log: &Path) -> usize {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let file = format!("-{node}.db-wal>");
    text.lines().filter(|line| line.contains("sync(") && line.contains(&file)).count()
}

fn syncs(log: &Path) -> usize {
    syncs_of("primary", log)
}

#[test]
fn a_durable_write_syncs_and_a_read_does_not() {
    files_only!("the syncs are those of the servers");
    let Some((_folder, log, router)) = start_traced() else { return };
    const WRITES: usize = 20;

    let before = syncs(&log);
    for n in 0..WRITES {
        let reply = router.write_user(&format!("user-{n}"), "Ada");
        assert_eq!(reply.status, 201, "{}", reply.text());
        assert!(syncs(&log) - before > n, "write {n} was acknowledged before it was synced");
    }

    let before = syncs(&log);
    for n in 0..WRITES {
        assert_eq!(router.read(&format!("user-{n}"), "table=users").json()["count"], 1);
    }
    assert_eq!(router.get("/api/read?table=users").json()["count"], WRITES);
    assert_eq!(router.get("/api/shards").status, 200);
    assert_eq!(syncs(&log), before, "a read syncs");

    let records: Vec<Value> = (0..30).map(|n| user(&format!("b{n}"), "Ada", 0)).collect();
    let bulk =
        router.post("/api/bulk-write", &[], &json!({"table": "users", "records": records})).json();
    let shards = bulk["shards"].as_array().unwrap().len();
    assert!(syncs(&log) - before >= shards, "{bulk} was acknowledged before it was synced");
}

#[test]
fn a_write_at_quorum_is_synced_on_the_replica_before_its_answer_also_when_it_comes_again() {
    files_only!("the syncs are those of the servers");
    let Some((_folder, log, router)) = start_traced() else { return };
    let write = |n: usize, level: &str, idempotency_key: &str| {
        let id = format!("user-{n}");
        let headers =
            [("x-shard-key", &*id), ("x-consistency", level), ("idempotency-key", idempotency_key)];
        let reply = router.post(
            "/api/write",
            &headers,
            &json!({"table": "users", "data": user(&id, "Ada", 0)}),
        );
        assert_eq!(reply.status, 201, "{}", reply.text());
        syncs_of("replica1", &log)
    };
    let mut before = syncs_of("replica1", &log);
    for n in 0..10 {
        let after = write(n, "quorum", "k");
        assert!(after > before, "write {n} was confirmed before the replica had synced it");
        before = after;
    }
    // The replica has applied the write, but perhaps not synced it: the repetition requires more
    // than the first request.
    for n in 10..20 {
        let before = write(n, "one", "k");
        let path = format!("/api/read?table=users&shardKey=user-{n}");
        assert_eq!(router.get(&path).json()["count"], 1, "the replica, or the primary, has it");
        let confirmed = write(n, "quorum", "k");
        assert!(confirmed > before, "repetition {n} was confirmed without a sync");
    }
}
