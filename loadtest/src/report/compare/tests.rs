//! Tests of comparisons: the differences that count as better, as worse, and as noise.

use super::*;
use crate::report::tests::report_of;

/// Returns a run whose seconds had these numbers of requests.
fn of_rates(rates: &[u64]) -> Report {
    let mut report = report_of(rates.len(), rates.len() as f64);
    report.series.iter_mut().zip(rates).for_each(|(second, rate)| second.requests = *rate);
    report
}

fn outcome(comparison: &Comparison, measure: Measure) -> Outcome {
    let all = comparison.metrics.iter().filter(|metric| metric.of == ALL);
    all.filter(|metric| metric.measure == measure).map(|metric| metric.outcome).next().unwrap()
}

#[test]
fn a_table_has_each_change_and_its_size() {
    let before = report_of(101, 100.0);
    let mut now = report_of(101, 100.0);
    now.options.insert("keys".to_owned(), "500".to_owned());
    now.requests_per_s = 130.0;
    now.response_ms.p50 = 1.0;
    now.response_ms.p90 = 2.2;
    now.response_ms.p99 = 4.4;
    now.failed = 0;
    now.operations[0].failed = 202;
    let comparison = Comparison::new("before.json", &before, &now);
    let mut text = String::new();
    write(&comparison, &mut text).unwrap();
    let expected = "  \
  compared with before.json, which ended 2026-01-02T03:04:05Z
    warning  different options: keys 10000 before, 500 now
             metric        before         now      change       bound
    all      rate           101/s       130/s     +28.7 %       5.0 %  better
             p50           2.0 ms      1.0 ms     -50.0 %       5.0 %  better
             p90           2.1 ms      2.2 ms      +4.8 %       5.0 %  same
             p99           2.2 ms      4.4 ms    +100.0 %      10.0 %  worse
             p99.9         100 ms      100 ms      +0.0 %      20.0 %  same
             failed       1.000 %     0.000 %    -100.0 %       0.0 %  better
    read     rate           101/s       101/s      +0.0 %       5.0 %  same
             p50           2.0 ms      2.0 ms      +0.0 %       5.0 %  same
             p90           2.1 ms      2.1 ms      +0.0 %       5.0 %  same
             p99           2.2 ms      2.2 ms      +0.0 %      10.0 %  same
             p99.9         100 ms      100 ms      +0.0 %      20.0 %  same
             failed       1.000 %     2.000 %    +100.0 %      36.6 %  worse
    3 better, 2 worse, 7 the same
";
    assert_eq!(text, expected);
}

#[test]
fn a_rate_that_varies_between_seconds_is_weaker_evidence() {
    let before = of_rates(&[1_000; 16]);
    let swinging: Vec<u64> =
        (0..16).map(|second| if second % 2 == 0 { 500 } else { 1_500 }).collect();
    let mut now = of_rates(&swinging);
    let noise = Comparison::new("x", &before, &now).noise_percent;
    // The result must be three standard errors. One standard error is 518 / sqrt(15), and the mean
    // is 967.
    assert!((41.0..43.0).contains(&noise), "{noise}");
    now.requests_per_s = before.requests_per_s * 0.8;
    assert_eq!(outcome(&Comparison::new("x", &before, &now), Measure::RatePerS), Outcome::Same);
    let mut steady = of_rates(&[1_000; 16]);
    steady.requests_per_s = now.requests_per_s;
    assert_eq!(outcome(&Comparison::new("x", &before, &steady), Measure::RatePerS), Outcome::Worse);
}

#[test]
fn few_requests_are_not_judged_and_few_failures_are_seen() {
    let mut before = report_of(8, 8.0);
    let mut now = report_of(8, 8.0);
    now.response_ms.p999 = 1_000.0;
    now.response_ms.p50 = 3.0;
    let comparison = Comparison::new("x", &before, &now);
    assert_eq!(outcome(&comparison, Measure::P999Ms), Outcome::TooFew);
    assert_eq!(outcome(&comparison, Measure::P50Ms), Outcome::Worse);
    before.failed = 0;
    now.failed = 1;
    let metric = |comparison: Comparison| comparison.metrics[5].clone();
    let first = metric(Comparison::new("x", &before, &now));
    assert_eq!((first.outcome, first.change_percent), (Outcome::Worse, None));
    before.failed = 2;
    assert_eq!(metric(Comparison::new("x", &before, &now)).outcome, Outcome::Same);
    (before.dropped, now.dropped) = (0, 5);
    assert_eq!(
        outcome(&Comparison::new("x", &before, &now), Measure::DroppedPercent),
        Outcome::Worse
    );
}

#[test]
fn differences_between_runs_are_warned_of() {
    let mut before = report_of(2, 2.0);
    let mut now = report_of(16, 16.0);
    before.options.remove("mix");
    before.stopped_early = true;
    before.warnings.push("busy\u{1b}[31m".to_owned());
    before.operations[0].name = "scan".to_owned();
    now.options.insert("rate".to_owned(), "100".to_owned());
    let comparison = Comparison::new("x", &before, &now);
    let reported = [
        "different options: mix nothing before, default now",
        "different options: rate nothing before, 100 now",
        "the earlier run has fewer than 5 whole seconds, too few to compare",
        "the earlier run was stopped early",
        "the present run was stopped early",
        "warning of the earlier run: busy[31m",
        "only before: scan",
        "only now: read",
    ];
    now.stopped_early = true;
    assert_eq!(Comparison::new("x", &before, &now).warnings, reported);
    assert!(comparison.metrics.iter().all(|metric| metric.of == ALL));
}

#[test]
fn no_number_is_strange_whatever_was_before() {
    let empty = report_of(0, 0.0);
    let full = report_of(16, 16.0);
    let mut huge = report_of(16, 16.0);
    huge.requests_per_s = f64::MAX;
    huge.response_ms.p99 = -f64::MAX;
    (huge.requests, huge.dropped) = (u64::MAX, u64::MAX);
    for (before, now) in
        [(&empty, &full), (&full, &empty), (&empty, &empty), (&huge, &full), (&full, &huge)]
    {
        let comparison = Comparison::new("x", before, now);
        let read: Comparison =
            serde_json::from_str(&serde_json::to_string(&comparison).unwrap()).unwrap();
        assert_eq!(read.metrics.len(), comparison.metrics.len());
    }
}
