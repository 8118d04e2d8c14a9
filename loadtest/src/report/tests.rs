//! Tests of the report: the complete text and the complete JSON.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::*;
use crate::counters::{Counters, Operation, Sample};
use crate::response_check::Failure;

const IDLE: Cpu = Cpu { own_cores: 0.3, cores: 2.0, idle_share: 0.5 };

fn options(args: &[&str]) -> Options {
    Options::read(["loadtest"].iter().chain(args).map(OsString::from)).unwrap()
}

fn ran() -> Ran {
    Ran { thresholds_failed: Vec::new(), cpu: IDLE, faults: Vec::new(), verified: None }
}

/// Returns the report of a run of this many seconds, each with 100 reads of about 2 ms, of which
/// one failed.
pub(super) fn report_of(seconds: usize, elapsed_s: f64) -> Report {
    let mut report = Report::new(&options(&[]), &Counts::default(), ran());
    let mut classes = vec![0; 40];
    classes[9] = 99;
    classes[20] = 1;
    let second =
        || Second { requests: 100, failed: 1, p50_ms: 2.2, p99_ms: 2.2, classes: classes.clone() };
    report.series = std::iter::repeat_with(second).take(seconds).collect();
    (report.elapsed_s, report.stopped_early) = (elapsed_s, false);
    report.requests = 100 * seconds as u64;
    report.failed = seconds as u64;
    report.requests_per_s = rate(report.requests, elapsed_s);
    report.response_ms =
        Latency { p50: 2.0, p90: 2.1, p95: 2.1, p99: 2.2, p999: 100.0, max: 101.0 };
    let latency_ms = report.response_ms;
    let Report { requests, requests_per_s, failed, .. } = report;
    let name = "read".to_owned();
    report.operations = vec![Load { name, requests, requests_per_s, failed, latency_ms }];
    report.ended_at = "2026-01-02T03:04:05Z".to_owned();
    report.options.remove("hosts");
    report
}

/// Returns the counts of operations that were due one millisecond after another, were sent `late`,
/// and took 2 ms each.
fn counters(operations: &[(Operation, &str, Result<(), Failure>)], late: Duration) -> Counts {
    let counters = Counters::default();
    let start = Instant::now();
    counters.start(start);
    for (n, (operation, shard, verdict)) in (1..).zip(operations) {
        let intended = start + Duration::from_millis(n);
        let sent = intended + late;
        counters.add(Sample {
            operation: *operation,
            intended,
            sent,
            ended: sent + Duration::from_millis(2),
            source: (!shard.is_empty()).then(|| Source {
                shard: Some((*shard).to_owned()),
                served_by: Some("primary".to_owned()),
                cache: None,
            }),
            verdict: verdict.clone(),
        });
    }
    counters.counts()
}

fn unavailable() -> Failure {
    Failure { status: Some(503), code: "TSR201".to_owned(), detail: "primary of shard3".to_owned() }
}

#[test]
fn a_run_that_passed() {
    let counts = counters(
        &[
            (Operation::Write, "shard1", Ok(())),
            (Operation::Read, "shard2", Ok(())),
            (Operation::Read, "shard2", Ok(())),
            (Operation::Read, "shard10", Ok(())),
        ],
        Duration::ZERO,
    );
    let expected = "\
tessera loadtest: 20 users, 15s, mix default (70 % writes), 10000 keys, uniform, seed 1 -> http://127.0.0.1:3000
  stopped early, after 0.0 s
  requests         4     667/s   failed 0
  write            1     167/s   p50 2.0 ms  p90 2.0 ms  p95 2.0 ms  p99 2.0 ms  p99.9 2.0 ms  max 2.0 ms
  read             3     500/s   p50 2.0 ms  p90 2.0 ms  p95 2.0 ms  p99 2.0 ms  p99.9 2.0 ms  max 2.0 ms
  shards   shard1 25.0 % (p99 2.0 ms)  shard2 50.0 % (p99 2.0 ms)  shard10 25.0 % (p99 2.0 ms)
  roles    primary 100.0 % (p99 2.0 ms)
  model    closed: a user waits for its response, so stalls weigh less than they should; --rate avoids that
PASS: every request was answered as promised
";
    assert_eq!(Report::new(&options(&[]), &counts, ran()).text(), expected);
}

#[test]
fn a_run_that_failed_names_what_failed() {
    let mut operations = vec![(Operation::Write, "shard1", Ok(()))];
    operations.extend(vec![(Operation::Write, "shard10", Err(unavailable())); 3]);
    let cut = Failure { status: None, code: "no answer".to_owned(), detail: String::new() };
    operations.push((Operation::Read, "", Err(cut)));
    let report = Report::new(&options(&[]), &counters(&operations, Duration::ZERO), ran());
    let text = report.text();
    let end = "  failures
                   3  write  503 TSR201: primary of shard3
                   1  read   no answer
FAIL: 4 of 5 requests failed
";
    assert!(text.ends_with(end), "{text}");
    assert_eq!(report.operations[0].failed, 3);
}

#[test]
fn late_and_dropped_requests_are_reported() {
    let mut counts = counters(&[(Operation::Read, "shard1", Ok(()))], Duration::from_millis(500));
    counts.dropped = 7;
    let report = Report::new(&options(&["--rate", "1000"]), &counts, ran());
    assert!(report.passed);
    let text = report.text();
    for part in [
        "asked for 1000/s, dropped 7",
        "open: sent at the rate",
        "500 ms after it was due",
        "7 requests were due and not sent",
        "service",
        "since sent   p50 2.0 ms",
        "since due   p50 502 ms",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let busy = Cpu { own_cores: 0.9, cores: 2.0, idle_share: 0.01 };
    let report = Report::new(&options(&[]), &counts, Ran { cpu: busy, ..ran() });
    assert!(report.text().contains("the tester itself kept 0.9 of 2 cores busy"));
}

#[test]
fn the_rate_of_a_verified_run_is_reported_as_demanded_and_as_reached() {
    let counts = counters(&[(Operation::Read, "shard1", Ok(()))], Duration::ZERO);
    let report = Report::new(&options(&["--verify", "--rate", "500"]), &counts, ran());
    assert_eq!((report.model.as_str(), report.target_per_s), ("closed", Some(500.0)));
    let text = report.text();
    for part in ["333/s   failed 0   at most 500/s demanded\n", "closed, at the rate at most: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("since due") && !text.contains("--rate avoids that"), "{text}");
    let asked = |name: &str| report.options.get(name).map(String::as_str);
    assert_eq!(
        [asked("rate"), asked("users"), asked("in-flight")],
        [Some("500"), Some("20"), None]
    );
}

#[test]
fn a_threshold_that_failed_fails_the_run() {
    let counts = counters(&[(Operation::Read, "shard1", Ok(()))], Duration::ZERO);
    let ran = Ran { thresholds_failed: vec!["p95<1ms (was 2)".to_owned()], ..ran() };
    let report = Report::new(&options(&[]), &counts, ran);
    assert!(
        report.text().ends_with("threshold failed: p95<1ms (was 2)\nFAIL: 1 thresholds failed\n")
    );
    assert!(!report.passed);
}

#[test]
fn no_request_is_no_pass_and_no_number_is_strange() {
    let report = Report::new(&options(&[]), &Counts::default(), ran());
    assert!(report.text().ends_with("FAIL: no request was made\n"));
    let read: Report = serde_json::from_str(&report.json()).unwrap();
    assert_eq!((read.requests, read.passed, read.requests_per_s), (0, false, 0.0));
}

#[test]
fn a_long_list_of_shards_is_broken_into_lines_and_cut() {
    let mut report = report_of(1, 1.0);
    let share = |n: usize| Share {
        name: format!("shard{n}"),
        answers: 10,
        percent: 0.98,
        p50_ms: 1.0,
        p99_ms: 2.0,
    };
    report.shards = (1..=1_024).map(share).collect();
    let text = report.text();
    let from = text.find("  shards").unwrap();
    let lines: Vec<_> = text[from..].lines().take_while(|line| !line.contains("model")).collect();
    assert!(lines.iter().all(|line| line.len() <= 115), "{text}");
    assert!(lines[1].starts_with("           shard4 1.0 % (p99 2.0 ms)  shard5 "), "{text}");
    assert!(lines.last().unwrap().ends_with("shard32 1.0 % (p99 2.0 ms)  and 992 more"), "{text}");
}

#[test]
fn a_broken_promise_fails_the_run_and_is_reported_line_by_line() {
    let counts = counters(&[(Operation::Read, "shard1", Ok(()))], Duration::ZERO);
    let lines = vec!["12:00:01 wrote version 7".to_owned(), "12:00:02 read version 6".to_owned()];
    let checked = |check: &str, violations| Checked { check: check.to_owned(), violations };
    let promise = "an acknowledged change is kept".to_owned();
    let verified = Verified {
        operations: 10,
        checks: vec![checked("C1 identity", 0), checked("C6 final state", 3)],
        findings: vec![Finding { check: "C6 final state".to_owned(), promise, lines }],
        lost: 0,
        losses: Vec::new(),
        notes: vec!["C10 reads at one: 10 ok".to_owned()],
    };
    let faults = vec![Fault { at_s: 1.25, what: "kill -9 of the router".to_owned() }];
    let ran = Ran { faults, verified: Some(verified), ..ran() };
    let report = Report::new(&options(&[]), &counts, ran);
    assert!(!report.passed);
    let end = "  fault        1.2 s  kill -9 of the router
  verified 10 operations
    C1 identity                  ok
    C6 final state               3 violations
    C10 reads at one: 10 ok

12:00:01 wrote version 7
12:00:02 read version 6
FAIL: guarantees were violated, 3 times
";
    let text = report.text();
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn a_loss_that_the_level_allows_is_neither_passed_nor_failed() {
    let counts = counters(&[(Operation::Read, "shard1", Ok(()))], Duration::ZERO);
    let verified = |violations| Verified {
        operations: 10,
        checks: vec![Checked { check: "C6 final state".to_owned(), violations }],
        findings: Vec::new(),
        lost: 2,
        losses: vec![Finding {
            check: "C6".to_owned(),
            promise: "an acknowledged change is kept".to_owned(),
            lines: vec!["lost at level one after a promotion: C6".to_owned()],
        }],
        notes: Vec::new(),
    };
    let report = |violations| {
        let ran = Ran { verified: Some(verified(violations)), ..ran() };
        Report::new(&options(&[]), &counts, ran)
    };
    let lost = report(0);
    assert!(!lost.passed && lost.has_only_lost());
    let text = lost.text();
    let end = "
lost at level one after a promotion: C6
LOST: lost at level one after a promotion: acknowledged changes were found gone 2 times, which that level allows
";
    assert!(text.ends_with(end), "{text}");
    let broken = report(1);
    assert!(!broken.passed && !broken.has_only_lost());
    assert!(broken.text().ends_with("FAIL: guarantees were violated, 1 times\n"));
}
