//! Compare: the differences between a run and an earlier one, as better, worse, or noise.
//!
//! A change counts as better or worse if it exceeds its bound; a smaller change is noise. All
//! bounds are multiples of a base. The base is [`LEAST_NOISE_PERCENT`], or three times the standard
//! error of the difference of the two rates, computed from the rates of single seconds, if that is
//! greater. The bounds are:
//!
//! - rate: the base, or three times √(1/n + 1/m) if that is greater, because chance matters more
//!   with few requests;
//! - p50 and p90: the base; p99: twice the base; p99.9: four times. A quantile with fewer than
//!   [`BEYOND_LEAST`] requests beyond it in either run is not judged;
//! - shares of failed and dropped requests: twice the base, or more by the rule for few requests. A
//!   share that rises from zero is always worse, and one that falls to zero is always better.
//!
//! **Invariant:** no number is `NaN` or infinite, whatever an earlier report contains; a comparison
//! does not influence whether a run has passed.
//! **Not here:** reading the earlier run (`files`).

mod text;

use serde::{Deserialize, Serialize};

use super::{Latency, Load, Report, rounded};
use crate::response_check::printable;

pub(super) use text::write;

/// Usual difference between two runs of the same load on an otherwise idle machine, in percent.
const LEAST_NOISE_PERCENT: f64 = 5.0;
/// Number of standard errors that a change must exceed. With two standard errors, about one of the
/// twenty numbers of a comparison would exceed its bound by chance.
const UNCERTAINTIES: f64 = 3.0;
/// Minimum number of requests that were slower than a quantile. With fewer, the quantile is a
/// matter of chance.
const BEYOND_LEAST: f64 = 10.0;
/// Minimum number of whole seconds of a run that can be compared.
const SECONDS_LEAST: usize = 5;
/// Name under which the metrics of all operations together are listed.
const ALL: &str = "all";

/// Comparison of this run with an earlier one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Comparison {
    /// File with the earlier run.
    pub(crate) with: String,
    /// Time at which the earlier run ended.
    pub(crate) with_ended_at: String,
    /// The base of all bounds.
    pub(crate) noise_percent: f64,
    /// Reasons why the two runs may not be comparable.
    pub(crate) warnings: Vec<String>,
    pub(crate) better: usize,
    pub(crate) worse: usize,
    pub(crate) metrics: Vec<Metric>,
}

/// One number, with its values in both runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Metric {
    /// `all`, or the name of an operation.
    pub(crate) of: String,
    pub(crate) measure: Measure,
    pub(crate) before: f64,
    pub(crate) now: f64,
    /// Change in percent; `None` if the earlier number was zero.
    pub(crate) change_percent: Option<f64>,
    pub(crate) bound_percent: f64,
    pub(crate) outcome: Outcome,
}

/// Measure that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    RatePerS,
    P50Ms,
    P90Ms,
    P99Ms,
    P999Ms,
    FailedPercent,
    DroppedPercent,
}

/// Judgement of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Better,
    Worse,
    /// Within the bound.
    Same,
    /// Too few requests for a judgement.
    TooFew,
}

impl Measure {
    /// Latency quantiles, each with the fraction of the requests beyond it and the factor by which
    /// its bound exceeds the base.
    const LATENCIES: [(Self, f64, f64); 4] = [
        (Self::P50Ms, 0.5, 1.0),
        (Self::P90Ms, 0.1, 1.0),
        (Self::P99Ms, 0.01, 2.0),
        (Self::P999Ms, 0.001, 4.0),
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::RatePerS => "rate",
            Self::P50Ms => "p50",
            Self::P90Ms => "p90",
            Self::P99Ms => "p99",
            Self::P999Ms => "p99.9",
            Self::FailedPercent => "failed",
            Self::DroppedPercent => "dropped",
        }
    }

    /// Returns a value with its unit.
    pub(super) fn format(self, value: f64) -> String {
        match self {
            Self::RatePerS => format!("{value:.0}/s"),
            Self::P50Ms | Self::P90Ms | Self::P99Ms | Self::P999Ms => {
                super::text::milliseconds(value)
            }
            Self::FailedPercent | Self::DroppedPercent => format!("{value:.3} %"),
        }
    }

    fn more_is_better(self) -> bool {
        match self {
            Self::RatePerS => true,
            Self::P50Ms
            | Self::P90Ms
            | Self::P99Ms
            | Self::P999Ms
            | Self::FailedPercent
            | Self::DroppedPercent => false,
        }
    }
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::Same => "same",
            Self::TooFew => "too few to say",
        }
    }
}

/// Numbers of one run, for all its operations or for one.
struct Side<'a> {
    requests: u64,
    rate: f64,
    failed: u64,
    latency: &'a Latency,
}

impl<'a> Side<'a> {
    fn of_all(report: &'a Report) -> Self {
        Self {
            requests: report.requests,
            rate: report.requests_per_s,
            failed: report.failed,
            latency: &report.response_ms,
        }
    }

    fn of_one(load: &'a Load) -> Self {
        Self {
            requests: load.requests,
            rate: load.requests_per_s,
            failed: load.failed,
            latency: &load.latency_ms,
        }
    }

    fn time(&self, measure: Measure) -> f64 {
        match measure {
            Measure::P50Ms => self.latency.p50,
            Measure::P90Ms => self.latency.p90,
            Measure::P99Ms => self.latency.p99,
            Measure::P999Ms => self.latency.p999,
            Measure::RatePerS | Measure::FailedPercent | Measure::DroppedPercent => 0.0,
        }
    }
}

impl Comparison {
    /// Compares `now` with `before`, which was read from the file `with`.
    pub(crate) fn new(with: &str, before: &Report, now: &Report) -> Self {
        let noise = noise_percent(before, now);
        let mut metrics = metrics(ALL, noise, &Side::of_all(before), &Side::of_all(now));
        if before.dropped > 0 || now.dropped > 0 {
            let due = |report: &Report| report.requests.saturating_add(report.dropped);
            let (was, is) = ((before.dropped, due(before)), (now.dropped, due(now)));
            metrics.push(count_metric(ALL, Measure::DroppedPercent, noise, was, is));
        }
        for load in &now.operations {
            if let Some(known) = before.operations.iter().find(|known| known.name == load.name) {
                let (before, now) = (Side::of_one(known), Side::of_one(load));
                metrics.extend(self::metrics(&load.name, noise, &before, &now));
            }
        }
        let count = |outcome| metrics.iter().filter(|metric| metric.outcome == outcome).count();
        Self {
            with: printable(with),
            with_ended_at: printable(&before.ended_at),
            noise_percent: rounded(noise),
            warnings: warnings(before, now),
            better: count(Outcome::Better),
            worse: count(Outcome::Worse),
            metrics,
        }
    }

    /// Returns the number of each outcome, in words.
    pub(super) fn summary(&self) -> String {
        let Self { better, worse, metrics, .. } = self;
        let few = metrics.iter().filter(|metric| metric.outcome == Outcome::TooFew).count();
        let same = metrics.len() - better - worse - few;
        let few = if few > 0 { format!(", {few} too few to say") } else { String::new() };
        format!("{better} better, {worse} worse, {same} the same{few}")
    }
}

/// Returns the metrics of all operations, or of one.
fn metrics(of: &str, noise: f64, before: &Side<'_>, now: &Side<'_>) -> Vec<Metric> {
    let metric = |measure, before, now, bound, outcome| Metric {
        of: printable(of),
        measure,
        before,
        now,
        change_percent: change_percent(before, now),
        bound_percent: rounded(bound),
        outcome,
    };
    let bound = noise.max(chance_percent(before.requests, now.requests));
    let outcome = judge(Measure::RatePerS, before.rate, now.rate, bound);
    let mut metrics = vec![metric(Measure::RatePerS, before.rate, now.rate, bound, outcome)];
    let fewest = before.requests.min(now.requests) as f64;
    for (measure, beyond, wider) in Measure::LATENCIES {
        let (was, is) = (before.time(measure), now.time(measure));
        let outcome = match fewest * beyond < BEYOND_LEAST {
            true => Outcome::TooFew,
            false => judge(measure, was, is, noise * wider),
        };
        metrics.push(metric(measure, was, is, noise * wider, outcome));
    }
    let (was, is) = ((before.failed, before.requests), (now.failed, now.requests));
    metrics.push(count_metric(of, Measure::FailedPercent, noise, was, is));
    metrics
}

/// Returns the metric for the share of a count in its total. `before` and `now` are pairs of a
/// count and its total.
fn count_metric(
    of: &str,
    measure: Measure,
    noise: f64,
    before: (u64, u64),
    now: (u64, u64),
) -> Metric {
    let percent = |(count, all): (u64, u64)| count as f64 * 100.0 / all.max(1) as f64;
    let (was, is) = (percent(before), percent(now));
    let bound = match (before.0, now.0) {
        // A count that rises from zero or falls to zero is never noise.
        (0, _) | (_, 0) => 0.0,
        (before, now) => (noise * 2.0).max(chance_percent(before, now)),
    };
    Metric {
        of: printable(of),
        measure,
        before: was,
        now: is,
        change_percent: change_percent(was, is),
        bound_percent: rounded(bound),
        outcome: judge(measure, was, is, bound),
    }
}

fn judge(measure: Measure, before: f64, now: f64, bound_percent: f64) -> Outcome {
    let within = match change_percent(before, now) {
        Some(change) => change.abs() <= bound_percent,
        None => before == now,
    };
    match (within, (now > before) == measure.more_is_better()) {
        (true, _) => Outcome::Same,
        (false, true) => Outcome::Better,
        (false, false) => Outcome::Worse,
    }
}

fn change_percent(before: f64, now: f64) -> Option<f64> {
    let change = rounded((now - before) / before * 100.0);
    change.is_finite().then_some(change)
}

/// Returns the difference between two counts, in percent, that chance alone can explain.
fn chance_percent(a: u64, b: u64) -> f64 {
    let part = |count: u64| 1.0 / count.max(1) as f64;
    UNCERTAINTIES * (part(a) + part(b)).sqrt() * 100.0
}

/// Returns the base of all bounds.
fn noise_percent(before: &Report, now: &Report) -> f64 {
    let both = rate_uncertainty(before).hypot(rate_uncertainty(now));
    (UNCERTAINTIES * both * 100.0).max(LEAST_NOISE_PERCENT)
}

/// Returns the standard error of the mean of the per-second rates, as a fraction of that mean.
fn rate_uncertainty(report: &Report) -> f64 {
    let rates: Vec<_> = whole_seconds(report).map(|second| second.requests as f64).collect();
    let count = rates.len() as f64;
    let mean = rates.iter().sum::<f64>() / count;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let part = (variance / count).sqrt() / mean;
    if part.is_finite() { part } else { 0.0 }
}

/// Returns all seconds of a run except the last, which is incomplete.
fn whole_seconds(report: &Report) -> impl Iterator<Item = &super::Second> {
    report.series.iter().take(report.series.len().saturating_sub(1))
}

/// Returns the reasons why the two runs may not be comparable.
fn warnings(before: &Report, now: &Report) -> Vec<String> {
    let mut warnings = Vec::new();
    let none = || "nothing".to_owned();
    let mut names: Vec<_> = before.options.keys().chain(now.options.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let (was, is) = (before.options.get(name), now.options.get(name));
        if was != is {
            let text = |value: Option<&String>| value.map_or_else(none, |value| printable(value));
            warnings.push(format!(
                "different options: {} {} before, {} now",
                printable(name),
                text(was),
                text(is)
            ));
        }
    }
    for (when, report) in [("earlier", before), ("present", now)] {
        if whole_seconds(report).count() < SECONDS_LEAST {
            warnings.push(format!(
                "the {when} run has fewer than {SECONDS_LEAST} whole seconds, too few to compare"
            ));
        }
        if report.stopped_early {
            warnings.push(format!("the {when} run was stopped early"));
        }
    }
    let own = before.warnings.iter();
    warnings.extend(own.map(|own| format!("warning of the earlier run: {}", printable(own))));
    let lacking = |a: &Report, b: &Report| {
        let missing = |load: &&Load| !b.operations.iter().any(|known| known.name == load.name);
        let names: Vec<_> =
            a.operations.iter().filter(missing).map(|x| printable(&x.name)).collect();
        names.join(", ")
    };
    for (when, names) in [("before", lacking(before, now)), ("now", lacking(now, before))] {
        if !names.is_empty() {
            warnings.push(format!("only {when}: {names}"));
        }
    }
    warnings
}

#[cfg(test)]
mod tests;
