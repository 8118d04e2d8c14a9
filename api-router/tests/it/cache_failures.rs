//! Tests of a Redis that is killed, frozen, emptied, full, missing from the start, or returns false
//! data. Responses remain correct, no error reaches a client, and a Redis that works again is used
//! again.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::backend;
use crate::cache::{Cached, LONG, cache_headers, plain_read, until_hit, until_seen};
use crate::client::{Client, Seen, tokenless};
use crate::harness::{PATIENCE, Router};
use crate::redis::{PASSWORD, Redis};

/// Flags with which a read that waits for Redis takes 1 s: far longer than one that does not, also
/// on a busy machine.
const PATIENT: [&str; 2] = ["--cache-patience-ms", "1000"];
/// Maximum of the median response time in ms while Redis is not used, far below that patience.
const AWAY_MS_MAX: u128 = 500;

/// Overwrites every field of a hash, and returns their number.
const SPOIL: &str = "local fields = redis.call('HKEYS', KEYS[1])
    for _, field in ipairs(fields) do redis.call('HSET', KEYS[1], field, ARGV[1]) end
    return #fields";

/// Writes and reads for a while: a client that sends its token sees its own writes, all others see
/// a write of some client. `trouble` is called in each round.
fn work(router: &Router, rounds: u32, mut trouble: impl FnMut(u32)) {
    let mut writer = tokenless(router);
    for round in 0..rounds {
        trouble(round);
        for key in ["k", "l", "m"] {
            let name = format!("{key} {round}");
            writer.write_user(key, &name);
            assert_eq!(writer.user(key).names, [&*name]);
            let seen = Seen::of(&plain_read(router, key)).names;
            assert!(seen.iter().all(|name| name.starts_with(key)), "{key}: {seen:?}");
            assert_eq!(tokenless(router).user_at(key, "quorum").names, [&*name]);
        }
    }
}

/// Reads until health reports this state of the cache, which changes only by reads.
fn until_state(cached: &Cached, state: &str) {
    let began = Instant::now();
    while cached.state() != state {
        assert_eq!(plain_read(&cached.router, "k").status, 200);
        assert!(began.elapsed() < PATIENCE, "the cache is never {state}");
    }
}

#[test]
fn redis_may_be_killed_and_come_back() {
    let mut cached = Cached::start(&LONG);
    assert_eq!(cached.state(), "ok");
    work(&cached.router, 5, |_| ());
    let router = &cached.router;
    until_hit(|| plain_read(router, "k"));
    cached.redis.kill();
    work(&cached.router, 10, |_| ());
    until_state(&cached, "down");
    assert_eq!(cached.counters()["breaker"].as_str().map(|it| it != "closed"), Some(true));
    work(&cached.router, 10, |_| ());
    cached.redis.come_back();
    until_state(&cached, "ok");
    let router = &cached.router;
    until_hit(|| plain_read(router, "k"));
    work(&cached.router, 5, |_| ());
}

#[test]
fn redis_may_hang_and_go_on() {
    let cached = Cached::start(&[&LONG[..], &PATIENT].concat());
    let router = &cached.router;
    work(router, 3, |_| ());
    until_hit(|| plain_read(router, "k"));
    cached.redis.freeze();
    work(router, 5, |_| ());
    until_state(&cached, "down");
    let mut times: Vec<u128> = (0..40)
        .map(|_| {
            let began = Instant::now();
            assert_eq!(plain_read(router, "k").status, 200);
            began.elapsed().as_millis()
        })
        .collect();
    times.sort_unstable();
    assert!(times[20] < AWAY_MS_MAX, "{times:?}");
    work(router, 5, |_| ());
    cached.redis.thaw();
    until_state(&cached, "ok");
    until_hit(|| plain_read(router, "k"));
    work(router, 3, |_| ());
}

#[test]
fn redis_may_be_frozen_and_killed_and_emptied_at_any_time() {
    let mut cached = Cached::start(&[&LONG[..], &["--cache-patience-ms", "5"]].concat());
    let Cached { router, redis, .. } = &mut cached;
    work(router, 24, |round| match round % 6 {
        0 => redis.freeze(),
        1 => redis.thaw(),
        2 => drop(redis.ask(&["FLUSHALL"])),
        3 => redis.kill(),
        4 => redis.come_back(),
        _ => drop(redis.ask(&["SCRIPT", "FLUSH"])),
    });
    until_state(&cached, "ok");
    let router = &cached.router;
    until_hit(|| plain_read(router, "k"));
    assert!(cached.counters()["errors"].as_u64().unwrap() > 0);
}

#[test]
fn an_emptied_redis_is_filled_again() {
    let cached = Cached::start(&LONG);
    let router = &cached.router;
    tokenless(router).write_user("k", "Ada");
    until_seen(router, "k", &["Ada"]);
    for _ in 0..5 {
        until_hit(|| plain_read(router, "k"));
        cached.redis.ask(&["FLUSHALL"]);
        assert_eq!(Seen::of(&plain_read(router, "k")).names, ["Ada"]);
    }
    until_state(&cached, "ok");
}

#[test]
fn a_foreign_value_in_redis_is_never_returned() {
    let cached = Cached::start(&[&LONG[..], &["--replicas", "0"]].concat());
    let (router, redis) = (&cached.router, &cached.redis);
    let mut writer = tokenless(router);
    for key in ["k", "l"] {
        writer.write_user(key, &format!("name of {key}"));
        until_hit(|| plain_read(router, key));
    }
    let keys = redis.keys();
    let find = |key: &str| keys.iter().find(|name| name.ends_with(&format!(":{key}"))).unwrap();
    let (k, l) = (find("k"), find("l"));
    let large = "x".repeat(3 << 20);
    for junk in ["", "junk", "{\"data\":[]}", &*large] {
        // A read for which Redis is too late removes the entry.
        until_hit(|| plain_read(router, "k"));
        assert_ne!(redis.ask(&["EVAL", SPOIL, "1", k, junk]), ["0"], "there is an entry");
        let reply = plain_read(router, "k");
        assert_eq!((reply.status, &reply.json()["data"][0]["name"]), (200, &json!("name of k")));
    }
    assert!(cached.counters()["errors"].as_u64().unwrap() > 0, "{}", cached.counters());
    // This key gets the entry of another key, and later a value that is not a hash.
    redis.ask(&["COPY", l, k, "REPLACE"]);
    for _ in 0..3 {
        assert_eq!(Seen::of(&plain_read(router, "k")).names, ["name of k"]);
    }
    redis.ask(&["SET", k, "a text"]);
    for _ in 0..10 {
        assert_eq!(Seen::of(&plain_read(router, "k")).names, ["name of k"]);
        assert_eq!(writer.user("k").names, ["name of k"]);
    }
    writer.write_user("k", "another");
    assert_eq!(writer.user("k").names, ["another"]);
    until_seen(router, "k", &["another"]);
    until_hit(|| plain_read(router, "k"));
}

#[test]
fn a_full_redis_evicts_or_refuses_without_effect_on_clients() {
    for policy in ["allkeys-lfu", "noeviction"] {
        let redis = Redis::start_with(&["--maxmemory", "3mb", "--maxmemory-policy", policy]);
        let cached = Cached::start_on(redis, &LONG);
        let router = &cached.router;
        let mut writer = tokenless(router);
        let keys: Vec<String> = (0..200).map(|n| format!("key{n}")).collect();
        for key in &keys {
            writer.write_user(key, &format!("{key} {}", "x".repeat(20_000)));
        }
        for key in &keys {
            assert!(writer.user(key).names[0].starts_with(&format!("{key} ")));
            let seen = Seen::of(&plain_read(router, key));
            assert!(seen.names.iter().all(|name| name.starts_with(&format!("{key} "))));
        }
        work(router, 5, |_| ());
    }
}

/// Redis restarts with an old dump.
#[test]
fn an_old_dump_brings_nothing_back_that_a_client_knows_better() {
    let mut cached = Cached::start(&LONG);
    let mut writer = tokenless(&cached.router);
    writer.write_user("k", "old");
    until_seen(&cached.router, "k", &["old"]);
    until_hit(|| plain_read(&cached.router, "k"));
    let token = {
        cached.redis.ask(&["SAVE"]);
        writer.write_user("k", "new");
        writer.token().to_owned()
    };
    cached.redis.kill();
    cached.redis.come_back();
    let router = &cached.router;
    for _ in 0..20 {
        assert_eq!(Client::with(router, &token).user("k").names, ["new"]);
    }
    assert_eq!(tokenless(router).user_at("k", "all").names, ["new"]);
    let fresh = [("x-max-staleness-ms", "0")];
    let reply = tokenless(router).read_with(Some("k"), &fresh, "table=users");
    assert_ne!(cache_headers(&reply).0, "hit");
}

#[test]
fn a_redis_that_is_missing_or_refuses_the_password_stops_no_request() {
    let redis = Redis::start();
    let nobody = "redis://:canary-of-nobody@127.0.0.1:1".to_owned();
    let wrong = redis.url().replace(PASSWORD, "canary-wrong");
    let unnamed = format!("redis://127.0.0.1:{}", redis.port());
    let foreign = "redis://:canary-x@cache.invalid:6379".to_owned();
    for url in [nobody, wrong, unnamed, foreign] {
        let data = crate::folders::temporary();
        let mut command = backend::command(&data.path().join("data"), &["--log", "debug"]);
        command.env("REDIS_URL", &url);
        let router = Router::start_command(command);
        work(&router, 4, |_| ());
        let began = Instant::now();
        while router.get("/api/health").json()["cache"] != "down" {
            assert_eq!(plain_read(&router, "k").status, 200);
            assert!(began.elapsed() < PATIENCE, "health never reports that {url} is of no use");
        }
        let health = router.get("/api/health").json();
        assert_eq!((&health["status"], &health["success"]), (&json!("ok"), &json!(true)));
        assert_eq!(router.get("/ready").status, 200);
        let errors = router.get("/api/analytics/errors").json();
        assert_eq!(errors["errors"], json!([]), "no client got an error");
    }
}

#[test]
fn the_doctor_reports_the_state_of_redis() {
    let examine = |redis_url: &str| {
        let data = crate::folders::temporary();
        let mut command = backend::command(&data.path().join("data"), &["--doctor"]);
        command.env("REDIS_URL", redis_url);
        let output = command.output().unwrap();
        let reported = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!reported.contains("canary"), "{reported}");
        reported
    };
    let redis = Redis::start_with(&["--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lfu"]);
    let reported = examine(&redis.url());
    assert!(
        reported.contains("good     redis://") && reported.contains("answers, Redis 7."),
        "{reported}"
    );
    redis.ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let reported = examine(&redis.url());
    assert!(
        reported.contains("warning  redis://") && reported.contains("maxmemory-policy"),
        "{reported}"
    );
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    let reported = examine(&redis.url());
    assert!(reported.contains("warning  redis://") && reported.contains("maxmemory"), "{reported}");
    let reported = examine(&redis.url().replace(PASSWORD, "canary-wrong"));
    assert!(reported.contains("warning  redis://"), "{reported}");
    redis.freeze();
    let began = Instant::now();
    let reported = examine(&redis.url());
    assert!(
        reported.contains("warning  redis://") && reported.contains("does not answer"),
        "{reported}"
    );
    assert!(began.elapsed() < Duration::from_secs(20));
}
