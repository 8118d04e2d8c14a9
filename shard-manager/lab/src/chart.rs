//! Chart: pictures of a report, drawn as SVG in its page.
//!
//! **Invariant:** the size of a chart is bounded, whatever the data.
//! **Not here:** the page (`report`), scales of axes (`report_page::axis`).

mod bars;
mod ring;
mod slots;

use maud::{Markup, html};

/// Number of colours; further series repeat them from the first.
const COLOURS: usize = 8;
/// Width of a drawing, without its margins.
const WIDTH: f64 = 800.0;
/// Space for labels at the left.
const LEFT: f64 = 150.0;

/// Picture of numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Chart {
    /// Grouped bars of numbers.
    Bars(BarChart),
    /// Owners of all slots, one row for each map.
    Slots(SlotChart),
    /// Points of shards on a ring.
    Ring(RingChart),
}

/// Grouped bars of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct BarChart {
    /// Title.
    pub title: String,
    /// Unit, written after the numbers.
    pub unit: &'static str,
    /// Names of the bars of a group, in order.
    pub series: Vec<String>,
    /// Groups: a label, and a number for each of the series.
    pub groups: Vec<(String, Vec<f64>)>,
}

/// Owners of all slots, one row for each map.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotChart {
    /// Title.
    pub title: String,
    /// Names of the shards, by the numbers in the rows.
    pub shards: Vec<String>,
    /// Label of each map, and its ranges.
    pub rows: Vec<(String, Vec<OwnedSlots>)>,
}

/// Range of slots: the first, the last, and the number of the shard that owns them.
pub type OwnedSlots = (u16, u16, usize);

/// Points of shards on a ring.
#[derive(Clone, Debug, PartialEq)]
pub struct RingChart {
    /// Title.
    pub title: String,
    /// Names of the shards, by the numbers of the points.
    pub shards: Vec<String>,
    /// Position of each point, 0 to 1, and its shard, in ascending order of position.
    pub points: Vec<(f64, usize)>,
}

impl Chart {
    /// Returns the chart as a figure of the page; `number` is its index among the figures of the
    /// page.
    pub fn figure(&self, number: usize) -> Markup {
        match self {
            Self::Bars(chart) => figure(number, &chart.title, &chart.series, &bars::drawing(chart)),
            Self::Slots(chart) => {
                figure(number, &chart.title, &chart.shards, &slots::drawing(chart))
            }
            Self::Ring(chart) => figure(number, &chart.title, &chart.shards, &ring::drawing(chart)),
        }
    }
}

/// Contents of a chart, and the size of its drawing.
struct Drawing {
    width: f64,
    height: f64,
    content: Markup,
    /// Contents in words, for screen readers.
    about: String,
}

fn figure(number: usize, title: &str, series: &[String], drawing: &Drawing) -> Markup {
    let Drawing { width, height, content, about } = drawing;
    let (title_id, about_id) = (format!("chart{number}-title"), format!("chart{number}-about"));
    html! {
        figure {
            figcaption { h3 { (title) } p class="legend" { (legend(series)) } }
            div class="wide" tabindex="0" {
                svg viewBox=(format_args!("0 0 {width} {height}")) role="img"
                    aria-labelledby={ (title_id) " " (about_id) } {
                    title id=(title_id) { (title) }
                    desc id=(about_id) { (about) }
                    (content)
                }
            }
        }
    }
}

fn legend(series: &[String]) -> Markup {
    // With more names than colours, samples would repeat.
    let shown = series.iter().take(COLOURS);
    html! {
        @for (index, name) in shown.enumerate() {
            span class="key" {
                svg viewBox="0 0 22 10" aria-hidden="true" { rect class=(colour(index)) width="22" height="10" {} }
                (name)
            }
        }
        @if series.len() > COLOURS { span { (format_args!("and {} more", series.len() - COLOURS)) } }
    }
}

/// Returns the class of a series' colour.
fn colour(index: usize) -> String {
    format!("s{}", index % COLOURS)
}
