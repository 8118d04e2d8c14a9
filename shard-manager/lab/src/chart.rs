//! Chart: the pictures of a report, drawn as SVG in the HTML page and with characters elsewhere.
//!
//! **Invariant:** the size of a chart has an upper limit that does not depend on the data.
//! **Not here:** the page (`report`), the scales of axes (`report_page::axis`).

mod bars;
mod ring;
mod slots;
mod text;

use maud::{Markup, html};
use model::keyspace::SLOT_COUNT;

/// Number of colours. If there are more series, the colours repeat from the first.
const COLOURS: usize = 8;
/// Width of a drawing without the left margin, in SVG units.
const WIDTH: f64 = 800.0;
/// Width of the left margin for labels, in SVG units.
const LEFT: f64 = 150.0;

/// Picture of numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Chart {
    /// Grouped bars of numbers.
    Bars(BarChart),
    /// Owners of all slots, with one row for each shard map.
    Slots(SlotChart),
    /// Points of the shards on a ring.
    Ring(RingChart),
}

/// Grouped bars of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct BarChart {
    /// Title.
    pub title: String,
    /// Unit, which is written after the numbers; may be empty.
    pub unit: &'static str,
    /// Names of the bars of a group, in order.
    pub series: Vec<String>,
    /// Groups of bars: the label of each group, and a number for each of the series.
    pub groups: Vec<(String, Vec<f64>)>,
}

/// Owners of all slots, with one row for each shard map.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotChart {
    /// Title.
    pub title: String,
    /// Names of the shards; the numbers in the rows are indexes of this list.
    pub shards: Vec<String>,
    /// Label of each shard map, and the ranges of its slots.
    pub rows: Vec<(String, Vec<OwnedSlots>)>,
}

/// Range of slots: the first, the last, and the number of the shard that owns them.
pub type OwnedSlots = (u16, u16, usize);

/// Points of the shards on a ring.
#[derive(Clone, Debug, PartialEq)]
pub struct RingChart {
    /// Title.
    pub title: String,
    /// Names of the shards; the numbers of the points are indexes of this list.
    pub shards: Vec<String>,
    /// Position of each point, from 0 to 1, and the number of its shard, in ascending order of
    /// position.
    pub points: Vec<(f64, usize)>,
}

impl Chart {
    /// Returns the chart drawn with characters, in lines, without a line feed at the end.
    pub fn text(&self) -> String {
        match self {
            Self::Bars(chart) => text::bars(chart),
            Self::Slots(chart) => text::slots(chart, SLOT_COUNT),
            Self::Ring(chart) => text::ring(chart),
        }
    }

    /// Returns the chart as a figure of the HTML page. `number` is its index among the figures of
    /// the page.
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

/// Drawing of a chart: its size in SVG units, and its contents.
struct Drawing {
    width: f64,
    height: f64,
    content: Markup,
    /// Description of the contents in words, for screen readers.
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
    // Only as many names as there are colours are shown, because further colour samples would
    // repeat.
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

/// Returns the CSS class for the colour of the series with this index.
fn colour(index: usize) -> String {
    format!("s{}", index % COLOURS)
}
