//! Tests of the history: how long it keeps data, at which resolution, and with how much memory.

use std::time::Duration;

use analytics::{BUDGETS, Frame, History, MetricsQuery, Step, Window, figures};

use crate::{BEGIN, BEGIN_MS, TestRecorder, latencies, millis, now, read, seconds};

fn frames(test: &TestRecorder, step: Step) -> usize {
    let history = test.recorder.settle_at(test.recorder.started());
    history.frames_after(step, 0, usize::MAX).len()
}

#[test]
fn seconds_are_kept_a_quarter_of_an_hour_tens_six_hours_and_minutes_a_week() {
    let test = TestRecorder::of(1);
    let week = 7 * 86_400;
    for ten in 0..(week + 3_600) / 10 {
        test.record(&read(0, 200, millis(1)), seconds(ten * 10));
    }
    let at = seconds(week + 3_600);
    test.recorder.settle_at(test.recorder.started() + at);
    let kept = [Step::Second, Step::TenSeconds, Step::Minute].map(|step| frames(&test, step));
    assert_eq!(kept, [90, 2_160, 10_080]);
    assert_eq!(test.figures("15m", at).total, 90);
    assert_eq!(test.figures("1h", at).total, 360);
    assert_eq!(test.figures("6h", at).total, 2_160);
    assert_eq!(test.figures("24h", at).total, 8_640);
    assert_eq!(test.figures("7d", at).total, week / 10);
    // A week later nothing of the data is left.
    assert_eq!(test.figures("7d", at + at).total, 0);
    assert_eq!(test.figures("7d", at + at).history.bytes, 0);
}

/// At every moment and in every window, a request counts exactly once: in the current second, or in
/// the frame of its second, of its ten seconds or of its minute.
#[test]
fn a_request_counts_once_whatever_its_interval() {
    let test = TestRecorder::of(1);
    for second in 0..200 {
        test.record(&read(0, 200, millis(1)), seconds(second));
        for window in ["5m", "15m", "1h", "6h", "24h", "7d"] {
            let metrics = test.figures(window, millis(second * 1_000 + 500));
            assert_eq!(metrics.total, second + 1, "{window} at {second}");
            assert_eq!(metrics.measured_s, second as f64 + 0.5, "{window} at {second}");
        }
    }
}

/// After a restart the stored intervals are loaded, and new intervals follow them.
#[test]
fn a_recorder_continues_from_the_stored_history() {
    let before = TestRecorder::of(1);
    (0..600).for_each(|second| before.record(&read(0, 200, millis(2)), seconds(second)));
    let old = before.recorder.settle_at(before.recorder.started() + seconds(600));
    let stored = [Step::TenSeconds, Step::Minute];
    let stored = stored.map(|step| old.frames_after(step, 0, usize::MAX));

    let recorder = analytics::Recorder::without_thread(crate::labels(1), BEGIN_MS + 603_200);
    let worker = recorder.worker();
    for frame in stored.iter().flatten() {
        recorder.history().absorb(Frame::clone(frame));
    }
    let after = TestRecorder { recorder, worker };
    (0..100).for_each(|second| after.record(&read(0, 200, millis(2)), seconds(second)));
    let ask = |window: &str, at: u64| {
        let history = after.recorder.settle_at(after.recorder.started() + seconds(at));
        let query = MetricsQuery { window: Window::parse(window).unwrap(), ..Default::default() };
        figures(&[history], &query, &now(&["shard1".into()]), BEGIN_MS + 603_200 + at * 1_000)
    };
    for window in ["15m", "1h", "6h", "24h", "7d"] {
        let metrics = ask(window, 100);
        assert_eq!(
            (metrics.total, metrics.measured_s),
            (700, 700.2),
            "{window}: it was down for 3 s"
        );
        assert_eq!(metrics.history.oldest, BEGIN);
    }
    // This window contains the restart.
    let straddling = ask("5m", 100);
    // The window begins at 403.2 s and therefore includes the interval of ten seconds that begins
    // at 400 s. It contains 200 requests from before the restart and 100 from after it.
    assert_eq!((straddling.total, straddling.series.step_s), (300, 10));
}

/// Two processes run in the same interval of ten seconds. The first one stored its part of the
/// interval when it stopped cleanly.
#[test]
fn an_interval_that_two_processes_shared_holds_the_requests_of_both() {
    let first = TestRecorder::of(1);
    first.record(&read(0, 200, millis(2)), seconds(1));
    let stored = first.recorder.settle_at(first.recorder.started() + seconds(10));
    let stored = stored.frames_after(Step::TenSeconds, 0, 1).remove(0);
    let recorder = analytics::Recorder::without_thread(crate::labels(1), BEGIN_MS + 4_000);
    recorder.history().absorb(Frame::clone(&stored));
    let second = TestRecorder { worker: recorder.worker(), recorder };
    second.record(&read(0, 200, millis(2)), seconds(1));
    second.recorder.settle_at(second.recorder.started() + seconds(10));
    let history = second.recorder.history();
    let both = history.frames_after(Step::TenSeconds, 0, 10);
    assert_eq!(both.iter().map(|frame| frame.total()).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_full_ring_drops_its_oldest_interval_and_longer_intervals_replace_it() {
    let test = TestRecorder::of(1);
    (0..900).for_each(|second| test.record(&read(0, 200, millis(second)), seconds(second)));
    let all = test.recorder.settle_at(test.recorder.started() + seconds(900));
    let small = History::with_budgets([20_000, 1 << 20, 1 << 20]);
    small.know_since(BEGIN_MS);
    for step in Step::ALL {
        for frame in all.frames_after(step, 0, usize::MAX) {
            small.absorb(Frame::clone(&frame));
        }
    }
    let kept = small.frames_after(Step::Second, 0, usize::MAX);
    assert!(kept.len() < 100 && kept.last().unwrap().start == BEGIN + 899, "{}", kept.len());
    assert!(kept.iter().map(|frame| frame.bytes()).sum::<usize>() <= 20_000);
    let query = MetricsQuery { window: Window::parse("15m").unwrap(), ..Default::default() };
    let metrics = figures(&[&small], &query, &now(&["shard1".into()]), BEGIN_MS + 900_000);
    assert_eq!((metrics.total, metrics.series.step_s), (900, 10));
    assert_eq!(metrics.history.dropped, 900 - kept.len() as u64);
    assert!(metrics.history.bytes == small.bytes() as u64);
    // An interval that was removed cannot be added again.
    small.absorb(Frame::clone(&all.frames_after(Step::Second, 0, 1)[0]));
    assert_eq!(small.frames_after(Step::Second, 0, usize::MAX).len(), kept.len());
}

/// There are 256 shards, requests of many kinds, and latencies that are spread as widely as
/// possible. The rings stay within their limits.
#[test]
fn the_busiest_router_stays_within_the_memory_that_is_documented() {
    let test = TestRecorder::of(256);
    let mut latencies = latencies(usize::MAX);
    let mut largest = 0;
    for second in 0..40 {
        for request in 0..6_000_u64 {
            let sample = read(
                request as u16 % 256,
                [200, 404, 503][request as usize % 3],
                latencies.next().unwrap(),
            );
            test.record(&sample, millis(second * 1_000 + request / 6));
        }
        let history = test.recorder.settle_at(test.recorder.started() + seconds(second));
        largest = largest.max(history.bytes());
    }
    let budget: usize = BUDGETS.iter().sum();
    assert!(largest > 4 << 20, "{largest} bytes are too few for a load");
    assert!(largest <= budget, "{largest} of {budget} bytes");
    // The rest is the current second and the entries that are queued for it.
    let beside = test.recorder.bytes() - test.recorder.history().bytes();
    assert!(beside <= 32 << 20, "{beside} bytes");
    let metrics = test.figures("15m", seconds(40));
    assert_eq!(metrics.total, 40 * 6_000);
    assert_eq!(metrics.series.shards.0.len(), 32, "the busiest have curves");
    assert_eq!(metrics.shards.len(), 256);
}

#[test]
fn an_idle_week_takes_no_memory() {
    let test = TestRecorder::of(256);
    let history =
        test.recorder.settle_at(test.recorder.started() + Duration::from_secs(7 * 86_400));
    assert_eq!(history.bytes(), 0);
}
