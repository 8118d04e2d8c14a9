//! Tests of clocks: the service collects from routers whose machines have other times than its own.

use analytics::Step;
use serde_json::json;

use crate::eventually;
use crate::fake::{FakeResponses, FakeRouter, ago, frame, unix_ms};
use crate::process::Service;

/// Converts a correct time to that of a clock that is wrong by `by_s` seconds.
fn wrong(seconds: u64, by_s: i64) -> u64 {
    seconds.checked_add_signed(by_s).unwrap()
}

/// Sets the router's start to `seconds_ago` seconds ago, and its clock to be wrong by `by_s`
/// seconds.
fn start(reported: &mut FakeResponses, seconds_ago: i64, by_s: i64) {
    let at_ms = unix_ms().checked_add_signed((by_s - seconds_ago) * 1_000).unwrap();
    let at = chrono::DateTime::from_timestamp_millis(at_ms as i64).unwrap();
    (reported.started, reported.clock_ms) = (at.to_rfc3339(), by_s * 1_000);
}

const HOUR_S: i64 = 3_600;
const YEARS_S: i64 = 10 * 31_557_600;

#[test]
fn a_router_that_returns_with_a_corrected_clock_is_collected_from_at_once() {
    for by_s in [HOUR_S, YEARS_S, -HOUR_S, -YEARS_S] {
        let folder = tempfile::tempdir().unwrap();
        let router = FakeRouter::start(&["shard1"]);
        router.change(|reported| {
            start(reported, 100, by_s);
            reported.frames.push(frame(Step::Second, wrong(ago(20), by_s), "shard1", 10, 1));
        });
        let list = format!("north={}", router.url());
        let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
        service.await_total("window=5m", 10);
        // The router's state is polled, because it changes a moment after the counts.
        let side = if by_s > 0 { "ahead of" } else { "behind" };
        eventually(side, || {
            let north = service.router("north");
            let is_reported = north["error"].as_str().is_some_and(|error| error.contains(side));
            (is_reported && north["up"] == true).then_some(())
        });
        router.change(|reported| {
            start(reported, 5, 0);
            reported.frames = vec![frame(Step::Second, ago(2), "shard1", 7, 1)];
        });
        service.await_total("window=5m", 17);
        eventually("no trouble", || {
            (service.router("north")["error"] == json!(null)).then_some(())
        });
    }
}

#[test]
fn counts_of_a_router_with_a_wrong_clock_align_with_those_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let routers = [0, -HOUR_S, YEARS_S, 600].map(|by_s| {
        let router = FakeRouter::start(&["shard1"]);
        router.change(|report| {
            start(report, 100, by_s);
            report.frames.push(frame(Step::Second, wrong(ago(20), by_s), "shard1", 10, 1));
        });
        router
    });
    let list: Vec<String> = routers.iter().map(FakeRouter::url).collect();
    let list = list.join(",");
    let arguments = ["--routers", &*list];
    let service = Service::start(folder.path(), &arguments);
    service.await_total("window=5m", 40);
    assert_eq!(service.end("TERM"), Some(0));
    // After a restart of the service, the stored metrics must not be counted twice.
    let service = Service::start(folder.path(), &arguments);
    for router in &routers {
        service.await_router(&router.name(), true);
    }
    service.await_total("window=5m", 40);
    for router in &routers {
        router.change(|report| {
            let later = wrong(ago(3), report.clock_ms / 1_000);
            report.frames.push(frame(Step::Second, later, "shard1", 1, 1));
        });
    }
    service.await_total("window=5m", 44);
}

#[test]
fn an_impossible_clock_is_refused_and_affects_no_other_router() {
    let folder = tempfile::tempdir().unwrap();
    let (honest, other) = (FakeRouter::start(&["shard1"]), FakeRouter::start(&["shard1"]));
    honest.change(|reported| reported.frames.push(frame(Step::Second, ago(5), "shard1", 10, 1)));
    other.change(|reported| reported.clock_ms = i64::MAX);
    let list = format!("other={},honest={}", other.url(), honest.url());
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    let trouble =
        eventually("its trouble", || service.router("other")["error"].as_str().map(str::to_owned));
    assert!(trouble.contains("its clock has an impossible time"), "{trouble}");
    service.await_total("window=5m", 10);
    other.change(|reported| {
        reported.clock_ms = 0;
        reported.frames.push(frame(Step::Second, ago(5), "shard1", 1_000, 1));
    });
    service.await_total("window=5m", 1_010);
}
