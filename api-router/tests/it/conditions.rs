//! Tests of conditional requests: the version of a row as its `ETag`, writes that depend on the
//! version, and reads whose response need not be sent again.

use std::thread;

use serde_json::{Value, json};

use crate::client::{
    Client, Seen, lab, refusal, refused, set, set_replicas, settle, tokenless, user, user_op,
};
use crate::harness::{Reply, Router};

/// Writes a user under conditions.
fn write(router: &Router, op: &str, key: &str, name: &str, headers: &[(&str, &str)]) -> Reply {
    tokenless(router).write_with(key, headers, &user_op(op, key, name))
}

/// Writes a user, which must succeed, and returns its entity tag.
fn tag_of(router: &Router, op: &str, key: &str, name: &str) -> String {
    let reply = write(router, op, key, name, &[]);
    assert!(reply.status < 300, "{}", reply.text());
    reply.header("etag").unwrap().to_owned()
}

/// Returns a user's row as it is on the primary, or null.
fn row(router: &Router, key: &str) -> Value {
    let level = [("x-consistency", "all")];
    let reply = tokenless(router).read_with(Some(key), &level, "table=users");
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["data"].get(0).cloned().unwrap_or(Value::Null)
}

fn tag(version: &Value) -> String {
    format!("\"{version}\"")
}

#[test]
fn the_version_of_a_row_is_its_entity_tag() {
    let router = Router::shared();
    let mut client = tokenless(&router);
    for (op, name) in [("insert", "a"), ("update", "b"), ("upsert", "c"), ("upsert", "c")] {
        let written = client.write("k", &user_op(op, "k", name));
        let expected = tag(&written.json()["version"]);
        assert_eq!(written.header("etag"), Some(&*expected), "{op}");
        for query in ["table=users", "table=users&select=name", "table=users&limit=1"] {
            let read = client.read_with(Some("k"), &[], query);
            assert_eq!(read.header("etag"), Some(&*expected), "{op} {query}");
        }
    }
    let minimal = client.write_with("k", &[("prefer", "return=minimal")], &user("k", "d"));
    let expected = tag(&minimal.json()["version"]);
    assert_eq!(minimal.header("etag"), Some(&*expected));
    let headers = [("x-shard-key", "k"), ("x-session-token", client.token())];
    let head = router.exchange("HEAD", "/api/read?table=users", &headers, None).unwrap();
    assert_eq!((head.status, head.header("etag")), (200, Some(&*expected)));
}

#[test]
fn only_a_read_of_one_row_by_its_key_has_an_entity_tag() {
    let router = Router::shared();
    let mut client = tokenless(&router);
    for order in ["o1", "o2"] {
        let data = json!({"order_id": order, "amount": 1});
        assert_eq!(client.write("k", &json!({"table": "orders", "data": data})).status, 201);
    }
    client.write_user("k", "N");
    for (key, query, count) in [
        (Some("k"), "table=orders", 2),
        (Some("k"), "table=orders&order_id=eq.none", 0),
        (Some("nobody"), "table=users", 0),
        (None, "table=users", 1),
        (None, "table=orders", 2),
    ] {
        for headers in [&[][..], &[("if-none-match", "\"1\"")], &[("if-none-match", "*")]] {
            let reply = client.read_with(key, headers, query);
            assert_eq!((reply.status, reply.header("etag")), (200, None), "{query}");
            assert_eq!(reply.json()["count"], count, "{query}");
        }
    }
    let one = client.read_with(Some("k"), &[], "table=orders&order_id=eq.o2");
    let expected = tag(&one.json()["data"][0]["version"]);
    assert_eq!(one.header("etag"), Some(&*expected));
}

#[test]
fn a_write_under_if_match_happens_only_to_the_version_it_names() {
    let router = Router::shared();
    let mut old = tag_of(&router, "insert", "k", "N");
    for op in ["update", "upsert", "delete"] {
        let current = tag_of(&router, "upsert", "k", op);
        let before = row(&router, "k");
        for stale in [&*old, "\"0\"", "\"9223372036854775807\""] {
            let reply = write(&router, op, "k", "no", &[("if-match", stale)]);
            assert_eq!(refusal(&reply), refused(412, "TSR303"), "{op} {stale}: {}", reply.text());
            assert_eq!(row(&router, "k"), before, "{op} {stale}");
        }
        let reply = write(&router, op, "k", "yes", &[("if-match", &current)]);
        assert_eq!(reply.status, 200, "{op}: {}", reply.text());
        let again = write(&router, op, "k", "no", &[("if-match", &current)]);
        assert_eq!(refusal(&again), refused(412, "TSR303"), "{op} was done already");
        let name = if op == "delete" { json!(null) } else { json!("yes") };
        assert_eq!(row(&router, "k")["name"], name);
        old = current;
    }
}

#[test]
fn if_match_of_any_version_requires_a_row() {
    let router = Router::shared();
    for op in ["update", "upsert", "delete"] {
        for condition in ["*", "\"1\""] {
            let reply = write(&router, op, "k", "no", &[("if-match", condition)]);
            assert_eq!(refusal(&reply), refused(412, "TSR303"), "{op} {condition}: no row");
            assert_eq!(row(&router, "k"), Value::Null);
        }
    }
    tag_of(&router, "insert", "k", "N");
    for op in ["update", "upsert", "delete"] {
        let reply = write(&router, op, "k", op, &[("if-match", "*")]);
        assert_eq!(reply.status, 200, "{op}: {}", reply.text());
    }
    assert_eq!(row(&router, "k"), Value::Null);
}

/// Otherwise a client would change a row that it has never seen.
#[test]
fn the_tag_of_a_row_that_was_removed_never_fits_a_later_one() {
    let router = Router::shared();
    let mut tags = vec![tag_of(&router, "insert", "k", "N")];
    for _ in 0..4 {
        tags.push(tag_of(&router, "delete", "k", ""));
        tags.push(tag_of(&router, "insert", "k", "N"));
        let current = tags.last().unwrap().clone();
        for stale in &tags[..tags.len() - 1] {
            assert_ne!(*stale, current);
            let reply = write(&router, "upsert", "k", "no", &[("if-match", stale)]);
            assert_eq!(refusal(&reply), refused(412, "TSR303"), "{stale}");
        }
    }
    assert_eq!(row(&router, "k")["name"], "N");
}

#[test]
fn if_none_match_makes_a_row_only_where_there_is_none() {
    let router = Router::shared();
    for op in ["upsert", "insert"] {
        let none = [("if-none-match", "*")];
        let made = write(&router, op, "k", "first", &none);
        assert_eq!(made.status, 201, "{op}: {}", made.text());
        let before = row(&router, "k");
        let reply = write(&router, op, "k", "second", &none);
        assert_eq!(refusal(&reply), refused(409, "TSR301"), "{op}: {}", reply.text());
        assert_eq!(row(&router, "k"), before);
        tag_of(&router, "delete", "k", "");
    }
}

#[test]
fn conditions_that_mean_nothing_are_refused_by_name() {
    let router = Router::shared();
    let current = tag_of(&router, "insert", "k", "N");
    let version = current.trim_matches('"');
    let (weak, half, other_half) =
        (format!("W/{current}"), format!("\"{version}"), format!("{version}\""));
    let before = row(&router, "k");
    let mut cases: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("insert", vec![("if-match", &current)]),
        ("insert", vec![("if-match", "*")]),
        ("update", vec![("if-none-match", "*")]),
        ("delete", vec![("if-none-match", "*")]),
        ("upsert", vec![("if-none-match", &current)]),
        ("upsert", vec![("if-none-match", "\"0\"")]),
        ("upsert", vec![("if-match", &current), ("if-none-match", "*")]),
        ("upsert", vec![("if-match", "*"), ("if-none-match", "*")]),
    ];
    for malformed in [version, &weak, &half, &other_half, "", "**", "\"*\"x", "'1'"] {
        for op in ["upsert", "update", "delete"] {
            cases.push((op, vec![("if-match", malformed)]));
        }
        cases.push(("upsert", vec![("if-none-match", malformed)]));
    }
    for (op, headers) in cases {
        let reply = write(&router, op, "k", "no", &headers);
        assert_eq!(refusal(&reply), refused(400, "TSR113"), "{op} {headers:?}: {}", reply.text());
        let detail = reply.json()["detail"].as_str().unwrap().to_ascii_lowercase();
        assert!(detail.contains(headers[0].0), "{detail}");
        assert_eq!(row(&router, "k"), before, "{op} {headers:?}");
    }
}

#[test]
fn a_bulk_write_takes_no_condition_for_all_its_rows() {
    let router = Router::shared();
    let current = tag_of(&router, "insert", "k", "N");
    let rows =
        json!({"table": "users", "records": [user("k", "no")["data"], user("x", "no")["data"]]});
    for header in [
        ("if-match", &*current),
        ("if-match", "*"),
        ("if-none-match", "*"),
        ("if-none-match", "\"1\""),
    ] {
        let reply = tokenless(&router).send("POST", "/api/bulk-write", &[header], Some(&rows));
        assert_eq!(refusal(&reply), refused(400, "TSR113"), "{header:?}: {}", reply.text());
    }
    assert_eq!(tokenless(&router).user_at("k", "all").names, ["N"]);
    assert_eq!(row(&router, "x"), Value::Null);
}

/// Sends all of these requests at once, so that those that arrive in time are in one batch.
fn at_once(router: &Router, send: impl Fn(usize) -> Reply + Sync, count: usize) -> Vec<Reply> {
    set(router, "shard1-primary", "paused");
    thread::scope(|scope| {
        let send = &send;
        let clients: Vec<_> = (0..count).map(|n| scope.spawn(move || send(n))).collect();
        set(router, "shard1-primary", "running");
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    })
}

#[test]
fn of_many_changes_of_one_version_one_happens() {
    let router = lab(&["--shards", "1"]);
    for round in 0..5 {
        let current = tag_of(&router, "upsert", "k", "N");
        let headers = [("if-match", &*current)];
        let name = |n| format!("round {round}, client {n}");
        let send = |n| {
            let op = if n % 2 == 0 { "update" } else { "upsert" };
            write(&router, op, "k", &name(n), &headers)
        };
        let replies = at_once(&router, send, 12);
        let winners: Vec<usize> =
            (0..replies.len()).filter(|n| replies[*n].status == 200).collect();
        assert_eq!(winners.len(), 1, "{winners:?} of round {round}");
        assert_eq!(row(&router, "k")["name"], name(winners[0]));
        for reply in replies.iter().filter(|reply| reply.status != 200) {
            assert_eq!(refusal(reply), refused(412, "TSR303"), "{}", reply.text());
        }
    }
}

#[test]
fn exactly_one_of_many_inserts_of_a_row_succeeds() {
    let router = lab(&["--shards", "1"]);
    for round in 0..5 {
        let key = format!("k{round}");
        let send = |n| write(&router, "upsert", &key, &format!("{n}"), &[("if-none-match", "*")]);
        let replies = at_once(&router, send, 12);
        let made: Vec<usize> = (0..replies.len()).filter(|n| replies[*n].status == 201).collect();
        assert_eq!(made.len(), 1, "round {round}");
        assert_eq!(row(&router, &key)["name"], format!("{}", made[0]));
        for reply in replies.iter().filter(|reply| reply.status != 201) {
            assert_eq!(refusal(reply), refused(409, "TSR301"), "{}", reply.text());
        }
    }
}

/// Reads, changes and writes a row with a condition on its version, and repeats that if another
/// client was faster: no change is lost.
fn count_up(router: &Router, times: usize) {
    let mut client = tokenless(router);
    for _ in 0..times {
        loop {
            let level = [("x-consistency", "quorum")];
            let read = client.read_with(Some("k"), &level, "table=users");
            let etag = read.header("etag").unwrap().to_owned();
            let count: usize = read.json()["data"][0]["name"].as_str().unwrap().parse().unwrap();
            let next = user("k", &(count + 1).to_string());
            let reply = client.write_with("k", &[("if-match", &etag)], &next);
            if reply.status == 200 {
                break;
            }
            assert_eq!(refusal(&reply), refused(412, "TSR303"), "{}", reply.text());
        }
    }
}

#[test]
fn no_change_is_lost_between_a_read_and_a_conditional_write() {
    let router = Router::shared();
    tokenless(&router).write_user("k", "0");
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| count_up(&router, 10));
        }
    });
    assert_eq!(row(&router, "k")["name"], "60");
}

#[test]
fn a_row_that_the_client_has_is_not_sent_again() {
    let router = Router::shared();
    let mut client = tokenless(&router);
    let old = tag_of(&router, "insert", "k", "old");
    client.write_user("k", "N");
    let read = client.read_with(Some("k"), &[], "table=users");
    let current = read.header("etag").unwrap().to_owned();
    let (listed, weak) = (format!("{old}, {current}"), format!("W/{current}"));
    for known in [&*current, &listed, &weak, "*"] {
        let reply = client.read_with(Some("k"), &[("if-none-match", known)], "table=users");
        assert_eq!((reply.status, reply.body.len()), (304, 0), "{known}");
        assert_eq!(reply.header("etag"), Some(&*current));
        assert!(reply.header("x-session-token").is_some());
        assert!(reply.header("x-request-id").is_some());
    }
    for other in [&*old, "\"0\"", &format!("{old},\"0\"")] {
        let reply = client.read_with(Some("k"), &[("if-none-match", other)], "table=users");
        assert_eq!((reply.status, reply.json()["count"].as_i64()), (200, Some(1)), "{other}");
    }
    let changed = client.write("k", &user("k", "N"));
    let reply = client.read_with(Some("k"), &[("if-none-match", &current)], "table=users");
    assert_eq!((reply.status, reply.header("etag")), (200, changed.header("etag")));
    assert_eq!(client.write("k", &user_op("delete", "k", "")).status, 200);
    let reply = client.read_with(Some("k"), &[("if-none-match", &current)], "table=users");
    assert_eq!((reply.status, reply.json()["count"].as_i64()), (200, Some(0)));
}

/// A replica that still has the client's old version must not answer that this version is the
/// newest.
#[test]
fn only_a_node_that_has_what_the_client_has_seen_answers_not_modified() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1"]);
    let old = tag_of(&router, "insert", "k", "old");
    settle(&router);
    set_replicas(&router, "behind");
    let mut writer = tokenless(&router);
    writer.write_user("k", "new");
    let known = [("if-none-match", &*old)];
    let stale = tokenless(&router).read_with(Some("k"), &known, "table=users");
    assert_eq!((stale.status, stale.header("x-served-by")), (304, Some("replica")));
    let mut friend = Client::with(&router, writer.token());
    let fresh = Seen::of(&friend.read_with(Some("k"), &known, "table=users"));
    assert_eq!(fresh, Seen::by("primary", &["new"]));
    let strong = [known[0], ("x-consistency", "quorum")];
    let fresh = Seen::of(&tokenless(&router).read_with(Some("k"), &strong, "table=users"));
    assert_eq!(fresh, Seen::by("primary", &["new"]));

    // The token of a response without a body counts as well.
    let mut reader = tokenless(&router);
    let newest = writer.write_user("k", "newest").header("etag").unwrap().to_owned();
    let strong = [("if-none-match", &*newest), ("x-consistency", "all")];
    assert_eq!(reader.read_with(Some("k"), &strong, "table=users").status, 304);
    assert_eq!(reader.user("k"), Seen::by("primary", &["newest"]));
}
