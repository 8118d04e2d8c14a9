//! Tests of the report: what people and programs read, as whole texts.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use super::*;
use crate::tally::{Operation, Sample, Tally};
use crate::verdict::Failure;

const IDLE: Cpu = Cpu { own_cores: 0.3, cores: 2.0, idle_share: 0.5 };

fn options(args: &[&str]) -> Options {
    Options::read(["loadtest"].iter().chain(args).map(OsString::from)).unwrap()
}

fn ran() -> Ran {
    Ran { thresholds_failed: Vec::new(), cpu: IDLE, faults: Vec::new(), verified: None }
}

/// Operations that each took 2 ms, a millisecond after another, and were sent so late.
fn tally(operations: &[(Operation, &str, Result<(), Failure>)], late: Duration) -> Counts {
    let tally = Tally::default();
    let start = Instant::now();
    tally.start(start);
    for (n, (operation, shard, verdict)) in (1..).zip(operations) {
        let intended = start + Duration::from_millis(n);
        let sent = intended + late;
        tally.add(Sample {
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
    tally.counts()
}

fn unavailable() -> Failure {
    Failure { status: Some(503), code: "TSR201".to_owned(), detail: "primary of shard3".to_owned() }
}

#[test]
fn a_run_that_passed() {
    let counts = tally(
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
  model    closed: a user waits for its answer, so stalls are under-counted (--rate counts them)
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
    let report = Report::new(&options(&[]), &tally(&operations, Duration::ZERO), ran());
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
fn what_was_sent_late_or_never_is_told() {
    let mut counts = tally(&[(Operation::Read, "shard1", Ok(()))], Duration::from_millis(500));
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
fn a_threshold_that_failed_fails_the_run() {
    let counts = tally(&[(Operation::Read, "shard1", Ok(()))], Duration::ZERO);
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
