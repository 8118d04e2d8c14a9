//! Tests of restarts of a router and of the service, and of a store that is unreachable for a
//! while.

use std::fs;

use analytics::{Fanout, Step};
use serde_json::json;

use crate::eventually;
use crate::fake::{FakeRouter, ago, frame, unix_ms};
use crate::fleet::error;
use crate::process::{Service, command};
use crate::router::Router;

#[test]
fn a_router_that_is_killed_and_returns_continues_counting() {
    let folder = tempfile::tempdir().unwrap();
    let keeps_nothing = ["--analytics-store", "none"];
    let router = Router::serve(&folder.path().join("router"), "127.0.0.1:0", &keeps_nothing);
    let list = format!("north={}", router.url());
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    router.write(0..30);
    router.fail(2);
    service.await_total("window=15m", 32);
    let before = service.await_router("north", true)["started"].clone();
    let router = router.kill_and_restart(&keeps_nothing);
    let again = eventually("another start", || {
        Some(service.router("north"))
            .filter(|north| north["up"] == true && north["started"] != before)
    });
    assert_eq!(again["error"], json!(null));
    // The service keeps the earlier counts, although the router has lost them.
    assert_eq!(service.metrics("window=15m")["total"], 32);
    router.write(30..40);
    router.fail(1);
    service.await_total("window=15m", 43);
    // The counts appear a moment before the errors.
    eventually("three errors", || {
        (service.get("/api/analytics/errors").json()["total"] == 3).then_some(())
    });
}

#[test]
fn a_minute_with_a_restart_of_a_router_keeps_the_counts_from_before() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    let minute = (unix_ms() / 60_000 - 1) * 60;
    let seconds = |range: std::ops::Range<u64>| {
        range.map(move |n| frame(Step::Second, minute + n, "shard1", 1, 1))
    };
    let ten = |n: u64, requests| frame(Step::TenSeconds, minute + 10 * n, "shard1", requests, 1);
    router.change(|reported| {
        reported.frames = seconds(0..25).chain([ten(0, 10), ten(1, 10)]).collect()
    });
    let service = Service::start(folder.path(), &["--routers", &router.url(), "--store", "none"]);
    service.await_total("window=15m", 25);
    // The router was killed 25 seconds after the start of the minute and started again after 27
    // seconds. It has lost its earlier counts.
    router.change(|reported| {
        let started = chrono::DateTime::from_timestamp((minute + 27) as i64, 0).unwrap();
        reported.started = started.to_rfc3339();
        let tens = [ten(2, 3), ten(3, 10), ten(4, 10), ten(5, 10)];
        let whole = frame(Step::Minute, minute, "shard1", 33, 1);
        reported.frames = seconds(27..60).chain(tens).chain([whole]).collect();
    });
    for window in ["15m", "1h", "7d"] {
        service.await_total(&format!("window={window}"), 58);
    }
}

/// The router had no requests before the restart, and then was down.
#[test]
fn idle_time_before_a_restart_differs_from_the_gap() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    let started = ago(300);
    router.change(|reported| {
        reported.started =
            chrono::DateTime::from_timestamp(started as i64, 0).unwrap().to_rfc3339();
        reported.counted = vec![(started - 500, started - 200)];
        reported.frames.push(frame(Step::Second, started + 100, "shard1", 5, 1));
    });
    let service = Service::start(folder.path(), &["--routers", &router.url(), "--store", "none"]);
    service.await_router(&router.name(), true);
    let series = service.await_total("window=15m", 5)["series"].clone();
    let times = series["t"].as_array().unwrap();
    let step = series["step_s"].as_u64().unwrap();
    let rate = |second: u64| {
        let holds = |t: &serde_json::Value| {
            (t.as_u64().unwrap()..).take(step as usize).any(|at| at == second)
        };
        times.iter().position(holds).and_then(|place| series["rps"][place].as_f64())
    };
    let reported =
        [-400_i64, -250, -150, -50, 50, 100].map(|s| rate(started.saturating_add_signed(s)));
    assert_eq!(reported[..5], [Some(0.0), Some(0.0), None, None, Some(0.0)], "{series}");
    assert!(reported[5] > Some(0.0), "{series}");
}

#[test]
fn a_service_that_is_killed_keeps_the_frames_that_were_stored() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    let list = format!("north={}", router.url());
    let arguments = ["--routers", &*list];
    router.change(|reported| {
        // The clock is read only once. If it were read for each frame, two frames might get the
        // same start.
        let now = ago(0);
        let minutes = (2..50).map(|n| frame(Step::Minute, now - 3_600 - 60 * n, "shard1", 100, 1));
        let seconds = (20..80).map(|n| frame(Step::Second, now - n, "shard1", 1, 1));
        reported.frames = minutes.chain(seconds).collect();
    });
    let service = Service::start(folder.path(), &arguments);
    service.await_total("window=15m", 60);
    let kept = || kept(&folder.path().join("analytics.db"));
    eventually("all is kept", || (kept() == 108).then_some(()));
    router.change(|reported| reported.frames.push(frame(Step::Second, ago(0), "shard1", 7, 1)));
    service.await_total("window=15m", 67);
    eventually("the new one is kept", || (kept() == 109).then_some(()));
    assert_eq!(service.end("KILL"), None);
    // Meanwhile the router has dropped all its frames.
    router.change(|reported| reported.frames.clear());
    let service = Service::start(folder.path(), &arguments);
    service.await_router("north", true);
    assert_eq!(service.await_total("window=15m", 67)["routers"][0]["up"], true);
    service.await_total("window=7d", 4_867);
}

/// Returns the number of frames in a store, read by another connection.
fn kept(path: &std::path::Path) -> i64 {
    use diesel::prelude::*;
    let Ok(mut connection) = diesel::sqlite::SqliteConnection::establish(path.to_str().unwrap())
    else {
        return 0;
    };
    let count = diesel::dsl::sql::<diesel::sql_types::BigInt>(
        "SELECT count(*) FROM tessera_history WHERE source NOT LIKE '%/counted'",
    );
    count.get_result(&mut connection).unwrap_or_default()
}

#[test]
fn a_service_that_is_stopped_stores_all_data_first() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    let service = Service::start(folder.path(), &["--routers", &router.url()]);
    service.await_router(&router.name(), true);
    router.change(|reported| reported.frames.push(frame(Step::Second, ago(0), "shard1", 7, 1)));
    service.await_total("window=15m", 7);
    assert_eq!(service.end("TERM"), Some(0));
    assert_eq!(kept(&folder.path().join("analytics.db")), 1);
}

#[test]
fn an_unreachable_store_stops_nothing_and_is_logged_once() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    router.change(|reported| reported.frames.push(frame(Step::Second, ago(5), "shard1", 10, 1)));
    let store = folder.path().join("later/analytics.db");
    let arguments = ["--routers", &*router.url(), "--store", store.to_str().unwrap()];
    let service = Service::start(folder.path(), &arguments);
    service.await_total("window=5m", 10);
    let warned = || service.said().matches("history is not kept for now").count();
    eventually("a warning", || (warned() == 1).then_some(()));
    fs::create_dir(folder.path().join("later")).unwrap();
    eventually("it is kept", || (kept(&store) == 1).then_some(()));
    eventually("it is logged", || service.said().contains("history is kept again").then_some(()));
    assert_eq!(warned(), 1);
}

/// The listener never accepts connections, which wait in its backlog.
#[test]
fn a_store_that_accepts_connections_and_never_answers_is_logged_once_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    router.change(|reported| reported.frames.push(frame(Step::Second, ago(5), "shard1", 10, 1)));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("postgres://me@{}/figures", listener.local_addr().unwrap());
    let service = Service::start(folder.path(), &["--routers", &router.url(), "--store", &store]);
    eventually("two failures", || {
        let text = service.get("/metrics").text();
        let mut lines = text.lines();
        lines.any(|line| line == "tessera_store_errors_total 2").then_some(())
    });
    assert!(service.get("/metrics").text().contains("tessera_store_up 0.0"));
    assert_eq!(service.said().matches("history is not kept for now").count(), 1);
    service.await_total("window=5m", 10);
}

#[test]
fn errors_of_a_restarted_router_are_neither_lost_nor_reported_twice() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    router.change(|reported| reported.errors = (0..4).map(error).collect());
    let service = Service::start(folder.path(), &["--routers", &router.url(), "--store", "none"]);
    let total = || service.get("/api/analytics/errors").json()["total"].as_u64().unwrap();
    eventually("four errors", || (total() == 4).then_some(()));
    // There are other errors, but the same number of them. Only the start time shows that the
    // router was restarted.
    router.change(|reported| {
        reported.started =
            chrono::DateTime::from_timestamp_millis(unix_ms() as i64).unwrap().to_rfc3339();
        reported.errors = (10..16).map(error).collect();
    });
    eventually("six more", || (total() == 10).then_some(()));
    let errors = service.get("/api/analytics/errors").json()["errors"].clone();
    let ids = errors.as_array().unwrap().iter().map(|error| error["request_id"].as_str().unwrap());
    let ids: std::collections::BTreeSet<_> = ids.collect();
    assert_eq!(ids.len(), 10);
}

#[test]
fn two_services_may_collect_from_one_router_and_a_router_needs_none() {
    let folder = tempfile::tempdir().unwrap();
    let router = FakeRouter::start(&["shard1"]);
    let mut odd = frame(Step::Second, ago(5), "shard1", 10, 1);
    odd.fanout = Fanout::default();
    router.change(|reported| reported.frames.push(odd));
    let start = |name: &str| {
        let own = folder.path().join(name);
        fs::create_dir(&own).unwrap();
        Service::start_command(command(&own).args(["--routers", &router.url()]), &own)
    };
    let (one, other) = (start("one"), start("other"));
    one.await_total("window=5m", 10);
    other.await_total("window=5m", 10);
    assert_ne!(one.folder, other.folder);
}
