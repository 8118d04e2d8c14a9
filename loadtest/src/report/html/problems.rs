//! Problems: the section about violated guarantees, failures, and conditions that make the numbers
//! less reliable.
//!
//! **Invariant:** the size of the section is bounded, however many failures there were, and entries
//! that are left out are counted.

use checker::lost_text;

use super::markup::Markup;
use super::tables::{cells, table, table_with_texts};
use super::words::count;
use crate::report::{FailureLine, Finding, Report, Verified};

/// Maximum number of entries of each kind.
const REPORTED_MAX: usize = 100;
/// Maximum number of bytes of all findings. The first findings of each kind are
/// the most informative.
const FINDINGS_BYTES_MAX: usize = 48 << 10;

pub(super) fn write(report: &Report, page: &mut Markup) {
    if let Some(verified) = &report.verified {
        checks(verified, page);
    }
    lines("Thresholds that failed", &report.thresholds_failed, page);
    failures(report, page);
    lines("Warnings", &report.warnings, page);
}

fn checks(verified: &Verified, page: &mut Markup) {
    let Verified { operations, checks, findings, lost, losses, notes } = verified;
    page.node("section", &[], |section| {
        section.leaf("h2", &[], "Promises");
        let told = match verified.violations() {
            0 => format!(
                "{} recorded operations were checked, and no promise was broken.",
                count(operations)
            ),
            many => format!(
                "{} recorded operations were checked, with {} violations of promises.",
                count(operations),
                count(many)
            ),
        };
        section.leaf("p", &[], told);
        table(&["Check", "Broken"], section, |rows| {
            for checked in checks.iter().take(REPORTED_MAX) {
                let class = if checked.violations > 0 { "bad" } else { "" };
                rows.node("tr", &[("class", &class)], |row| {
                    cells(row, &checked.check, &[count(checked.violations)]);
                });
            }
        });
        if !notes.is_empty() {
            section.node("ul", &[], |list| {
                notes.iter().take(REPORTED_MAX).for_each(|note| list.leaf("li", &[], note));
            });
        }
        if *lost > 0 {
            section.leaf("p", &[], lost_text(*lost));
        }
        finding_lines(findings, section);
        finding_lines(losses, section);
    });
}

fn finding_lines(findings: &[Finding], section: &mut Markup) {
    let mut left = FINDINGS_BYTES_MAX;
    let mut told = 0;
    for Finding { check, promise, lines } in findings {
        let text = lines.join("\n");
        let Some(rest) = left.checked_sub(check.len() + promise.len() + text.len()) else { break };
        (left, told) = (rest, told + 1);
        section.node("article", &[("class", &"story")], |story| {
            story.node("h3", &[], |heading| {
                heading.leaf("strong", &[], check);
                heading.text(format_args!(" {promise}"));
            });
            story.node("ol", &[], |list| {
                for line in lines {
                    list.leaf("li", &[], line);
                }
            });
        });
    }
    more(findings.len() - told, section);
}

fn failures(report: &Report, page: &mut Markup) {
    if report.failures.is_empty() {
        return;
    }
    page.node("section", &[], |section| {
        section.leaf("h2", &[], "Failures");
        let heads = ["Operation", "Count", "Status"];
        table_with_texts(&heads, &["Code", "Example"], section, |rows| {
            for FailureLine { operation, status, code, count: times, example } in
                report.failures.iter().take(REPORTED_MAX)
            {
                let status = status.map_or_else(|| "–".to_owned(), |status| status.to_string());
                rows.node("tr", &[], |row| {
                    cells(row, operation, &[count(times), status]);
                    row.leaf("td", &[("class", &"text")], code);
                    row.leaf("td", &[("class", &"text")], example);
                });
            }
        });
        more(report.failures.len().saturating_sub(REPORTED_MAX), section);
    });
}

fn lines(heading: &str, lines: &[String], page: &mut Markup) {
    if lines.is_empty() {
        return;
    }
    page.node("section", &[], |section| {
        section.leaf("h2", &[], heading);
        section.node("ul", &[], |list| {
            for line in lines.iter().take(REPORTED_MAX) {
                list.leaf("li", &[], line);
            }
        });
        more(lines.len().saturating_sub(REPORTED_MAX), section);
    });
}

/// Returns a line for the entries that are left out.
pub(super) fn more(count: usize, page: &mut Markup) {
    if count > 0 {
        page.leaf("p", &[("class", &"more")], format!("and {count} more"));
    }
}
