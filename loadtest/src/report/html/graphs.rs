//! Graphs: throughput and response times over the run.
//!
//! **Invariant:** a period without requests is shown as a gap in the graph.

use std::fmt::Write;

use maud::{Markup, html};
use report_page::axis::Scale;
use report_page::px;
use report_page::words::grouped;

use super::columns::Column;
use super::frame::{Frame, Run};
use crate::report::Report;
use crate::report::text::milliseconds;

/// Minimum height of a bar of failed requests, so that even a single failure is visible.
const FAILED_LEAST: f64 = 3.0;

/// Returns the graph of requests per second, and of failed requests per second.
pub(super) fn throughput(report: &Report, run: &Run<'_>) -> Markup {
    let columns = run.columns;
    let most = columns.iter().map(|column| column.most_per_s.max(column.rate()));
    let scale = Scale::linear(most.fold(report.target_per_s.unwrap_or(0.0), f64::max));
    let frame = Frame {
        id: "throughput",
        title: "Throughput",
        about: format!(
            "Requests per second over {:.0} seconds: {} on average; {} failed.",
            run.seconds,
            grouped(report.requests_per_s),
            report.failed
        ),
        height: 180.0,
    };
    let merged = columns.first().is_some_and(|column| column.width_s > 1.9);
    let target = report.target_per_s.map(|target| {
        let (begin, end) = (px(run.x(0.0)), px(run.x(run.seconds)));
        format!("M{begin} {}H{end}", px(frame.y(scale, target)))
    });
    let target_name = if report.is_open() { "asked for" } else { "maximum" };
    let legend = html! {
        (key("rate", "requests/s"))
        @if merged { (key("band", "slowest to fastest second")) }
        (key("failed", "failed/s"))
        @if target.is_some() { (key("target", target_name)) }
    };
    let drawing = html! {
        (frame.value_axis(scale, rate_tick))
        @if merged { path class="band" d=(band(&frame, run, scale)) {} }
        @if let Some(target) = &target { path class="target" d=(target) {} }
        path class="rate" d=(steps(&frame, run, scale, |column| Some(column.rate()))) {}
        path class="failed" d=(failed(&frame, run, scale)) {}
    };
    frame.figure(run, &legend, &drawing)
}

/// Returns the graph of quantiles of the response times.
pub(super) fn latency(report: &Report, run: &Run<'_>) -> Markup {
    let quantiles = [("max", 1.0), ("p99", 0.99), ("p50", 0.5)];
    let time = |column: &Column, share| column.quantile_ms(share, run.max_ms);
    let values =
        run.columns.iter().flat_map(|column| [1.0, 0.99, 0.5].map(|share| time(column, share)));
    let scale = Scale::fitting(values.flatten());
    let frame = Frame {
        id: "latency",
        title: "Response times",
        about: format!(
            "Median, 99th percentile and longest response time over {:.0} seconds; over the whole run {}, {} and {}.",
            run.seconds,
            milliseconds(report.response_ms.p50),
            milliseconds(report.response_ms.p99),
            milliseconds(report.response_ms.max)
        ),
        height: 200.0,
    };
    let legend = html! {
        (key("p50", "p50"))
        (key("p99", "p99"))
        (key("max", "longest"))
        @if scale.is_logarithmic() { span { "logarithmic: equal steps are equal ratios" } }
    };
    let paths = quantiles.map(|(class, share)| match class {
        // The longest times vary so much that a continuous line would hide the other curves.
        "max" => (class, levels(&frame, run, scale, |column| time(column, share))),
        _ => (class, steps(&frame, run, scale, |column| time(column, share))),
    });
    let drawing = html! {
        (frame.value_axis(scale, tick))
        @for (class, path) in paths { path class=(class) d=(path) {} }
    };
    frame.figure(run, &legend, &drawing)
}

/// Returns the label of a rate beside an axis: `0/s`, `2,500/s`, `1.5 M/s`.
fn rate_tick(per_s: f64) -> String {
    match per_s {
        1e6.. => format!("{} M/s", trimmed(per_s / 1e6)),
        _ => format!("{}/s", grouped(per_s)),
    }
}

/// Returns the label of a time beside an axis: `0.1 ms`, `100 ms`, `10 s`.
pub(super) fn tick(ms: f64) -> String {
    match ms {
        1_000.0.. => format!("{} s", trimmed(ms / 1_000.0)),
        _ => format!("{} ms", trimmed(ms)),
    }
}

/// Returns a number with about two significant digits, without trailing zeros.
pub(super) fn trimmed(value: f64) -> String {
    let places: usize = if value >= 10.0 {
        0
    } else if value >= 1.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.places$}");
    if places == 0 {
        return text;
    }
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Returns an entry of the legend: a sample of a line or area, and its meaning.
fn key(class: &str, text: &str) -> Markup {
    let path = if class == "band" || class == "failed" { "M0 1h22v8H0z" } else { "M0 5h22" };
    html! {
        span class="key" {
            svg viewBox="0 0 22 10" aria-hidden="true" { path class=(class) d=(path) {} }
            (text)
        }
    }
}

/// Returns the path of a line that is level within each column, with a gap where there is no value.
fn steps(
    frame: &Frame,
    run: &Run<'_>,
    scale: Scale,
    value: impl Fn(&Column) -> Option<f64>,
) -> String {
    let mut path = String::new();
    let mut goes_on = false;
    for column in run.columns {
        let Some(value) = value(column) else {
            goes_on = false;
            continue;
        };
        let y = px(frame.y(scale, value));
        let end = px(run.x(column.from_s + column.width_s));
        // Writing to a String cannot fail.
        let _ = match goes_on {
            true => write!(path, "V{y}H{end}"),
            false => write!(path, "M{} {y}H{end}", px(run.x(column.from_s))),
        };
        goes_on = true;
    }
    path
}

/// Returns the path of a separate level line for each column.
fn levels(
    frame: &Frame,
    run: &Run<'_>,
    scale: Scale,
    value: impl Fn(&Column) -> Option<f64>,
) -> String {
    let mut path = String::new();
    for column in run.columns {
        if let Some(value) = value(column) {
            let (from, to) = (run.x(column.from_s), run.x(column.from_s + column.width_s));
            let _ = write!(path, "M{} {}H{}", px(from), px(frame.y(scale, value)), px(to));
        }
    }
    path
}

/// Returns the path of the area between the slowest and the fastest second of each column.
fn band(frame: &Frame, run: &Run<'_>, scale: Scale) -> String {
    let mut path = String::new();
    for column in run.columns {
        let (from, to) = (run.x(column.from_s), run.x(column.from_s + column.width_s));
        let (least, most) = (frame.y(scale, column.least_per_s), frame.y(scale, column.most_per_s));
        let _ = write!(path, "M{} {}H{}V{}H{}z", px(from), px(most), px(to), px(least), px(from));
    }
    path
}

/// Returns the path of the bars of failed requests, from the bottom.
fn failed(frame: &Frame, run: &Run<'_>, scale: Scale) -> String {
    let mut path = String::new();
    let bottom = frame.bottom();
    for column in run.columns.iter().filter(|column| column.failed > 0) {
        let (from, to) = (run.x(column.from_s), run.x(column.from_s + column.width_s));
        let top = frame.y(scale, column.failed_per_s()).min(bottom - FAILED_LEAST);
        let _ =
            write!(path, "M{} {bottom}V{}H{}V{bottom}z", px(from), px(top), px(to.max(from + 1.0)));
    }
    path
}
