//! Tests of several routers as a fleet: sums, metrics of each router, and requests that are
//! forwarded to routers.

use analytics::{ErrorEvent, Step};
use serde_json::{Value, json};

use crate::eventually;
use crate::fake::{FakeRouter, ago, frame, unix_ms};
use crate::http::get;
use crate::process::Service;
use crate::router::Router;

fn routers(list: &[(&str, &str)]) -> String {
    let named: Vec<_> = list.iter().map(|(name, url)| format!("{name}={url}")).collect();
    named.join(",")
}

#[test]
fn metrics_of_a_fleet_are_the_sum_of_its_routers_and_each_can_be_selected() {
    let folder = tempfile::tempdir().unwrap();
    let north = Router::start(&folder.path().join("north"));
    let south = Router::start(&folder.path().join("south"));
    let list = routers(&[("north", &north.url()), ("south", &south.url())]);
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    north.write(0..40);
    south.write(0..25);
    south.read(0..10);
    south.fail(3);
    let fleet = service.await_total("window=15m", 78);
    for (member, wanted) in [("writes", 65), ("reads", 13), ("errors", 3), ("errors_client", 3)] {
        assert_eq!(fleet[member], wanted, "{member}");
    }
    let own = |router: &Router| {
        get(router.address, "/api/analytics/metrics?window=15m").json()["metrics"].clone()
    };
    let (north_says, south_says) = (own(&north), own(&south));
    for member in ["total", "writes", "reads", "errors", "unassigned"] {
        let sum = north_says[member].as_u64().unwrap() + south_says[member].as_u64().unwrap();
        assert_eq!(fleet[member], sum, "{member}");
    }
    for shard in ["shard1", "shard2", "shard3"] {
        let of = |says: &Value| says["shardDistribution"][shard].as_u64().unwrap();
        assert_eq!(of(&fleet), of(&north_says) + of(&south_says), "{shard}");
    }
    // If a router is selected, the response equals the router's own metrics, including every digit
    // of the percentiles.
    for (name, says) in [("north", north_says), ("south", south_says)] {
        let reported = service.metrics(&format!("window=15m&router={name}"));
        for member in ["total", "latency_ms", "shardDistribution", "read_from", "avgLatency"] {
            assert_eq!(reported[member], says[member], "{name}: {member}");
        }
    }
    let slowest = |says: &Value| says["latency_ms"]["max"].as_f64().unwrap();
    assert!(slowest(&fleet) >= slowest(&service.metrics("window=15m&router=south")));
    // The errors are polled, because they appear a moment after the counts.
    let errors = eventually("three errors", || {
        let errors = service.get("/api/analytics/errors").json();
        (errors["errors"].as_array().unwrap().len() == 3).then_some(errors)
    });
    assert_eq!(errors["errors"][0]["router"], "south");
    assert_eq!(errors["errors"][0]["code"], "TSR310");
    let grouped = service.get("/api/analytics/errors?grouped=true&router=south").json();
    assert_eq!(grouped["errors"][0]["count"], 3, "{grouped}");
    assert_eq!(service.get("/api/analytics/errors?router=north").json()["errors"], json!([]));
    // A router explains the codes that the service itself does not have.
    let page = service.get("/errors/TSR310");
    assert_eq!(page.status, 200, "{}", page.text());
    assert!(page.text().starts_with("TSR310 No such table (status 404)\n"), "{}", page.text());
    assert_eq!(service.get("/errors/TSR999").status, 404);
}

#[test]
fn percentiles_of_a_fleet_come_from_all_requests_and_not_from_percentiles() {
    let folder = tempfile::tempdir().unwrap();
    let (fast, slow) = (FakeRouter::start(&["shard1"]), FakeRouter::start(&["shard1"]));
    // Ninety of a hundred requests take 1 ms, so the median is 1 ms. The mean of the two routers'
    // medians would be about 50 ms.
    fast.change(|reported| reported.frames.push(frame(Step::Second, ago(10), "shard1", 90, 1)));
    slow.change(|reported| reported.frames.push(frame(Step::Second, ago(12), "shard1", 10, 100)));
    let list = format!("{},{}", fast.url(), slow.url());
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    let figures = service.await_total("window=5m", 100);
    assert_eq!(figures["latency_ms"]["p50"], 1.0);
    assert_eq!(figures["latency_ms"]["p90"], 1.0);
    let p95 = figures["latency_ms"]["p95"].as_f64().unwrap();
    assert!((99.9..=100.1).contains(&p95), "{p95}");
}

#[test]
fn the_state_of_the_cluster_is_the_worst_that_any_router_reports() {
    let folder = tempfile::tempdir().unwrap();
    let (well, ill) =
        (FakeRouter::start(&["shard1", "shard2"]), FakeRouter::start(&["shard1", "shard2"]));
    well.change(|reported| {
        reported.now.in_flight = 2;
        reported.now.shards[0].pool.in_use = 3;
        reported.now.shards[0].rows = Some(7);
    });
    ill.change(|reported| {
        reported.now.in_flight = 5;
        reported.now.shards[0].pool.in_use = 4;
        reported.now.shards[1].up = false;
        reported.now.shards[1].nodes[0].lag_ms = Some(900.0);
    });
    let list = routers(&[("well", &well.url()), ("ill", &ill.url())]);
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    service.await_router("well", true);
    service.await_router("ill", true);
    let reported = service.metrics("");
    assert_eq!(
        (&reported["in_flight"], &reported["shards"][0]["pool"]["in_use"]),
        (&json!(7), &json!(7))
    );
    assert_eq!(
        (&reported["shards"][0]["up"], &reported["shards"][0]["rows"]),
        (&json!(true), &json!(7))
    );
    assert_eq!(
        (&reported["shards"][1]["up"], &reported["shards"][1]["lag_ms"]),
        (&json!(false), &json!(900.0))
    );
    assert_eq!(service.metrics("router=well")["shards"][1]["up"], true);
}

#[test]
fn missed_frames_are_fetched_as_far_back_as_the_router_has_them() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    router.change(|reported| {
        // The clock is read only once. If it were read for each frame, two frames might get the
        // same start.
        let now = ago(0);
        let minutes = (1..=100).map(|n| frame(Step::Minute, now - 60 * (30 + n), "shard1", 1, 1));
        let tens = (1..=60).map(|n| frame(Step::TenSeconds, now - 900 - 10 * n, "shard1", 1, 1));
        let seconds = (1..=300).map(|n| frame(Step::Second, now - n, "shard1", 1, 1));
        reported.frames = minutes.chain(tens).chain(seconds).collect();
        reported.errors = (0..5).map(error).collect();
    });
    let service = Service::start(folder.path(), &["--routers", &router.url(), "--store", "none"]);
    service.await_total("window=15m", 300);
    // The errors are polled, because they appear a moment after the counts.
    eventually("five errors", || {
        (service.get("/api/analytics/errors").json()["total"] == 5).then_some(())
    });
    router.change(|reported| {
        reported.frames.push(frame(Step::Second, ago(0), "shard1", 1, 1));
        reported.errors.push(error(5));
    });
    service.await_total("window=15m", 301);
    eventually("the new error", || {
        let errors = service.get("/api/analytics/errors?limit=2").json();
        (errors["total"] == 6).then(|| assert_eq!(errors["errors"][0]["request_id"], "id-5"))
    });
}

pub(crate) fn error(number: u64) -> ErrorEvent {
    ErrorEvent {
        at_ms: unix_ms() - 10_000 + number,
        code: "TSR201".into(),
        status: 503,
        route: "/api/read".into(),
        shard: Some("shard1".to_owned()),
        request_id: format!("id-{number}"),
        trace_id: None,
        message: "shard1 did not answer".to_owned(),
    }
}

#[test]
fn each_address_of_a_name_is_a_router() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    let (_, port) =
        router.name().rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let name = format!("dns+http://localhost:{port}");
    let service = Service::start(folder.path(), &["--routers", &name, "--store", "none"]);
    let found = eventually("a router", || {
        let routers = service.metrics("")["routers"].clone();
        let up = |router: &&Value| router["up"] == true;
        routers.as_array().unwrap().iter().find(up).cloned()
    });
    assert_eq!(found["router"], format!("127.0.0.1:{port}"));
}

#[test]
fn requests_that_only_routers_can_answer_are_forwarded_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    let gone = crate::fake::unused_address();
    let list = format!("http://{gone},{}", router.url());
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    let before = service.get("/api/shards");
    assert!(before.status == 200 || before.json()["code"] == "TSR001", "{}", before.text());
    service.await_router(&router.name(), true);
    let rebalance = "/api/rebalance/9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71";
    for path in [
        "/api/route?key=user%201",
        "/api/shard-map",
        "/api/groups",
        "/api/shards",
        "/api/advice",
        "/api/advice?group=ledger",
        "/api/moves?state=open",
        "/api/rebalance",
        rebalance,
        "/api/health",
    ] {
        let answer = service.get(path);
        assert_eq!((answer.status, &answer.json()["asked"]), (200, &json!(path)));
        assert_eq!(answer.json()["host"], router.name());
    }
    for path in [
        "/api/write",
        "/api/read?table=users",
        "/api/kv/x",
        "/api/shards/shard1",
        "/api/tables",
        "/api/moves/9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a71",
        "/api/rebalance/a",
        "/api/rebalance/%2e%2e",
        "/api/rebalance/9b3e6c0a-52d4-4c5e-8f53-6d1b0c8f2a7%2f",
    ] {
        let answer = service.get(path);
        assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("TSR111")), "{path}");
    }
}
