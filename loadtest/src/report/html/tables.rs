//! Tables: the numbers of the report as tables.
//!
//! **Invariant:** the numbers of each graph are in a table as well; no table has more than
//! [`ROWS_MAX`] rows.

use maud::{Markup, html};
use report_page::axis::moment;
use report_page::words::{count, grouped};

use super::frame::{FAULTS_MAX, Run};
use super::problems::more;
use crate::report::compare::{Comparison, Outcome};
use crate::report::text::milliseconds;
use crate::report::{Latency, Load, Report, Share};

const ROWS_MAX: usize = 200;

pub(super) fn operations(report: &Report) -> Markup {
    let heads =
        ["Operation", "Requests", "Rate", "Failed", "p50", "p90", "p95", "p99", "p99.9", "Longest"];
    let counts = |requests: u64, per_s: f64, failed: u64| {
        [count(requests), format!("{}/s", grouped(per_s)), count(failed)]
    };
    let Report { requests, requests_per_s, failed, .. } = report;
    let rows = html! {
        @for Load { name, requests, requests_per_s, failed, latency_ms } in &report.operations {
            tr { (cells(name, &join(counts(*requests, *requests_per_s, *failed), latency_ms))) }
        }
        tr class="sum" {
            (cells("all", &join(counts(*requests, *requests_per_s, *failed), &report.response_ms)))
        }
        @if report.is_open() {
            tr {
                (cells("all, since sent", &join(["–"; 3].map(str::to_owned), &report.service_ms)))
            }
        }
    };
    html! { section { h2 { "Operations" } (table(&heads, &rows)) } }
}

fn join(counts: [String; 3], latency: &Latency) -> Vec<String> {
    let Latency { p50, p90, p95, p99, p999, max } = *latency;
    let times = [p50, p90, p95, p99, p999, max].map(milliseconds);
    counts.into_iter().chain(times).collect()
}

pub(super) fn shares(heading: &str, shares: &[Share]) -> Markup {
    let rows = html! {
        @for Share { name, answers, percent, p50_ms, p99_ms } in shares.iter().take(ROWS_MAX) {
            @let share = format!("{percent:.1} %");
            tr {
                (cells(name, &[count(answers), share, milliseconds(*p50_ms), milliseconds(*p99_ms)]))
            }
        }
    };
    html! {
        @if !shares.is_empty() {
            section {
                h2 { (heading) }
                (table(&["Name", "Answers", "Share", "p50", "p99"], &rows))
                (more(shares.len().saturating_sub(ROWS_MAX)))
            }
        }
    }
}

pub(super) fn faults(report: &Report) -> Markup {
    let faults = &report.faults;
    html! {
        @if !faults.is_empty() {
            h3 { "Faults" }
            ol class="faults" {
                @for fault in faults.iter().take(FAULTS_MAX) {
                    li { (format_args!("at {:.1} s: {}", fault.at_s, fault.what)) }
                }
            }
            (more(faults.len().saturating_sub(FAULTS_MAX)))
        }
    }
}

/// Returns the table of the numbers in the graphs.
pub(super) fn columns(run: &Run<'_>) -> Markup {
    let heads = ["From", "Rate", "Failed", "p50", "p99", "Longest"];
    let rows = run.columns.iter().map(|column| {
        let time = |share| {
            let time = column.quantile_ms(share, run.max_ms);
            time.map_or_else(|| "–".to_owned(), milliseconds)
        };
        let rate = format!("{}/s", grouped(column.rate()));
        let values = [rate, count(column.failed), time(0.5), time(0.99), time(1.0)];
        html! { tr { (cells(&moment(column.from_s, run.seconds), &values)) } }
    });
    html! {
        details {
            summary { "The numbers of these graphs" }
            (table(&heads, &html! { @for row in rows { (row) } }))
        }
    }
}

pub(super) fn comparison(comparison: &Comparison) -> Markup {
    let Comparison { with, with_ended_at, warnings, metrics, .. } = comparison;
    let heads = ["Operation", "Metric", "Before", "Now", "Change", "Bound"];
    let rows = metrics.iter().take(ROWS_MAX).map(|metric| {
        let measure = metric.measure;
        let change = metric.change_percent;
        let values = [
            measure.name().to_owned(),
            measure.format(metric.before),
            measure.format(metric.now),
            change.map_or_else(|| "–".to_owned(), |change| format!("{change:+.1} %")),
            format!("{:.1} %", metric.bound_percent),
        ];
        html! {
            tr {
                (cells(&metric.of, &values))
                td class=(class(metric.outcome)) { (metric.outcome.name()) }
            }
        }
    });
    html! {
        section {
            h2 { "Compared with an earlier run" }
            p { (with) ", which ended " (with_ended_at) ": " (comparison.summary()) "." }
            @for warning in warnings.iter().take(ROWS_MAX) { p class="warning" { (warning) } }
            (table_with_texts(&heads, &["Verdict"], &html! { @for row in rows { (row) } }))
        }
    }
}

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Better => "text good",
        Outcome::Worse => "text bad",
        Outcome::Same | Outcome::TooFew => "text",
    }
}

/// Returns a table with these heads and rows.
pub(super) fn table(heads: &[&str], rows: &Markup) -> Markup {
    table_with_texts(heads, &[], rows)
}

/// Returns a table whose last columns contain text.
pub(super) fn table_with_texts(heads: &[&str], texts: &[&str], rows: &Markup) -> Markup {
    html! {
        div class="wide" tabindex="0" {
            table {
                thead {
                    tr {
                        @for name in heads { th scope="col" { (name) } }
                        @for name in texts { th scope="col" class="text" { (name) } }
                    }
                }
                tbody { (rows) }
            }
        }
    }
}

/// Returns the cells of a row: its name, and numbers.
pub(super) fn cells(name: &str, values: &[String]) -> Markup {
    html! {
        th scope="row" { (name) }
        @for value in values { td { (value) } }
    }
}
