//! Tests of `GET /api/analytics/metrics`: the metrics are those of the requests that were sent.

use serde_json::{Value, json};

use crate::harness::{Reply, Router};

pub(crate) fn metrics(router: &Router, query: &str) -> Value {
    let reply = router.get(&format!("/api/analytics/metrics{query}"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let answer = reply.json();
    assert_eq!(answer["success"], true);
    answer["metrics"].clone()
}

/// Sends seven reads and writes that succeed, and five that fail, and returns the codes and ids of
/// the latter, newest first.
pub(crate) fn some_requests(router: &Router) -> Vec<(String, String)> {
    for (key, status) in [("ada", 201), ("bob", 201), ("ada", 200)] {
        assert_eq!(router.write_user(key, "Name").status, status);
    }
    let rows = json!({"table": "users", "records": [
        {"user_id": "c1", "name": "C", "email": "c"}, {"user_id": "c2", "name": "C", "email": "c"}]});
    assert_eq!(router.post("/api/bulk-write", &[], &rows).status, 201);
    assert_eq!(router.read("ada", "table=users").status, 200);
    assert_eq!(router.read("bob", "table=users").status, 200);
    assert_eq!(router.get("/api/read?table=users").status, 200);

    let again = json!({"table": "users", "op": "insert",
        "data": {"user_id": "ada", "name": "N", "email": "e"}});
    let refused = [
        router.write("ada", &again),
        router.write("ada", &json!({"table": "usres", "data": {}})),
        router.read("ada", "table=usres"),
        router.get("/api/read?table=users&name=Ada"),
        router.get("/api/read?table=users&name=Ada"),
    ];
    assert!(refused.iter().all(|reply| reply.status >= 400));
    // None of these requests is about data.
    for path in ["/api/health", "/api/shards", "/api/route", "/nowhere", "/api/analytics/errors"] {
        router.get(path);
    }
    let report = |reply: &Reply| (reply.code(), reply.header("x-request-id").unwrap().to_owned());
    refused.iter().rev().map(report).collect()
}

/// Members of a shard, a node or a key that may be unknown, and the latest rebalance, if there was
/// none.
const UNKNOWN: [&str; 7] = [
    "metrics.cluster.rebalance",
    "metrics.shards.rows",
    "metrics.shards.bytes",
    "metrics.shards.lag_ms",
    "metrics.shards.nodes.lag_ms",
    "metrics.shards.nodes.latency_ms",
    "metrics.hot_keys.slot",
];

fn assert_finite(value: &Value, at: &str) {
    match value {
        Value::Null => assert!(UNKNOWN.contains(&at), "{at} is null"),
        Value::Number(number) => assert!(number.as_f64().unwrap() >= 0.0, "{at} is {number}"),
        Value::Array(items) => items.iter().for_each(|item| assert_finite(item, at)),
        Value::Object(members) => {
            for (name, member) in members {
                assert_finite(member, &format!("{at}.{name}"));
            }
        }
        Value::Bool(_) | Value::String(_) => {}
    }
}

#[test]
fn before_the_first_request_every_figure_is_a_number() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let metrics = metrics(&router, "");
    assert_finite(&metrics, "metrics");
    for name in ["total", "writes", "reads", "errors"] {
        assert_eq!(metrics[name], 0, "{name}");
    }
    assert_eq!(metrics["shardDistribution"], json!({"shard1": 0, "shard2": 0, "shard3": 0}));
}

#[test]
fn the_counts_are_those_of_the_requests_made() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    some_requests(&router);
    let metrics = metrics(&router, "");
    assert_finite(&metrics, "metrics");
    let counts = ["total", "writes", "reads", "errors", "errors_client", "errors_server"];
    assert_eq!(counts.map(|name| metrics[name].as_u64().unwrap()), [12, 6, 6, 5, 5, 0]);
    assert!(metrics["throughput"].as_f64().unwrap() > 0.0, "{metrics}");
    assert!(metrics["avgLatency"].as_f64().unwrap() > 0.0, "{metrics}");

    let distribution = metrics["shardDistribution"].as_object().unwrap();
    let assigned: u64 = distribution.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(assigned + metrics["unassigned"].as_u64().unwrap(), 12);
    // Three writes and two reads by key, and the insert that a shard refused.
    assert!(assigned >= 6, "{metrics}");
    let shards = metrics["shards"].as_array().unwrap();
    assert_eq!(shards.len(), 3);
    for shard in shards {
        let name = shard["shard"].as_str().unwrap();
        let both = shard["reads"].as_u64().unwrap() + shard["writes"].as_u64().unwrap();
        assert_eq!(distribution[name], both, "{name}");
        for member in ["ops_per_s", "p50", "p99", "errors"] {
            assert!(shard[member].is_number(), "{member} of {shard}");
        }
    }
}

#[test]
fn a_router_without_alerts_refers_to_the_analytics_service() {
    let router = Router::start();
    for path in ["/api/analytics/alerts", "/api/analytics/alerts/"] {
        let reply = router.get(path);
        assert_eq!((reply.status, &*reply.code()), (404, "TSR111"), "{}", reply.text());
        let hint = reply.json()["hint"].as_str().unwrap_or_default().to_owned();
        assert!(hint.contains("analytics service") && hint.contains("--routers"), "{hint}");
    }
}

#[test]
fn percentiles_stand_in_order_and_below_the_slowest() {
    let router = Router::start();
    some_requests(&router);
    let metrics = metrics(&router, "");
    let latency = &metrics["latency_ms"];
    let figures = ["p50", "p90", "p95", "p99", "p999", "max"];
    let figures = figures.map(|name| latency[name].as_f64().unwrap());
    assert!(figures[0] > 0.0 && figures.is_sorted(), "{latency}");
    let average = metrics["avgLatency"].as_f64().unwrap();
    assert!(average <= figures[5] * 1.001, "{average} is above the slowest: {latency}");
}

#[test]
fn a_window_may_be_spelled_in_two_ways_and_no_third() {
    let router = Router::start();
    some_requests(&router);
    for window in ["window=1m", "window=5m", "window=15m", "window=1h", "timeRange=3600000"] {
        let reply = router.get(&format!("/api/analytics/metrics?{window}"));
        assert_eq!((reply.status, &reply.json()["metrics"]["total"]), (200, &json!(12)));
    }
    for bad in [
        "window=2m",
        "window=",
        "window=5M",
        "window=5m&window=5m",
        "window=5m&timeRange=1000",
        "timeRange=0",
        "timeRange=-1",
        "timeRange=1.5",
        "timeRange=3600001",
        "timeRange=99999999999999999999",
        "windows=5m",
    ] {
        let reply = router.get(&format!("/api/analytics/metrics?{bad}"));
        assert_eq!((reply.status, &*reply.code()), (400, "TSR100"), "{bad}: {}", reply.text());
    }
}
