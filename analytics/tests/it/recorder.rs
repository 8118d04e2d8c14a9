//! The recorder: counts, windows, the ring. Time is told, never waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use analytics::{EncodedHistogram, Operation, Sample, ShardCounts, Window};

use crate::{exact, latencies, millis, read, recorder, seconds, write};

#[test]
fn reads_writes_and_both_kinds_of_errors_are_counted_apart_and_in_total() {
    let recorder = recorder(2);
    recorder.record_at(&write(0, 201, millis(2)), seconds(1));
    recorder.record_at(&read(1, 200, millis(4)), seconds(1));
    recorder.record_at(&read(1, 404, millis(6)), seconds(2));
    recorder.record_at(&write(1, 503, millis(8)), seconds(2));

    let metrics = recorder.snapshot_at(Window::default(), seconds(4));
    assert_eq!((metrics.total, metrics.reads, metrics.writes), (4, 2, 2));
    assert_eq!((metrics.errors, metrics.errors_client, metrics.errors_server), (2, 1, 1));
    assert_eq!(metrics.avg_latency, 5.0);
    assert_eq!(metrics.latency_ms.max, 8.003); // The upper edge of the bucket of 8 ms.
    assert_eq!((metrics.shards[0].errors, metrics.shards[1].errors), (0, 2));
    assert_eq!((metrics.shards[1].reads, metrics.shards[1].writes), (2, 1));
}

#[test]
fn requests_of_several_shards_none_or_an_unknown_one_are_unassigned_but_counted() {
    let recorder = recorder(1);
    let bulk =
        Sample { operation: Operation::Write, shard: None, status: 207, elapsed: millis(40) };
    recorder.record_at(&bulk, seconds(1));
    recorder.record_at(&read(7, 200, millis(1)), seconds(1));
    recorder.record_at(&read(u16::MAX, 200, millis(1)), seconds(1));
    recorder.record_at(&read(0, 200, millis(1)), seconds(1));

    let metrics = recorder.snapshot_at(Window::default(), seconds(2));
    assert_eq!((metrics.total, metrics.unassigned), (4, 3));
    assert_eq!(metrics.shard_distribution, ShardCounts(vec![("shard1".into(), 1)]));
}

#[test]
fn an_idle_recorder_answers_zeros_and_names_every_shard() {
    let metrics = recorder(3).snapshot_at(Window::MAX, Duration::ZERO);
    assert_eq!((metrics.total, metrics.throughput, metrics.avg_latency), (0, 0.0, 0.0));
    assert_eq!(metrics.latency_ms, Default::default());
    let names: Vec<_> = metrics.shard_distribution.0.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["shard1", "shard2", "shard3"]);
    assert_eq!(metrics.shards.len(), 3);
}

#[test]
fn rates_are_over_the_time_lived_while_that_is_shorter_than_the_window() {
    let recorder = recorder(1);
    for _ in 0..30 {
        recorder.record_at(&read(0, 200, millis(1)), seconds(9));
    }
    let young = recorder.snapshot_at(Window::default(), seconds(10));
    assert_eq!((young.throughput, young.shards[0].ops_per_s, young.measured_s), (3.0, 3.0, 10.0));

    let old = recorder.snapshot_at(Window::default(), seconds(300));
    assert_eq!((old.throughput, old.window_s, old.measured_s), (0.1, 300.0, 300.0));
}

#[test]
fn a_rate_in_the_first_instant_is_finite() {
    let recorder = recorder(1);
    recorder.record_at(&read(0, 200, millis(1)), Duration::ZERO);
    assert_eq!(recorder.snapshot_at(Window::default(), Duration::ZERO).throughput, 1000.0);
}

#[test]
fn a_window_counts_every_slot_it_touches_whole_and_says_what_it_covers() {
    let recorder = recorder(1);
    for second in 0..200 {
        recorder.record_at(&read(0, 200, millis(1)), seconds(second));
    }
    let minute = Window::parse("1m").unwrap();
    // 60 s before 197 s is 137 s, which lies in the slot that began at 135 s.
    let metrics = recorder.snapshot_at(minute, millis(199_500));
    assert_eq!((metrics.total, metrics.measured_s, metrics.window_s), (65, 64.5, 60.0));
    let metrics = recorder.snapshot_at(minute, seconds(200));
    assert_eq!((metrics.total, metrics.measured_s), (60, 60.0));

    let instant = Window::parse_time_range("1").unwrap();
    let metrics = recorder.snapshot_at(instant, seconds(200));
    assert_eq!((metrics.total, metrics.measured_s), (5, 5.0));
}

#[test]
fn what_is_older_than_an_hour_is_forgotten_and_nothing_younger_is() {
    let recorder = recorder(1);
    recorder.record_at(&read(0, 200, millis(1)), seconds(4));
    recorder.record_at(&read(0, 200, millis(1)), seconds(5));
    assert_eq!(recorder.snapshot_at(Window::MAX, seconds(3_604)).total, 2);
    assert_eq!(recorder.snapshot_at(Window::MAX, seconds(3_605)).total, 1);
    assert_eq!(recorder.snapshot_at(Window::MAX, seconds(3_610)).total, 0);
    assert_eq!(recorder.finished_bytes(), 0);
}

#[test]
fn a_night_without_requests_is_crossed_in_one_step() {
    let recorder = recorder(1);
    recorder.record_at(&read(0, 200, millis(1)), seconds(1));
    recorder.record_at(&read(0, 200, millis(1)), seconds(40_000));
    recorder.record_at(&read(0, 200, millis(1)), Duration::from_secs(u64::MAX / 2));
    let metrics = recorder.snapshot_at(Window::MAX, Duration::from_secs(u64::MAX / 2));
    assert_eq!(metrics.total, 1);
}

#[test]
fn a_clock_that_goes_back_counts_in_the_running_slot() {
    let recorder = recorder(1);
    recorder.record_at(&read(0, 200, millis(1)), seconds(100));
    recorder.record_at(&read(0, 200, millis(1)), seconds(3));
    let metrics = recorder.snapshot_at(Window::parse("1m").unwrap(), seconds(50));
    assert_eq!((metrics.total, metrics.throughput.is_finite()), (2, true));
}

#[test]
fn hours_of_traffic_keep_memory_bounded_and_percentiles_within_one_percent() {
    const EVENTS: u64 = 200_000;
    const HOURS: u64 = 2;
    let recorder = recorder(1);
    let mut last_hour = Vec::new();
    let mut largest = 0;
    for (event, latency) in (0..EVENTS).zip(latencies(EVENTS as usize)) {
        let at = millis(event * HOURS * 3_600_000 / EVENTS);
        recorder.record_at(&write(0, 201, latency), at);
        if at >= seconds((HOURS - 1) * 3_600) {
            last_hour.push(latency);
        }
        if event % 10_000 == 0 {
            largest = largest.max(recorder.finished_bytes());
        }
    }
    let metrics = recorder.snapshot_at(Window::MAX, seconds(HOURS * 3_600));
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
    assert!(largest <= 720 * 1_000, "139 latencies a slot took {largest} bytes");
}

#[test]
fn the_documented_bound_on_memory_is_what_the_constants_say() {
    let finished_slot = EncodedHistogram::BYTES_MAX + 200; // Counters and headers are below 200.
    assert!(720 * finished_slot <= 9 * 1_024 * 1_024);
}

#[test]
fn threads_that_record_at_once_lose_nothing_while_others_ask() {
    const THREADS: u16 = 8;
    const EACH: u64 = 5_000;
    let recorder = recorder(4);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert!(recorder.snapshot_at(Window::MAX, seconds(20)).total <= 40_000);
            }
        });
        let recording: Vec<_> = (0..THREADS)
            .map(|thread| {
                let recorder = &recorder;
                scope.spawn(move || {
                    for event in 0..EACH {
                        let at = millis(event * 4);
                        recorder.record_at(&read(thread % 5, 200, millis(1)), at);
                    }
                })
            })
            .collect();
        recording.into_iter().for_each(|thread| thread.join().unwrap());
        done.store(true, Ordering::Relaxed);
        asking.join().unwrap();
    });
    let metrics = recorder.snapshot_at(Window::MAX, seconds(20));
    assert_eq!(metrics.total, u64::from(THREADS) * EACH);
    let distributed: u64 = metrics.shard_distribution.0.iter().map(|(_, count)| count).sum();
    assert_eq!(distributed + metrics.unassigned, metrics.total);
}

#[test]
#[should_panic(expected = "shard labels are distinct")]
fn the_same_label_twice_is_refused() {
    analytics::Recorder::new(vec!["shard1".into(), "shard1".into()]);
}
