//! Report: the result of an experiment, as an HTML page, Markdown or JSON.
//!
//! **Invariant:** all forms of a report have the same numbers; only the JSON form has no charts.
//! **Not here:** measuring (the experiments), storing reports in files (`cli`).

mod html;
mod markdown;

use std::time::Duration;

use serde::Serialize;

use crate::chart::Chart;
use crate::machine::Machine;

/// Result of an experiment.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name of the experiment, as on the command line.
    pub experiment: &'static str,
    /// Seed of all random numbers of the experiment.
    pub seed: u64,
    /// Settings of the experiment, with their names.
    pub settings: Vec<Setting>,
    /// Machine and program with which the numbers were measured.
    pub machine: Machine,
    /// Duration of the experiment in seconds.
    pub seconds: f64,
    /// Tables of the measured numbers.
    pub tables: Vec<ReportTable>,
    /// Charts of the numbers.
    #[serde(skip)]
    pub charts: Vec<Chart>,
    /// Notes on conditions that affect the numbers or were omitted, with the reasons.
    pub notes: Vec<String>,
    /// Summary of the result, in a few sentences.
    pub explanation: String,
}

/// Returns a number of shards in words.
pub(crate) fn shards_in_words(count: usize) -> String {
    if count == 1 { "1 shard".to_owned() } else { format!("{count} shards") }
}

/// Setting of an experiment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Name.
    pub name: &'static str,
    /// Value.
    pub value: String,
}

/// Table of a report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReportTable {
    /// Title.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Rows of the table, each with one cell for each column.
    pub rows: Vec<Vec<Cell>>,
}

/// Value in a table. JSON contains the number, and the other forms the number with its unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Cell {
    /// String that is not a number.
    Text(String),
    /// Count of items or events.
    Count(u64),
    /// Fraction from 0 to 1, shown in percent.
    Share(f64),
    /// Ratio or other number without a unit, shown with two decimal places.
    Ratio(f64),
    /// Time in milliseconds.
    Millis(f64),
    /// Time in nanoseconds.
    Nanos(f64),
    /// Number per second.
    Rate(f64),
    /// There is no value, because nothing was measured.
    Absent,
}

impl Cell {
    /// Returns the value with its unit, as text for people.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => report_page::words::count(count),
            Self::Share(share) => format!("{:.2} %", 100.0 * share),
            Self::Ratio(ratio) => format!("{ratio:.2}"),
            Self::Millis(ms) if *ms < 10.0 => format!("{ms:.3} ms"),
            Self::Millis(ms) => format!("{ms:.1} ms"),
            Self::Nanos(ns) => format!("{ns:.1} ns"),
            Self::Rate(rate) => format!("{}/s", report_page::words::grouped(rate.round())),
            Self::Absent => "–".to_owned(),
        }
    }

    /// Returns true if the cell is aligned to the right, as numbers and absent values are.
    pub fn is_number(&self) -> bool {
        !matches!(self, Self::Text(_))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl ReportTable {
    /// Creates an empty table.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let columns = columns.iter().map(|name| (*name).to_owned()).collect();
        Self { title: title.into(), columns, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn push(&mut self, row: impl IntoIterator<Item = Cell>) {
        self.rows.push(row.into_iter().collect());
    }
}

impl Report {
    /// Creates a report without results.
    pub fn new(experiment: &'static str, seed: u64) -> Self {
        Self {
            experiment,
            seed,
            settings: Vec::new(),
            machine: Machine::here(),
            seconds: 0.0,
            tables: Vec::new(),
            charts: Vec::new(),
            notes: Vec::new(),
            explanation: String::new(),
        }
    }

    /// Adds a setting.
    #[must_use]
    pub fn set(mut self, name: &'static str, value: impl ToString) -> Self {
        self.settings.push(Setting { name, value: value.to_string() });
        self
    }

    /// Completes the report with the duration of the experiment.
    #[must_use]
    pub fn ended(mut self, elapsed: Duration) -> Self {
        self.seconds = (elapsed.as_secs_f64() * 1_000.0).round() / 1_000.0;
        self
    }

    /// Returns the report as one JSON document.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a report has only text keys");
        text.push('\n');
        text
    }

    /// Returns the report as Markdown.
    pub fn markdown(&self) -> String {
        markdown::document(self)
    }

    /// Returns the report as one self-contained HTML page.
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// Returns the seed and the settings as a line.
    pub fn settings_line(&self) -> String {
        let settings = self.settings.iter().map(|set| format!("{} {}", set.name, set.value));
        let all: Vec<String> = settings.chain([format!("seed {}", self.seed)]).collect();
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::{BarChart, RingChart, SlotChart};

    const HOSTILE: &str = "a|b</title><script>alert('&\u{202e}')</script>";

    fn report() -> Report {
        let mut report = Report::new("strategies", 7).set("keys", HOSTILE);
        let mut table = ReportTable::new(HOSTILE, &["name", "count", "share", "time", "none"]);
        let cells = [HOSTILE.into(), Cell::Count(1_234), Cell::Share(0.25), Cell::Millis(1.5)];
        table.push(cells.into_iter().chain([Cell::Absent]));
        report.tables.push(table);
        let (title, series) = (HOSTILE.to_owned(), vec![HOSTILE.to_owned(); 20]);
        let groups = (0..500).map(|_| (title.clone(), vec![0.0, 1e9])).collect();
        let (shards, points) = (series.clone(), (0..5_000).map(|at| (f64::from(at) / 5_000.0, 1)));
        let rows = vec![(title.clone(), (0..16_384).map(|slot| (slot, slot, 3)).collect()); 100];
        report.charts = vec![
            Chart::Bars(BarChart { title: title.clone(), unit: "", series, groups }),
            Chart::Ring(RingChart {
                title: title.clone(),
                shards: shards.clone(),
                points: points.collect(),
            }),
            Chart::Slots(SlotChart { title, shards, rows }),
        ];
        report.notes.push(HOSTILE.to_owned());
        report.explanation = HOSTILE.to_owned();
        report
    }

    #[test]
    fn texts_stay_texts_in_every_form_and_the_page_is_bounded() {
        let page = report().html();
        assert!(
            page.contains("&lt;script&gt;") && page.contains("1,234") && page.contains("25.00 %")
        );
        for bad in ["<script", "\u{202e}", "NaN", "inf"] {
            assert!(!page.contains(bad), "{bad}");
        }
        assert!(page.len() < 700_000, "{}", page.len());
        let markdown = report().markdown();
        assert!(markdown.contains("| a\\|b</title>") && markdown.contains("| 1.500 ms | – |"));
        assert_eq!(markdown.matches("\n```text\n").count(), 3, "the charts");
        let json: serde_json::Value = serde_json::from_str(&report().json()).expect("JSON");
        assert_eq!(
            json["tables"][0]["rows"][0],
            serde_json::json!([HOSTILE, 1_234, 0.25, 1.5, null])
        );
        assert_eq!(json["settings"][0]["value"], HOSTILE);
    }
}
