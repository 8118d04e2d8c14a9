//! Tests of the recorder: counts, windows, threads. The time is an argument; no test waits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use analytics::{MetricsQuery, Named, Recorder, Sample, Window, figures};

use crate::{TestRecorder, exact, labels, latencies, millis, now, read, seconds, write};

#[test]
fn reads_writes_and_both_kinds_of_errors_are_counted_separately_and_in_total() {
    let test = TestRecorder::of(2);
    test.record(&write(0, 201, millis(2)), seconds(1));
    test.record(&read(1, 200, millis(4)), seconds(1));
    test.record(&read(1, 404, millis(6)), seconds(2));
    test.record(&write(1, 503, millis(8)), seconds(2));

    let metrics = test.figures("5m", seconds(4));
    assert_eq!((metrics.total, metrics.reads, metrics.writes), (4, 2, 2));
    assert_eq!((metrics.errors, metrics.errors_client, metrics.errors_server), (2, 1, 1));
    assert_eq!((metrics.avg_latency, metrics.error_rate), (5.0, 0.5));
    assert_eq!(metrics.latency_ms.max, 8.003); // The upper edge of the bucket of 8 ms.
    assert_eq!((metrics.shards[0].errors, metrics.shards[1].errors), (0, 2));
    assert_eq!((metrics.shards[1].reads, metrics.shards[1].writes), (2, 1));
}

#[test]
fn requests_without_exactly_one_known_shard_are_counted_as_unassigned() {
    let test = TestRecorder::of(1);
    let bulk = Sample { shard: None, fanout: 3, ..write(0, 207, millis(40)) };
    test.record(&bulk, seconds(1));
    test.record(&read(7, 200, millis(1)), seconds(1));
    test.record(&read(u16::MAX, 200, millis(1)), seconds(1));
    test.record(&read(0, 200, millis(1)), seconds(1));

    let metrics = test.figures("5m", seconds(2));
    assert_eq!((metrics.total, metrics.unassigned), (4, 3));
    assert_eq!(metrics.shard_distribution, Named(vec![("shard1".into(), 1)]));
}

#[test]
fn an_undeclared_route_is_counted_as_other() {
    let test = TestRecorder::of(1);
    test.record(&Sample { route: 200, ..read(0, 200, millis(1)) }, seconds(1));
    let metrics = test.figures("5m", seconds(2));
    assert_eq!((&*metrics.routes[0].route, metrics.routes[0].total), ("(other)", 1));
}

#[test]
fn an_idle_recorder_returns_zeros_and_lists_every_shard() {
    let metrics = TestRecorder::of(3).figures("7d", Duration::ZERO);
    assert_eq!((metrics.total, metrics.throughput, metrics.avg_latency), (0, 0.0, 0.0));
    assert_eq!(metrics.latency_ms, Default::default());
    let names: Vec<_> = metrics.shard_distribution.0.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["shard1", "shard2", "shard3"]);
    assert_eq!(metrics.shards.len(), 3);
}

#[test]
fn rates_of_a_young_recorder_are_computed_over_its_uptime() {
    let test = TestRecorder::of(1);
    for _ in 0..30 {
        test.record(&read(0, 200, millis(1)), seconds(9));
    }
    let young = test.figures("5m", seconds(10));
    assert_eq!((young.throughput, young.window_s, young.measured_s), (3.0, 300.0, 10.0));
    assert_eq!(young.shards[0].ops_per_s, 3.0);

    let old = test.figures("5m", seconds(300));
    assert_eq!((old.throughput, old.window_s, old.measured_s), (0.1, 300.0, 300.0));
}

#[test]
fn a_rate_in_the_first_instant_is_finite() {
    let test = TestRecorder::of(1);
    test.record(&read(0, 200, millis(1)), Duration::ZERO);
    assert_eq!(test.figures("5m", Duration::ZERO).throughput, 1000.0);
}

#[test]
fn a_window_includes_every_interval_it_overlaps_and_reports_the_measured_time() {
    let test = TestRecorder::of(1);
    for half in 0..400 {
        test.record(&read(0, 200, millis(1)), millis(half * 500));
    }
    // 60 s before 199.5 s is 139.5 s, which lies in the interval that began at 139 s.
    let metrics = test.figures("1m", millis(199_500));
    assert_eq!((metrics.total, metrics.measured_s, metrics.window_s), (122, 60.5, 60.0));
    let metrics = test.figures("1m", seconds(200));
    assert_eq!((metrics.total, metrics.measured_s), (120, 60.0));

    let window = Window::parse_time_range("1").unwrap();
    let query = MetricsQuery { window, ..MetricsQuery::default() };
    let instant = test.query_metrics(&query, seconds(200));
    assert_eq!((instant.total, instant.measured_s), (2, 1.0));
}

#[test]
fn a_long_gap_without_requests_is_skipped_in_one_step() {
    let test = TestRecorder::of(1);
    test.record(&read(0, 200, millis(1)), seconds(1));
    test.record(&read(0, 200, millis(1)), seconds(40_000));
    assert_eq!(test.figures("1h", seconds(40_001)).total, 1);
    assert_eq!(test.figures("24h", seconds(40_001)).total, 2);
    // This is about thirty years later.
    test.record(&read(0, 200, millis(1)), seconds(1_000_000_000));
    assert_eq!(test.figures("7d", seconds(1_000_000_000)).total, 1);
}

#[test]
fn a_request_with_an_earlier_time_is_counted_in_the_current_second() {
    let test = TestRecorder::of(1);
    test.record(&read(0, 200, millis(1)), seconds(100));
    assert_eq!(test.figures("1m", seconds(100)).total, 1);
    test.record(&read(0, 200, millis(1)), seconds(3));
    let metrics = test.figures("1m", seconds(50));
    assert_eq!((metrics.total, metrics.throughput.is_finite()), (2, true));
}

/// A worker whose queue is full drains it without waiting for the recorder's thread.
#[test]
fn more_requests_than_a_queue_holds_are_all_counted() {
    let test = TestRecorder::of(1);
    for request in 0..50_000 {
        test.record(&read(0, 200, millis(1)), millis(request / 10));
    }
    assert_eq!(test.figures("1m", seconds(5)).total, 50_000);
}

#[test]
fn samples_of_a_worker_that_has_ended_are_counted() {
    let TestRecorder { recorder, worker } = TestRecorder::of(1);
    worker.record(&read(0, 200, millis(1)), recorder.started());
    drop(worker);
    let test = TestRecorder { worker: recorder.worker(), recorder };
    assert_eq!(test.figures("1m", seconds(1)).total, 1);
}

#[test]
fn requests_are_counted_in_their_own_second_whichever_worker_recorded_them() {
    let test = TestRecorder::of(1);
    let other = test.recorder.worker();
    test.record(&read(0, 200, millis(1)), seconds(3));
    other.record(&read(0, 200, millis(1)), test.recorder.started() + seconds(1));
    test.record(&read(0, 200, millis(1)), seconds(4));
    let series = test.figures("1m", seconds(6)).series;
    let at = |second: u64| {
        series.rps[series.t.iter().position(|t| *t == crate::BEGIN + second).unwrap()]
    };
    assert_eq!([at(1), at(2), at(3), at(4), at(5)], [1.0, 0.0, 1.0, 1.0, 0.0]);
}

#[test]
fn hours_of_traffic_give_percentiles_within_one_percent() {
    const EVENTS: u64 = 200_000;
    const HOURS: u64 = 2;
    let test = TestRecorder::of(1);
    let mut last_hour = Vec::new();
    for (event, latency) in (0..EVENTS).zip(latencies(EVENTS as usize)) {
        let at = millis(event * HOURS * 3_600_000 / EVENTS);
        test.record(&write(0, 201, latency), at);
        if at >= seconds((HOURS - 1) * 3_600) {
            last_hour.push(latency);
        }
    }
    let metrics = test.figures("1h", seconds(HOURS * 3_600));
    last_hour.sort();
    assert_eq!(metrics.total, last_hour.len() as u64);
    for (quantile, got) in [
        (0.50, metrics.latency_ms.p50),
        (0.95, metrics.latency_ms.p95),
        (0.99, metrics.latency_ms.p99),
    ] {
        let want = exact(&last_hour, quantile).as_secs_f64() * 1e3;
        assert!((got - want).abs() <= want * 0.01, "p{quantile}: {got} for {want}");
    }
}

#[test]
fn concurrent_recording_and_queries_lose_nothing() {
    const THREADS: u16 = 8;
    const EACH: u64 = 20_000;
    let recorder = Recorder::new(labels(4));
    let cluster = now(&recorder.labels().shards);
    let query = MetricsQuery { window: Window::MAX, ..MetricsQuery::default() };
    let ask = || figures(&[recorder.history()], &query, &cluster, recorder.at_ms());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let total = ask().total;
                assert!(
                    total >= last && total <= u64::from(THREADS) * EACH,
                    "{last}, then {total}"
                );
                last = total;
            }
        });
        let recording: Vec<_> = (0..THREADS)
            .map(|thread| {
                let worker = recorder.worker();
                scope.spawn(move || {
                    for _ in 0..EACH {
                        let _in_flight = worker.begin();
                        let sample = read(thread % 5, 200, millis(1));
                        worker.record(&sample, std::time::Instant::now());
                    }
                })
            })
            .collect();
        recording.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap();
    });
    let metrics = ask();
    assert_eq!((metrics.total, recorder.in_flight()), (u64::from(THREADS) * EACH, 0));
    let distributed: u64 = metrics.shard_distribution.0.iter().map(|(_, count)| count).sum();
    assert_eq!(distributed + metrics.unassigned, metrics.total);
}

#[test]
fn requests_are_in_flight_until_they_are_answered() {
    let test = TestRecorder::of(1);
    let other = test.recorder.worker();
    let (first, second) = (test.worker.begin(), other.begin());
    assert_eq!(test.recorder.in_flight(), 2);
    drop(first);
    assert_eq!(test.recorder.in_flight(), 1);
    // A worker may be dropped before its request has ended.
    drop(other);
    assert_eq!(test.recorder.in_flight(), 1);
    drop(second);
    assert_eq!(test.recorder.in_flight(), 0);
}

#[test]
fn dropping_a_recorder_ends_its_thread_and_does_not_affect_workers() {
    let recorder = Recorder::new(labels(1));
    let worker = recorder.worker();
    drop(recorder);
    for _ in 0..10_000 {
        worker.record(&read(0, 200, millis(1)), std::time::Instant::now());
    }
}

#[test]
fn slots_of_the_keyspace_report_their_load_of_the_last_minutes() {
    let test = TestRecorder::of(1);
    let of_slot = |slot, sample| Sample { slot: Some(slot), ..sample };
    test.record(&of_slot(7, read(0, 200, millis(1))), seconds(1));
    test.record(&of_slot(7, write(0, 201, millis(1))), seconds(61));
    test.record(&of_slot(16_383, write(0, 201, millis(1))), seconds(62));
    test.record(&of_slot(16_384, write(0, 201, millis(1))), seconds(62)); // There is no such slot.
    test.recorder.settle_at(test.recorder.started() + seconds(63));
    let load = |minutes, slot: usize| {
        let load = test.recorder.slot_load(minutes)[slot];
        (load.reads, load.writes)
    };
    assert_eq!((load(1, 7), load(0, 7)), ((1, 1), (0, 1)));
    assert_eq!((load(15, 16_383), load(15, 8)), ((0, 1), (0, 0)));
    test.record(&of_slot(9, read(0, 200, millis(1))), seconds(17 * 60));
    test.recorder.settle_at(test.recorder.started() + seconds(17 * 60));
    assert_eq!((load(99, 7), load(99, 9)), ((0, 0), (1, 0)));
}

#[test]
#[should_panic(expected = "shard labels are distinct")]
fn duplicate_shard_labels_are_refused() {
    let shards = vec!["shard1".into(), "shard1".into()];
    Recorder::without_thread(analytics::Labels { shards, ..labels(0) }, 0);
}
