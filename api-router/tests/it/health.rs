//! Tests of `GET /api/health`: it reports the real state of the nodes, and the reasons why a node
//! is not healthy.

use std::time::Instant;

use serde_json::{Value, json};

use crate::backend::files_only;
use crate::client::{keys_on, lab, put_node, refusal, refused, set, settle, tokenless, user};
use crate::harness::{PATIENCE, Router};

/// Repeats the request until health reports the expected state.
fn until(router: &Router, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let health = router.get("/api/health").json();
        if is_so(&health) {
            return health;
        }
        assert!(began.elapsed() < PATIENCE, "not {what}: {health}");
        std::thread::yield_now();
    }
}

fn names(reasons: &Value) -> Vec<&str> {
    let reasons = reasons.as_array().unwrap().iter();
    reasons.map(|reason| reason["name"].as_str().unwrap()).collect()
}

/// Waits until the figures of a shard have the expected values.
fn until_scraped(router: &Router, shard: &str, up: &str) {
    let line = format!("tessera_shard_up{{shard=\"{shard}\"}} {up}");
    let began = Instant::now();
    while !router.get("/metrics").text().lines().any(|reported| reported == line) {
        assert!(began.elapsed() < PATIENCE, "{line} is not reported");
        std::thread::yield_now();
    }
}

#[test]
fn a_primary_that_takes_no_writes_is_reported_with_its_reason_until_it_does() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = lab(&["--shards", "2"]);
    settle(&router);
    let health = until(&router, "well", |health| health["status"] == "ok");
    assert_eq!(health["degraded"], json!([]));
    let keys = ["shard1", "shard2"].map(|shard| keys_on(&router, shard, 1).remove(0));

    // It is detected even without a write.
    set(&router, "shard1-primary", "paused");
    let health = until(&router, "reported for shard1 alone", |health| {
        let primary_is = |shard: &str, up: bool| health["health"][shard]["primary"] == up;
        let reasons = &health["shards"][0]["nodes"][0]["reasons"];
        primary_is("shard1", false)
            && primary_is("shard2", true)
            && names(reasons) == ["writes_stalled"]
    });
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(health["shards"][0]["nodes"][0]["up"], false, "{health}");
    let because = health["degraded"][0].as_str().unwrap();
    assert!(because.starts_with("shard1-primary: it takes no writes now"), "{health}");
    until_scraped(&router, "shard1", "0.0");
    until_scraped(&router, "shard2", "1.0");
    let shard = router.get("/api/shards/shard1").json();
    assert!(shard["tables"].is_array(), "it can be read: {shard}");

    // One dead shard takes no router out of service; a client gets the reason why its write is
    // late.
    assert_eq!(router.get("/ready").status, 200);
    let soon = [("x-deadline-ms", "1000")];
    let late = tokenless(&router).write_with(&keys[0], &soon, &user(&keys[0], "late"));
    assert_eq!(refusal(&late), refused(504, "TSR004"), "{}", late.text());
    let reported = late.json();
    assert_eq!(reported["shard"], "shard1");
    assert!(reported["detail"].as_str().unwrap().contains("takes no writes now"), "{reported}");
    assert!(reported["hint"].as_str().unwrap().contains("/api/health"), "{reported}");
    tokenless(&router).write_user(&keys[1], "the other shard goes on");

    set(&router, "shard2-primary", "paused");
    until(&router, "down", |health| health["status"] == "down");
    assert_eq!(router.get("/api/health").status, 503);
    assert_eq!(router.get("/ready").status, 200);

    for node in ["shard1-primary", "shard2-primary"] {
        set(&router, node, "running");
    }
    let health = until(&router, "well again", |health| health["status"] == "ok");
    assert_eq!(health["degraded"], json!([]));
    until_scraped(&router, "shard1", "1.0");
    tokenless(&router).write_user(&keys[0], "in time");
}

#[test]
fn a_replica_too_far_behind_to_be_read_is_reported_as_down_with_its_lag() {
    files_only!("a server that is a replica is not the router's to hold up");
    let router = lab(&["--shards", "1"]);
    settle(&router);
    set(&router, "shard1-replica1", "paused");
    tokenless(&router).write_user("k", "new");
    let health = until(&router, "behind alone", |health| {
        let shard = &health["health"]["shard1"];
        let reasons = &health["shards"][0]["nodes"][1]["reasons"];
        shard["replica"] == false && shard["primary"] == true && names(reasons) == ["behind"]
    });
    let node = &health["shards"][0]["nodes"][1];
    assert!(node["lag"].as_f64().unwrap() >= 10_000.0, "{health}");
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(tokenless(&router).user("k").served_by, "primary");

    assert_eq!(put_node(&router, "shard1-replica1", &json!({"state": "running"})).status, 200);
    until(&router, "well again", |health| health["status"] == "ok");
}

#[test]
fn health_replies_within_a_short_deadline_and_names_what_did_not_answer() {
    files_only!("a server is not the router's to hold up");
    let router = lab(&["--shards", "1"]);
    settle(&router);
    until(&router, "well", |health| health["status"] == "ok");
    set(&router, "shard1-primary", "paused");
    let soon = [("x-deadline-ms", "100")];
    let health = router.send("GET", "/api/health", &soon, None);
    assert_eq!(health.status, 200, "{}", health.text());
    let health = health.json();
    assert_eq!(health["status"], "degraded", "{health}");
    let reasons = &health["shards"][0]["nodes"][0]["reasons"];
    assert_eq!(names(reasons), ["no_answer_in_time"], "{health}");
    let because = health["degraded"][0].as_str().unwrap();
    assert!(because.starts_with("shard1-primary: it did not answer before"), "{health}");
    // Without a deadline the same state is known reliably.
    let health = until(&router, "down", |health| health["status"] == "down");
    assert_eq!(names(&health["shards"][0]["nodes"][0]["reasons"]), ["writes_stalled"]);
}

#[test]
fn health_refuses_a_deadline_that_cannot_be_one() {
    let router = Router::start_with(&["--shards", "1"]);
    for path in ["/api/health", "/health", "/healthz"] {
        for bad in ["99", "60001", "soon", "-1", "1.5", ""] {
            let headers = [("x-deadline-ms", bad)];
            let answer = router.send("GET", path, &headers, None);
            assert_eq!((answer.status, &*answer.code()), (400, "TSR113"), "{path} {bad:?}");
        }
        let headers = [("x-deadline-ms", "60000")];
        assert_eq!(router.send("GET", path, &headers, None).status, 200, "{path}");
    }
}
