//! HTML: the report as one page, with graphs over time.
//!
//! **Invariant:** the page is complete in itself: no script, and nothing is fetched. It is bounded,
//! however long the run and whatever a server answered. What servers, files and the command line
//! said is text in it and nothing else (`markup`).
//! **Not here:** any number that is not in the report already.

mod axis;
mod columns;
mod frame;
mod graphs;
mod heatmap;
mod markup;
mod problems;
mod tables;
mod words;

use self::frame::Run;
use self::markup::Markup;
use self::words::{count, grouped};
use super::Report;
use super::text::milliseconds;

/// A browser that follows it runs and fetches nothing, even if some text were not what we take it
/// for.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

pub(super) fn page(report: &Report) -> String {
    let mut page = Markup::default();
    page.node("html", &[("lang", &"en")], |html| {
        html.node("head", &[], |head| {
            head.void("meta", &[("charset", &"utf-8")]);
            head.void("meta", &[("http-equiv", &"Content-Security-Policy"), ("content", &POLICY)]);
            let size = "width=device-width, initial-scale=1";
            head.void("meta", &[("name", &"viewport"), ("content", &size)]);
            head.void("meta", &[("name", &"color-scheme"), ("content", &"light dark")]);
            let word = if report.passed { "PASS" } else { "FAIL" };
            head.leaf("title", &[], format!("{word}: {}", report.told));
            head.line();
            head.style(include_str!("html/style.css"));
        });
        html.line();
        html.node("body", &[], |body| body.node("main", &[], |main| content(report, main)));
    });
    page.finish()
}

fn content(report: &Report, page: &mut Markup) {
    head(report, page);
    figures(report, page);
    problems::write(report, page);
    if let Some(comparison) = &report.comparison {
        tables::comparison(comparison, page);
    }
    let columns = columns::of(report);
    if !columns.is_empty() {
        let run = Run {
            seconds: columns::seconds(report),
            columns: &columns,
            faults: &report.faults,
            max_ms: report.response_ms.max,
        };
        page.node("section", &[], |section| {
            section.leaf("h2", &[], "Over time");
            graphs::throughput(report, &run, section);
            graphs::latency(report, &run, section);
            heatmap::write(&run, section);
            tables::faults(report, section);
            tables::columns(&run, section);
        });
    }
    tables::operations(report, page);
    tables::shares("Shards", &report.shards, page);
    tables::shares("Roles", &report.roles, page);
    tables::shares("Cache", &report.cache, page);
    footer(report, page);
}

/// Writes the verdict, the options and the hosts.
fn head(report: &Report, page: &mut Markup) {
    let (class, word) = if report.passed { ("pass", "PASS") } else { ("fail", "FAIL") };
    page.node("header", &[], |header| {
        header.leaf("p", &[("class", &"name")], "Tessera load test");
        header.node("h1", &[("class", &class)], |verdict| {
            verdict.leaf("strong", &[], word);
            verdict.text(" ");
            verdict.leaf("span", &[], report.verdict());
        });
        header.node("dl", &[("class", &"asked")], |list| {
            let mut entry = |name: &str, told: &str| {
                list.leaf("dt", &[], name);
                list.leaf("dd", &[], told);
            };
            entry("HttpRequest", &report.told);
            entry("Hosts", &report.hosts.join(", "));
            entry("Model", model(report));
            let early = if report.stopped_early { ", stopped early" } else { "" };
            entry("Ran", &format!("{:.1} s{early}, until {}", report.elapsed_s, report.ended_at));
        });
    });
    page.line();
}

fn model(report: &Report) -> &'static str {
    match report.model.as_str() {
        "open" => {
            "open: sent at the rate, whatever the responses; times count from when a request was due"
        }
        _ => "closed: a user waits for its response, so stalls are under-counted",
    }
}

/// The few numbers that most people come for.
fn figures(report: &Report, page: &mut Markup) {
    let Report { requests, requests_per_s, response_ms, failed, dropped, .. } = report;
    page.node("dl", &[("class", &"figures")], |list| {
        let mut figure = |name: &str, value: String, class: &str| {
            list.node("div", &[("class", &class)], |figure| {
                figure.leaf("dt", &[], name);
                figure.leaf("dd", &[], value);
            });
        };
        let bad = |count: u64| if count > 0 { "bad" } else { "" };
        figure("Requests", count(requests), "");
        figure("Rate", format!("{}/s", grouped(*requests_per_s)), "");
        figure("p50", milliseconds(response_ms.p50), "");
        figure("p99", milliseconds(response_ms.p99), "");
        figure("p99.9", milliseconds(response_ms.p999), "");
        figure("Longest", milliseconds(response_ms.max), "");
        figure("Failed", count(failed), bad(*failed));
        figure("Dropped", count(dropped), bad(*dropped));
    });
    page.line();
}

fn footer(report: &Report, page: &mut Markup) {
    page.node("footer", &[], |footer| {
        footer.leaf(
            "p",
            &[],
            "Times are from when a request was due (in the closed model: sent) to the last byte of its answer, failed \
             requests included. Graphs read them from classes, two for each doubling, and are as exact as that; \
             the tables are exact to 0.1 %, those of shards, roles and cache to 1 %.",
        );
        footer.leaf("p", &[], format!("The tester kept {:.1} cores busy itself.", report.own_cores));
    });
}

#[cfg(test)]
mod tests;
