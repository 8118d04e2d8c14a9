//! Tests of metrics under a known load: each metric equals the number that the test computes from
//! the requests that it has sent.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Reply, Router};
use crate::metrics::metrics;

/// A request and its response, as the client knows them.
struct SentRequest {
    route: &'static str,
    operation: &'static str,
    /// The shard, if the request went to exactly one.
    shard: Option<String>,
    key: Option<&'static str>,
    status: u16,
    /// Number of shards that received it.
    fanout: u64,
    /// Node that answered a read.
    role: Option<String>,
    took: Duration,
}

/// A client with a list of its requests.
struct Load<'r> {
    router: &'r Router,
    requests: Vec<SentRequest>,
}

impl Load<'_> {
    fn note(
        &mut self,
        route: &'static str,
        operation: &'static str,
        key: Option<&'static str>,
        ask: impl FnOnce(&Router) -> Reply,
    ) -> u16 {
        let began = Instant::now();
        let reply = ask(self.router);
        let took = began.elapsed();
        let shard = reply.header("x-shard").map(str::to_owned);
        let role = reply.header("x-served-by").map(str::to_owned);
        let role = role.filter(|_| operation == "read");
        let fanout = u64::from(shard.is_some());
        self.requests.push(SentRequest {
            route,
            operation,
            shard,
            key,
            status: reply.status,
            fanout,
            role,
            took,
        });
        reply.status
    }

    /// Sets shard and fan-out of the last request if the headers of its response do not contain
    /// them.
    fn asked(&mut self, shard: Option<&str>, fanout: u64) {
        let last = self.requests.last_mut().unwrap();
        (last.shard, last.fanout) = (shard.map(str::to_owned), fanout);
    }

    fn count(&self, is_meant: impl Fn(&SentRequest) -> bool) -> u64 {
        self.requests.iter().filter(|request| is_meant(request)).count() as u64
    }
}

fn shard_of(router: &Router, key: &str) -> String {
    router.get(&format!("/api/route?key={key}")).json()["shard"].as_str().unwrap().to_owned()
}

/// Sends each kind of request about rows, valid and invalid ones, in different numbers.
fn load(router: &Router) -> Load<'_> {
    let mut load = Load { router, requests: Vec::new() };
    for (key, times) in [("hot", 20), ("warm", 9), ("cold", 1)] {
        for n in 0..times {
            let status = if n == 0 { 201 } else { 200 };
            let write = |router: &Router| router.write_user(key, "Name");
            assert_eq!(load.note("/api/write", "write", Some(key), write), status);
        }
    }
    for (key, times) in [("hot", 12), ("warm", 2)] {
        for _ in 0..times {
            let read = |router: &Router| router.read(key, "table=users");
            assert_eq!(load.note("/api/read", "read", Some(key), read), 200);
        }
    }
    for _ in 0..3 {
        let read = |router: &Router| router.get("/api/read?table=users");
        assert_eq!(load.note("/api/read", "read", None, read), 200);
        load.asked(None, 3);
    }
    let json = [("content-type", "application/json")];
    for (method, operation, status) in [
        ("PUT", "write", 201),
        ("GET", "read", 200),
        ("DELETE", "write", 200),
        ("GET", "read", 404),
    ] {
        let body = (method == "PUT").then_some(&b"[1]"[..]);
        let ask = |router: &Router| router.send(method, "/api/kv/a%2Fb%20c", &json, body);
        assert_eq!(load.note("/api/kv/{key}", operation, Some("a/b c"), ask), status);
    }
    load.asked(Some(&shard_of(router, "a%2Fb%20c")), 1);
    let put = |router: &Router| router.post("/write", &[], &json!({"key": "pair", "value": 1}));
    assert_eq!(load.note("/write", "write", Some("pair"), put), 200);
    let get = |router: &Router| router.get("/read?key=pair");
    assert_eq!(load.note("/read", "read", Some("pair"), get), 200);
    with_many_rows(&mut load);
    with_errors(&mut load);
    load
}

fn with_many_rows(load: &mut Load<'_>) {
    let row = |key: &str| json!({"user_id": key, "name": "N", "email": "e"});
    let keys: Vec<String> = (0..60).map(|n| format!("user_{n}")).collect();
    let rows: Vec<Value> = keys.iter().map(|key| row(key)).collect();
    let post = |router: &Router| {
        router.post("/api/bulk-write", &[], &json!({"table": "users", "records": rows}))
    };
    assert_eq!(load.note("/api/bulk-write", "write", None, post), 201);
    load.asked(None, 3);
    let only = shard_of(load.router, "hot");
    let post = |router: &Router| {
        router.post(
            "/api/bulk-write",
            &[],
            &json!({"table": "users", "records": [row("hot"), row("hot")]}),
        )
    };
    assert_eq!(load.note("/api/bulk-write", "write", Some("hot"), post), 201);
    load.asked(Some(&only), 1);
    let lines: String = keys.iter().map(|key| format!("{}\n", row(key))).collect();
    let post = |router: &Router| {
        let headers = [("content-type", "application/x-ndjson")];
        router.send("POST", "/api/bulk-write?table=users", &headers, Some(lines.as_bytes()))
    };
    assert_eq!(load.note("/api/bulk-write", "write", None, post), 201);
    load.asked(None, 3);
}

fn with_errors(load: &mut Load<'_>) {
    let cold = shard_of(load.router, "cold");
    let again = json!({"table": "users", "op": "insert",
        "data": {"user_id": "cold", "name": "N", "email": "e"}});
    for _ in 0..2 {
        let insert = |router: &Router| router.write("cold", &again);
        assert_eq!(load.note("/api/write", "write", Some("cold"), insert), 409);
        load.asked(Some(&cold), 1);
    }
    for _ in 0..4 {
        // No shard receives it, so its key does not matter.
        let read = |router: &Router| router.read("hot", "table=nowhere");
        assert_eq!(load.note("/api/read", "read", None, read), 404);
    }
    let broken =
        |router: &Router| router.post("/api/write", &[("x-shard-key", "cold")], &json!({}));
    assert_eq!(load.note("/api/write", "write", None, broken), 400);
}

#[test]
fn counts_by_route_operation_shard_and_outcome_are_those_of_the_load() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let load = load(&router);
    let reported = metrics(&router, "");
    let is_read = |request: &SentRequest| request.operation == "read";
    let wanted = [
        ("total", load.count(|_| true)),
        ("reads", load.count(is_read)),
        ("writes", load.count(|request| !is_read(request))),
        ("errors", load.count(|request| request.status >= 400)),
        ("errors_client", load.count(|request| request.status >= 400)),
        ("errors_server", 0),
        ("unassigned", load.count(|request| request.shard.is_none())),
        ("in_flight", 0),
    ];
    for (name, count) in wanted {
        assert_eq!(reported[name], count, "{name}");
    }
    let mut routes: BTreeMap<(&str, &str), (u64, u64)> = BTreeMap::new();
    for request in &load.requests {
        let (total, errors) = routes.entry((request.route, request.operation)).or_default();
        *total += 1;
        *errors += u64::from(request.status >= 400);
    }
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found: BTreeMap<(String, String), (u64, u64)> = reported["routes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let name = (text(&entry["route"]), text(&entry["operation"]));
            (name, (entry["total"].as_u64().unwrap(), entry["errors"].as_u64().unwrap()))
        })
        .collect();
    let routes: BTreeMap<_, _> = routes
        .into_iter()
        .map(|((route, operation), counts)| ((route.to_owned(), operation.to_owned()), counts))
        .collect();
    assert_eq!(found, routes);
    let assigned = load.count(|request| request.shard.is_some());
    for shard in reported["shards"].as_array().unwrap() {
        let name = shard["shard"].as_str().unwrap();
        let here = |request: &SentRequest| request.shard.as_deref() == Some(name);
        let total = load.count(here);
        assert_eq!(reported["shardDistribution"][name], total, "{name}");
        assert_eq!(
            shard["reads"],
            load.count(|request| here(request) && is_read(request)),
            "{name}"
        );
        assert_eq!(
            shard["writes"],
            load.count(|request| here(request) && !is_read(request)),
            "{name}"
        );
        assert_eq!(
            shard["errors"],
            load.count(|request| here(request) && request.status >= 400),
            "{name}"
        );
        let share = total as f64 / assigned as f64;
        let reported = shard["share"].as_f64().unwrap();
        assert!((reported - share).abs() < 0.001, "{name}: {reported}, not {share}");
    }
}

#[test]
fn roles_fanout_and_keys_are_recorded() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let load = load(&router);
    let reported = metrics(&router, "");
    for role in ["primary", "replica"] {
        let by = |request: &SentRequest| request.role.as_deref() == Some(role);
        // One of them searched for the value that did not exist.
        let count = load.count(by);
        let found = reported["read_from"][role].as_u64().unwrap();
        assert!((count..=count + 1).contains(&found), "{role}: {found}, not {count}");
    }
    let asked: Vec<u64> =
        load.requests.iter().map(|request| request.fanout).filter(|asked| *asked > 0).collect();
    let fanout = &reported["fanout"];
    assert_eq!((&fanout["requests"], &fanout["max"]), (&json!(asked.len()), &json!(3)));
    let mean = asked.iter().sum::<u64>() as f64 / asked.len() as f64;
    assert!((fanout["mean"].as_f64().unwrap() - mean).abs() < 0.001, "{fanout}, not {mean}");

    for key in ["hot", "warm", "cold", "a/b c", "pair"] {
        let of = |request: &SentRequest| request.key == Some(key);
        let (total, reads) = (load.count(of), load.count(|m| of(m) && m.operation == "read"));
        let keys = reported["hot_keys"].as_array().unwrap();
        let found = keys.iter().find(|entry| entry["key"] == key);
        let found = found.unwrap_or_else(|| panic!("{key} is not among {keys:?}"));
        assert_eq!(found["requests"], total, "{found}");
        assert_eq!((&found["reads"], &found["writes"]), (&json!(reads), &json!(total - reads)));
        assert_eq!(found["shard"], shard_of(&router, &key.replace('/', "%2F").replace(' ', "%20")));
    }
    assert_eq!(reported["hot_keys"][0]["key"], "hot", "the hottest stands first");
}

#[test]
fn latencies_lie_within_those_of_the_client_and_their_parts_add_up() {
    let router = Router::start();
    let load = load(&router);
    let reported = metrics(&router, "");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let slowest = load.requests.iter().map(|request| ms(request.took)).fold(0.0, f64::max);
    let mean = load.requests.iter().map(|request| ms(request.took)).sum::<f64>()
        / load.requests.len() as f64;
    let latency = &reported["latency_ms"];
    // Latencies are recorded with three digits.
    assert!(latency["max"].as_f64().unwrap() <= slowest * 1.001, "{latency}, not {slowest}");
    let average = reported["avgLatency"].as_f64().unwrap();
    assert!(average > 0.0 && average <= mean, "{average}, not {mean}");
    let parts = &reported["latency_parts_ms"];
    let sum: f64 =
        ["queue", "database", "rest"].iter().map(|part| parts[part]["avg"].as_f64().unwrap()).sum();
    assert!((sum - average).abs() <= average * 0.01 + 0.01, "{parts}, not {average}");
    assert!(parts["database"]["avg"].as_f64().unwrap() > 0.0, "{parts}");
    assert!(parts["queue"]["avg"].as_f64().unwrap() > 0.0, "{parts}");
}

#[test]
fn a_filter_leaves_what_it_names() {
    crate::backend::not_on_citus!("Citus is one shard to Tessera, and several are needed");
    let router = Router::start();
    let load = load(&router);
    let shard = shard_of(&router, "hot");
    let here = |request: &SentRequest| request.shard.as_deref() == Some(&*shard);
    for (query, count) in [
        (format!("shard={shard}"), load.count(here)),
        ("operation=read".to_owned(), load.count(|request| request.operation == "read")),
        ("route=/api/write".to_owned(), load.count(|request| request.route == "/api/write")),
        ("route=/api/kv/{key}".to_owned(), 4),
        (
            format!("route=/api/write&operation=write&shard={shard}&window=1h"),
            load.count(|request| here(request) && request.route == "/api/write"),
        ),
        ("route=/api/write&operation=read".to_owned(), 0),
    ] {
        let reported = metrics(&router, &format!("?{query}"));
        assert_eq!(reported["total"], count, "{query}");
    }
}
