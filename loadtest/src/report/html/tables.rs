//! Tables: the numbers of the report as tables.
//!
//! **Invariant:** the numbers of each graph are in a table as well; no table has more than
//! [`ROWS_MAX`] rows.

use super::axis::moment;
use super::frame::{FAULTS_MAX, Run};
use super::markup::Markup;
use super::problems::more;
use super::words::{count, grouped};
use crate::report::compare::{Comparison, Outcome};
use crate::report::text::milliseconds;
use crate::report::{Latency, Load, Report, Share};

const ROWS_MAX: usize = 200;

pub(super) fn operations(report: &Report, page: &mut Markup) {
    page.node("section", &[], |section| {
        section.leaf("h2", &[], "Operations");
        let heads = [
            "Operation",
            "Requests",
            "Rate",
            "Failed",
            "p50",
            "p90",
            "p95",
            "p99",
            "p99.9",
            "Longest",
        ];
        table(&heads, section, |rows| {
            for Load { name, requests, requests_per_s, failed, latency_ms } in &report.operations {
                let rate = format!("{}/s", grouped(*requests_per_s));
                let counts = [count(requests), rate, count(failed)];
                rows.node("tr", &[], |row| cells(row, name, &join(counts, latency_ms)));
            }
            let Report { requests, requests_per_s, failed, .. } = report;
            let all = [count(requests), format!("{}/s", grouped(*requests_per_s)), count(failed)];
            rows.node("tr", &[("class", &"sum")], |row| {
                cells(row, "all", &join(all, &report.response_ms));
            });
            if report.target_per_s.is_some() {
                let none = || "–".to_owned();
                rows.node("tr", &[], |row| {
                    let times = join([none(), none(), none()], &report.service_ms);
                    cells(row, "all, since sent", &times);
                });
            }
        });
    });
    page.line();
}

fn join(counts: [String; 3], latency: &Latency) -> Vec<String> {
    let Latency { p50, p90, p95, p99, p999, max } = *latency;
    let times = [p50, p90, p95, p99, p999, max].map(milliseconds);
    counts.into_iter().chain(times).collect()
}

pub(super) fn shares(heading: &str, shares: &[Share], page: &mut Markup) {
    if shares.is_empty() {
        return;
    }
    page.node("section", &[], |section| {
        section.leaf("h2", &[], heading);
        table(&["Name", "Answers", "Share", "p50", "p99"], section, |rows| {
            for Share { name, answers, percent, p50_ms, p99_ms } in shares.iter().take(ROWS_MAX) {
                let share = format!("{percent:.1} %");
                let told = [count(answers), share, milliseconds(*p50_ms), milliseconds(*p99_ms)];
                rows.node("tr", &[], |row| cells(row, name, &told));
            }
        });
        more(shares.len().saturating_sub(ROWS_MAX), section);
    });
    page.line();
}

pub(super) fn faults(report: &Report, page: &mut Markup) {
    let faults = &report.faults;
    if faults.is_empty() {
        return;
    }
    page.leaf("h3", &[], "Faults");
    page.node("ol", &[("class", &"faults")], |list| {
        for fault in faults.iter().take(FAULTS_MAX) {
            list.leaf("li", &[], format!("at {:.1} s: {}", fault.at_s, fault.what));
        }
    });
    more(faults.len().saturating_sub(FAULTS_MAX), page);
}

/// Writes the table of the numbers in the graphs.
pub(super) fn columns(run: &Run<'_>, page: &mut Markup) {
    page.node("details", &[], |details| {
        details.leaf("summary", &[], "The numbers of these graphs");
        table(&["From", "Rate", "Failed", "p50", "p99", "Longest"], details, |rows| {
            for column in run.columns {
                let time = |share| {
                    let time = column.quantile_ms(share, run.max_ms);
                    time.map_or_else(|| "–".to_owned(), milliseconds)
                };
                let rate = format!("{}/s", grouped(column.rate()));
                let told = [rate, count(column.failed), time(0.5), time(0.99), time(1.0)];
                let from = moment(column.from_s, run.seconds);
                rows.node("tr", &[], |row| cells(row, &from, &told));
            }
        });
    });
    page.line();
}

pub(super) fn comparison(comparison: &Comparison, page: &mut Markup) {
    page.node("section", &[], |section| {
        section.leaf("h2", &[], "Compared with an earlier run");
        let Comparison { with, with_ended_at, warnings, metrics, .. } = comparison;
        let told = format!("{with}, which ended {with_ended_at}: {}.", comparison.summary());
        section.leaf("p", &[], told);
        for warning in warnings.iter().take(ROWS_MAX) {
            section.leaf("p", &[("class", &"warning")], warning);
        }
        let heads = ["Operation", "Metric", "Before", "Now", "Change", "Bound"];
        table_with_texts(&heads, &["Verdict"], section, |rows| {
            for metric in metrics.iter().take(ROWS_MAX) {
                let measure = metric.measure;
                let change = metric.change_percent;
                let told = [
                    measure.name().to_owned(),
                    measure.format(metric.before),
                    measure.format(metric.now),
                    change.map_or_else(|| "–".to_owned(), |change| format!("{change:+.1} %")),
                    format!("{:.1} %", metric.bound_percent),
                ];
                rows.node("tr", &[], |row| {
                    cells(row, &metric.of, &told);
                    row.leaf("td", &[("class", &class(metric.outcome))], metric.outcome.name());
                });
            }
        });
    });
    page.line();
}

fn class(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Better => "text good",
        Outcome::Worse => "text bad",
        Outcome::Same | Outcome::TooFew => "text",
    }
}

/// A table with these heads, and the rows that `body` writes.
pub(super) fn table(heads: &[&str], page: &mut Markup, body: impl FnOnce(&mut Markup)) {
    table_with_texts(heads, &[], page, body);
}

/// A table whose last columns are texts.
pub(super) fn table_with_texts(
    heads: &[&str],
    texts: &[&str],
    page: &mut Markup,
    body: impl FnOnce(&mut Markup),
) {
    page.node("div", &[("class", &"wide"), ("tabindex", &"0")], |wide| {
        wide.node("table", &[], |table| {
            table.node("thead", &[], |head| {
                head.node("tr", &[], |row| {
                    heads.iter().for_each(|name| row.leaf("th", &[("scope", &"col")], name));
                    for name in texts {
                        row.leaf("th", &[("scope", &"col"), ("class", &"text")], name);
                    }
                });
            });
            table.node("tbody", &[], body);
        });
    });
}

/// The cells of a row: its name, and numbers.
pub(super) fn cells(row: &mut Markup, name: &str, told: &[String]) {
    row.leaf("th", &[("scope", &"row")], name);
    told.iter().for_each(|told| row.leaf("td", &[], told));
}
