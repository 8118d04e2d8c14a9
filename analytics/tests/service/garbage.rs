//! Tests of routers that are broken or malicious, or are other programs: they affect only their own
//! metrics.

use analytics::Step;
use serde_json::json;

use crate::eventually;
use crate::fake::{FakeRouter, Instead, ago, frame, unused_address};
use crate::process::Service;

/// Runs a service with a correct router and with one that sends this faulty response. Returns the
/// error that the service reports for the faulty router.
fn beside(instead: Instead) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (honest, other) = (FakeRouter::start(&["shard1"]), FakeRouter::start(&["shard1"]));
    honest.change(|reported| reported.frames.push(frame(Step::Second, ago(5), "shard1", 10, 1)));
    other.change(|reported| {
        reported.frames.push(frame(Step::Second, ago(5), "shard1", 1_000, 1));
        reported.instead = Some(instead);
    });
    let list = format!("other={},honest={}", other.url(), honest.url());
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    let trouble =
        eventually("its trouble", || service.router("other")["error"].as_str().map(str::to_owned));
    assert_eq!(service.router("other")["up"], false);
    // The service continues to collect from the correct router.
    honest.change(|reported| reported.frames.push(frame(Step::Second, ago(0), "shard1", 7, 1)));
    let figures = service.await_total("window=5m", 17);
    assert_eq!(figures["routers"].as_array().unwrap().len(), 2);
    eventually("the warning", || {
        service.said().contains("the router is unreachable").then_some(())
    });
    // The faulty router may recover.
    other.change(|reported| reported.instead = None);
    service.await_total("window=5m", 1_017);
    // The counts appear a moment before the router's state.
    eventually("no trouble", || (service.router("other")["error"] == json!(null)).then_some(()));
    trouble
}

#[test]
fn bytes_that_are_no_http() {
    let trouble = beside(Instead::Noise);
    assert!(trouble.starts_with("no whole answer: "), "{trouble}");
}

#[test]
fn a_refusal() {
    let trouble = beside(Instead::Refusal);
    assert_eq!(trouble, "it answers with status 404: there is nothing at this path");
}

#[test]
fn json_of_another_kind() {
    let trouble = beside(Instead::OtherJson);
    assert!(trouble.starts_with("its answer cannot be read (line 1, column "), "{trouble}");
}

#[test]
fn an_endless_answer() {
    assert_eq!(beside(Instead::Huge), "the answer is longer than 16 MiB");
}

#[test]
fn silence() {
    assert_eq!(beside(Instead::Silence), "no whole answer within 5 s");
}

#[test]
fn half_an_answer() {
    assert_eq!(beside(Instead::HalfAnAnswer), "no whole answer within 5 s");
}

#[test]
fn impossible_numbers() {
    let trouble = beside(Instead::Nonsense);
    assert_eq!(trouble, "its answer cannot be taken in: a frame contains impossible values");
}

#[test]
fn impossible_times() {
    let trouble = beside(Instead::Future);
    assert_eq!(trouble, "its answer cannot be taken in: it has impossible times");
}

#[test]
fn endless_pages_of_a_router_are_not_followed_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let (honest, other) = (FakeRouter::start(&["shard1"]), FakeRouter::start(&["shard1"]));
    honest.change(|reported| reported.frames.push(frame(Step::Second, ago(5), "shard1", 10, 1)));
    let early = ago(9_000);
    other.change(|reported| {
        reported.counted = vec![(early, ago(10))];
        reported.instead = Some(Instead::Endless);
    });
    let list = format!("other={},honest={}", other.url(), honest.url());
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    service.await_total("window=5m", 10);
    service.await_router("other", true);
    // While the router claims to have more frames, missing requests may be in these, so its start
    // does not yet prove that there were no requests.
    assert!(service.metrics("")["history"]["oldest"].as_u64() > Some(early));
    other.change(|reported| reported.instead = None);
    eventually("all of it", || (service.metrics("")["history"]["oldest"] == early).then_some(()));
}

#[test]
fn a_missing_router_is_reported_as_down_and_found_when_it_starts() {
    let folder = tempfile::tempdir().unwrap();
    let address = unused_address();
    let list = format!("late=http://{address}");
    let service = Service::start(folder.path(), &["--routers", &list, "--store", "none"]);
    let late = eventually("its trouble", || {
        Some(service.router("late")).filter(|late| !late["error"].is_null())
    });
    assert_eq!(late["error"], "connection refused");
    assert_eq!((&late["up"], &late["last_seen"]), (&json!(false), &json!(null)));
    assert_eq!(service.get("/ready").status, 200);
    let answer = service.get("/api/route?key=a");
    assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("TSR001")));
    assert!(answer.header("retry-after").is_some());
}
