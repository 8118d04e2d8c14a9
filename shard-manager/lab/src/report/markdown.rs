//! Markdown: formats a report as a document for a repository or an issue, with charts drawn with
//! characters.

use std::fmt::Write;

use super::{Report, ReportTable};

pub(super) fn document(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(report, &mut out);
    out
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    writeln!(out, "# lab {}\n", report.experiment)?;
    writeln!(out, "{}\n", report.explanation)?;
    writeln!(out, "- Settings: {}", report.settings_line())?;
    writeln!(out, "- Machine: {}", report.machine.sentence())?;
    writeln!(out, "- Duration: {:.1} s", report.seconds)?;
    for note in &report.notes {
        writeln!(out, "- Note: {note}")?;
    }
    report.tables.iter().try_for_each(|table| write_table(table, out))?;
    let charts = &report.charts;
    charts.iter().try_for_each(|chart| writeln!(out, "\n```text\n{}\n```", chart.text()))
}

fn write_table(table: &ReportTable, out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n## {}\n", table.title)?;
    let cell = |text: &str| text.replace('|', "\\|");
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    writeln!(out, "{}", line(table.columns.iter().map(|name| cell(name)).collect()))?;
    let is_number = |column: usize| {
        table.rows.first().and_then(|row| row.get(column)).is_some_and(super::Cell::is_number)
    };
    let rule = |column| if is_number(column) { "---:" } else { "---" }.to_owned();
    writeln!(out, "{}", line((0..table.columns.len()).map(rule).collect()))?;
    for row in &table.rows {
        writeln!(out, "{}", line(row.iter().map(|value| cell(&value.text())).collect()))?;
    }
    Ok(())
}
