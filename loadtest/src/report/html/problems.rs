//! Problems: the section about violated guarantees, failures, and conditions that make the numbers
//! less reliable.
//!
//! **Invariant:** the size of the section is bounded, however many failures there were, and entries
//! that are left out are counted.

use checker::lost_text;
use maud::{Markup, html};
use report_page::words::count;

use super::tables::{cells, table, table_with_texts};
use crate::report::{FailureLine, Finding, Report, Verified};

/// Maximum number of entries of each kind.
const REPORTED_MAX: usize = 100;
/// Maximum number of bytes of all findings together. Later findings are left out first, because the
/// first ones are the most informative.
const FINDINGS_BYTES_MAX: usize = 48 << 10;

pub(super) fn sections(report: &Report) -> Markup {
    html! {
        @if let Some(verified) = &report.verified { (checks(verified)) }
        (lines("Thresholds that failed", &report.thresholds_failed))
        (failures(report))
        (lines("Warnings", &report.warnings))
    }
}

fn checks(verified: &Verified) -> Markup {
    let Verified { operations, checks, findings, lost, losses, notes } = verified;
    let verdict = match verified.violations() {
        0 => "and no guarantee was violated".to_owned(),
        many => format!("with {} violations of guarantees", count(many)),
    };
    let rows = html! {
        @for checked in checks.iter().take(REPORTED_MAX) {
            tr class=(if checked.violations > 0 { "bad" } else { "" }) {
                (cells(&checked.check, &[count(checked.violations)]))
            }
        }
    };
    html! {
        section {
            h2 { "Promises" }
            p { (count(operations)) " recorded operations were checked, " (verdict) "." }
            (table(&["Check", "Broken"], &rows))
            @if !notes.is_empty() {
                ul { @for note in notes.iter().take(REPORTED_MAX) { li { (note) } } }
            }
            @if *lost > 0 { p { (lost_text(*lost)) } }
            (finding_lines(findings))
            (finding_lines(losses))
        }
    }
}

fn finding_lines(findings: &[Finding]) -> Markup {
    let mut left = FINDINGS_BYTES_MAX;
    let fits = |Finding { check, promise, lines }: &&Finding| {
        let breaks = lines.len().saturating_sub(1);
        let bytes = lines.iter().map(String::len).sum::<usize>() + breaks;
        let rest = left.checked_sub(check.len() + promise.len() + bytes);
        left = rest.unwrap_or(left);
        rest.is_some()
    };
    let reported: Vec<&Finding> = findings.iter().take_while(fits).collect();
    html! {
        @for Finding { check, promise, lines } in &reported {
            article class="story" {
                h3 { strong { (check) } " " (promise) }
                ol { @for line in lines { li { (line) } } }
            }
        }
        (more(findings.len() - reported.len()))
    }
}

fn failures(report: &Report) -> Markup {
    let failures = &report.failures;
    let rows = html! {
        @for FailureLine { operation, status, code, count: times, example } in
            failures.iter().take(REPORTED_MAX)
        {
            @let status = status.map_or_else(|| "–".to_owned(), |status| status.to_string());
            tr {
                (cells(operation, &[count(times), status]))
                td class="text" { (code) }
                td class="text" { (example) }
            }
        }
    };
    let heads = ["Operation", "Count", "Status"];
    html! {
        @if !failures.is_empty() {
            section {
                h2 { "Failures" }
                (table_with_texts(&heads, &["Code", "Example"], &rows))
                (more(failures.len().saturating_sub(REPORTED_MAX)))
            }
        }
    }
}

fn lines(heading: &str, lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            section {
                h2 { (heading) }
                ul { @for line in lines.iter().take(REPORTED_MAX) { li { (line) } } }
                (more(lines.len().saturating_sub(REPORTED_MAX)))
            }
        }
    }
}

/// Returns a line that states the number of entries that are left out.
pub(super) fn more(count: usize) -> Markup {
    html! { @if count > 0 { p class="more" { "and " (count) " more" } } }
}
