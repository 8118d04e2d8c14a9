//! Tests of the cache that count what comes from it, and so need every answer of Redis in time.
//!
//! A router waits for Redis only for its patience, and then reads from the shard. On a busy machine
//! any program may get no CPU time for longer than that, which the router counts as an error of
//! Redis. A test that fails beside such an error is repeated on a new cluster.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use serde_json::{Value, json};

use crate::cache::{Cached, cache_headers, plain_read, until_hit, until_seen};
use crate::client::{Seen, tokenless};

/// Flags with which every response is cached, remains fresh enough for the whole test, and is
/// waited for as long as the settings permit.
const PATIENT: [&str; 6] =
    ["--cache-bound-ms", "30000", "--cache-min-uses", "1", "--cache-patience-ms", "1000"];
/// Words of a failure that no late response of Redis explains.
const WRONG: &str = "a wrong response";
/// Attempts of a test beside answers of Redis that come too late.
const ATTEMPTS_MAX: usize = 5;

/// Runs a test on a new cluster with these flags; repeats it if it fails and an answer of Redis has
/// come too late.
#[track_caller]
fn in_time(flags: &[&str], test: impl Fn(&Cached)) {
    for _ in 0..ATTEMPTS_MAX {
        let cached = Cached::start(flags);
        let Err(failed) = catch_unwind(AssertUnwindSafe(|| test(&cached))) else { return };
        let message = failed.downcast_ref::<String>().map_or("", String::as_str);
        if message.contains(WRONG) || cached.counters()["errors"].as_u64().unwrap() == 0 {
            resume_unwind(failed);
        }
    }
    panic!("Redis answers too late in each of {ATTEMPTS_MAX} attempts");
}

#[test]
fn a_key_is_cached_only_after_it_was_read_repeatedly() {
    let patient = ["--cache-bound-ms", "30000", "--cache-patience-ms", "1000", "--replicas", "0"];
    in_time(&patient, |cached| {
        let router = &cached.router;
        for key in ["k", "l", "m"] {
            tokenless(router).write_user(key, "Ada");
            assert_eq!(cache_headers(&plain_read(router, key)).0, "miss");
        }
        assert_eq!(cached.redis.keys(), Vec::<String>::new(), "each was requested once");
        assert_eq!(cached.counters()["seldom"], 3);
        assert_eq!(Seen::of(&until_hit(|| plain_read(router, "k"))).names, ["Ada"], "{WRONG}");
        assert_eq!(cached.counters()["errors"], 0);
    });
}

#[test]
fn each_question_has_an_answer_of_its_own() {
    let order = |id: &str, amount: i64| json!({"table": "orders", "data": {"order_id": id, "user_id": "u", "amount": amount}});
    let queries = [
        "table=orders",
        "table=orders&select=order_id",
        "table=orders&select=id:order_id",
        "table=orders&select=order_id&order=amount.desc",
        "table=orders&amount=gt.1",
        "table=orders&amount=gt.2",
        "table=orders&limit=3&select=order_id",
        "table=users",
        "table=orders&note=is.null&status=not.is.null",
    ];
    in_time(&PATIENT, |Cached { router, .. }| {
        let mut client = tokenless(router);
        for (id, amount) in [("a", 1), ("b", 2), ("c", 3)] {
            let level = [("x-consistency", "all")];
            assert_eq!(client.write_with("u", &level, &order(id, amount)).status, 201);
        }
        let ask = |level: &str, query: &str| {
            tokenless(router).read_with(Some("u"), &[("x-consistency", level)], query)
        };
        for query in queries {
            let cached = until_hit(|| ask("one", query)).json();
            assert_eq!(cached["data"], ask("all", query).json()["data"], "{WRONG}: {query}");
        }
        for query in queries {
            assert_eq!(cache_headers(&ask("one", query)).0, "hit", "{query}");
        }
    });
}

#[test]
fn a_client_limits_the_age_of_a_cached_answer() {
    in_time(&PATIENT, |cached| {
        let router = &cached.router;
        let ada = crate::client::user("k", "Ada");
        tokenless(router).write_with("k", &[("x-consistency", "all")], &ada);
        let ask = |ms: &str| {
            tokenless(router).read_with(Some("k"), &[("x-max-staleness-ms", ms)], "table=users")
        };
        until_hit(|| plain_read(router, "k"));
        until_hit(|| ask("30000"));
        for _ in 0..5 {
            // A response that was read before now is not fresh enough.
            assert_eq!(cache_headers(&ask("0")).0, "miss");
        }
        let stale = cached.counters()["stale"].clone();
        assert!(stale.as_u64().unwrap() >= 5, "{stale}");
    });
}

#[test]
fn the_router_s_own_memory_answers_under_the_same_rules() {
    let near = [&PATIENT[..], &["--cache-near-bytes", "1000000", "--replicas", "0"]].concat();
    in_time(&near, |cached| {
        let router = &cached.router;
        let mut writer = tokenless(router);
        for n in 0..20 {
            let name = format!("name {n}");
            writer.write_user("k", &name);
            assert_eq!(writer.user("k").names, [&*name], "{WRONG}");
            until_seen(router, "k", &[&name]);
            until_hit(|| plain_read(router, "k"));
            assert_eq!(cache_headers(&plain_read(router, "k")).0, "hit");
        }
        let counted = cached.counters();
        assert!(counted["near_hits"].as_u64().unwrap() > 0, "{counted}");
        assert!(counted["hits"].as_u64() >= counted["near_hits"].as_u64(), "{counted}");
    });
}

/// Returns a counter of the cache.
#[track_caller]
fn count(counted: &Value, name: &str) -> u64 {
    counted[name].as_u64().unwrap_or_else(|| panic!("{name}: {counted}"))
}

#[test]
fn uses_of_the_cache_are_counted_and_reported() {
    let alone = [&PATIENT[..], &["--replicas", "0"]].concat();
    in_time(&alone, |cached| {
        let router = &cached.router;
        tokenless(router).write_user("k", "Ada");
        until_hit(|| plain_read(router, "k"));
        for _ in 0..20 {
            plain_read(router, "k");
            tokenless(router).user_at("k", "all");
        }
        let counted = &cached.counters();
        assert_eq!((&counted["enabled"], &counted["breaker"]), (&json!(true), &json!("closed")));
        for (name, least) in [("hits", 20), ("bypass", 20), ("misses", 1), ("fills", 1)] {
            assert!(count(counted, name) >= least, "{name}: {counted}");
        }
        assert_eq!(count(counted, "errors"), 0, "{counted}");
        let rate = counted["hit_rate"].as_f64().unwrap();
        assert!(rate > 0.5 && rate < 1.0, "{counted}");
        let scraped = router.get("/metrics").text();
        for line in [
            "tessera_cache_enabled 1",
            "tessera_cache_up 1",
            "tessera_cache_requests_total{result=\"hit\"}",
            "tessera_cache_voids_total",
            "tessera_cache_near_hits_total",
            "tessera_cache_seldom_total",
        ] {
            assert!(scraped.contains(line), "{line}: {scraped}");
        }
        assert!(!scraped.contains("canary"));
        assert_eq!(cached.state(), "ok");
        let page = router.get("/api/analytics/metrics?window=1m").json();
        assert!(page["metrics"]["read_from"]["cache"].as_u64().unwrap() >= 20, "{page}");
    });
}
