//! Tests of the consistency levels: the guarantees of a response at `one`, `quorum` and `all`, and
//! the problem when too few nodes are available.

use serde_json::{Value, json};

use crate::backend::is_servers;
use crate::client::{
    Client, Seen, delay, keys_on, lab, refusal, refused, set, set_replicas, settle, stored_in_time,
    three_keys, tokenless, user, user_op, with_time_to_store,
};
use crate::harness::{Reply, Router};

fn write_at(router: &Router, level: &str, key: &str, name: &str) -> Reply {
    tokenless(router).write_with(key, &[("x-consistency", level)], &user(key, name))
}

/// Checks a row that is stored, but not at the requested level: the body says so, and the response
/// has a token.
fn assert_unconfirmed(reply: &Reply, requested: &str, achieved: &str) {
    assert_eq!((reply.status, &*reply.code()), (504, "TSR205"), "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let body = reply.json();
    assert_eq!(
        (&body["outcome"], &body["requested"], &body["achieved"]),
        (&json!("committed"), &json!(requested), &json!(achieved)),
        "{body}"
    );
    assert_eq!(body["success"], false);
    assert!(body["shard"].is_string(), "{body}");
    assert!(reply.header("x-session-token").is_some(), "{body}");
}

#[test]
fn every_level_works_with_any_number_of_replicas() {
    // There are not more servers.
    let most = if is_servers() { "3" } else { "5" };
    for replicas in ["0", "1", "2", most] {
        let router = lab(&["--shards", "1", "--replicas", replicas]);
        for (n, level) in ["one", "quorum", "all"].into_iter().enumerate() {
            let key = format!("k{n}");
            for (op, status) in [("insert", 201), ("update", 200), ("upsert", 200)] {
                let body = user_op(op, &key, op);
                let headers = [("x-consistency", level)];
                let reply = tokenless(&router).write_with(&key, &headers, &body);
                assert_eq!(reply.status, status, "{level} {replicas}: {}", reply.text());
                assert_eq!(reply.header("x-served-by"), Some("primary"));
                for strong in ["quorum", "all"] {
                    assert_eq!(tokenless(&router).user_at(&key, strong).names, [op], "{strong}");
                }
            }
            let keys: Vec<String> = (0..30).map(|n| format!("{level}{n}")).collect();
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            tokenless(&router).write_users(&keys, "bulk", level);
            assert_eq!(tokenless(&router).user_at(keys[29], "all").names, ["bulk"]);
            assert_eq!(tokenless(&router).user_at(&key, "all").served_by, "primary");
        }
    }
}

#[test]
fn a_write_at_all_is_on_every_replica_when_it_is_answered() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1", "--replicas", "3"]);
    settle(&router);
    for replica in ["shard1-replica1", "shard1-replica2", "shard1-replica3"] {
        delay(&router, replica, 10);
    }
    for n in 0..5 {
        let name = format!("n{n}");
        assert!(write_at(&router, "all", "k", &name).status < 300);
        for _ in 0..20 {
            assert_eq!(tokenless(&router).user("k"), Seen::by("replica", &[&name]));
        }
        let bulk = format!("bulk{n}");
        tokenless(&router).write_users(&["a", "b", "c"], &bulk, "all");
        for key in ["a", "b", "c"] {
            assert_eq!(tokenless(&router).user(key), Seen::by("replica", &[&bulk]));
        }
    }
}

#[test]
fn a_write_at_quorum_is_on_a_majority_when_it_is_answered() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1", "--replicas", "2"]);
    assert_eq!(write_at(&router, "all", "k", "old").status, 201);
    set(&router, "shard1-replica2", "paused");
    delay(&router, "shard1-replica1", 10);
    for n in 0..5 {
        let name = format!("n{n}");
        assert_eq!(write_at(&router, "quorum", "k", &name).status, 200);
        set(&router, "shard1-replica2", "cut");
        assert_eq!(tokenless(&router).user("k"), Seen::by("replica", &[&name]));
        // The replica applies nothing, cut off or paused.
        set(&router, "shard1-replica2", "paused");
    }
}

#[test]
fn a_write_that_is_not_confirmed_in_time_reports_its_level() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    with_time_to_store(|deadline| {
        let router = lab(&["--replicas", "2"]);
        let [key, other, _] = three_keys(&router);
        assert_eq!(write_at(&router, "all", &key, "old").status, 201);
        set(&router, "shard1-replica2", "paused");
        let within = |level| [("x-consistency", level), ("x-deadline-ms", deadline)];
        let reply = tokenless(&router).write_with(&key, &within("all"), &user(&key, "at quorum"));
        // One of the two replicas must confirm the write within this time.
        let is_confirmed = |reply: &Reply| reply.json()["achieved"] != "one";
        let reply = stored_in_time(reply).filter(is_confirmed)?;
        assert_unconfirmed(&reply, "all", "quorum");
        assert_eq!(reply.json()["shard"], "shard1");
        set(&router, "shard1-replica1", "paused");
        for (level, op) in [("all", "update"), ("quorum", "delete")] {
            let body = user_op(op, &key, op);
            let reply = tokenless(&router).write_with(&key, &within(level), &body);
            assert_unconfirmed(&stored_in_time(reply)?, level, "one");
        }
        let body = user_op("insert", &key, "at one");
        let reply = stored_in_time(tokenless(&router).write_with(&key, &within("all"), &body))?;
        assert_unconfirmed(&reply, "all", "one");

        // The row is on the primary, and a client with the token of the problem sees it.
        assert_primary_alone(&router, &key, "all", &["at one"]);
        let token = reply.header("x-session-token").unwrap();
        assert_eq!(Client::with(&router, token).user(&key), Seen::by("primary", &["at one"]));
        assert_eq!(write_at(&router, "one", &key, "at once").status, 200);
        assert_eq!(write_at(&router, "all", &other, "elsewhere").status, 201);

        set_replicas(&router, "running");
        assert_eq!(write_at(&router, "all", &key, "everywhere").status, 200);
        for _ in 0..20 {
            assert_eq!(tokenless(&router).user(&key), Seen::by("replica", &["everywhere"]));
        }
        Some(())
    });
}

/// A write that the primary refuses needs no confirmation.
#[test]
fn a_write_that_its_primary_refuses_is_rejected_at_every_level() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    with_time_to_store(|deadline| {
        let router = lab(&["--shards", "1"]);
        assert_eq!(write_at(&router, "all", "k", "N").status, 201);
        set_replicas(&router, "paused");
        for level in ["one", "quorum", "all"] {
            let mut client = tokenless(&router);
            let within = [("x-consistency", level), ("x-deadline-ms", deadline)];
            let reply = client.write_with("k", &within, &user_op("insert", "k", "no"));
            assert_eq!(refusal(&stored_in_time(reply)?), refused(409, "TSR301"), "{level}");
            let reply = client.write_with("x", &within, &user_op("update", "x", "no"));
            assert_eq!(refusal(&stored_in_time(reply)?), refused(404, "TSR302"), "{level}");
        }
        Some(())
    });
}

#[test]
fn with_too_few_replicas_connected_a_write_is_refused_before_it_is_stored() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1"]);
    assert_eq!(write_at(&router, "all", "k", "old").status, 201);
    let before = tokenless(&router).read_with(Some("k"), &[], "table=users").json();
    set_replicas(&router, "cut");
    for level in ["quorum", "all"] {
        for body in [user("k", "no"), user_op("delete", "k", ""), user_op("insert", "x", "no")] {
            let key = body["data"]["user_id"].as_str().unwrap();
            let reply = tokenless(&router).write_with(key, &[("x-consistency", level)], &body);
            assert_eq!(refusal(&reply), refused(503, "TSR201"), "{level}: {}", reply.text());
            assert!(reply.header("retry-after").is_some(), "{level}");
            assert_eq!(reply.json()["shard"], "shard1");
        }
        assert_primary_alone(&router, "k", level, &["old"]);
    }
    let after = tokenless(&router).read_with(Some("k"), &[], "table=users").json();
    assert_eq!(after["data"], before["data"], "also its version");
    assert_primary_alone(&router, "x", "all", &[]);
    assert_eq!(write_at(&router, "one", "k", "new").status, 200);
    set_replicas(&router, "running");
    settle(&router);
    assert_eq!(tokenless(&router).user_at("x", "all").names, Vec::<String>::new());
    assert_eq!(tokenless(&router).user("k").names, ["new"]);
}

#[test]
fn a_majority_is_enough_for_quorum_and_not_for_all() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1", "--replicas", "2"]);
    set(&router, "shard1-replica1", "cut");
    assert_eq!(write_at(&router, "quorum", "k", "at quorum").status, 201);
    let reply = write_at(&router, "all", "k", "no");
    assert_eq!(refusal(&reply), refused(503, "TSR201"), "{}", reply.text());
    assert_eq!(tokenless(&router).user_at("k", "all").names, ["at quorum"]);
    set(&router, "shard1-replica2", "cut");
    for level in ["quorum", "all"] {
        let reply = write_at(&router, level, "k", "no");
        assert_eq!(refusal(&reply), refused(503, "TSR201"), "{level}: {}", reply.text());
    }
    assert_primary_alone(&router, "k", "quorum", &["at quorum"]);
}

/// Checks a strong read when no replica can be reached: the primary alone can answer it on files,
/// but not on servers.
fn assert_primary_alone(router: &Router, key: &str, level: &str, names: &[&str]) {
    if is_servers() {
        let headers = [("x-consistency", level), ("x-deadline-ms", "1000")];
        let reply = tokenless(router).read_with(Some(key), &headers, "table=users");
        assert!(["TSR201", "TSR004"].contains(&&*reply.code()), "{}", reply.text());
    } else {
        assert_eq!(tokenless(router).user_at(key, level), Seen::by("primary", names));
    }
}

/// Writes of other clients are seen as well, without a token.
#[test]
fn a_read_at_quorum_sees_all_that_was_acknowledged_before_it_began() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&[]);
    let [key, ..] = three_keys(&router);
    tokenless(&router).write_users(&[&key], "old", "all");
    set_replicas(&router, "behind");
    for n in 0..5 {
        let name = format!("n{n}");
        tokenless(&router).write_user(&key, &name);
        assert_eq!(tokenless(&router).user_at(&key, "quorum"), Seen::by("primary", &[&name]));
        assert_eq!(tokenless(&router).user_at(&key, "all"), Seen::by("primary", &[&name]));
        assert_eq!(tokenless(&router).user(&key), Seen::by("replica", &["old"]));
        for level in ["quorum", "all"] {
            let headers = [("x-consistency", level)];
            let reply = tokenless(&router).read_with(None, &headers, "table=users");
            assert_eq!(Seen::of(&reply).names, [&*name], "{level}");
        }
    }
    set_replicas(&router, "running");
    for replica in ["shard1-replica1", "shard2-replica1", "shard3-replica1"] {
        delay(&router, replica, 20);
    }
    for n in 0..20 {
        let name = format!("m{n}");
        tokenless(&router).write_user(&key, &name);
        assert_eq!(tokenless(&router).user_at(&key, "quorum").names, [name]);
    }
}

/// The token of a strong read covers its rows.
#[test]
fn what_was_read_at_a_higher_level_stays_seen_at_level_one() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1"]);
    assert_eq!(write_at(&router, "all", "k", "old").status, 201);
    set_replicas(&router, "behind");
    tokenless(&router).write_user("k", "new");
    for level in ["quorum", "all"] {
        let mut reader = tokenless(&router);
        assert_eq!(reader.user_at("k", level).names, ["new"]);
        assert_eq!(reader.user_at("k", "one"), Seen::by("primary", &["new"]));
    }
}

/// Sends a bulk write of two rows on each of two shards, of which the second has no replica that
/// can confirm.
fn half_confirmed(router: &Router, headers: &[(&str, &str)]) -> (Reply, [Vec<String>; 2]) {
    let (well, ill) = (keys_on(router, "shard1", 2), keys_on(router, "shard2", 2));
    let rows: Vec<Value> =
        well.iter().chain(&ill).map(|key| user(key, "bulk")["data"].clone()).collect();
    let body = json!({"table": "users", "records": rows});
    let reply = tokenless(router).send("POST", "/api/bulk-write", headers, Some(&body));
    assert_eq!(reply.status, 207, "{}", reply.text());
    (reply, [well, ill])
}

#[track_caller]
fn assert_stored(router: &Router, keys: &[String]) {
    for key in keys {
        assert_eq!(tokenless(router).user_at(key, "all").names, ["bulk"], "{key}");
    }
}

/// Returns index, shard, code and outcome of each row that failed.
fn failures(reply: &Reply) -> Vec<(u64, String, String, String)> {
    let answer = reply.json();
    let failed = answer["failed"].as_array().unwrap().iter().map(|row| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (
            row["index"].as_u64().unwrap(),
            text(&row["shard"]),
            text(&row["error"]["code"]),
            text(&row["outcome"]),
        )
    });
    failed.collect()
}

fn failed(code: &str, outcome: &str) -> Vec<(u64, String, String, String)> {
    let row = |index| (index, "shard2".to_owned(), code.to_owned(), outcome.to_owned());
    vec![row(2), row(3)]
}

#[test]
fn rows_of_a_bulk_write_are_refused_where_too_few_replicas_are_connected() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&[]);
    set(&router, "shard2-replica1", "cut");
    let (reply, [well, ill]) = half_confirmed(&router, &[("x-consistency", "quorum")]);
    assert_stored(&router, &well);
    assert_eq!(failures(&reply), failed("TSR201", "rejected"), "{}", reply.text());
    assert_eq!(reply.json()["stored"], 2);
    set(&router, "shard2-replica1", "running");
    settle(&router);
    for key in ill {
        assert_eq!(tokenless(&router).user_at(&key, "all").names, Vec::<String>::new(), "{key}");
    }
}

#[test]
fn rows_of_a_bulk_write_that_are_not_confirmed_in_time_are_reported_as_stored() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&[]);
    set(&router, "shard2-replica1", "paused");
    with_time_to_store(|deadline| {
        let headers = [("x-consistency", "all"), ("x-deadline-ms", deadline)];
        let (reply, [well, ill]) = half_confirmed(&router, &headers);
        // The other shard must be confirmed within this time.
        let found = failures(&reply);
        if found.iter().any(|(_, shard, code, _)| shard != "shard2" || code == "TSR004") {
            return None;
        }
        assert_stored(&router, &well);
        assert_eq!(found, failed("TSR205", "committed"), "{}", reply.text());
        let token = reply.header("x-session-token").unwrap();
        for key in ill {
            assert_eq!(Client::with(&router, token).user(&key), Seen::by("primary", &["bulk"]));
        }
        Some(())
    });
}

#[test]
fn a_level_that_there_is_not_is_refused_on_writes_as_on_reads() {
    let router = Router::shared();
    for level in ["", "ONE", "two", "majority", "quorum,all", "one one"] {
        let reply = write_at(&router, level, "k", "no");
        assert_eq!(refusal(&reply), refused(400, "TSR113"), "{level}: {}", reply.text());
        let headers = [("x-consistency", level)];
        let reply = tokenless(&router).read_with(Some("k"), &headers, "table=users");
        assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{level}: {}", reply.text());
    }
    assert_eq!(tokenless(&router).user_at("k", "all").names, Vec::<String>::new());
}
