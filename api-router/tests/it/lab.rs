//! Tests of `/api/lab/nodes`: nodes that are paused, delayed or cut off, including primaries.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::backend::{files_only, is_servers, servers_only};
use crate::client::{
    Seen, delay, keys_on, lab, put_node, refusal, refused, set, settle, three_keys, tokenless,
    user, user_op,
};
use crate::harness::{PATIENCE, Reply, Router};

/// Returns every node with its state and delay.
fn nodes(router: &Router) -> BTreeSet<(String, String, u64)> {
    let reply = router.get("/api/lab/nodes");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["success"], true);
    let reported = answer["nodes"].as_array().unwrap().iter().map(|node| {
        let text = |name: &str| node[name].as_str().unwrap().to_owned();
        (text("node"), text("state"), node["delay_ms"].as_u64().unwrap())
    });
    let nodes: BTreeSet<_> = reported.collect();
    assert_eq!(nodes.len(), answer["nodes"].as_array().unwrap().len(), "none is listed twice");
    nodes
}

fn node(name: &str, state: &str, delay_ms: u64) -> (String, String, u64) {
    (name.to_owned(), state.to_owned(), delay_ms)
}

#[test]
fn without_its_flag_there_is_no_laboratory() {
    let router = Router::shared();
    let reply = router.get("/api/lab/nodes");
    assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
    let reply = put_node(&router, "shard1-replica1", &json!({"state": "cut"}));
    assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
}

const NOT_OURS: &str = "servers are not the router's to hold up, but for its own writes";

/// Checks the reason for the refusal to pause a server.
#[test]
fn a_replica_that_is_a_server_is_not_the_routers_to_hold_up() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    servers_only!("it is about servers");
    let router = lab(&["--shards", "1"]);
    assert_eq!(nodes(&router), BTreeSet::from([node("shard1-primary", "running", 0)]));
    let reply = put_node(&router, "shard1-replica1", &json!({"state": "paused"}));
    assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
    let detail = "shard1-replica1 is a server of PostgreSQL, which the router cannot hold up";
    assert_eq!(reply.json()["detail"], detail);
}

#[test]
fn the_laboratory_lists_every_node() {
    files_only!(NOT_OURS);
    let router = lab(&["--shards", "2", "--replicas", "2"]);
    let expected = ["shard1", "shard2"].iter().flat_map(|shard| {
        ["primary", "replica1", "replica2"]
            .map(|role| node(&format!("{shard}-{role}"), "running", 0))
    });
    assert_eq!(nodes(&router), expected.collect());
    let router = lab(&["--shards", "1", "--replicas", "0"]);
    assert_eq!(nodes(&router), BTreeSet::from([node("shard1-primary", "running", 0)]));
}

#[test]
fn a_change_keeps_what_it_does_not_name_and_touches_no_other_node() {
    files_only!(NOT_OURS);
    let router = lab(&["--shards", "1"]);
    let (primary, replica) = ("shard1-primary", "shard1-replica1");
    let steps = [
        (replica, json!({"state": "paused"}), "paused", 0),
        (replica, json!({"delay_ms": 40}), "paused", 40),
        (replica, json!({"state": "cut"}), "cut", 40),
        (replica, json!({"state": "running", "delay_ms": 60_000}), "running", 60_000),
        (replica, json!({"delay_ms": 0}), "running", 0),
        (primary, json!({"state": "paused", "delay_ms": 1}), "paused", 1),
        (primary, json!({"state": "running"}), "running", 1),
        (primary, json!({"delay_ms": 0}), "running", 0),
    ];
    for (name, wish, state, delay_ms) in steps {
        let reply = put_node(&router, name, &wish);
        assert_eq!(reply.status, 200, "{wish}: {}", reply.text());
        let reported = reply.json();
        assert_eq!(
            (&reported["node"], &reported["state"], &reported["delay_ms"]),
            (&json!(name), &json!(state), &json!(delay_ms))
        );
        let other = if name == primary { replica } else { primary };
        let expected = [node(name, state, delay_ms), node(other, "running", 0)];
        assert_eq!(nodes(&router), BTreeSet::from(expected), "{wish}");
    }
}

#[test]
fn a_node_that_does_not_exist_is_not_found() {
    let router = lab(&[]);
    for name in [
        "shard4-primary",
        "shard1-replica0",
        "shard1-replica2",
        "shard1-replica01",
        "shard1",
        "SHARD1-PRIMARY",
        "shard1-primary%00",
        "%ff",
        "..",
    ] {
        let reply = put_node(&router, name, &json!({"state": "paused"}));
        assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{name}: {}", reply.text());
    }
    assert!(nodes(&router).iter().all(|(_, state, _)| state == "running"));
}

#[test]
fn a_change_that_means_nothing_is_refused_and_changes_nothing() {
    let router = lab(&["--shards", "1"]);
    let before = nodes(&router);
    for (body, code) in [
        ("", "TSR101"),
        ("{", "TSR101"),
        ("[]", "TSR101"),
        ("null", "TSR101"),
        ("\"paused\"", "TSR101"),
        (r#"{"state":"stopped"}"#, "TSR101"),
        (r#"{"state":"Paused"}"#, "TSR101"),
        (r#"{"state":1}"#, "TSR101"),
        (r#"{"delay_ms":-1}"#, "TSR101"),
        (r#"{"delay_ms":60001}"#, "TSR101"),
        (r#"{"delay_ms":1.5}"#, "TSR101"),
        (r#"{"delay_ms":"5"}"#, "TSR101"),
        (r#"{"state":"paused","delay_ms":60001}"#, "TSR101"),
        (r#"{"stat":"paused"}"#, "TSR102"),
        (r#"{"state":"paused","until":1}"#, "TSR102"),
    ] {
        let all = ["shard1-primary", "shard1-replica1"];
        for name in &all[..if is_servers() { 1 } else { 2 }] {
            let headers = [("content-type", "application/json")];
            let path = format!("/api/lab/nodes/{name}");
            let reply = router.send("PUT", &path, &headers, Some(body.as_bytes()));
            assert_eq!((reply.status, &*reply.code()), (400, code), "{body}: {}", reply.text());
        }
    }
    assert_eq!(nodes(&router), before);
}

#[test]
fn the_laboratory_is_behind_the_same_gate_as_all_else() {
    let router = lab(&["--shards", "1"]);
    let origin = [("origin", "http://evil.example"), ("content-type", "application/json")];
    let body = Some(&br#"{"state":"cut"}"#[..]);
    let foreign = router.send("PUT", "/api/lab/nodes/shard1-replica1", &origin, body);
    assert_eq!((foreign.status, &*foreign.code()), (403, "TSR403"), "{}", foreign.text());
    for (method, path, allow) in [
        ("POST", "/api/lab/nodes", "GET, HEAD"),
        ("DELETE", "/api/lab/nodes/shard1-replica1", "PUT"),
    ] {
        let reply = router.send(method, path, &[], Some(b"{}"));
        assert_eq!((reply.status, &*reply.code()), (405, "TSR112"), "{path}: {}", reply.text());
        assert_eq!(reply.header("allow"), Some(allow), "{path}");
    }
    assert!(nodes(&router).iter().all(|(_, state, _)| state == "running"));
}

/// A pause is confirmed when the applier has stopped: no later write is applied.
#[test]
fn a_paused_replica_stands_still_from_the_moment_of_the_answer() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1"]);
    // So that the pause comes while the applier is about to apply something.
    delay(&router, "shard1-replica1", 5);
    for round in 0..10 {
        set(&router, "shard1-replica1", "running");
        settle(&router);
        let mut client = tokenless(&router);
        for n in 0..5 {
            client.write_user("k", &format!("before {round} {n}"));
        }
        set(&router, "shard1-replica1", "paused");
        let frozen = tokenless(&router).user("k");
        assert_eq!(frozen.served_by, "replica");
        for n in 0..5 {
            client.write_user("k", &format!("after {round} {n}"));
            assert_eq!(tokenless(&router).user("k"), frozen, "round {round}, write {n}");
        }
    }
}

#[test]
fn a_delayed_replica_comes_after_all() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1"]);
    delay(&router, "shard1-replica1", 30);
    let began = Instant::now();
    for n in 0..3 {
        let level = [("x-consistency", "all")];
        let reply = tokenless(&router).write_with("k", &level, &user("k", &format!("n{n}")));
        assert!(reply.status < 300, "{}", reply.text());
        assert_eq!(tokenless(&router).user("k"), Seen::by("replica", &[&format!("n{n}")]));
    }
    assert!(began.elapsed() >= Duration::from_millis(3 * 30), "it was not delayed");
}

/// Sends a write on its own thread, which passes the response to the channel.
fn send_write<'scope, 'env>(
    scope: &'scope thread::Scope<'scope, 'env>,
    router: &'env Router,
    (key, body): (String, Value),
    answers: &mpsc::Sender<(String, Reply)>,
) {
    let answers = answers.clone();
    scope.spawn(move || {
        let headers = [("x-deadline-ms", "60000")];
        let reply = tokenless(router).write_with(&key, &headers, &body);
        // The test may already have failed.
        let _ = answers.send((key, reply));
    });
}

/// Writes that do not fit into the queue are refused at once, and those in it are answered when the
/// lane continues.
#[test]
fn a_full_lane_refuses_at_once_while_the_other_shards_go_on() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    // 64 MiB may wait for a shard while a batch is being processed, so at least six of the large
    // writes do not fit.
    const LARGE: usize = 44;
    const TOO_MANY: usize = 6;
    const SMALL: usize = 10;
    let router = lab(&[]);
    let [first, second, third] = three_keys(&router);
    tokenless(&router).write_users(&[&first, &second, &third], "there", "all");
    let keys = keys_on(&router, "shard1", 1 + LARGE + SMALL);
    let (large, small) = keys[1..].split_at(LARGE);
    set(&router, "shard1-primary", "paused");

    let answers = thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let resume = Resume { router: &router, node: "shard1-primary" };
        // None of them changes a row: this tests the queue, not the disk.
        let text = "n".repeat((2 << 20) - 200);
        for key in large {
            send_write(scope, &router, (key.clone(), user_op("update", key, &text)), &sender);
        }
        for key in small {
            send_write(scope, &router, (key.clone(), user_op("insert", key, "N")), &sender);
        }
        let mut answers = Vec::new();
        while answers.len() < TOO_MANY {
            answers.push(receiver.recv_timeout(PATIENCE).expect("the lane refuses at once"));
        }
        for (key, reply) in &answers {
            assert_eq!(refusal(reply), refused(503, "TSR005"), "{key}");
        }
        for other in [&second, &third] {
            assert_eq!(tokenless(&router).write(other, &user(other, "new")).status, 200);
        }
        assert_eq!(tokenless(&router).user(&first).names, ["there"], "reads go on");
        drop(resume);
        drop(sender);
        answers.extend(receiver);
        answers
    });

    assert_eq!(answers.len(), LARGE + SMALL);
    let mut stored = 0;
    for (key, reply) in &answers {
        let is_small = small.contains(key);
        let there = tokenless(&router).user_at(key, "all").names.len();
        if reply.status == 503 {
            assert_eq!((refusal(reply), there), (refused(503, "TSR005"), 0), "{key}");
            assert!(reply.header("retry-after").is_some(), "{key}");
        } else if is_small {
            assert_eq!((reply.status, there), (201, 1), "{key}: {}", reply.text());
            stored += 1;
        } else {
            assert_eq!((refusal(reply), there), (refused(404, "TSR302"), 0), "{key}");
        }
    }
    let refusals = answers.iter().filter(|(_, reply)| reply.status == 503).count();
    assert!(refusals < LARGE, "the queue has taken nothing: {refusals} refused, {stored} stored");
}

/// Sets a node running again when dropped, also if a test fails, because its threads would wait for
/// their deadlines.
struct Resume<'r> {
    router: &'r Router,
    node: &'r str,
}

impl Drop for Resume<'_> {
    fn drop(&mut self) {
        let reply = put_node(self.router, self.node, &json!({"state": "running"}));
        assert!(reply.status == 200 || thread::panicking(), "{}", reply.text());
    }
}

#[test]
fn writes_that_wait_for_a_paused_primary_are_answered_when_it_goes_on() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = lab(&[]);
    let keys = keys_on(&router, "shard2", 20);
    set(&router, "shard2-primary", "paused");
    let answers: Vec<(String, Reply)> = thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let resume = Resume { router: &router, node: "shard2-primary" };
        for key in &keys {
            send_write(scope, &router, (key.clone(), user(key, "queued")), &sender);
        }
        drop(sender);
        // The deadline passes in the queue: no response is sent before.
        let late = tokenless(&router).write_with(&keys[0], &SOON, &user(&keys[0], "late"));
        assert_eq!(refusal(&late), refused(504, "TSR004"), "{}", late.text());
        assert!(receiver.try_recv().is_err(), "a paused primary does not answer");
        drop(resume);
        receiver.into_iter().collect()
    });
    assert_eq!(answers.len(), keys.len());
    for (key, reply) in answers {
        assert_eq!(reply.status, 201, "{key}: {}", reply.text());
        assert_eq!(tokenless(&router).user_at(&key, "all").names, ["queued"], "{key}");
    }
}

const SOON: [(&str, &str); 1] = [("x-deadline-ms", "100")];

#[test]
fn a_write_whose_deadline_passes_in_the_queue_is_rejected_and_never_stored() {
    let router = lab(&["--shards", "1"]);
    set(&router, "shard1-primary", "paused");
    for n in 0..3 {
        let key = format!("late{n}");
        let began = Instant::now();
        let reply = tokenless(&router).write_with(&key, &SOON, &user(&key, "late"));
        assert_eq!(refusal(&reply), refused(504, "TSR004"), "{}", reply.text());
        assert!(began.elapsed() >= Duration::from_millis(100), "before its deadline");
    }
    let rows: Vec<Value> =
        (0..3).map(|n| user(&format!("bulk{n}"), "late")["data"].clone()).collect();
    let body = json!({"table": "users", "records": rows});
    let bulk = tokenless(&router).send("POST", "/api/bulk-write", &SOON, Some(&body));
    assert!([207, 504].contains(&bulk.status), "{}", bulk.text());
    set(&router, "shard1-primary", "running");
    // This write is behind them in the same queue.
    let mut client = tokenless(&router);
    client.write_user("punctual", "in time");
    assert_eq!(client.all_names(), ["in time"]);
}

#[test]
fn a_delayed_primary_is_slow_and_reports_deadlines_truthfully() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    const DELAY_MS: u64 = 250;
    let router = lab(&[]);
    let [slow, quick, _] = three_keys(&router);
    delay(&router, "shard1-primary", DELAY_MS);
    let began = Instant::now();
    tokenless(&router).write_user(&slow, "slow");
    assert!(began.elapsed() >= Duration::from_millis(DELAY_MS), "it was not delayed");
    tokenless(&router).write_user(&quick, "quick");

    let hurried = tokenless(&router).write_with(&slow, &SOON, &user(&slow, "hurried"));
    assert_eq!((hurried.status, &*hurried.code()), (504, "TSR004"), "{}", hurried.text());
    delay(&router, "shard1-primary", 0);
    // This write is behind the slow one in the same queue, so afterwards the outcome of the slow
    // one is decided.
    tokenless(&router).write_user(&keys_on(&router, "shard1", 2)[1], "next");
    let name = tokenless(&router).user_at(&slow, "all").names.remove(0);
    match hurried.json()["outcome"].as_str().unwrap() {
        "rejected" => assert_eq!(name, "slow"),
        outcome => assert_eq!(outcome, "unknown", "{name}"),
    }
}

/// The state of the laboratory belongs to the process, not to the data.
#[test]
fn a_new_start_finds_every_node_running() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &["--lab"]);
    set(&router, "shard1-replica1", "cut");
    set(&router, "shard2-replica1", "paused");
    delay(&router, "shard3-replica1", 5);
    router.end();
    let router = Router::start_in(&data, &["--lab"]);
    assert!(nodes(&router).iter().all(|(_, state, delay)| state == "running" && *delay == 0));
    settle(&router);
}
