//! Tests of frames, which routers store and analytics services collect: storing or sending a frame
//! changes nothing in it.

use std::time::Duration;

use analytics::{Frame, History, MetricsQuery, Step, Window, figures};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;

use crate::{BEGIN, BEGIN_MS, TestRecorder, millis, now, read, seconds, write};

/// Returns all frames of a recorder after converting them to JSON and parsing them again, as
/// happens when a service collects them.
fn sent(test: &TestRecorder, at: Duration) -> Vec<Frame> {
    let history = test.recorder.settle_at(test.recorder.started() + at);
    let frames = Step::ALL.into_iter().flat_map(|step| history.frames_after(step, 0, usize::MAX));
    frames.map(|frame| resent(&frame)).collect()
}

fn resent(frame: &Frame) -> Frame {
    let text = serde_json::to_string(frame).expect("a frame is JSON");
    serde_json::from_str(&text).expect("and is read as it was written")
}

fn query(window: &str) -> MetricsQuery {
    let window = Window::parse(window).expect("a window");
    MetricsQuery { window, ..MetricsQuery::default() }
}

#[test]
fn a_frame_travels_as_json_with_labels_as_texts() {
    let test = TestRecorder::of(2);
    let keyed = analytics::Sample { key: Some("ada"), slot: Some(7), ..write(1, 503, millis(1)) };
    test.record(&keyed, seconds(1));
    let frames = sent(&test, seconds(60));
    let text = serde_json::to_value(&frames[1]).unwrap();
    assert_eq!((&text["step"], &text["start"]), (&json!(10), &json!(BEGIN)));
    let cell = &text["cells"][0];
    let members = ["route", "operation", "shard", "role", "outcome", "total", "micros"];
    assert_eq!(
        members.map(|member| cell[member].clone()),
        [
            json!("/api/write"),
            json!("write"),
            json!("shard2"),
            json!("primary"),
            json!("server_error"),
            json!(1),
            json!(1_000),
        ]
    );
    // HDR histogram readers expect this prefix, which is the V2 cookie in base64.
    assert!(cell["latencies"].as_str().unwrap().starts_with("HISTEw"), "{cell}");
    assert_eq!(text["fanout"], json!({"requests": 1, "shards": 1, "max": 1}));
    assert_eq!(
        text["hot"],
        json!([{"key": "ada", "shard": "shard2", "slot": 7, "requests": 1, "error": 0, "reads": 0, "writes": 1}])
    );
    assert_eq!(frames.len(), 3, "one of each step");
    assert_eq!(frames[2].step, Step::Minute);
}

/// A service that has collected the frames of a router returns the same metrics as the router.
#[test]
fn a_history_of_collected_frames_answers_like_the_original_one() {
    let test = TestRecorder::of(2);
    for request in 0..4_000_u64 {
        let sample = read(
            request as u16 % 3,
            if request % 50 == 0 { 503 } else { 200 },
            Duration::from_micros(300 + request),
        );
        test.record(&sample, millis(request * 100));
    }
    let at = seconds(400);
    let pulled = History::new();
    pulled.know_since(BEGIN_MS);
    sent(&test, at).into_iter().for_each(|frame| pulled.absorb(frame));
    for window in ["1m", "5m", "15m", "1h", "6h", "24h", "7d"] {
        let own = test.figures(window, at);
        let cluster = now(&test.recorder.labels().shards);
        let far = figures(&[&pulled], &query(window), &cluster, BEGIN_MS + 400_000);
        assert_eq!(far.total, own.total, "{window}");
        assert_eq!(far.latency_ms, own.latency_ms, "{window}");
        assert_eq!(far.series, own.series, "{window}");
        assert_eq!(far.shards, own.shards, "{window}");
        assert_eq!((far.measured_s, far.routes), (own.measured_s, own.routes), "{window}");
    }
}

#[test]
fn frames_that_come_twice_or_in_any_order_count_once() {
    let test = TestRecorder::of(1);
    (0..300).for_each(|second| test.record(&read(0, 200, millis(second % 7)), seconds(second)));
    let frames = sent(&test, seconds(300));
    let (orderly, chaotic) = (History::new(), History::new());
    frames.iter().for_each(|frame| orderly.absorb(frame.clone()));
    for frame in frames.iter().rev().chain(&frames) {
        chaotic.absorb(frame.clone());
        chaotic.absorb(frame.clone());
    }
    let cluster = now(&["shard1".into()]);
    for window in ["1m", "5m", "1h", "7d"] {
        let ask = |history| figures(&[history], &query(window), &cluster, BEGIN_MS + 300_000);
        assert_eq!(ask(&orderly).total, test.figures(window, seconds(300)).total, "{window}");
        assert_eq!(ask(&orderly), ask(&chaotic), "{window}");
    }
}

#[test]
fn frames_are_returned_in_complete_pages() {
    let test = TestRecorder::of(1);
    (0..25).for_each(|second| test.record(&read(0, 200, millis(1)), seconds(second)));
    let history = test.recorder.settle_at(test.recorder.started() + seconds(25));
    let mut starts = Vec::new();
    let mut after = 0;
    loop {
        let page = history.frames_after(Step::Second, after, 10);
        let Some(last) = page.last() else { break };
        after = last.start;
        starts.extend(page.iter().map(|frame| frame.start - BEGIN));
    }
    assert_eq!(starts, (0..25).collect::<Vec<_>>());
    assert_eq!(history.frames_after(Step::TenSeconds, BEGIN, 10).len(), 1);
}

#[test]
fn an_inconsistent_frame_is_refused() {
    let good = json!({"step": 1, "start": BEGIN, "cells": [], "parts": []});
    assert!(serde_json::from_value::<Frame>(good.clone()).is_ok());
    for (member, value) in
        [("step", json!(2)), ("start", json!(-1)), ("cells", json!([{}])), ("parts", json!(null))]
    {
        let mut bad = good.clone();
        bad[member] = value;
        assert!(serde_json::from_value::<Frame>(bad).is_err(), "{member}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 30,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(3),
        ..ProptestConfig::default()
    })]

    /// Requests are distributed at random over routers, seconds and shards. The metrics of the
    /// fleet equal those of a single histogram of all requests.
    #[test]
    fn a_fleet_answers_like_one_router_that_saw_every_request(
        requests in vec((0_usize..3, 0_u64..120, 0_u16..4, 1_u64..200_000), 1..300),
    ) {
        let fleet: Vec<TestRecorder> = (0..3).map(|_| TestRecorder::of(3)).collect();
        let single = TestRecorder::of(3);
        let mut ordered = requests;
        ordered.sort_by_key(|(_, second, ..)| *second);
        let mut whole = analytics::LatencyHistogram::new();
        for (router, second, shard, micros) in ordered {
            let sample = write(shard, 201, Duration::from_micros(micros));
            fleet[router].record(&sample, seconds(second));
            single.record(&sample, seconds(second));
            whole.record(sample.elapsed);
        }
        let at = seconds(120);
        let histories: Vec<History> = fleet
            .iter()
            .map(|test| {
                let history = History::new();
                history.know_since(BEGIN_MS);
                sent(test, at).into_iter().for_each(|frame| history.absorb(frame));
                history
            })
            .collect();
        let histories: Vec<&History> = histories.iter().collect();
        let cluster = now(&single.recorder.labels().shards);
        for window in ["5m", "6h", "7d"] {
            let together = figures(&histories, &query(window), &cluster, BEGIN_MS + 120_000);
            let alone = single.figures(window, at);
            prop_assert_eq!(together.total, whole.count());
            prop_assert_eq!(&together.latency_ms, &alone.latency_ms);
            prop_assert_eq!(&together.shards, &alone.shards);
            prop_assert_eq!(&together.series, &alone.series);
            prop_assert_eq!(&together.latency_parts_ms, &alone.latency_parts_ms);
            if window != "7d" {
                // Frames of a minute have a precision of two digits.
                let p99 = whole.quantile(0.99).as_micros() as f64 / 1e3;
                prop_assert_eq!(together.latency_ms.p99, p99);
            }
        }
    }
}
