//! Tests of shards that join while requests are recorded.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use analytics::{ErrorLog, MemoryNow, MetricsQuery, Recorder, Window, figures, openmetrics};

use crate::{BEGIN_MS, TestRecorder, labels, now, read};

const MILLISECOND: Duration = Duration::from_millis(1);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_shard_that_joins_is_counted_under_its_name_from_its_first_request() {
    let test = TestRecorder::of(2);
    test.record(&read(3, 200, MILLISECOND), at(1));
    assert!(!test.recorder.shards.knows(3));
    test.recorder.shards.add(3, "shard4");
    assert!(test.recorder.shards.knows(3) && !test.recorder.shards.knows(2));
    test.record(&read(3, 200, MILLISECOND), at(2));
    test.record(&read(0, 200, MILLISECOND), at(2));
    let metrics = test.figures("15m", at(3));
    let counts = [("shard1", 1), ("shard2", 0), ("shard4", 1)];
    assert_eq!(
        metrics.shard_distribution.0,
        counts.map(|(name, count)| (name.to_owned(), count)).to_vec()
    );
    assert_eq!(metrics.unassigned, 1, "the request before the shard had a name");
    let text =
        openmetrics(&test.recorder, &ErrorLog::new(), &now(&[]), MemoryNow::default(), None, None);
    assert!(
        text.contains(r#"tessera_read_target_total{shard="shard4",role="replica"} 1"#),
        "{text}"
    );
    assert!(
        text.contains(r#"tessera_read_target_total{shard="(none)",role="replica"} 1"#),
        "{text}"
    );
}

#[test]
fn the_requests_of_a_retired_shard_stay_readable() {
    let test = TestRecorder::of(2);
    test.record(&read(1, 200, MILLISECOND), at(1));
    test.record(&read(0, 200, MILLISECOND), at(61));
    let history = test.recorder.settle_at(test.recorder.started() + at(62));
    // The state of the cluster no longer lists the second shard.
    let cluster = now(&["shard1".to_owned()]);
    let ask = |shard: Option<&str>| {
        let window = Window::parse("15m").expect("a window");
        let query =
            MetricsQuery { window, shard: shard.map(str::to_owned), ..MetricsQuery::default() };
        figures(&[history], &query, &cluster, BEGIN_MS + 62_000)
    };
    assert_eq!(ask(None).total, 2);
    assert_eq!(ask(Some("shard2")).total, 1);
}

#[test]
fn a_name_that_a_later_shard_has_again_is_counted_once() {
    let test = TestRecorder::of(2);
    test.recorder.shards.add(2, "shard2");
    test.recorder.shards.add(1, "other");
    test.record(&read(1, 200, MILLISECOND), at(1));
    test.record(&read(2, 200, MILLISECOND), at(1));
    assert_eq!(test.recorder.labels().shards, ["shard1", "shard2"]);
    let metrics = test.figures("15m", at(2));
    assert_eq!(metrics.shard_distribution.0[1], ("shard2".to_owned(), 2));
    // A number above the maximum is ignored, and requests with such a number have no shard.
    test.recorder.shards.add(u16::MAX, "none");
    test.record(&read(u16::MAX, 200, MILLISECOND), at(2));
    assert_eq!(test.figures("15m", at(3)).unassigned, 1);
}

#[test]
fn shards_join_while_threads_record_and_no_request_is_lost() {
    const THREADS: u16 = 4;
    const EACH: u64 = 20_000;
    let recorder = Recorder::new(labels(1));
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let worker = recorder.worker();
                scope.spawn(move || {
                    for request in 0..EACH {
                        let shard = (request % 64) as u16 + thread;
                        worker.record(&read(shard, 200, MILLISECOND), Instant::now());
                    }
                })
            })
            .collect();
        let joining = scope.spawn(|| {
            for number in 1..80 {
                recorder.shards.add(number, &format!("shard{}", number + 1));
                recorder.history();
            }
            while !ended.load(Ordering::Relaxed) {
                recorder.history();
            }
        });
        threads.into_iter().for_each(|thread| thread.join().expect("it records"));
        ended.store(true, Ordering::Relaxed);
        joining.join().expect("it reads");
    });
    let query = MetricsQuery { window: Window::MAX, ..MetricsQuery::default() };
    let metrics = figures(&[recorder.history()], &query, &now(&[]), recorder.at_ms());
    assert_eq!(metrics.total, u64::from(THREADS) * EACH);
    let assigned: u64 = metrics.shard_distribution.0.iter().map(|(_, count)| count).sum();
    assert_eq!(assigned + metrics.unassigned, metrics.total);
}
