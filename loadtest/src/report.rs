//! Report: the result of a run, as text and as JSON.
//!
//! **Invariant:** no number is `NaN` or infinite, even if there were no requests. A run without
//! requests has not passed.
//! **Not here:** counting (`counters`).

mod compare;
mod files;
mod html;
mod run_options;
mod text;

pub(crate) use files::Files;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use checker::lost_text;
use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use self::compare::Comparison;
use crate::clients::{Client, ClientCounts, Clients};
use crate::counters::{Counts, Source, Times};
use crate::cpu::Cpu;
use crate::options::{Options, parse_time};

/// Time, in seconds, by which a run must be shorter than the requested run time to count as
/// interrupted. A smaller difference is normal, because users do not all end at the same moment.
const STOPPED_EARLY_S: f64 = 1.0;
/// Limit of the 99th percentile of the delay between the moment at which a request was due and the
/// moment at which it was sent, in milliseconds. Above it, the tester itself was too slow.
const LATE_P99_MS: f64 = 20.0;
/// Fraction of the machine's CPU time. If less than this fraction was idle, and the tester used
/// more than the fraction [`OWN_SHARE`], the tester itself may have limited the measured rate.
const IDLE_SHARE: f64 = 0.05;
const OWN_SHARE: f64 = 0.25;

/// Complete result of a run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Version of the report's format; reports of other versions have other members.
    pub(crate) format: u32,
    /// Description of the load in words.
    #[serde(rename = "told")]
    pub(crate) description: String,
    /// Options that determine the load, for comparisons with other runs.
    #[serde(rename = "asked")]
    pub(crate) options: BTreeMap<String, String>,
    /// Time at which the run ended, as RFC 3339 in UTC.
    pub(crate) ended_at: String,
    pub(crate) hosts: Vec<String>,
    pub(crate) mix: String,
    pub(crate) seed: u64,
    /// `closed` or `open`.
    pub(crate) model: String,
    /// Requested number of requests per second in the open model; with `--verify`, the maximum.
    pub(crate) target_per_s: Option<f64>,
    pub(crate) elapsed_s: f64,
    pub(crate) stopped_early: bool,
    pub(crate) requests: u64,
    pub(crate) requests_per_s: f64,
    pub(crate) failed: u64,
    /// Number of operations that were due but never sent, because too many were in progress.
    pub(crate) dropped: u64,
    /// Times of all operations, each measured from the moment at which it was due.
    pub(crate) response_ms: Latency,
    /// Times of all operations, each measured from the moment at which it was sent.
    pub(crate) service_ms: Latency,
    pub(crate) operations: Vec<Load>,
    pub(crate) shards: Vec<Share>,
    pub(crate) roles: Vec<Share>,
    pub(crate) cache: Vec<Share>,
    pub(crate) failures: Vec<FailureLine>,
    pub(crate) thresholds_failed: Vec<String>,
    pub(crate) warnings: Vec<String>,
    /// Average number of cores that the tester kept busy.
    pub(crate) own_cores: f64,
    pub(crate) series: Vec<Second>,
    /// Faults injected during the run.
    pub(crate) faults: Vec<Fault>,
    /// Result of the verifying workload, if it ran.
    pub(crate) verified: Option<Verified>,
    /// Requests of each tenant, if the run had tenants.
    #[serde(default)]
    pub(crate) tenants: Vec<TenantLine>,
    /// Comparison with an earlier run, if one was named.
    pub(crate) comparison: Option<Comparison>,
    /// True if there were requests, every response was correct (with `--chaos`, requests may fail),
    /// no guarantee was violated, nothing was lost, and no threshold failed.
    pub(crate) passed: bool,
}

/// Fault injected on purpose.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// Time of the fault, in seconds after the first user started.
    pub(crate) at_s: f64,
    pub(crate) what: String,
}

/// Result of checking a recorded run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Verified {
    pub(crate) operations: u64,
    pub(crate) checks: Vec<Checked>,
    /// The earliest violations, with their records.
    pub(crate) findings: Vec<Finding>,
    /// Number of changes that were acknowledged at level `one` and lost by a promotion, which that
    /// level allows.
    #[serde(default)]
    pub(crate) lost: u64,
    /// The earliest of these losses, with their records.
    #[serde(default)]
    pub(crate) losses: Vec<Finding>,
    /// Remarks, among them the longest gap without a successful operation for each shard and level.
    pub(crate) notes: Vec<String>,
}

/// One check, with the number of violations that it found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Checked {
    pub(crate) check: String,
    pub(crate) violations: u64,
}

/// Violated guarantee, with the records of the history that prove it, as lines of text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) check: String,
    pub(crate) promise: String,
    pub(crate) lines: Vec<String>,
}

/// Numbers for the requests of one kind of operation.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) name: String,
    pub(crate) requests: u64,
    pub(crate) requests_per_s: f64,
    pub(crate) failed: u64,
    pub(crate) latency_ms: Latency,
}

/// Quantiles of the times until the last byte of the response, in milliseconds, including failed
/// requests.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// Numbers for the responses of one shard, of one role, or with one state of the cache.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Share {
    pub(crate) name: String,
    pub(crate) answers: u64,
    pub(crate) percent: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FailureLine {
    pub(crate) operation: String,
    pub(crate) status: Option<u16>,
    pub(crate) code: String,
    pub(crate) count: u64,
    pub(crate) example: String,
}

/// One second of the run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Second {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Number of operations in each class of response times; class n ends at 0.1 ms times 2^(n/2).
    pub(crate) classes: Vec<u32>,
}

/// Numbers for the requests of one tenant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TenantLine {
    pub(crate) tenant: String,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Number of requests for rows of other tenants.
    pub(crate) probes: u64,
    /// Number of responses that contained a row of another tenant.
    pub(crate) foreign_rows: u64,
}

impl TenantLine {
    /// Returns the numbers for the requests of a client; `None` if the client is not a tenant.
    fn of(client: &Client) -> Option<Self> {
        let keys = client.names().tenant()?;
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let ClientCounts { requests, failed, probes, foreign_rows } = client.counts();
        Some(Self {
            tenant: keys.beginnings().swap_remove(0),
            requests: number(requests),
            failed: number(failed),
            probes: number(probes),
            foreign_rows: number(foreign_rows),
        })
    }
}

/// Results of a run that are not in its counters.
pub(crate) struct Ran {
    pub(crate) thresholds_failed: Vec<String>,
    pub(crate) cpu: Cpu,
    pub(crate) faults: Vec<Fault>,
    pub(crate) verified: Option<Verified>,
}

impl Verified {
    /// Returns the number of violations.
    pub(crate) fn violations(&self) -> u64 {
        self.checks.iter().map(|checked| checked.violations).sum()
    }
}

impl Report {
    /// Version of the report's format.
    pub(crate) const FORMAT: u32 = 2;

    /// Creates the report of a run.
    pub(crate) fn new(options: &Options, counts: &Counts, ran: Ran) -> Self {
        let seconds = counts.elapsed().as_secs_f64();
        let requests = counts.requests();
        let mut response = Times::default();
        counts.operations.values().for_each(|times| response.merge(times));
        let run_time = options.goose.run_time.as_deref().and_then(parse_time);
        let response_ms = Latency::of(&response);
        let mut report = Self {
            format: Self::FORMAT,
            description: options.description(),
            options: run_options::of(options),
            ended_at: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
            hosts: options.targets.iter().map(ToString::to_string).collect(),
            mix: options.load.mix.to_string(),
            seed: options.load.seed,
            model: if options.load.open_rate().is_some() { "open" } else { "closed" }.to_owned(),
            target_per_s: options.load.rate,
            elapsed_s: rounded(seconds),
            stopped_early: run_time.is_some_and(|t| seconds + STOPPED_EARLY_S < t.as_secs_f64()),
            requests,
            requests_per_s: rate(requests, seconds),
            failed: counts.failed,
            dropped: counts.dropped,
            response_ms,
            service_ms: Latency::of(&counts.service),
            operations: operations(counts, seconds),
            shards: shares(counts, |source| source.shard.as_deref()),
            roles: shares(counts, |source| source.served_by.as_deref()),
            cache: shares(counts, |source| source.cache.as_deref()),
            failures: failures(counts),
            thresholds_failed: ran.thresholds_failed,
            warnings: Vec::new(),
            own_cores: rounded(ran.cpu.own_cores),
            series: series(counts),
            faults: ran.faults,
            verified: ran.verified,
            tenants: Vec::new(),
            comparison: None,
            passed: false,
        };
        // If faults are injected, errors are expected, and only violated guarantees make the run
        // fail.
        let answered = counts.failed == 0 || options.load.chaos;
        report.passed = requests > 0
            && answered
            && report.violations() == 0
            && report.lost() == 0
            && report.thresholds_failed.is_empty();
        report.warnings = report.warn(counts, &ran.cpu);
        report
    }

    /// Adds the numbers of each tenant. If a tenant received a row of another tenant, the run has
    /// not passed.
    pub(crate) fn add_tenants(&mut self, clients: &Clients) {
        let tenants = clients.of_users().iter();
        self.tenants = tenants.filter_map(|client| TenantLine::of(client)).collect();
        self.passed &= self.foreign_rows() == 0;
    }

    /// Returns true for the open model, in which requests are sent at a fixed rate that does not
    /// depend on the responses.
    fn is_open(&self) -> bool {
        self.model == "open"
    }

    /// Returns the number of responses that contained a row of another tenant.
    fn foreign_rows(&self) -> u64 {
        self.tenants.iter().map(|line| line.foreign_rows).sum()
    }

    /// Returns warnings about conditions that make the numbers less reliable.
    fn warn(&self, counts: &Counts, cpu: &Cpu) -> Vec<String> {
        let mut warnings = Vec::new();
        if cpu.idle_share < IDLE_SHARE && cpu.own_cores > OWN_SHARE * cpu.cores {
            warnings.push(format!(
                "this machine had nothing to spare, and the tester itself kept {:.1} of {:.0} cores busy: \
                 the rate is what both could get together",
                cpu.own_cores, cpu.cores
            ));
        }
        let late = counts.lateness.quantile_ms(0.99);
        if late > LATE_P99_MS {
            warnings.push(format!(
                "one request in a hundred was sent more than {late:.0} ms after it was due: the tester \
                 itself was too slow for this rate"
            ));
        }
        if self.dropped > 0 {
            warnings.push(format!(
                "{} requests were due and not sent: as many as --in-flight allows were under way",
                self.dropped
            ));
        }
        warnings
    }

    /// Returns the number of violations that the verifying workload found.
    fn violations(&self) -> u64 {
        self.verified.as_ref().map_or(0, Verified::violations)
    }

    /// Returns the number of lost writes that level `one` allows.
    fn lost(&self) -> u64 {
        self.verified.as_ref().map_or(0, |verified| verified.lost)
    }

    /// Returns true if the only reason for not passing is that a promotion lost writes at level
    /// `one`.
    pub(crate) fn has_only_lost(&self) -> bool {
        self.lost() > 0 && self.violations() == 0 && self.thresholds_failed.is_empty()
    }

    /// Returns the verdict as a sentence.
    fn verdict(&self) -> String {
        let Self { passed, requests, failed, thresholds_failed, .. } = self;
        match (passed, requests, failed) {
            (true, ..) if self.verified.is_some() => "no guarantee was violated".to_owned(),
            (true, ..) => "every request was answered as promised".to_owned(),
            (false, 0, _) => "no request was made".to_owned(),
            (false, ..) if self.foreign_rows() > 0 => {
                format!("{} answers had rows of another tenant", self.foreign_rows())
            }
            (false, ..) if self.violations() > 0 => {
                format!("guarantees were violated, {} times", self.violations())
            }
            (false, ..) if self.has_only_lost() => lost_text(self.lost()),
            (false, _, 1..) => format!("{failed} of {requests} requests failed"),
            (false, _, 0) => format!("{} thresholds failed", thresholds_failed.len()),
        }
    }

    /// Returns the report as JSON: one object on one line.
    pub(crate) fn json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a report has only text keys");
        text.push('\n');
        text
    }

    /// Returns the report as an HTML page.
    pub(crate) fn html(&self) -> String {
        html::page(self)
    }

    /// Returns the report as text for a terminal.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::write(self, &mut out);
        out
    }
}

impl Latency {
    fn of(times: &Times) -> Self {
        Self {
            p50: times.quantile_ms(0.5),
            p90: times.quantile_ms(0.9),
            p95: times.quantile_ms(0.95),
            p99: times.quantile_ms(0.99),
            p999: times.quantile_ms(0.999),
            max: times.quantile_ms(1.0),
        }
    }
}

fn operations(counts: &Counts, seconds: f64) -> Vec<Load> {
    let failed = |name: &str| {
        let failures = counts.failures.iter();
        let own = failures.filter(|(group, _)| group.operation.name() == name);
        own.map(|(_, failure)| failure.count).sum()
    };
    let load = |name: &str, times: &Times| Load {
        name: name.to_owned(),
        requests: times.count(),
        requests_per_s: rate(times.count(), seconds),
        failed: failed(name),
        latency_ms: Latency::of(times),
    };
    counts.operations.iter().map(|(operation, times)| load(operation.name(), times)).collect()
}

/// Returns the responses grouped by one of their headers. The groups are in natural order: shard2
/// before shard10.
fn shares(counts: &Counts, name: impl Fn(&Source) -> Option<&str>) -> Vec<Share> {
    let mut merged: Vec<(String, Times)> = Vec::new();
    for (source, times) in &counts.sources {
        let Some(name) = name(source) else { continue };
        match merged.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.merge(times),
            None => merged.push((name.to_owned(), times.clone())),
        }
    }
    merged.sort_by(|(a, _), (b, _)| (a.len(), a).cmp(&(b.len(), b)));
    let total: u64 = merged.iter().map(|(_, times)| times.count()).sum();
    let share = |(name, times): (String, Times)| Share {
        name,
        answers: times.count(),
        percent: rounded(times.count() as f64 * 100.0 / total.max(1) as f64),
        p50_ms: times.quantile_ms(0.5),
        p99_ms: times.quantile_ms(0.99),
    };
    merged.into_iter().map(share).collect()
}

/// Returns the failures, the most frequent first.
fn failures(counts: &Counts) -> Vec<FailureLine> {
    let mut failures: Vec<_> = counts
        .failures
        .iter()
        .map(|(group, failure)| FailureLine {
            operation: group.operation.name().to_owned(),
            status: group.status,
            code: group.code.clone(),
            count: failure.count,
            example: failure.example.clone(),
        })
        .collect();
    failures.sort_by_key(|failure| Reverse(failure.count));
    failures
}

fn series(counts: &Counts) -> Vec<Second> {
    let second = |second: &crate::counters::Second| Second {
        requests: second.requests(),
        failed: second.failed.into(),
        p50_ms: second.quantile_ms(0.5),
        p99_ms: second.quantile_ms(0.99),
        classes: second.buckets.to_vec(),
    };
    counts.series.seconds().iter().map(second).collect()
}

/// Returns the requests per second; 0 if no time has passed.
fn rate(requests: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { rounded(requests as f64 / seconds) } else { 0.0 }
}

/// Rounds to two decimals, because more would suggest a precision that the numbers do not have.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests;
