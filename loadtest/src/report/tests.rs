//! Tests of the report: what people and programs read, as whole texts.

use std::time::Duration;

use clap::Parser;

use super::*;
use crate::tally::Tally;
use crate::verdict::Failure;

const TIME: Duration = Duration::from_millis(2);

fn options() -> Options {
    Options::parse_from(["loadtest", "--host", "http://127.0.0.1:3000"])
}

fn sample() -> Report {
    let load = |requests, requests_per_s, factor: f64| Load {
        requests,
        requests_per_s,
        latency_ms: Latency {
            p50: 0.125 * factor,
            p90: 1.0 * factor,
            p95: 3.1 * factor,
            p99: 42.0 * factor,
            p999: 99.0 * factor,
            max: 1234.5 * factor,
        },
    };
    let shard = |shard: &str, answers, percent| Shard { shard: shard.to_owned(), answers, percent };
    Report {
        host: "http://127.0.0.1:3000".to_owned(),
        users: 20,
        run_time_s: 15,
        writes_percent: 70,
        keys: 10_000,
        seed: 1,
        model: "closed",
        elapsed_s: 15.0,
        requests: 123_456,
        requests_per_s: 8_230.4,
        failed: 0,
        writes: load(86_419, 5_761.3, 1.0),
        reads: load(37_037, 2_469.1, 0.1),
        shards: vec![shard("shard1", 41_234, 33.4), shard("shard2", 82_222, 66.6)],
        failures: Vec::new(),
        passed: true,
    }
}

#[test]
fn a_run_that_passed() {
    let expected = "\
tessera loadtest: 20 users, 15 s, 70 % writes, 10000 keys, seed 1 -> http://127.0.0.1:3000
  requests    123456    8230/s   failed 0
  writes       86419    5761/s   p50 0.12 ms  p90 1.0 ms  p95 3.1 ms  p99 42.0 ms  p99.9 99.0 ms  max 1234 ms
  reads        37037    2469/s   p50 0.01 ms  p90 0.10 ms  p95 0.31 ms  p99 4.2 ms  p99.9 9.9 ms  max 123 ms
  shards   shard1 33.4 %  shard2 66.6 %
  model    closed: a user waits for its answer, so stalls are under-counted
PASS: every request was answered as promised
";
    assert_eq!(sample().text(), expected);
}

#[test]
fn a_run_that_failed_names_what_failed() {
    let tally = Tally::default();
    tally.add(Operation::Write, TIME, Some("shard1".to_owned()), Ok(()));
    let unavailable = Failure {
        status: Some(503),
        code: "TSR201".to_owned(),
        detail: "primary of shard3".to_owned(),
    };
    for _ in 0..3 {
        tally.add(Operation::Write, TIME, Some("shard10".to_owned()), Err(unavailable.clone()));
    }
    tally.add(
        Operation::Read,
        TIME,
        None,
        Err(Failure::new(None, "not connected", "Connection refused")),
    );
    tally.add(Operation::Read, TIME, Some("shard2".to_owned()), Ok(()));

    let report = Report::new(&options(), &tally.counts());
    assert!(!report.passed);
    let text = report.text();
    let (_, text) = text.split_once("  shards").unwrap();
    let expected = "   shard1 20.0 %  shard2 20.0 %  shard10 60.0 %
  model    closed: a user waits for its answer, so stalls are under-counted
  failures
                   3  write  503 TSR201: primary of shard3
                   1  read   not connected: Connection refused
FAIL: 4 of 6 requests failed
";
    assert_eq!(text, expected);
}

#[test]
fn no_request_at_all_is_no_pass_and_no_nan() {
    let report = Report::new(&options(), &Counts::default());
    let expected = "\
tessera loadtest: 20 users, 15 s, 70 % writes, 10000 keys, seed 1 -> http://127.0.0.1:3000
  stopped early, after 0.0 s
  requests         0       0/s   failed 0
  writes           0       0/s
  reads            0       0/s
  shards   no answer named one (header x-shard)
  model    closed: a user waits for its answer, so stalls are under-counted
FAIL: no request was made
";
    assert_eq!(report.text(), expected);
    // serde_json writes NaN and infinity as null.
    assert!(!report.json().contains("null"), "{}", report.json());
}

#[test]
fn json_is_one_line_with_the_same_numbers() {
    let json = sample().json();
    assert_eq!(json.lines().count(), 1);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["model"], "closed");
    assert_eq!(report["requests"], 123_456);
    assert_eq!(report["writes"]["latency_ms"]["p50"], 0.125);
    assert_eq!(report["shards"][1]["shard"], "shard2");
    assert_eq!(report["passed"], true);
}
