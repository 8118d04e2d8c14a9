//! Report: what is said at the end, as text and as JSON.
//!
//! **Invariant:** no number is `NaN` or infinite, not even after no request at all; a run without a
//! request has not passed.
//! **Not here:** counting (`tally`).

use std::fmt::Write;

use serde::Serialize;

use crate::options::Options;
use crate::tally::{Counts, Operation, Times};

/// A run this much shorter than asked was interrupted; users never all end at the very moment.
const STOPPED_EARLY_S: f64 = 1.0;

/// The whole result of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    host: String,
    users: u32,
    run_time_s: u64,
    writes_percent: u8,
    keys: u32,
    seed: u64,
    /// How load was made: a user waits for its answer before it asks again.
    model: &'static str,
    elapsed_s: f64,
    requests: u64,
    requests_per_s: f64,
    failed: u64,
    writes: Load,
    reads: Load,
    shards: Vec<Shard>,
    failures: Vec<FailureLine>,
    /// Whether something was asked and every answer was as promised.
    pub(crate) passed: bool,
}

/// One operation.
#[derive(Debug, Serialize)]
struct Load {
    requests: u64,
    requests_per_s: f64,
    latency_ms: Latency,
}

/// Times to the answer's last byte, failed requests included.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Shard {
    shard: String,
    answers: u64,
    percent: f64,
}

#[derive(Debug, Serialize)]
struct FailureLine {
    operation: Operation,
    status: Option<u16>,
    code: String,
    count: u64,
    example: String,
}

impl Report {
    /// Sums up a run.
    pub(crate) fn new(options: &Options, counts: &Counts) -> Self {
        let seconds = counts.elapsed().as_secs_f64();
        let requests = counts.requests();
        Self {
            host: options.host.to_string(),
            users: options.users,
            run_time_s: options.run_time.as_secs(),
            writes_percent: options.writes,
            keys: options.keys,
            seed: options.seed,
            model: "closed",
            elapsed_s: rounded(seconds),
            requests,
            requests_per_s: rate(requests, seconds),
            failed: counts.failed,
            writes: Load::new(&counts.writes, seconds),
            reads: Load::new(&counts.reads, seconds),
            shards: shards(counts),
            failures: failures(counts),
            passed: counts.failed == 0 && requests > 0,
        }
    }

    /// For programs: one object on one line.
    pub(crate) fn json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a report has only text keys");
        text.push('\n');
        text
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_text(&mut out);
        out
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let Self { host, users, run_time_s, writes_percent, keys, seed, .. } = self;
        writeln!(
            out,
            "tessera loadtest: {users} users, {run_time_s} s, {writes_percent} % writes, \
             {keys} keys, seed {seed} -> {host}"
        )?;
        let Self { elapsed_s, requests, requests_per_s, failed, .. } = self;
        if elapsed_s + STOPPED_EARLY_S < *run_time_s as f64 {
            writeln!(out, "  stopped early, after {elapsed_s:.1} s")?;
        }
        writeln!(out, "  requests {requests:>9} {requests_per_s:>7.0}/s   failed {failed}")?;
        self.writes.write_text("writes", out)?;
        self.reads.write_text("reads", out)?;
        write!(out, "  shards  ")?;
        if self.shards.is_empty() {
            write!(out, " no answer named one (header x-shard)")?;
        }
        for Shard { shard, percent, .. } in &self.shards {
            write!(out, " {shard} {percent:.1} % ")?;
        }
        out.truncate(out.trim_end().len());
        writeln!(out)?;
        writeln!(
            out,
            "  model    closed: a user waits for its answer, so stalls are under-counted"
        )?;
        if !self.failures.is_empty() {
            writeln!(out, "  failures")?;
        }
        for FailureLine { operation, status, code, count, example } in &self.failures {
            let status = status.map(|status| format!("{status} ")).unwrap_or_default();
            let operation = operation.name();
            write!(out, "  {count:>18}  {operation:<5}  {status}{code}")?;
            writeln!(out, "{}{example}", if example.is_empty() { "" } else { ": " })?;
        }
        match (self.passed, requests) {
            (true, _) => writeln!(out, "PASS: every request was answered as promised"),
            (false, 0) => writeln!(out, "FAIL: no request was made"),
            (false, _) => writeln!(out, "FAIL: {failed} of {requests} requests failed"),
        }
    }
}

impl Load {
    fn new(times: &Times, seconds: f64) -> Self {
        let requests = times.count();
        Self {
            requests,
            requests_per_s: rate(requests, seconds),
            latency_ms: Latency {
                p50: times.quantile_ms(0.5),
                p90: times.quantile_ms(0.9),
                p95: times.quantile_ms(0.95),
                p99: times.quantile_ms(0.99),
                p999: times.quantile_ms(0.999),
                max: times.quantile_ms(1.0),
            },
        }
    }

    fn write_text(&self, name: &str, out: &mut String) -> std::fmt::Result {
        let Self { requests, requests_per_s, latency_ms } = self;
        write!(out, "  {name:<8} {requests:>9} {requests_per_s:>7.0}/s ")?;
        if *requests > 0 {
            let Latency { p50, p90, p95, p99, p999, max } = *latency_ms;
            for (name, value) in [
                ("p50", p50),
                ("p90", p90),
                ("p95", p95),
                ("p99", p99),
                ("p99.9", p999),
                ("max", max),
            ] {
                write!(out, "  {name} {}", milliseconds(value))?;
            }
        }
        out.truncate(out.trim_end().len());
        writeln!(out)
    }
}

/// In the order people count: shard2 before shard10.
fn shards(counts: &Counts) -> Vec<Shard> {
    let total: u64 = counts.shards.values().sum();
    let mut shards: Vec<_> = counts
        .shards
        .iter()
        .map(|(shard, &answers)| Shard {
            shard: shard.clone(),
            answers,
            percent: rounded(answers as f64 * 100.0 / total.max(1) as f64),
        })
        .collect();
    shards.sort_by_key(|shard| shard.shard.len());
    shards
}

/// The most frequent first.
fn failures(counts: &Counts) -> Vec<FailureLine> {
    let mut failures: Vec<_> = counts
        .failures
        .iter()
        .map(|(group, failure)| FailureLine {
            operation: group.operation,
            status: group.status,
            code: group.code.clone(),
            count: failure.count,
            example: failure.example.clone(),
        })
        .collect();
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.count));
    failures
}

/// Requests per second; 0 when no time has passed.
fn rate(requests: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { rounded(requests as f64 / seconds) } else { 0.0 }
}

/// To two places: more would look like knowledge.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Three digits or so, whatever the size.
fn milliseconds(value: f64) -> String {
    match value {
        value if value < 1.0 => format!("{value:.2} ms"),
        value if value < 100.0 => format!("{value:.1} ms"),
        value => format!("{value:.0} ms"),
    }
}

#[cfg(test)]
mod tests;
