//! Tests of replicas: the node that serves a read, replicas that lag or are missing, changed
//! numbers of replicas, and that replicas hold the rows of their primary.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{files_only, is_servers};
use crate::client::{
    Seen, keys_on, lab, replicas, set, set_replicas, settle, three_keys, tokenless, user, user_op,
};
use crate::harness::{PATIENCE, Reply, Router, eventually};

/// Tables that a new cluster has.
const TABLES: [&str; 5] = ["users", "orders", "products", "transactions", "kv"];

/// Returns the rows of a table over all shards, as text, and the role of the nodes that served
/// them.
fn rows(router: &Router, table: &str, level: &str) -> (String, String) {
    let query = format!("table={table}&select=*,slot,shard_key&limit=1000");
    let reply = tokenless(router).read_with(None, &[("x-consistency", level)], &query);
    assert_eq!(reply.status, 200, "{table}: {}", reply.text());
    let text = reply.text();
    let (start, end) = (text.find("\"data\":").unwrap(), text.rfind(",\"count\":").unwrap());
    (text[start..end].to_owned(), reply.json()["served_by"].as_str().unwrap().to_owned())
}

/// Checks that running replicas return the same bytes as their primaries.
pub(crate) fn assert_replicas_equal(router: &Router) {
    settle(router);
    for table in TABLES {
        let (expected, primary) = rows(router, table, "all");
        let (found, replica) = rows(router, table, "one");
        assert_eq!((&*primary, &*replica), ("primary", "replica"), "{table}");
        assert_eq!(found, expected, "{table}");
    }
}

/// Writes rows of every table and type with every operation, singly and in bulk.
fn write_all_kinds(router: &Router, tag: &str) {
    let mut client = tokenless(router);
    let id = |n: usize| format!("{tag}-{n}");
    let users: Vec<Value> = (0..40).map(|n| user(&id(n), "bulk")["data"].clone()).collect();
    let body = json!({"table": "users", "records": users});
    assert_eq!(client.send("POST", "/api/bulk-write", &[], Some(&body)).status, 201);
    // Some of these rows exist, the others are new: a batch of which a part is refused.
    let again: Vec<Value> = (30..50).map(|n| user(&id(n), "again")["data"].clone()).collect();
    let body = json!({"table": "users", "op": "insert", "records": again});
    assert_eq!(client.send("POST", "/api/bulk-write", &[], Some(&body)).status, 207);
    for n in 0..10 {
        assert_eq!(client.write(&id(n), &user_op("delete", &id(n), "")).status, 200);
        assert_eq!(
            client.write(&id(n + 10), &user_op("update", &id(n + 10), "new 😀")).status,
            200
        );
    }
    assert_eq!(client.write(&id(0), &user_op("insert", &id(0), "back again")).status, 201);
    assert_eq!(client.write(&id(11), &user_op("insert", &id(11), "no")).status, 409);
    let order = |n: usize, amount: i64| {
        json!({"table": "orders", "data": {"order_id": id(n),
        "user_id": id(n % 3), "amount": amount, "status": if n.is_multiple_of(2) { json!("a\"b\n") } else { json!(null) }}})
    };
    for (n, amount) in [(0, i64::MAX), (1, i64::MIN), (2, 0), (3, -1), (4, 1 << 53)] {
        assert_eq!(client.write(&id(n % 3), &order(n, amount)).status, 201);
    }
    let values =
        ["[1.0,1e2,-0,12345678901234567890123]", "{\"a\":1,\"a\":2}", "null", "\"é\\u00e9\""];
    for (n, value) in values.iter().enumerate() {
        let key = id(n);
        let product = format!(
            r#"{{"table":"products","data":{{"product_id":"{key}","name":"N","price":1,"stock":0,"attributes":{value}}}}}"#
        );
        let kv = format!(r#"{{"table":"kv","data":{{"key":"{key}","value":{value}}}}}"#);
        for body in [product, kv] {
            let headers = [("x-shard-key", &*key), ("content-type", "application/json")];
            let reply = router.send("POST", "/api/write", &headers, Some(body.as_bytes()));
            assert_eq!(reply.status, 201, "{body}: {}", reply.text());
        }
        let transaction = json!({"tx_id": "t", "account": key, "amount": n, "memo": ""});
        let body = json!({"table": "transactions", "data": transaction});
        assert_eq!(client.write(&key, &body).status, 201);
    }
}

/// Removes a database file of a router that has ended, and the files that belong to it.
fn remove(data: &Path, name: &str) {
    fs::remove_file(data.join(name)).unwrap();
    for end in ["-wal", "-shm"] {
        let _ = fs::remove_file(data.join(format!("{name}{end}")));
    }
}

/// Returns a member of the health of a node.
fn node_health(router: &Router, name: &str) -> Value {
    let health = router.get("/api/health").json();
    let shards = health["shards"].as_array().unwrap().clone();
    let mut nodes = shards.iter().flat_map(|shard| shard["nodes"].as_array().unwrap().clone());
    nodes.find(|node| node["node"] == name).unwrap_or_else(|| panic!("no {name}: {health}"))
}

/// Repeats the request until health is as expected, and returns it.
fn await_health(router: &Router, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || {
        let health = router.get("/api/health").json();
        is_so(&health).then_some(health)
    })
}

/// Waits until these replicas show all changes that were acknowledged before.
fn await_changes(router: &Router, names: [&str; 2]) {
    let began = Instant::now();
    eventually("the replicas show all changes", || {
        let since = began.elapsed().as_secs_f64() * 1e3;
        let has_all =
            |name| node_health(router, name)["lag"].as_f64().is_some_and(|lag| lag < since);
        names.into_iter().all(has_all).then_some(())
    });
}

/// Returns true if a node has all changes, as far as is known. A server is probed from time to
/// time, so the lag of its replicas need not be 0.
fn is_current(node: &Value) -> bool {
    let lag = node["lag"].as_f64();
    if is_servers() && node["role"] == "replica" { lag.is_some() } else { lag == Some(0.0) }
}

#[test]
fn reads_are_served_by_a_replica_and_writes_by_the_primary() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = Router::start();
    let [a, b, c] = three_keys(&router);
    let mut client = tokenless(&router);
    let bulk = client.write_users(&[&a, &b, &c], "N", "all");
    assert_eq!(bulk.header("x-served-by"), Some("primary"));
    let level = [("x-consistency", "all")];
    let written = client.write_with(&a, &level, &user(&a, "Ada"));
    assert_eq!((written.status, written.header("x-served-by")), (200, Some("primary")));
    assert_eq!(client.user(&a), Seen::by("replica", &["Ada"]));
    assert_eq!(tokenless(&router).user(&a), Seen::by("replica", &["Ada"]));
    assert_eq!(tokenless(&router).user_at(&a, "one"), Seen::by("replica", &["Ada"]));
    assert_eq!(tokenless(&router).user_at(&a, "all"), Seen::by("primary", &["Ada"]));
    let scatter = Seen::of(&tokenless(&router).read_with(None, &[], "table=users"));
    assert_eq!((&*scatter.served_by, scatter.names.len()), ("replica", 3));
    let scatter = Seen::of(&tokenless(&router).read_with(None, &level, "table=users"));
    assert_eq!((&*scatter.served_by, scatter.names.len()), ("primary", 3));
}

#[test]
fn a_replica_holds_what_its_primary_holds_to_the_byte() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--replicas", "2"]);
    write_all_kinds(&router, "a");
    for out in ["replica1", "replica2"] {
        assert_replicas_equal(&router);
        for shard in ["shard1", "shard2", "shard3"] {
            set(&router, &format!("{shard}-{out}"), "cut");
        }
        for table in TABLES {
            let (found, served_by) = rows(&router, table, "one");
            assert_eq!((found, &*served_by), (rows(&router, table, "all").0, "replica"), "{table}");
        }
        set_replicas(&router, "running");
    }
}

/// A replica that has been behind for longer is not read.
const BEHIND_MAX: Duration = Duration::from_secs(10);

/// Returns a router with three replicas that have stopped at three different rows, so that a reader
/// can distinguish them.
fn three_at_different_rows() -> Router {
    let router = lab(&["--shards", "1", "--replicas", "3"]);
    let write = |n: u32, level: &str| {
        let body = user("k", &format!("row {n}"));
        let reply = tokenless(&router).write_with("k", &[("x-consistency", level)], &body);
        assert!(reply.status < 300, "{}", reply.text());
    };
    write(1, "all");
    set(&router, "shard1-replica1", "paused");
    // Three of four nodes: the primary and the two replicas that still follow it.
    write(2, "quorum");
    await_changes(&router, ["shard1-replica2", "shard1-replica3"]);
    set(&router, "shard1-replica2", "paused");
    write(3, "one");
    let began = Instant::now();
    while tokenless(&router).user("k") != Seen::by("replica", &["row 3"]) {
        assert!(began.elapsed() < PATIENCE, "the third replica does not follow");
    }
    set(&router, "shard1-replica3", "paused");
    write(4, "one");
    router
}

/// Returns the distinct results of many reads without a session token.
fn many_reads(router: &Router) -> BTreeSet<(String, String)> {
    let reads = (0..120).map(|_| tokenless(router).user("k"));
    reads.map(|mut seen| (seen.served_by.clone(), seen.names.remove(0))).collect()
}

fn served(reads: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    reads.iter().map(|(by, name)| ((*by).to_owned(), (*name).to_owned())).collect()
}

#[test]
fn reads_take_turns_over_the_replicas_that_are_connected() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    // The router reads no replica that has been behind for ten seconds. On a machine that takes
    // longer, the test begins again.
    let (router, turns) = (0..5)
        .find_map(|_| {
            let began = Instant::now();
            let router = three_at_different_rows();
            let mut turns = vec![many_reads(&router)];
            for n in 1..=3 {
                set(&router, &format!("shard1-replica{n}"), "cut");
                turns.push(many_reads(&router));
            }
            (began.elapsed() < BEHIND_MAX).then_some((router, turns))
        })
        .expect("the reads take less than ten seconds");
    let all = [("replica", "row 1"), ("replica", "row 2"), ("replica", "row 3")];
    let expected = [&all[..], &all[1..], &all[2..], &[("primary", "row 4")]];
    assert_eq!(turns, expected.map(served));
    set_replicas(&router, "running");
    settle(&router);
    await_served_by(&router, "k", "replica");
    assert_eq!(many_reads(&router), served(&[("replica", "row 4")]));
}

/// Reads until a node with this role responds. A probe finds out that a replica can be reached
/// again.
fn await_served_by(router: &Router, key: &str, role: &str) {
    let began = Instant::now();
    while tokenless(router).user(key).served_by != role {
        assert!(began.elapsed() < PATIENCE, "never served by a {role}");
        std::thread::yield_now();
    }
}

#[test]
fn without_a_replica_that_is_connected_the_primary_serves() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&[]);
    let [a, b, c] = three_keys(&router);
    tokenless(&router).write_users(&[&a, &b, &c], "N", "all");
    set(&router, "shard1-replica1", "cut");
    tokenless(&router).write_user(&a, "new");
    assert_eq!(tokenless(&router).user(&a), Seen::by("primary", &["new"]));
    assert_eq!(tokenless(&router).user(&b), Seen::by("replica", &["N"]));
    let scatter = tokenless(&router).read_with(None, &[], "table=users&order=name");
    assert_eq!(Seen::of(&scatter).names, ["N", "N", "new"]);
    set_replicas(&router, "cut");
    let scatter = tokenless(&router).read_with(None, &[], "table=users&order=name");
    assert_eq!(Seen::of(&scatter), Seen::by("primary", &["N", "N", "new"]));
}

#[test]
fn without_replicas_everything_is_the_primary() {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let router = Router::start_in(&data, &["--replicas", "0"]);
    tokenless(&router).write_user("k", "N");
    for level in ["one", "quorum", "all"] {
        assert_eq!(tokenless(&router).user_at("k", level), Seen::by("primary", &["N"]));
    }
    let bound = [("x-max-staleness-ms", "0")];
    let fresh = tokenless(&router).read_with(Some("k"), &bound, "table=users");
    assert_eq!(Seen::of(&fresh), Seen::by("primary", &["N"]));
    let health = router.get("/api/health").json();
    assert_eq!(health["status"], "ok");
    for shard in health["shards"].as_array().unwrap() {
        let name = shard["shard"].as_str().unwrap();
        assert_eq!(health["health"][name], json!({"primary": true, "replica": null}));
        assert_eq!(shard["nodes"].as_array().unwrap().len(), 1, "{shard}");
    }
    assert_eq!(router.get("/api/route?key=k").json()["replicas"], json!([]));
    assert!(is_servers() || data.join("shard1-primary.db").exists());
    assert!(!data.join("shard1-replica1.db").exists());
}

#[test]
fn health_reports_every_node_with_its_lag() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "2"]);
    settle(&router);
    let key = keys_on(&router, "shard1", 1).remove(0);
    // A node that answers late is reported as down.
    let health = await_health(&router, "every node is well", |health| {
        let mut nodes = health["shards"][0]["nodes"].as_array().unwrap().iter();
        health["status"] == "ok" && nodes.all(is_current)
    });
    assert_eq!(health["success"], true);
    assert_eq!(health["health"]["shard1"], json!({"primary": true, "replica": true}));
    let levels = health["levels"].as_str().unwrap();
    assert!(levels.contains("machine") && levels.contains("disk"), "{levels}");
    let nodes = health["shards"][0]["nodes"].as_array().unwrap();
    let reported: Vec<_> =
        nodes.iter().map(|node| (node["node"].as_str(), node["role"].as_str())).collect();
    assert_eq!(
        reported,
        [(Some("shard1-primary"), Some("primary")), (Some("shard1-replica1"), Some("replica"))]
    );
    for node in nodes {
        assert!(node["up"] == true && is_current(node), "{node}");
        assert!(node["latency_ms"].as_f64().unwrap() >= 0.0, "{node}");
    }

    set(&router, "shard1-replica1", "paused");
    tokenless(&router).write_user(&key, "N");
    await_health(&router, "the replica is late", |health| {
        health["shards"][0]["nodes"][1]["lag"].as_f64().is_some_and(|lag| lag > 0.0)
    });
    assert_eq!(node_health(&router, "shard1-primary")["lag"].as_f64(), Some(0.0));
    assert!(is_current(&node_health(&router, "shard2-replica1")));

    set(&router, "shard1-replica1", "cut");
    let health = await_health(&router, "one replica is down", |health| {
        health["health"]["shard1"] == json!({"primary": true, "replica": false})
            && health["health"]["shard2"] == json!({"primary": true, "replica": true})
    });
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(router.get("/api/health").status, 200);
    assert_eq!(node_health(&router, "shard1-replica1")["up"], false);

    set(&router, "shard1-replica1", "running");
    settle(&router);
    await_health(&router, "every node is well again", |health| health["status"] == "ok");
    assert!(is_current(&node_health(&router, "shard1-replica1")));
}

/// Reads with a limit on staleness.
fn bounded(router: &Router, key: &str, bound_ms: &str) -> Seen {
    let bound = [("x-max-staleness-ms", bound_ms)];
    Seen::of(&tokenless(router).read_with(Some(key), &bound, "table=users"))
}

#[test]
fn a_read_may_limit_its_staleness() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1"]);
    let level = [("x-consistency", "all")];
    let write = |name: &str, headers: &[(&str, &str)]| -> Reply {
        tokenless(&router).write_with("k", headers, &user("k", name))
    };
    assert_eq!(write("old", &level).status, 201);
    assert_eq!(bounded(&router, "k", "60000"), Seen::by("replica", &["old"]));
    set(&router, "shard1-replica1", "paused");
    assert_eq!(write("new", &[]).status, 200);
    let written = Instant::now();
    assert_eq!(bounded(&router, "k", "60000"), Seen::by("replica", &["old"]));
    assert_eq!(bounded(&router, "k", "0"), Seen::by("primary", &["new"]));
    // From now on the replica was last current more than three milliseconds ago.
    while written.elapsed() <= Duration::from_millis(3) {
        std::thread::yield_now();
    }
    assert_eq!(bounded(&router, "k", "3"), Seen::by("primary", &["new"]));
    let scatter = tokenless(&router).read_with(None, &[("x-max-staleness-ms", "3")], "table=users");
    assert_eq!(Seen::of(&scatter), Seen::by("primary", &["new"]));
    assert_eq!(bounded(&router, "k", "60000"), Seen::by("replica", &["old"]));
    for bad in ["-1", "1.5", "", "soon", "99999999999999999999999"] {
        let bound = [("x-max-staleness-ms", bad)];
        let reply = tokenless(&router).read_with(Some("k"), &bound, "table=users");
        assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{bad}: {}", reply.text());
    }
}

/// Checks that each replica of one shard, with the others cut off, has the rows of the primary.
fn assert_each_replica_equal(router: &Router) {
    settle(router);
    let names = replicas(router);
    // Read while a majority can be reached, which strong reads need on servers.
    let expected = TABLES.map(|table| rows(router, table, "all").0);
    for alone in &names {
        for name in &names {
            set(router, name, if name == alone { "running" } else { "cut" });
        }
        await_served_by(router, "nobody", "replica");
        for (table, expected) in TABLES.iter().zip(&expected) {
            let (found, served_by) = rows(router, table, "one");
            assert_eq!((&found, &*served_by), (expected, "replica"), "{table} of {alone}");
        }
    }
    set_replicas(router, "running");
}

#[test]
fn the_number_of_replicas_is_kept_and_may_change_at_each_start() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let starts: [(&[&str], usize); 7] = [
        (&[], 1),
        (&["--replicas", "3"], 3),
        (&[], 3),
        (&["--replicas", "0"], 0),
        (&[], 0),
        // Two of the three earlier replicas: their old files lack the rows that were written since.
        (&["--replicas", "2"], 2),
        (&["--replicas", "1"], 1),
    ];
    for (round, (asked, count)) in starts.into_iter().enumerate() {
        let mut flags = vec!["--lab", "--shards", "1"];
        flags.extend_from_slice(asked);
        let mut router = Router::start_in(&data, &flags);
        let mut names = replicas(&router);
        names.sort();
        let expected: Vec<String> = (1..=count).map(|n| format!("shard1-replica{n}")).collect();
        assert_eq!(names, expected, "start {round}");
        assert_eq!(router.get("/api/route?key=k").json()["replicas"], json!(expected));
        write_all_kinds(&router, &format!("r{round}"));
        if count > 0 {
            assert_each_replica_equal(&router);
        }
        for name in expected {
            assert!(is_servers() || data.join(format!("{name}.db")).exists(), "{name}");
        }
        router.end();
    }
}

/// Returns a directory whose router has ended by an orderly shutdown, with rows on every shard.
fn used_directory() -> tempfile::TempDir {
    let folder = crate::folders::temporary();
    let mut router = Router::start_in(&folder.path().join("data"), &[]);
    write_all_kinds(&router, "a");
    settle(&router);
    router.end();
    folder
}

#[test]
fn a_replica_that_is_lost_or_damaged_is_rebuilt() {
    files_only!("files are damaged");
    type Damage = fn(&Path, &Path);
    let damages: [(&str, Damage); 5] = [
        ("lost", |data, _| remove(data, "shard2-replica1.db")),
        ("emptied", |_, file| fs::write(file, b"").unwrap()),
        ("a header overwritten", |_, file| {
            let mut damaged = fs::read(file).unwrap();
            damaged[..100].fill(0xA5);
            fs::write(file, damaged).unwrap();
        }),
        ("cut off", |_, file| fs::write(file, &fs::read(file).unwrap()[..4096]).unwrap()),
        ("no database", |_, file| fs::write(file, "x".repeat(100_000)).unwrap()),
    ];
    let folder = used_directory();
    let data = folder.path().join("data");
    for (damage, harm) in damages {
        harm(&data, &data.join("shard2-replica1.db"));
        let mut router = Router::start_in(&data, &[]);
        assert_replicas_equal(&router);
        let names = tokenless(&router).all_names();
        assert_eq!(names.len(), 41, "{damage}: {names:?}");
        router.end();
    }
}

/// The part of the log that it needs may have been removed: then it must not continue from its own
/// position.
#[test]
fn a_replica_that_was_restored_from_an_old_copy_holds_all_again() {
    files_only!("a file is put back");
    let folder = used_directory();
    let data = folder.path().join("data");
    let (file, copy) = (data.join("shard2-replica1.db"), folder.path().join("copy"));
    fs::copy(&file, &copy).unwrap();
    for round in 0..3 {
        let mut router = Router::start_in(&data, &[]);
        write_all_kinds(&router, &format!("b{round}"));
        settle(&router);
        router.end();
    }
    remove(&data, "shard2-replica1.db");
    fs::copy(&copy, &file).unwrap();
    let router = Router::start_in(&data, &[]);
    assert_replicas_equal(&router);
}

#[test]
fn a_replica_that_was_behind_when_the_router_was_killed_catches_up() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    for round in 0..3 {
        let mut router = Router::start_in(&data, &["--lab"]);
        write_all_kinds(&router, &format!("a{round}"));
        set(&router, "shard1-replica1", "paused");
        set(&router, "shard2-replica1", "cut");
        write_all_kinds(&router, &format!("b{round}"));
        router.kill();
    }
    let router = Router::start_in(&data, &[]);
    assert_replicas_equal(&router);
    assert_eq!(tokenless(&router).all_names().len(), 6 * 41);
}
