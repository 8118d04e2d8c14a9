//! HTML: formats a report as one page with charts.
//!
//! **Not here:** the frame and styles of the page (`report_page`), the charts (`chart`).

use maud::{Markup, html};

use super::{Report, ReportTable};

pub(super) fn page(report: &Report) -> String {
    report_page::page(&format!("Tessera lab: {}", report.experiment), &content(report))
}

fn content(report: &Report) -> Markup {
    html! {
        header {
            p class="name" { "Tessera lab" }
            h1 class="pass" { strong { (report.experiment) } " " span { (report.explanation) } }
            dl class="asked" {
                dt { "Settings" } dd { (report.settings_line()) }
                dt { "Machine" } dd { (report.machine.sentence()) }
                dt { "Duration" } dd { (format_args!("{:.1} s", report.seconds)) }
            }
            @for note in &report.notes { p class="warning" { (note) } }
        }
        section {
            @for (number, chart) in report.charts.iter().enumerate() { (chart.figure(number)) }
        }
        @for table in &report.tables { (section(table)) }
    }
}

fn section(table: &ReportTable) -> Markup {
    html! {
        section {
            h2 { (table.title) }
            div class="wide" tabindex="0" {
                table {
                    thead { tr { @for name in &table.columns { th { (name) } } } }
                    tbody {
                        @for row in &table.rows {
                            tr {
                                @for cell in row {
                                    @if cell.is_number() { td { (cell.text()) } }
                                    @else { td class="text" { (cell.text()) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
