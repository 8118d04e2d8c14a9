//! Tests of the cache: a cached response is always one that the shard could have sent.
//!
//! Each test has a Redis of its own, whose password must not occur in any response or log
//! (`secrets`).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backend;
use crate::client::{Client, Seen, set_replicas, tokenless, user};
use crate::harness::{PATIENCE, Reply, Router};
use crate::redis::Redis;

/// A router with a cache, and the Redis behind it.
pub(crate) struct Cached {
    pub(crate) router: Router,
    pub(crate) redis: Redis,
    pub(crate) data: TempDir,
}

/// Flags with which every response is cached, and remains fresh enough for the whole test.
pub(crate) const LONG: [&str; 4] = ["--cache-bound-ms", "30000", "--cache-min-uses", "1"];

impl Cached {
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_on(Redis::start(), flags)
    }

    pub(crate) fn start_on(redis: Redis, flags: &[&str]) -> Self {
        let data = crate::folders::temporary();
        let mut command = backend::command(&data.path().join("data"), flags);
        command.env("REDIS_URL", redis.url());
        let router = Router::start_command(command);
        Self { router, redis, data }
    }

    /// Starts another router over the same shards, which is possible only on servers.
    pub(crate) fn another(&self, flags: &[&str]) -> Router {
        let mut command = backend::command(&self.data.path().join("data"), flags);
        command.env("REDIS_URL", self.redis.url());
        Router::start_command(command)
    }

    /// Returns the state of the cache by `/api/health`, which must be healthy in any case.
    pub(crate) fn state(&self) -> String {
        let health = self.router.get("/api/health");
        assert_eq!((health.status, &health.json()["status"]), (200, &json!("ok")));
        health.json()["cache"].as_str().unwrap().to_owned()
    }

    /// Returns the counters of the cache.
    pub(crate) fn counters(&self) -> Value {
        self.router.get("/api/analytics/metrics").json()["metrics"]["cache"].clone()
    }
}

/// Returns the headers about the cache: `x-cache` and `x-served-by`.
pub(crate) fn cache_headers(reply: &Reply) -> (&str, &str) {
    (reply.header("x-cache").unwrap_or("-"), reply.header("x-served-by").unwrap_or("-"))
}

/// Reads the users of a key as a client without a session token.
pub(crate) fn plain_read(router: &Router, key: &str) -> Reply {
    tokenless(router).read_with(Some(key), &[], "table=users")
}

/// Repeats the request until the response comes from the cache.
pub(crate) fn until_hit(ask: impl Fn() -> Reply) -> Reply {
    let began = Instant::now();
    loop {
        let reply = ask();
        assert!(reply.status < 500, "{}", reply.text());
        if cache_headers(&reply).0 == "hit" {
            return reply;
        }
        assert!(began.elapsed() < PATIENCE, "the cache never answers: {:?}", cache_headers(&reply));
        std::thread::yield_now();
    }
}

/// Repeats a read until clients without a session token see these names.
pub(crate) fn until_seen(router: &Router, key: &str, names: &[&str]) {
    let began = Instant::now();
    while Seen::of(&plain_read(router, key)).names != names {
        assert!(began.elapsed() < PATIENCE, "{key} is never {names:?}");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_read_before_is_answered_from_the_cache_as_the_shard_would() {
    let Cached { router, .. } = &Cached::start(&LONG);
    tokenless(router).write_with("k", &[("x-consistency", "all")], &user("k", "Ada"));
    let first = plain_read(router, "k");
    let reader = if backend::is_citus() { "primary" } else { "replica" };
    assert_eq!((cache_headers(&first), &first.json()["cached"]), (("miss", reader), &json!(false)));
    let hit = until_hit(|| plain_read(router, "k"));
    assert_eq!(cache_headers(&hit), ("hit", "cache"));
    let (mut cached, mut plain) = (hit.json(), first.json());
    assert_eq!((&cached["served_by"], &cached["cached"]), (&json!("cache"), &json!(true)));
    for body in [&mut cached, &mut plain] {
        body.as_object_mut().unwrap().retain(|name, _| name != "served_by" && name != "cached");
    }
    assert_eq!(cached, plain);
    for name in ["etag", "x-shard", "x-shard-slot", "x-epoch", "content-type", "cache-control"] {
        assert_eq!(hit.header(name), first.header(name), "{name}");
    }
    let tag = hit.header("etag").unwrap();
    let known = || tokenless(router).read_with(Some("k"), &[("if-none-match", tag)], "table=users");
    assert_eq!(until_hit(known).status, 304);
}

#[test]
fn a_read_that_needs_more_than_a_cache_can_prove_bypasses_it() {
    let Cached { router, .. } = &Cached::start(&LONG);
    let level = [("x-consistency", "all")];
    let order = |id: &str| json!({"table": "orders", "data": {"order_id": id, "user_id": "k", "amount": 1}});
    for id in ["a", "b", "c"] {
        tokenless(router).write_with("k", &level, &order(id));
    }
    let ask = |key, headers: &[(&str, &str)], query: &str| {
        tokenless(router).read_with(key, headers, query)
    };
    let query = "table=orders";
    until_hit(|| ask(Some("k"), &[], query));
    let page = ask(Some("k"), &[], "table=orders&limit=2").json();
    let next = format!("table=orders&limit=2&cursor={}", page["next_cursor"].as_str().unwrap());
    for (key, headers, query) in [
        (Some("k"), &[("x-consistency", "quorum")][..], query),
        (Some("k"), &level, query),
        (None, &[], query),
        (Some("k"), &[("prefer", "count=exact")], query),
        (Some("k"), &[], "table=orders&offset=1"),
        (Some("k"), &[], &next),
    ] {
        for _ in 0..3 {
            let reply = ask(key, headers, query);
            let (cache, by) = cache_headers(&reply);
            assert_eq!((reply.status, cache), (200, "bypass"), "{key:?} {headers:?} {query}");
            assert_ne!(by, "cache");
            assert_eq!(reply.json()["cached"], false);
        }
    }
    // Responses with a next page are not cached.
    for _ in 0..5 {
        assert_ne!(cache_headers(&ask(Some("k"), &[], "table=orders&limit=2")).0, "hit");
    }
    let write = tokenless(router).write_user("k", "Ada");
    assert_eq!(write.header("x-cache"), None, "a write is answered by no cache");
}

#[test]
fn without_a_cache_responses_do_not_mention_one() {
    let router = Router::start();
    router.write_user("k", "Ada");
    for reply in [plain_read(&router, "k"), router.get("/api/read?table=users")] {
        assert_eq!((reply.header("x-cache"), &reply.json()["cached"]), (None, &json!(false)));
    }
    assert_eq!(router.get("/api/health").json()["cache"], "off");
    let metrics = router.get("/api/analytics/metrics").json();
    assert_eq!(metrics["metrics"]["cache"]["enabled"], false);
}

#[test]
fn a_client_reads_its_own_writes_whatever_the_cache_holds() {
    let Cached { router, .. } = &Cached::start(&LONG);
    let mut writer = tokenless(router);
    for n in 0..40 {
        let (name, before) = (format!("name {n}"), format!("name {}", n - 1));
        if n > 0 {
            // The cached response is as new as possible when the next write comes.
            until_seen(router, "k", &[&before]);
            until_hit(|| plain_read(router, "k"));
        }
        writer.write_user("k", &name);
        for _ in 0..3 {
            assert_eq!(writer.user("k").names, [&*name]);
        }
        assert_eq!(writer.user_at("k", "quorum").names, [&*name]);
        let mut friend = Client::with(router, writer.token());
        assert_eq!(friend.user("k").names, [&*name], "who was given the token");
    }
}

#[test]
fn reads_never_go_back_for_a_client_that_keeps_its_token() {
    let Cached { router, .. } = &Cached::start(&LONG);
    let mut reader = tokenless(router);
    let mut last = -1;
    for n in 0..60_i64 {
        tokenless(router).write_user("k", &n.to_string());
        for _ in 0..4 {
            plain_read(router, "k"); // Other clients fill the cache with what they read.
            let seen = reader.user("k");
            let now = seen.names.first().map_or(-1, |name| name.parse().unwrap());
            assert!(now >= last, "{now} after {last}, by {}", seen.served_by);
            last = now;
        }
    }
}

#[test]
fn a_write_invalidates_the_entries_of_its_key_and_of_no_other() {
    let cached = Cached::start(&[&LONG[..], &["--replicas", "0"]].concat());
    let router = &cached.router;
    let names = |key| tokenless(router).read_with(Some(key), &[], "table=users&select=name");
    let keeps_other = || cached.redis.keys().iter().any(|key| key.ends_with(":other"));
    for key in ["k", "other"] {
        tokenless(router).write_user(key, "Ada");
        until_hit(|| plain_read(router, key));
        until_hit(|| names(key));
    }
    assert!(keeps_other(), "{:?}", cached.redis.keys());
    let change = |body: &Value| tokenless(router).write("k", body);
    assert_eq!(change(&user("k", "Bob")).status, 200);
    until_seen(router, "k", &["Bob"]);
    let short = until_hit(|| names("k"));
    assert_eq!(short.json()["data"], json!([{"name": "Bob"}]), "whatever the question was");
    until_hit(|| plain_read(router, "k"));
    assert_eq!(
        change(&json!({"table": "users", "op": "delete", "data": {"user_id": "k"}})).status,
        200
    );
    until_seen(router, "k", &[]);
    assert!(keeps_other(), "{:?}", cached.redis.keys());
    assert!(cached.counters()["voids"].as_u64().unwrap() >= 2, "{}", cached.counters());
}

#[test]
fn a_bulk_write_voids_all_its_keys() {
    let Cached { router, .. } = &Cached::start(&[&LONG[..], &["--replicas", "0"]].concat());
    let keys: Vec<String> = (0..300).map(|n| format!("key{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut writer = tokenless(router);
    for (name, mode) in [("Ada", "json"), ("Bob", "json"), ("Eve", "ndjson"), ("Mia", "tx")] {
        let row = |key: &&str| user(key, name)["data"].clone();
        let reply = match mode {
            "json" => writer.write_users(&keys, name, "one"),
            "tx" => {
                let rows = keys.iter().map(row).collect::<Vec<_>>();
                let body = json!({"table": "users", "records": rows});
                writer.send("POST", "/api/bulk-write", &[("prefer", "tx=per-shard")], Some(&body))
            }
            _ => {
                let lines = keys.iter().map(|key| format!("{}\n", row(key))).collect::<String>();
                let headers = [("content-type", "application/x-ndjson")];
                let path = "/api/bulk-write?table=users";
                router.exchange("POST", path, &headers, Some(lines.as_bytes())).unwrap()
            }
        };
        assert_eq!(reply.status, 201, "{mode}: {}", reply.text());
        for key in &keys {
            until_seen(router, key, &[name]);
        }
        for key in keys.iter().step_by(30) {
            until_hit(|| plain_read(router, key));
        }
    }
}

#[test]
fn the_default_age_limit_applies_if_a_client_sets_none() {
    let Cached { router, .. } = &Cached::start(&["--cache-bound-ms", "1"]);
    tokenless(router).write_with("k", &[("x-consistency", "all")], &user("k", "Ada"));
    until_hit(|| {
        let began = Instant::now();
        // Waits until the cached response is older than the bound.
        while began.elapsed() <= Duration::from_millis(3) {
            std::thread::yield_now();
        }
        let age = [("x-max-staleness-ms", "30000")];
        tokenless(router).read_with(Some("k"), &age, "table=users")
    });
    assert_eq!(cache_headers(&plain_read(router, "k")).0, "miss");
}

#[test]
fn late_replicas_make_no_answer_younger_than_it_is() {
    backend::not_on_citus!("it has no replicas to hold up");
    let Cached { router, .. } = &Cached::start(&["--lab", "--cache-bound-ms", "300"]);
    tokenless(router).write_with("k", &[("x-consistency", "all")], &user("k", "Ada"));
    until_hit(|| plain_read(router, "k"));
    set_replicas(router, "behind");
    let mut writer = tokenless(router);
    writer.write_user("k", "Bob");
    let written = Instant::now();
    // Readers fill the cache from replicas without the write; an entry has the replica's age.
    loop {
        let is_due = written.elapsed().as_millis() > 300;
        let reply = plain_read(router, "k");
        let is_hit = cache_headers(&reply).0 == "hit";
        if is_due && is_hit {
            assert_eq!(Seen::of(&reply).names, ["Bob"], "an older answer, after the bound");
        }
        assert_eq!(writer.user("k").names, ["Bob"]);
        if written.elapsed().as_millis() > 1_000 {
            break;
        }
    }
    set_replicas(router, "running");
}

#[test]
fn values_under_keys_come_from_the_cache_and_are_never_older_than_their_writer_knows() {
    let cached = Cached::start(&LONG);
    let router = &cached.router;
    let get = |path: &str| router.exchange("GET", path, &[], None).unwrap();
    let put = |value: &Value| {
        let body = value.to_string();
        router.send(
            "PUT",
            "/api/kv/a/b",
            &[("content-type", "application/json")],
            Some(body.as_bytes()),
        )
    };
    // This write is awaited on the replicas: otherwise an answer that lacks it might be kept.
    let first = json!({"table": "kv", "data": {"key": "a/b", "value": {"n": 0}}});
    let stored = tokenless(router).write_with("a/b", &[("x-consistency", "all")], &first);
    assert_eq!(stored.status, 201, "{}", stored.text());
    for path in ["/api/kv/a/b", "/read?key=a/b"] {
        let hit = until_hit(|| get(path));
        assert_eq!((hit.status, cache_headers(&hit)), (200, ("hit", "cache")));
        assert!(hit.header("etag").is_some());
    }
    assert_eq!(get("/api/kv/a/b").json(), json!({"n": 0}));
    for n in 1..20 {
        assert_eq!(put(&json!({"n": n})).status, 200);
        assert_eq!(router.get("/api/kv/a/b").json(), json!({"n": n}), "the client of this router");
        assert_eq!(router.get("/read?key=a/b").json()["value"], json!({"n": n}));
    }
    assert_eq!(router.send("DELETE", "/api/kv/a/b", &[], None).status, 200);
    assert_eq!(router.get("/api/kv/a/b").code(), "TSR302");
}

#[test]
fn that_there_is_nothing_is_kept_too_until_there_is() {
    let cached = Cached::start(&[&LONG[..], &["--replicas", "0"]].concat());
    let router = &cached.router;
    let nothing = until_hit(|| plain_read(router, "nobody"));
    assert_eq!(nothing.json()["data"], json!([]));
    let hits = || cached.counters()["hits"].as_u64().unwrap();
    let began = Instant::now();
    let before = hits();
    while hits() == before {
        let reply = router.exchange("GET", "/api/kv/nobody", &[], None).unwrap();
        assert_eq!(reply.code(), "TSR302");
        assert!(
            began.elapsed() < PATIENCE,
            "a value that is not there is never answered from the cache"
        );
    }
    let mut writer = tokenless(router);
    writer.write_user("nobody", "Ada");
    assert_eq!(writer.user("nobody").names, ["Ada"]);
    until_seen(router, "nobody", &["Ada"]);
    let value =
        router.send("PUT", "/api/kv/nobody", &[("content-type", "application/json")], Some(b"1"));
    assert_eq!(value.status, 201, "{}", value.text());
    assert_eq!(router.get("/api/kv/nobody").json(), json!(1));
}

#[test]
fn what_is_larger_than_an_entry_may_be_is_not_kept() {
    let Cached { router, .. } =
        &Cached::start(&[&LONG[..], &["--cache-entry-bytes-max", "2000"]].concat());
    for (key, length) in [("small", 100), ("large", 4_000)] {
        tokenless(router).write_with(
            key,
            &[("x-consistency", "all")],
            &user(key, &"x".repeat(length)),
        );
    }
    until_hit(|| plain_read(router, "small"));
    for _ in 0..10 {
        let reply = plain_read(router, "large");
        assert_eq!((reply.status, cache_headers(&reply).0), (200, "miss"));
    }
}
