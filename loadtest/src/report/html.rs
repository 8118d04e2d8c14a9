//! HTML: the report as one page, with graphs over time.
//!
//! **Invariant:** the size of the page is bounded, independently of the length of the run and of
//! the server's responses.
//! **Not here:** numbers that are not in the report; the frame of the page (`report_page`).

mod columns;
mod frame;
mod graphs;
mod heatmap;
mod problems;
mod tables;

use maud::{Markup, html};
use report_page::words::{count, grouped};

use self::frame::Run;
use super::Report;
use super::text::milliseconds;

pub(super) fn page(report: &Report) -> String {
    let word = if report.passed { "PASS" } else { "FAIL" };
    report_page::page(&format!("{word}: {}", report.description), &content(report))
}

fn content(report: &Report) -> Markup {
    html! {
        (head(report))
        (figures(report))
        (problems::sections(report))
        @if let Some(comparison) = &report.comparison { (tables::comparison(comparison)) }
        (over_time(report))
        (tables::operations(report))
        (tables::shares("Shards", &report.shards))
        (tables::shares("Roles", &report.roles))
        (tables::shares("Cache", &report.cache))
        (footer(report))
    }
}

/// Returns the section of the graphs; an empty one without requests.
fn over_time(report: &Report) -> Markup {
    let columns = columns::of(report);
    let run = Run {
        seconds: columns::seconds(report),
        columns: &columns,
        faults: &report.faults,
        max_ms: report.response_ms.max,
    };
    html! {
        @if !columns.is_empty() {
            section {
                h2 { "Over time" }
                (graphs::throughput(report, &run))
                (graphs::latency(report, &run))
                (heatmap::figure(&run))
                (tables::faults(report))
                (tables::columns(&run))
            }
        }
    }
}

/// Returns the verdict, the options and the hosts.
fn head(report: &Report) -> Markup {
    let (class, word) = if report.passed { ("pass", "PASS") } else { ("fail", "FAIL") };
    let early = if report.stopped_early { ", stopped early" } else { "" };
    html! {
        header {
            p class="name" { "Tessera load test" }
            h1 class=(class) { strong { (word) } " " span { (report.verdict()) } }
            dl class="asked" {
                dt { "Options" } dd { (report.description) }
                dt { "Hosts" } dd { (report.hosts.join(", ")) }
                dt { "Model" } dd { (model(report)) }
                dt { "Ran" }
                dd { (format_args!("{:.1} s{early}, until {}", report.elapsed_s, report.ended_at)) }
            }
        }
    }
}

fn model(report: &Report) -> &'static str {
    match (report.is_open(), report.target_per_s.is_some()) {
        (true, _) => {
            "open: sent at the rate, whatever the responses; times count from when a request was due"
        }
        (false, true) => {
            "closed, at the rate at most: a user waits for its response; times count from the request itself"
        }
        (false, false) => {
            "closed: a user waits for its response, so stalls weigh less than they should"
        }
    }
}

/// Returns the most important numbers.
fn figures(report: &Report) -> Markup {
    let Report { requests, requests_per_s, response_ms, failed, dropped, .. } = report;
    let bad = |count: u64| if count > 0 { "bad" } else { "" };
    let figures = [
        ("Requests", count(requests), ""),
        ("Rate", format!("{}/s", grouped(*requests_per_s)), ""),
        ("p50", milliseconds(response_ms.p50), ""),
        ("p99", milliseconds(response_ms.p99), ""),
        ("p99.9", milliseconds(response_ms.p999), ""),
        ("Longest", milliseconds(response_ms.max), ""),
        ("Failed", count(failed), bad(*failed)),
        ("Dropped", count(dropped), bad(*dropped)),
    ];
    html! {
        dl class="figures" {
            @for (name, value, class) in figures {
                div class=(class) { dt { (name) } dd { (value) } }
            }
        }
    }
}

fn footer(report: &Report) -> Markup {
    html! {
        footer {
            p {
                "Times are from when a request was due (in the closed model: sent) to the last byte of its \
                 answer, failed requests included. Graphs read them from classes, two for each doubling, \
                 and are as exact as that; the tables are exact to 0.1 %, those of shards, roles and cache \
                 to 1 %."
            }
            p { (format_args!("The tester kept {:.1} cores busy itself.", report.own_cores)) }
        }
    }
}

#[cfg(test)]
mod tests;
