//! Tests of gaps: a period in which no recorder ran is distinguished from a period without
//! requests.

use analytics::{
    Frame, History, MeasuredIntervals, MetricsQuery, Recorder, Series, Step, Window, figures,
};

use crate::{BEGIN, BEGIN_MS, TestRecorder, labels, millis, now, read, seconds};

/// Returns the curves of a window that ends this many seconds after the beginning.
fn series(histories: &[&History], window: &str, second: u64) -> Series {
    let query =
        MetricsQuery { window: Window::parse(window).expect("a window"), ..Default::default() };
    figures(histories, &query, &now(&["shard1".into()]), BEGIN_MS + second * 1_000).series
}

/// Returns the requests per second at the point that contains this second; `None` if there is no
/// such point.
fn rate(series: &Series, second: u64) -> Option<f64> {
    let step = series.step_s;
    let place = series.t.iter().position(|t| (*t..t + step).contains(&(BEGIN + second)));
    place.map(|place| series.rps[place])
}

/// Returns a recorder that counted requests for 100 s, ran without requests for 100 s, was down for
/// 100 s, and then counted requests for 50 s again.
fn restarted() -> Recorder {
    let before = TestRecorder::of(1);
    (0..100).for_each(|second| before.record(&read(0, 200, millis(2)), seconds(second)));
    let old = before.recorder.settle_at(before.recorder.started() + seconds(200));
    let after = Recorder::without_thread(labels(1), BEGIN_MS + 300_000);
    after.history().know_counted(old.counted_times().as_slice().iter().copied());
    for frame in Step::ALL.iter().flat_map(|step| old.frames_after(*step, 0, usize::MAX)) {
        after.history().absorb(Frame::clone(&frame));
    }
    let worker = after.worker();
    for second in 0..50 {
        worker.record(&read(0, 200, millis(2)), after.started() + seconds(second));
    }
    after.settle_at(after.started() + seconds(100));
    after
}

#[test]
fn a_router_that_was_down_has_no_points_and_an_idle_one_has_zeros() {
    let recorder = restarted();
    for window in ["15m", "1h"] {
        let series = series(&[recorder.history()], window, 400);
        for (second, expected) in [
            (0, Some(1.0)),
            (90, Some(1.0)),
            (130, Some(0.0)),
            (190, Some(0.0)),
            (230, None),
            (270, None),
            (310, Some(1.0)),
            (345, Some(if window == "1h" { 0.5 } else { 1.0 })),
            (390, Some(0.0)),
        ] {
            assert_eq!(rate(&series, second), expected, "{window} at {second}: {series:?}");
        }
        let shard = &series.shards.0[0].1;
        for length in [
            series.reads.len(),
            series.writes.len(),
            series.p50.len(),
            series.p99.len(),
            series.errors.len(),
            series.heatmap.counts.len(),
            shard.rps.len(),
            shard.p50.len(),
            shard.p99.len(),
        ] {
            assert_eq!(length, series.t.len(), "{window}");
        }
    }
}

/// The first stored interval does not show how long the recorder had already been running.
#[test]
fn idle_time_and_a_gap_before_the_first_request_are_remembered() {
    let recorder = Recorder::without_thread(labels(1), BEGIN_MS + 200_000);
    recorder.settle_at(recorder.started() + seconds(40));
    let worker = recorder.worker();
    worker.record(&read(0, 200, millis(2)), recorder.started() + seconds(50));
    let old = recorder.settle_at(recorder.started() + seconds(100));
    let after = Recorder::without_thread(labels(1), BEGIN_MS + 420_000);
    // The recorder had also run for 100 s without requests before.
    after.history().know_counted([(BEGIN, BEGIN + 100)]);
    after.history().know_counted(old.counted_times().as_slice().iter().copied());
    for frame in Step::ALL.iter().flat_map(|step| old.frames_after(*step, 0, usize::MAX)) {
        after.history().absorb(Frame::clone(&frame));
    }
    after.settle_at(after.started() + seconds(60));
    let query =
        MetricsQuery { window: Window::parse("15m").expect("a window"), ..Default::default() };
    let shown = figures(&[after.history()], &query, &now(&["shard1".into()]), BEGIN_MS + 480_000);
    assert_eq!((shown.history.oldest, shown.measured_s, shown.total), (BEGIN, 260.0, 1));
    let rates = [50, 150, 220, 250, 320, 450].map(|second| rate(&shown.series, second));
    let expected = [Some(0.0), None, Some(0.0), Some(0.2), None, Some(0.0)];
    assert_eq!(rates, expected, "{:?}", shown.series);
}

/// An unknown number of requests is not reported as zero.
#[test]
fn dropped_intervals_are_not_reported_as_zeros() {
    let test = TestRecorder::of(1);
    (0..1_440).for_each(|ten| test.record(&read(0, 200, millis(2)), seconds(ten * 10)));
    let all = test.recorder.settle_at(test.recorder.started() + seconds(14_400));
    let small = History::with_budgets([1 << 20, 20_000, 20_000]);
    small.know_between(BEGIN_MS, BEGIN_MS + 14_400_000);
    for frame in Step::ALL.iter().flat_map(|step| all.frames_after(*step, 0, usize::MAX)) {
        small.absorb(Frame::clone(&frame));
    }
    // A collecting service calls this for every response.
    small.know_between(BEGIN_MS, BEGIN_MS + 14_400_000);
    let kept = small.frames_after(Step::Minute, 0, usize::MAX);
    let lost = kept[0].start - BEGIN;
    assert!((3_600..14_000).contains(&lost) && kept.len() < 200, "{lost}");
    let shown = series(&[&small], "24h", 14_400);
    assert_eq!(shown.step_s, 600);
    let rates = [600, lost - 600, 14_399].map(|second| rate(&shown, second));
    assert_eq!(rates, [None, None, Some(0.1)], "{shown:?}");
    // Another router of the fleet may have measured the dropped intervals.
    let shown = series(&[&small, test.recorder.history()], "24h", 14_400);
    assert_eq!(rate(&shown, 600), Some(0.1));
}

/// A rate of one request per hour is rounded to 0.000 per second, but the point has a request.
#[test]
fn a_single_request_is_a_point_though_its_rate_is_written_as_zero() {
    let test = TestRecorder::of(1);
    test.record(&read(0, 200, millis(2)), seconds(86_400));
    let all = test.recorder.settle_at(test.recorder.started() + seconds(90_000));
    let history = History::new();
    history.know_between(BEGIN_MS, BEGIN_MS + 60_000);
    let minute = all.frames_after(Step::Minute, 0, usize::MAX).remove(0);
    history.absorb(Frame::clone(&minute));
    let reported = series(&[&history], "7d", 90_000);
    assert_eq!(reported.step_s, 3_600);
    assert_eq!(
        [rate(&reported, 80_000), rate(&reported, 86_400)],
        [None, Some(0.0)],
        "{:?}",
        reported.t
    );
}

/// A period that at least one recorder measured is not a gap.
#[test]
fn a_gap_of_one_router_is_filled_by_another() {
    let recorder = restarted();
    let other = History::new();
    other.know_between(BEGIN_MS, BEGIN_MS + 250_000);
    let report = series(&[recorder.history(), &other], "15m", 400);
    assert_eq!([rate(&report, 230), rate(&report, 270)], [Some(0.0), None]);
}

/// A recorder that started later, or reported no times, does not fill the gaps of the others.
#[test]
fn a_router_that_came_later_fills_no_gap_of_those_before_it() {
    let recorder = restarted();
    let (later, silent) = (History::new(), History::new());
    later.know_between(BEGIN_MS + 320_000, BEGIN_MS + 400_000);
    for fleet in [[recorder.history(), &later, &silent], [&silent, &later, recorder.history()]] {
        let reported = series(&fleet, "15m", 400);
        let rates = [90, 130, 230, 310, 390].map(|second| rate(&reported, second));
        assert_eq!(rates, [Some(1.0), Some(0.0), None, Some(1.0), Some(0.0)], "{reported:?}");
        // Points before all measurements are not removed, because the response states since when
        // data exists.
        assert_eq!(reported.t.first(), Some(&(BEGIN - 500)));
    }
    assert_eq!(series(&[&silent, &History::new()], "5m", 400).t.len(), 150, "nothing was reported");
}

/// A router that does not respond may be running, so its counts are unknown until it responds
/// again.
#[test]
fn collected_metrics_end_at_the_last_answer_of_the_router() {
    let history = History::new();
    history.know_between(BEGIN_MS, BEGIN_MS + 60_000);
    let reported = series(&[&history], "5m", 120);
    assert_eq!(reported.t.last(), Some(&(BEGIN + 58)), "{reported:?}");
    history.know_between(BEGIN_MS, BEGIN_MS + 120_000);
    let reported = series(&[&history], "5m", 120);
    assert_eq!((rate(&reported, 80), reported.t.last()), (Some(0.0), Some(&(BEGIN + 118))));
}

#[test]
fn adjacent_periods_are_merged_and_their_number_is_bounded() {
    let intervals: MeasuredIntervals =
        [(10, 20), (40, 50), (20, 30), (60, 60), (48, 55)].into_iter().collect();
    assert_eq!(intervals.as_slice(), [(10, 30), (40, 55)]);
    assert!(intervals.touch(29, 31) && intervals.touch(0, 100) && !intervals.touch(30, 40));
    let mut intervals: MeasuredIntervals =
        [(0, 1_000)].into_iter().chain(intervals.as_slice().to_vec()).collect();
    assert_eq!(intervals.as_slice(), [(0, 1_000)]);
    intervals.forget(1_000);
    assert!(intervals.as_slice().is_empty());
    let often: MeasuredIntervals =
        (0..1_000).rev().map(|start| (start * 10, start * 10 + 5)).collect();
    assert_eq!(often.as_slice().len(), MeasuredIntervals::MAX);
    assert_eq!(often.as_slice().last(), Some(&(9_990, 9_995)));
    assert_eq!(often.as_slice()[0].0, 0, "the oldest are reported as one");
}

/// Nothing was measured while the router was down, so its rates are not computed over that period.
#[test]
fn a_rate_is_computed_over_the_measured_time() {
    let recorder = restarted();
    let query =
        MetricsQuery { window: Window::parse("15m").expect("a window"), ..Default::default() };
    let reported =
        figures(&[recorder.history()], &query, &now(&["shard1".into()]), BEGIN_MS + 400_000);
    assert_eq!((reported.total, reported.measured_s, reported.throughput), (150, 300.0, 0.5));
    // Another recorder ran all the time and measured that period.
    let other = History::new();
    other.know_between(BEGIN_MS, BEGIN_MS + 400_000);
    let reported = figures(
        &[recorder.history(), &other],
        &query,
        &now(&["shard1".into()]),
        BEGIN_MS + 400_000,
    );
    assert_eq!((reported.total, reported.measured_s, reported.throughput), (150, 400.0, 0.375));
}

/// The recorder has counted only a part of the first interval of ten seconds and of the first
/// minute.
#[test]
fn a_young_router_has_curves_of_seconds_from_the_beginning() {
    for begun in [0, 3, 13, 59] {
        let recorder = Recorder::without_thread(labels(1), BEGIN_MS + begun * 1_000 + 250);
        let worker = recorder.worker();
        for second in 0..250 {
            worker.record(&read(0, 200, millis(2)), recorder.started() + seconds(second));
            let lived = second + 1;
            if ![1, 2, 10, 61, 62, 130, 250].contains(&lived) {
                continue;
            }
            let history = recorder.settle_at(recorder.started() + seconds(lived));
            // The recorder is combined with a collected history, as in a service that also collects
            // from other routers.
            let far = History::new();
            far.know_between(recorder.started_ms(), recorder.started_ms() + lived * 1_000);
            for frame in
                Step::ALL.iter().flat_map(|step| history.frames_after(*step, 0, usize::MAX))
            {
                far.absorb(Frame::clone(&frame));
            }
            for histories in [&[&**history][..], &[&far], &[&far, &History::new()]] {
                let reported = series(histories, "5m", begun + lived);
                assert_eq!(reported.step_s, 2, "{begun} {lived}");
                let known = reported.t.iter().zip(&reported.rps);
                let known = known
                    .filter(|(t, _)| **t >= BEGIN + begun + 2 && **t + 2 <= BEGIN + begun + lived);
                let rates: Vec<f64> = known.map(|(_, rate)| *rate).collect();
                assert!(rates.len() + 3 >= lived as usize / 2, "{begun} {lived}: {rates:?}");
                assert!(rates.iter().all(|rate| *rate == 1.0), "{begun} {lived}: {rates:?}");
            }
        }
    }
}
