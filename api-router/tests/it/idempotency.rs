//! Tests of idempotency keys: a request that is sent again has one effect and the same response,
//! even after failures in between.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use crate::client::{
    Client, keys_on, lab, refusal, refused, set, set_replicas, settle, stored_in_time, tokenless,
    user, user_op, with_time_to_store,
};
use crate::harness::{PATIENCE, Reply, Router};

/// Posts a write with an idempotency key.
fn write(router: &Router, key: &str, idempotency: &str, body: &Value) -> Reply {
    tokenless(router).write_with(key, &[("idempotency-key", idempotency)], body)
}

fn is_replayed(reply: &Reply) -> bool {
    match reply.header("idempotency-replayed") {
        Some(value) => {
            assert_eq!(value, "true");
            true
        }
        None => false,
    }
}

/// Returns the members of the body that depend on the effect, not on the request.
fn lasting(reply: &Reply) -> Value {
    let mut body = reply.json();
    let members = body.as_object_mut().unwrap();
    members.remove("request_id");
    members.remove("elapsed_ms");
    body
}

/// Checks that the first response is new, and the second is the same one again.
fn assert_replayed(first: &Reply, again: &Reply) {
    assert!(!is_replayed(first), "{}", first.text());
    assert!(is_replayed(again), "{}", again.text());
    assert_eq!((again.status, lasting(again)), (first.status, lasting(first)));
    for name in ["etag", "content-type", "x-shard", "x-shard-slot"] {
        assert_eq!(again.header(name), first.header(name), "{name}");
    }
}

/// Returns the row of a user as it is on the primary, or null.
fn row(router: &Router, key: &str) -> Value {
    let level = [("x-consistency", "all")];
    let reply = tokenless(router).read_with(Some(key), &level, "table=users");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["data"].get(0).cloned().unwrap_or(Value::Null)
}

#[test]
fn the_same_request_again_has_the_same_answer_and_no_effect() {
    let router = Router::start();
    for (n, (op, status)) in
        [("insert", 201), ("update", 200), ("upsert", 200), ("delete", 200)].into_iter().enumerate()
    {
        let (idempotency, body) = (format!("key-{n}"), user_op(op, "k", op));
        let first = write(&router, "k", &idempotency, &body);
        assert_eq!(first.status, status, "{op}: {}", first.text());
        let stored = row(&router, "k");
        for _ in 0..3 {
            let again = write(&router, "k", &idempotency, &body);
            assert_replayed(&first, &again);
            if op != "delete" {
                assert_eq!(again.body, first.body, "to the byte");
            }
            assert_eq!(row(&router, "k"), stored, "{op} was done again");
        }
    }
    // Repeated long after, the response is the same, and changes nothing.
    let again = write(&router, "k", "key-0", &user_op("insert", "k", "insert"));
    assert_eq!((again.status, is_replayed(&again)), (201, true));
    assert_eq!(row(&router, "k"), Value::Null);
}

#[test]
fn without_the_same_key_a_request_is_another_one() {
    let router = Router::start();
    let body = user("k", "N");
    let mut last = 0;
    for idempotency in [Some("a"), Some("A"), None, None, Some("b")] {
        let headers: Vec<_> = idempotency.map(|key| ("idempotency-key", key)).into_iter().collect();
        let reply = tokenless(&router).write_with("k", &headers, &body);
        assert!(reply.status < 300 && !is_replayed(&reply), "{}", reply.text());
        let version = reply.json()["version"].as_i64().unwrap();
        assert!(version > last, "{version} after {last}");
        last = version;
    }
}

#[test]
fn another_request_under_the_same_key_is_refused() {
    let router = Router::start();
    let first = write(&router, "k", "once", &user("k", "first"));
    assert_eq!(first.status, 201);
    let before = row(&router, "k");
    let others = [
        user("k", "second"),
        user_op("insert", "k", "first"),
        user_op("update", "k", "first"),
        user_op("delete", "k", ""),
        json!({"table": "kv", "data": {"key": "k", "value": 1}}),
    ];
    for body in others {
        let reply = write(&router, "k", "once", &body);
        assert_eq!(refusal(&reply), refused(422, "TSR109"), "{body}: {}", reply.text());
        assert!(!is_replayed(&reply));
        assert_eq!(row(&router, "k"), before);
    }
    assert_replayed(&first, &write(&router, "k", "once", &user("k", "first")));
    let kv = tokenless(&router).read_with(Some("k"), &[("x-consistency", "all")], "table=kv");
    assert_eq!(kv.json()["count"], 0);
}

#[test]
fn a_key_counts_under_its_shard_key_alone() {
    let router = Router::start();
    for key in ["a", "b", "u", "user_9999"] {
        let reply = write(&router, key, "same", &user(key, "N"));
        assert_eq!((reply.status, is_replayed(&reply)), (201, false), "{key}");
        let order = json!({"table": "orders", "data": {"order_id": "o", "amount": 1}});
        assert_eq!(write(&router, key, "other", &order).status, 201, "{key}");
    }
    for key in ["a", "b", "u", "user_9999"] {
        assert!(is_replayed(&write(&router, key, "same", &user(key, "N"))), "{key}");
    }
}

#[test]
fn a_key_that_cannot_be_one_is_refused() {
    let router = Router::start();
    let (longest, too_long) = ("k".repeat(128), "k".repeat(129));
    for bad in ["", &*too_long, "two words", "a\tb"] {
        let reply = write(&router, "k", bad, &user("k", "no"));
        assert_eq!(refusal(&reply), refused(400, "TSR113"), "{bad}: {}", reply.text());
        let detail = reply.json()["detail"].as_str().unwrap().to_ascii_lowercase();
        assert!(detail.starts_with("idempotency-key"), "{detail}");
        let rows = json!({"table": "users", "records": [user("k", "no")["data"]]});
        let headers = [("idempotency-key", bad)];
        let reply = router.post("/api/bulk-write", &headers, &rows);
        assert_eq!(refusal(&reply), refused(400, "TSR113"), "{bad}: {}", reply.text());
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    let reply = tokenless(&router).write_with("k", &twice, &user("k", "no"));
    assert_eq!(refusal(&reply), refused(400, "TSR113"), "{}", reply.text());
    let raw =
        b"POST /api/write HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx-shard-key: k\r\n\
        idempotency-key: \xc3\xa9\r\ncontent-length: 2\r\n\r\n{}";
    let answer = String::from_utf8_lossy(&router.raw(raw)).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("TSR113"), "{answer}");
    assert_eq!(row(&router, "k"), Value::Null);
    for good in ["1", "!", "~{}\"'\\;,=", &*longest] {
        let body = user("k", good);
        let first = write(&router, "k", good, &body);
        assert!(first.status < 300, "{good}: {}", first.text());
        assert_replayed(&first, &write(&router, "k", good, &body));
    }
}

/// A request that was refused once because of the existing rows is not carried out when they have
/// changed.
#[test]
fn a_refusal_of_the_shard_is_stored_and_repeated() {
    let router = Router::start();
    let mut client = tokenless(&router);
    client.write_user("there", "N");
    let condition = [("idempotency-key", "match"), ("if-match", "\"999999999\"")];
    let exists = user_op("insert", "there", "no");
    let missing = user_op("update", "missing", "no");
    let firsts = [
        write(&router, "there", "exists", &exists),
        write(&router, "missing", "missing", &missing),
        client.write_with("there", &condition, &user("there", "no")),
    ];
    let expected = [(409, "TSR301"), (404, "TSR302"), (412, "TSR303")];
    for (first, (status, code)) in firsts.iter().zip(expected) {
        assert_eq!(refusal(first), refused(status, code), "{}", first.text());
    }
    assert_eq!(client.write("there", &user_op("delete", "there", "")).status, 200);
    assert_eq!(client.write("missing", &user("missing", "N")).status, 201);
    let again = [
        write(&router, "there", "exists", &exists),
        write(&router, "missing", "missing", &missing),
        client.write_with("there", &condition, &user("there", "no")),
    ];
    for (first, again) in firsts.iter().zip(&again) {
        assert_replayed(first, again);
    }
    assert_eq!(row(&router, "there"), Value::Null);
    assert_eq!(row(&router, "missing")["name"], "N");
}

#[test]
fn a_request_that_never_came_to_its_shard_leaves_its_key_free() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = lab(&["--shards", "1"]);
    let bad = [
        json!({"table": "users", "data": {"user_id": "k", "name": 5}}),
        json!({"table": "users", "data": {"user_id": "k", "nmae": "N"}}),
        json!({"table": "usres", "data": {}}),
    ];
    for body in &bad {
        let reply = write(&router, "k", "free", body);
        assert!((400..500).contains(&reply.status) && !is_replayed(&reply), "{}", reply.text());
    }
    set(&router, "shard1-primary", "paused");
    let headers = [("idempotency-key", "free"), ("x-deadline-ms", "100")];
    let late = tokenless(&router).write_with("k", &headers, &user("k", "N"));
    assert_eq!(refusal(&late), refused(504, "TSR004"), "{}", late.text());
    set(&router, "shard1-primary", "running");
    set(&router, "shard1-replica1", "cut");
    let headers = [("idempotency-key", "free"), ("x-consistency", "quorum")];
    let reply = tokenless(&router).write_with("k", &headers, &user("k", "N"));
    assert_eq!(refusal(&reply), refused(503, "TSR201"), "{}", reply.text());

    let first = write(&router, "k", "free", &user("k", "N"));
    assert_eq!((first.status, is_replayed(&first)), (201, false), "{}", first.text());
    assert_replayed(&first, &write(&router, "k", "free", &user("k", "N")));
}

/// The row was stored, and only its confirmation was missing: sent again, the request only waits
/// for the confirmation.
#[test]
fn a_write_that_was_not_confirmed_may_be_sent_again() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    with_time_to_store(|deadline| {
        let router = lab(&["--shards", "1"]);
        settle(&router);
        set_replicas(&router, "paused");
        let body = user_op("insert", "k", "N");
        let send = |deadline: &str| {
            let headers =
                [("idempotency-key", "x"), ("x-consistency", "all"), ("x-deadline-ms", deadline)];
            tokenless(&router).write_with("k", &headers, &body)
        };
        let first = stored_in_time(send(deadline))?;
        assert_eq!((first.status, &*first.code()), (504, "TSR205"), "{}", first.text());
        // With the token of the response, the row can be read, even while its confirmation is
        // missing.
        let mut reported = Client::with(&router, first.header("x-session-token").unwrap());
        let stored = reported.read_with(Some("k"), &[], "table=users").json()["data"][0].clone();
        assert_eq!(stored["name"], "N");
        let second = stored_in_time(send(deadline))?;
        assert_eq!((second.status, &*second.code()), (504, "TSR205"), "{}", second.text());
        assert_eq!(second.json()["outcome"], "committed");
        set_replicas(&router, "running");
        let third = send("20000");
        assert_eq!((third.status, is_replayed(&third)), (201, true), "{}", third.text());
        assert_eq!(third.json()["version"], stored["version"]);
        assert_eq!(row(&router, "k"), stored);
        Some(())
    });
}

/// A client that repeats a request, perhaps from another machine, reads the row.
#[test]
fn a_repeated_answer_has_a_token_that_covers_the_write() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1"]);
    settle(&router);
    set_replicas(&router, "paused");
    write(&router, "k", "x", &user("k", "N"));
    let again = write(&router, "k", "x", &user("k", "N"));
    assert!(is_replayed(&again));
    let token = again.header("x-session-token").unwrap();
    assert_eq!(Client::with(&router, token).user("k").names, ["N"]);
}

#[test]
fn a_key_is_remembered_over_a_restart_and_a_crash() {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    let rows = json!({"table": "users", "records":
        (0..20).map(|n| user(&format!("bulk{n}"), "N")["data"].clone()).collect::<Vec<_>>()});
    let bulk = |router: &Router| {
        let headers = [("idempotency-key", "bulk")];
        tokenless(router).send("POST", "/api/bulk-write", &headers, Some(&rows))
    };
    let send = |router: &Router| {
        [
            write(router, "k", "x", &user_op("insert", "k", "N")),
            write(router, "k", "y", &user_op("insert", "k", "no")),
            bulk(router),
        ]
    };
    let firsts = send(&router);
    assert_eq!(firsts.iter().map(|reply| reply.status).collect::<Vec<_>>(), [201, 409, 201]);
    let stored = (row(&router, "k"), row(&router, "bulk7"));
    for is_killed in [true, false, true] {
        if is_killed {
            router.kill()
        } else {
            router.end()
        }
        router = Router::start_in(&data, &[]);
        for (first, again) in firsts.iter().zip(&send(&router)) {
            assert_replayed(first, again);
        }
        assert_eq!((row(&router, "k"), row(&router, "bulk7")), stored);
    }
    let other = write(&router, "k", "x", &user_op("insert", "k", "another"));
    assert_eq!(refusal(&other), refused(422, "TSR109"));
}

/// Many clients send the same request at the same time: one of them creates the row.
#[test]
fn of_many_that_send_the_same_at_once_one_has_an_effect() {
    const CLIENTS: usize = 24;
    let router = lab(&["--shards", "1"]);
    for round in 0..5 {
        let key = format!("k{round}");
        // The primary is paused so that requests that reach the queue in time are in one batch.
        set(&router, "shard1-primary", "paused");
        let replies: Vec<Reply> = thread::scope(|scope| {
            let (router, key) = (&router, &key);
            let body = user_op("insert", key, "N");
            let send = move || write(router, key, "once", &body);
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(send.clone())).collect();
            set(router, "shard1-primary", "running");
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        for reply in &replies {
            assert_eq!(reply.status, 201, "{}", reply.text());
            assert_eq!(reply.body, replies[0].body);
        }
        assert_eq!(replies.iter().filter(|reply| !is_replayed(reply)).count(), 1, "round {round}");
        assert_eq!(row(&router, &key), replies[0].json()["data"]);
    }
}

#[test]
fn of_many_that_send_different_requests_under_one_key_one_has_an_effect() {
    let router = lab(&["--shards", "1"]);
    set(&router, "shard1-primary", "paused");
    let replies: Vec<Reply> = thread::scope(|scope| {
        let router = &router;
        let send = |n| move || write(router, "k", "once", &user("k", &format!("n{n}")));
        let clients: Vec<_> = (0..12).map(|n| scope.spawn(send(n))).collect();
        set(router, "shard1-primary", "running");
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let (made, others): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.status < 300);
    assert_eq!(made.len(), 1);
    assert_eq!(row(&router, "k"), made[0].json()["data"]);
    for reply in others {
        assert_eq!(refusal(reply), refused(422, "TSR109"));
    }
}

fn bulk(router: &Router, op: &str, rows: &[(&str, &str)]) -> Reply {
    let rows: Vec<Value> = rows.iter().map(|(key, name)| user(key, name)["data"].clone()).collect();
    let body = json!({"table": "users", "op": op, "records": rows});
    tokenless(router).send("POST", "/api/bulk-write", &[("idempotency-key", "b")], Some(&body))
}

/// Returns index, status and code of each row that failed.
fn failures(reply: &Reply) -> Vec<(u64, u64, String)> {
    let answer = reply.json();
    let failed = answer["failed"].as_array().unwrap().iter().map(|row| {
        assert_eq!(row["outcome"], "rejected", "{row}");
        let code = row["error"]["code"].as_str().unwrap().to_owned();
        (row["index"].as_u64().unwrap(), row["error"]["status"].as_u64().unwrap(), code)
    });
    failed.collect()
}

#[test]
fn a_bulk_write_that_is_sent_again_stores_nothing_twice() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let keys = keys_on(&router, "shard1", 2);
    let others = keys_on(&router, "shard3", 2);
    tokenless(&router).write_user(&keys[1], "there");
    let rows = [(&*keys[0], "a"), (&*keys[1], "b"), (&*others[0], "c"), (&*others[1], "d")];
    let first = bulk(&router, "insert", &rows);
    assert_eq!(first.status, 207, "{}", first.text());
    assert_eq!(failures(&first), [(1, 409, "TSR301".to_owned())]);
    let stored = |key: &str| row(&router, key);
    let before = rows.map(|(key, _)| stored(key));
    for _ in 0..2 {
        assert_replayed(&first, &bulk(&router, "insert", &rows));
        assert_eq!(rows.map(|(key, _)| stored(key)), before);
    }
    // A refused row stays refused, although the existing row is gone.
    tokenless(&router).write(&keys[1], &user_op("delete", &keys[1], ""));
    assert_replayed(&first, &bulk(&router, "insert", &rows));
    assert_eq!(stored(&keys[1]), Value::Null);
}

/// The key of a row is that of the request with the index of the row: a request that differs in
/// some rows has an effect only on these.
#[test]
fn each_row_of_a_bulk_write_is_repeated_for_itself() {
    let router = Router::start();
    let first = bulk(&router, "upsert", &[("a", "1"), ("b", "1"), ("u", "1")]);
    assert_eq!(first.status, 201, "{}", first.text());
    let before = ["a", "b", "u"].map(|key| row(&router, key));
    let longer = [("a", "1"), ("b", "2"), ("u", "1"), ("v", "1")];
    let reply = bulk(&router, "upsert", &longer);
    assert_eq!(reply.status, 207, "{}", reply.text());
    assert_eq!(failures(&reply), [(1, 422, "TSR109".to_owned())]);
    assert_eq!(reply.json()["stored"], 3);
    assert_eq!(["a", "b", "u"].map(|key| row(&router, key)), before);
    assert_eq!(row(&router, "v")["name"], "1");
}

/// Inserts of a client: their keys, and the versions that were acknowledged.
type Ledger = BTreeMap<String, Option<Value>>;

/// Inserts rows until the router has ended.
fn insert_until_gone(router: &Router, client: usize, acknowledged: &mpsc::Sender<()>) -> Ledger {
    let mut ledger = Ledger::new();
    for n in 0.. {
        let key = format!("row-{client}-{n}");
        ledger.insert(key.clone(), None);
        let headers = [
            ("x-shard-key", &*key),
            ("idempotency-key", "once"),
            ("content-type", "application/json"),
        ];
        let body = user_op("insert", &key, "N").to_string();
        let sent = router.exchange("POST", "/api/write", &headers, Some(body.as_bytes()));
        let Ok(reply) = sent else { break };
        assert_eq!(reply.status, 201, "{}", reply.text());
        ledger.insert(key, Some(reply.json()["version"].clone()));
        acknowledged.send(()).unwrap();
    }
    ledger
}

/// A client that does not know the outcome of its last insert sends it again, and never gets a
/// conflict with its own row.
#[test]
fn after_a_crash_every_insert_may_be_sent_again() {
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &[]);
    let ledger: Ledger = thread::scope(|scope| {
        let (sender, acknowledged) = mpsc::channel();
        let router = &router;
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let sender = sender.clone();
                scope.spawn(move || insert_until_gone(router, client, &sender))
            })
            .collect();
        drop(sender);
        for _ in 0..100 {
            acknowledged.recv_timeout(PATIENCE).expect("the clients write");
        }
        router.signal("KILL");
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    router.wait();
    let router = Router::start_in(&data, &[]);
    for (key, version) in ledger {
        let reply = write(&router, &key, "once", &user_op("insert", &key, "N"));
        assert_eq!(reply.status, 201, "{key}: {}", reply.text());
        let reported = reply.json()["version"].clone();
        if let Some(version) = version {
            assert_eq!((reported.clone(), is_replayed(&reply)), (version, true), "{key}");
        }
        assert_eq!(row(&router, &key)["version"], reported, "{key}");
    }
}
