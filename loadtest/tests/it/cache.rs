//! Tests of `--chaos --cache`: a router with a cache keeps its promises, even while the cache is
//! flushed, frozen and killed.

use std::process::Output;

use serde_json::Value;

use crate::router::{PROGRAM, tester};
use crate::{operations, report, text};

/// Runs the verifying workload while faults are injected into a router with a cache.
fn under_chaos(seed: u64, seconds: u32, more: &[&str]) -> Output {
    let (seed, seconds) = (seed.to_string(), seconds.to_string());
    let mut command = tester();
    command.args(["--verify", "--chaos", "--cache", "--json", "--users", "8"]);
    command.args(["--seed", &seed, "--run-time", &seconds, "--router"]).arg(&*PROGRAM);
    command.args(more).output().unwrap()
}

/// Returns the number of cache hits of a run; 0 if the run had too few operations to count.
fn hits(report: &Value) -> u64 {
    if operations(report) <= 500 {
        return 0;
    }
    let shares = report["cache"].as_array().unwrap();
    let hits = shares.iter().find(|share| share["name"] == "hit");
    hits.map_or(0, |share| share["answers"].as_u64().unwrap())
}

/// Maximum number of additional runs if there were no cache hits.
const TRIES_MAX: u64 = 10;

/// Returns the seeds of the runs and the length of each run in seconds. By default the runs are few
/// and short.
fn seeds() -> (std::ops::RangeInclusive<u64>, u32) {
    let long = std::env::var("LONG_TESTS").is_ok_and(|value| value == "1");
    if long { (1..=20, 30) } else { (1..=2, 6) }
}

/// Asserts that the router has kept every promise in a run, and returns the run's report.
fn assert_kept(output: &Output, seed: u64) -> Value {
    let report = report(output);
    assert_eq!(output.status.code(), Some(0), "seed {seed}: {report:#}");
    report
}

/// Runs all requested seeds. On a machine that is so busy that there were no cache hits, runs more
/// seeds until there is one. `run` returns the cache hits of a run, or 0 if the run had too few
/// operations.
fn until_the_cache_answers(mut run: impl FnMut(u64, u32) -> u64) {
    let (seeds, seconds) = seeds();
    let (mut seed, mut answered) = (*seeds.start(), 0);
    while seeds.contains(&seed) || answered == 0 {
        assert!(seed < seeds.end() + TRIES_MAX, "nothing came from the cache");
        answered += run(seed, seconds);
        seed += 1;
    }
}

#[test]
fn no_promise_is_broken_while_the_cache_fails() {
    until_the_cache_answers(|seed, seconds| {
        let options = ["--router-options", "--replicas 2 --cache-patience-ms 100"];
        let faults = ["--faults", "redis-flush,redis-freeze,redis-kill"];
        let output = under_chaos(seed, seconds, &[options, faults].concat());
        let report = assert_kept(&output, seed);
        let faults = report["faults"].as_array().unwrap();
        assert!(
            faults.iter().all(|fault| fault["what"].as_str().unwrap().contains("Redis")),
            "{report:#}"
        );
        if faults.len() >= 2 { hits(&report) } else { 0 }
    });
}

#[test]
fn no_promise_is_broken_while_the_router_fails_and_its_local_cache_answers() {
    until_the_cache_answers(|seed, seconds| {
        // The router may return stale data, so that it caches many responses. Only the session
        // tokens then keep sessions correct.
        let options = "--replicas 2 --cache-bound-ms 30000 --cache-near-bytes 4000000";
        let output = under_chaos(seed + 100, seconds, &["--router-options", options]);
        hits(&assert_kept(&output, seed))
    });
}

#[test]
fn a_redis_that_cannot_be_started_is_reported_before_the_run() {
    let output = under_chaos(1, 1, &["--redis-server", "/nonexistent/redis-server"]);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("/nonexistent/redis-server cannot be started"), "{stderr}");
}
