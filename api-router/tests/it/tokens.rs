//! Tests of session tokens: a client reads its own writes and never sees less than before, even if
//! the replicas lag; an invalid token is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::{
    Client, Seen, delay, keys_on, lab, refusal, refused, replicas, set, set_replicas, settle,
    three_keys, tokenless, user, user_op,
};
use crate::harness::{PATIENCE, Reply, Router, TOKEN_LEN_MAX};

/// Returns a router whose replicas are all paused at the users "old", one on each shard, with the
/// keys of the users.
fn frozen() -> (Router, [String; 3]) {
    let router = lab(&[]);
    let keys = three_keys(&router);
    tokenless(&router).write_users(&[&keys[0], &keys[1], &keys[2]], "old", "all");
    set_replicas(&router, "behind");
    (router, keys)
}

/// Checks that a read without a token returns "old", because the replicas are paused.
fn assert_stale(router: &Router, key: &str) {
    assert_eq!(tokenless(router).user(key), Seen::by("replica", &["old"]));
}

#[test]
fn every_answer_about_rows_carries_a_token() {
    let router = Router::shared();
    let mut client = tokenless(&router);
    let answers = [
        client.write("k", &user("k", "N")),
        client.write("k", &user_op("delete", "k", "")),
        client.write_users(&["a", "b", "c"], "N", "one"),
        client.read_with(Some("a"), &[], "table=users"),
        client.read_with(Some("nobody"), &[], "table=users"),
        client.read_with(None, &[], "table=users"),
        tokenless(&router).read_with(Some("a"), &[], "table=users"),
        tokenless(&router).read_with(None, &[], "table=kv"),
    ];
    for reply in answers {
        let token = reply.header("x-session-token").unwrap();
        assert!((1..=TOKEN_LEN_MAX / 4).contains(&token.len()), "{token}");
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b",;\"".contains(&byte);
        assert!(token.bytes().all(is_plain), "{token}");
    }
    let head = router.exchange("HEAD", "/api/read?table=users", &[], None).unwrap();
    assert!(head.header("x-session-token").is_some());
    for path in ["/api/health", "/live", "/api/route?key=a"] {
        assert_eq!(router.get(path).header("x-session-token"), None, "{path}");
    }
}

#[test]
fn a_client_reads_its_own_writes_however_late_its_replica_is() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let (router, [a, b, c]) = frozen();
    let mut client = tokenless(&router);
    client.write_user(&a, "new");
    assert_eq!(client.user(&a), Seen::by("primary", &["new"]));
    assert_stale(&router, &a);
    assert_eq!(client.write(&a, &user_op("update", &a, "newer")).status, 200);
    assert_eq!(client.user(&a), Seen::by("primary", &["newer"]));
    assert_eq!(client.write(&a, &user_op("delete", &a, "")).status, 200);
    assert_eq!(client.user(&a).names, Vec::<String>::new());
    assert_eq!(client.write(&a, &user_op("insert", &a, "again")).status, 201);
    assert_eq!(client.user(&a), Seen::by("primary", &["again"]));
    assert_stale(&router, &a);
    // On the other shards, the client has seen no writes that the replicas lack.
    assert_eq!(client.user(&b), Seen::by("replica", &["old"]));

    let mut names = client.all_names();
    names.sort();
    assert_eq!(names, ["again", "old", "old"]);
    client.write_users(&[&b, &c], "bulk", "one");
    let mut names = client.all_names();
    names.sort();
    assert_eq!(names, ["again", "bulk", "bulk"]);
    for key in [&b, &c] {
        assert_eq!(client.user(key), Seen::by("primary", &["bulk"]));
        assert_stale(&router, key);
    }
    assert_eq!(tokenless(&router).all_names(), ["old"; 3]);
}

#[test]
fn a_row_that_was_refused_is_not_waited_for() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let (router, [a, ..]) = frozen();
    let mut client = tokenless(&router);
    assert_eq!(client.user(&a), Seen::by("replica", &["old"]));
    assert_eq!(client.write(&a, &user_op("insert", &a, "no")).status, 409);
    assert_eq!(client.user(&a).names, ["old"]);
}

#[test]
fn what_was_seen_once_stays_seen() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let (router, [a, b, _]) = frozen();
    tokenless(&router).write_user(&a, "new");
    tokenless(&router).write(&b, &user_op("delete", &b, ""));
    for key in [Some(&*a), None] {
        let mut reader = tokenless(&router);
        assert_eq!(reader.user(&a), Seen::by("replica", &["old"]));
        let level = [("x-consistency", "all")];
        let seen = Seen::of(&reader.read_with(key, &level, "table=users&order=name"));
        assert!(seen.names.contains(&"new".to_owned()), "{seen:?}");
        for _ in 0..3 {
            assert_eq!(reader.user(&a), Seen::by("primary", &["new"]));
        }
        if key.is_none() {
            assert_eq!(reader.user(&b), Seen::by("primary", &[]), "a row that is gone stays gone");
            assert_eq!(reader.all_names().len(), 2);
        }
    }
    assert_stale(&router, &a);
    assert_stale(&router, &b);
}

/// Checks a reader while one replica is paused and the other one continues; returns the names that
/// clients without a token then read.
fn names_beside_a_reader() -> BTreeSet<Vec<String>> {
    let router = lab(&["--shards", "1", "--replicas", "2"]);
    tokenless(&router).write_users(&["k"], "000", "all");
    set(&router, "shard1-replica1", "paused");
    let mut reader = tokenless(&router);
    let mut seen_by = BTreeSet::new();
    for n in 1..=10 {
        // A majority of three: the primary and the replica that continues.
        let level = [("x-consistency", "quorum")];
        let reply = tokenless(&router).write_with("k", &level, &user("k", &format!("{n:03}")));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let fresh = reader.user_at("k", "quorum").names;
        assert_eq!(fresh, [format!("{n:03}")]);
        for _ in 0..3 {
            let seen = reader.user("k");
            assert_eq!(seen.names, fresh, "{seen:?}");
            seen_by.insert(seen.served_by);
        }
    }
    assert!(seen_by.contains("replica"), "the replica that has it all is good enough");
    (0..60).map(|_| tokenless(&router).user("k").names).collect()
}

/// One replica is paused, the other one continues: a client that has read from the second one never
/// reads older rows from the first one.
#[test]
fn a_reader_never_goes_back_from_one_replica_to_another() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    // The router reads no replica that has been behind for ten seconds. On a machine that takes
    // longer, the test begins again.
    let old = vec!["000".to_owned()];
    let is_read = (0..5).any(|_| names_beside_a_reader().contains(&old));
    assert!(is_read, "clients without a token read the replica that is paused");
}

/// The numbers that a client has seen as names of users; each number only grows.
type Counts = BTreeMap<String, u32>;

/// Increases the number of its own user, and reads all users after each step.
fn count_and_look(router: &Router, key: &str) {
    let mut client = tokenless(router);
    let mut seen = Counts::new();
    for n in 1..=15 {
        client.write_user(key, &n.to_string());
        assert_eq!(client.user(key).names, [n.to_string()], "{key} reads what it wrote");
        let reply = client.read_with(None, &[], "table=users");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let count = |row: &Value| {
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            (text("user_id"), text("name").parse().unwrap())
        };
        let now: Counts = reply.json()["data"].as_array().unwrap().iter().map(count).collect();
        assert_eq!(now.get(key), Some(&n));
        for (other, before) in &seen {
            assert!(now.get(other) >= Some(before), "{other} went back: {seen:?}, then {now:?}");
        }
        seen = now;
    }
}

#[test]
fn under_load_no_client_ever_sees_less_than_before() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = lab(&["--replicas", "2"]);
    for (n, replica) in replicas(&router).iter().enumerate() {
        delay(&router, replica, [1, 7][n % 2]);
    }
    thread::scope(|scope| {
        let router = &router;
        let keys = ["shard1", "shard2", "shard3"].map(|shard| keys_on(router, shard, 2));
        for key in keys.into_iter().flatten() {
            scope.spawn(move || count_and_look(router, &key));
        }
    });
}

/// The router waits for a replica for a short time, in which the replica may catch up.
#[test]
fn a_replica_that_is_a_little_late_is_waited_for_and_one_that_is_very_late_is_not() {
    crate::backend::not_on_citus!("nothing is read from replicas there");
    let router = lab(&["--shards", "1"]);
    settle(&router);
    delay(&router, "shard1-replica1", 5);
    let mut served_by = BTreeSet::new();
    let began = Instant::now();
    let mut client = tokenless(&router);
    for n in 0.. {
        let name = format!("n{n}");
        client.write_user("k", &name);
        let seen = client.user("k");
        assert_eq!(seen.names, [name]);
        served_by.insert(seen.served_by);
        if n >= 10 && served_by.contains("replica") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "no replica was waited for");
    }

    // Longer than the client waits for a response.
    delay(&router, "shard1-replica1", 60_000);
    for n in 0..5 {
        let name = format!("m{n}");
        client.write_user("k", &name);
        assert_eq!(client.user("k"), Seen::by("primary", &[&name]));
    }
}

#[test]
fn a_token_can_be_handed_on() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let (router, [a, ..]) = frozen();
    let mut writer = tokenless(&router);
    writer.write_user(&a, "new");
    let mut friend = Client::with(&router, writer.token());
    assert_eq!(friend.user(&a), Seen::by("primary", &["new"]));
    assert_eq!(friend.all_names().iter().filter(|name| *name == "new").count(), 1);
    assert_stale(&router, &a);
}

#[test]
fn a_token_covers_every_shard_that_its_client_has_met() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let (router, [a, b, c]) = frozen();
    let mut client = tokenless(&router);
    client.write_user(&a, "new");
    // Each of these responses is about another shard, and its token keeps the position of the first
    // one.
    client.write_user(&b, "new");
    client.user(&c);
    let mut keyed = Client::with(&router, client.token());
    assert_eq!(keyed.user(&a), Seen::by("primary", &["new"]));
    assert_eq!(keyed.user(&b), Seen::by("primary", &["new"]));
    assert_eq!(keyed.user(&c), Seen::by("replica", &["old"]));
    let mut scatter = Client::with(&router, client.token());
    assert_eq!(scatter.all_names().iter().filter(|name| *name == "new").count(), 2);
}

/// Returns the token of one write by a client that has seen nothing before.
fn token_of_write(router: &Router, key: &str, name: &str) -> String {
    let mut writer = tokenless(router);
    writer.write_user(key, name);
    writer.token().to_owned()
}

#[test]
fn several_tokens_count_together_in_any_order_and_become_one() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let (router, [a, b, c]) = frozen();
    let first = token_of_write(&router, &a, "new");
    let second = token_of_write(&router, &b, "new");
    let newer = token_of_write(&router, &a, "newer");
    let query = "table=users&order=user_id&limit=1000";
    let orders: [&[&str]; 5] = [
        &[&format!("{first},{second},{newer}")],
        &[&format!("{newer} , {second}, {first}")],
        &[&newer, &second, &first],
        &[&format!("{first},{newer}"), &second],
        &[&first, &format!("{second},{second},{newer}")],
    ];
    for tokens in orders {
        let headers: Vec<_> = tokens.iter().map(|token| ("x-session-token", *token)).collect();
        let reply = tokenless(&router).read_with(None, &headers, query);
        let mut names = Seen::of(&reply).names;
        names.sort();
        assert_eq!(names, ["new", "newer", "old"], "{tokens:?}");
        let keyed = tokenless(&router).read_with(Some(&c), &headers, query);
        assert_eq!(Seen::of(&keyed), Seen::by("replica", &["old"]));
        for answer in [reply, keyed] {
            let merged = answer.header("x-session-token").unwrap();
            assert!(!merged.contains(','), "{merged}");
            assert_eq!(Client::with(&router, merged).user(&a), Seen::by("primary", &["newer"]));
            assert_eq!(Client::with(&router, merged).user(&b), Seen::by("primary", &["new"]));
        }
    }
}

/// Checks that a token is refused on every path that accepts tokens, and that nothing is stored.
fn assert_bad(router: &Router, token: &str) {
    let headers = [("x-session-token", token), ("x-shard-key", "bad")];
    let body = user("bad", "N");
    let reads = [
        router.exchange("GET", "/api/read?table=users", &headers, None).unwrap(),
        router.exchange("GET", "/api/read?table=users", &headers[..1], None).unwrap(),
    ];
    let report = |reply: &Reply| {
        assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{token}: {}", reply.text());
        let detail = reply.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("x-session-token"), "{detail}");
        assert_eq!(reply.header("x-session-token"), None, "{token}");
    };
    reads.iter().for_each(report);
    let written = router.post("/api/write", &headers, &body);
    report(&written);
    assert_eq!(refusal(&written), refused(400, "TSR113"));
    let rows = json!({"table": "users", "records": [body["data"]]});
    let bulk = router.post("/api/bulk-write", &headers, &rows);
    report(&bulk);
    assert_eq!(refusal(&bulk), refused(400, "TSR113"));
    assert_eq!(tokenless(router).user_at("bad", "all").names, Vec::<String>::new());
}

/// Returns the text with one character changed: the highest of its six bits is inverted if it is a
/// base64 character.
fn forged(token: &str, at: usize) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = token.as_bytes().to_vec();
    let place = ALPHABET.iter().position(|letter| *letter == bytes[at]);
    bytes[at] = place.map_or(b'A', |place| ALPHABET[place ^ 32]);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_token_that_was_tampered_with_is_refused() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::shared();
    let [a, b, _] = three_keys(&router);
    let mut client = tokenless(&router);
    client.write_user(&a, "N");
    client.write_user(&b, "N");
    let token = client.token().to_owned();
    for at in 0..token.len() {
        assert_bad(&router, &forged(&token, at));
    }
    for length in [1, token.len() / 4, token.len() / 2, token.len() - 1] {
        assert_bad(&router, &token[..length]);
        assert_bad(&router, &token[length..]);
    }
    assert_bad(&router, &format!("{token}A"));
    assert_bad(&router, &format!("A{token}"));
    assert_bad(&router, &format!("{token}{token}"));
    assert_bad(&router, &token.to_ascii_lowercase());
    assert_bad(&router, &format!("{token},{}", forged(&token, token.len() / 2)));
    assert_bad(&router, &format!("{},{token}", forged(&token, token.len() / 2)));
    assert_eq!(client.user(&a).names, ["N"], "the true one is as good as before");
}

#[test]
fn a_text_that_is_no_token_is_refused() {
    let router = Router::shared();
    for text in ["a", "token", "0", "null", "{}", "AAAA", "====", "a b", "\"\"", "../..", "%00"] {
        assert_bad(&router, text);
    }
    assert_bad(&router, &"A".repeat(100));
    let raw = b"GET /api/read?table=users HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
        x-session-token: \xff\xfe\r\n\r\n";
    let answer = String::from_utf8_lossy(&router.raw(raw)).into_owned();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("TSR113"), "{answer}");
}

#[test]
fn a_token_of_another_cluster_is_refused() {
    let (router, other) = (Router::start(), Router::start());
    let theirs = token_of_write(&other, "k", "N");
    let ours = token_of_write(&router, "k", "N");
    assert_bad(&router, &theirs);
    assert_bad(&router, &format!("{ours},{theirs}"));
    assert_eq!(Client::with(&router, &ours).user("k").names, ["N"]);
}

#[test]
fn tokens_of_more_than_four_kibibytes_are_refused() {
    let router = Router::shared();
    let token = token_of_write(&router, "k", "N");
    // As many tokens as fit, separated by commas.
    let count = (TOKEN_LEN_MAX + 1) / (token.len() + 1);
    let fitting = vec![&*token; count].join(",");
    let most = fitting.len();
    assert!(count > 1 && most <= TOKEN_LEN_MAX, "{most}");
    assert_eq!(Client::with(&router, &fitting).user("k").names, ["N"]);
    assert_bad(&router, &vec![&*token; count + 1].join(","));
    assert_bad(&router, &"A".repeat(TOKEN_LEN_MAX + 1));
    let headers = [("x-session-token", &*fitting), ("x-session-token", &*fitting)];
    let reply = tokenless(&router).read_with(Some("k"), &headers, "table=users");
    assert_eq!((reply.status, &*reply.code()), (400, "TSR113"), "{}", reply.text());
}

/// The replicas are far behind when the router is killed, and may still be behind when it serves
/// again.
#[test]
fn a_token_outlives_the_process_and_a_change_of_replicas() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let folder = crate::folders::temporary();
    let data = folder.path().join("data");
    let mut router = Router::start_in(&data, &["--lab"]);
    let keys = three_keys(&router);
    let many = keys_on(&router, "shard1", 60);
    set_replicas(&router, "paused");
    let mut token: Option<String> = None;
    let starts: [(&[&str], bool); 5] = [
        (&["--lab"], true),
        (&["--lab"], false),
        (&["--lab", "--replicas", "2"], true),
        (&["--replicas", "0"], true),
        (&["--replicas", "1"], false),
    ];
    for (round, (flags, is_killed)) in starts.into_iter().enumerate() {
        let name = format!("round {round}");
        let mut client = match &token {
            Some(token) => Client::with(&router, token),
            None => tokenless(&router),
        };
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        client.write_users(&many, &name, "one");
        for key in &keys {
            client.write_user(key, &name);
        }
        let last = client.token().to_owned();
        if is_killed {
            router.kill()
        } else {
            router.end()
        }
        router = Router::start_in(&data, flags);
        assert_eq!(Client::with(&router, &last).user(many[59]).names, [&*name]);
        for key in &keys {
            assert_eq!(Client::with(&router, &last).user(key).names, [&*name], "{key}");
        }
        let names = Client::with(&router, &last).all_names();
        assert!(names.iter().all(|found| *found == name), "{names:?}");
        assert_bad(&router, &forged(&last, last.len() / 2));
        if flags.contains(&"--lab") && !replicas(&router).is_empty() {
            set_replicas(&router, "paused");
        }
        token = Some(last);
    }
}
