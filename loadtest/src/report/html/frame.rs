//! Frame: draws the parts that all graphs over time share, which are the figure, the axes, the
//! fault markers, and the numbers under the pointer.
//!
//! **Invariant:** all graphs of a page have the same time axis, so that events at the same time
//! have the same horizontal position.
//! **Not here:** the contents of a graph (`graphs`, `heatmap`).

use maud::{Markup, html};
use report_page::axis::{Scale, moment, time_ticks};
use report_page::px;
use report_page::words::grouped;

use super::columns::Column;
use crate::report::Fault;
use crate::report::text::milliseconds;

/// Width of the left margin. All sizes are in units of the drawing; one unit is shown as about one
/// pixel.
pub(super) const LEFT: f64 = 74.0;
pub(super) const WIDTH: f64 = 856.0;
pub(super) const TOP: f64 = 24.0;
const RIGHT: f64 = 30.0;
const BOTTOM: f64 = 24.0;
/// Approximate width of a letter of a fault's label.
const LETTER: f64 = 7.6;
/// Gap after a label.
const GAP: f64 = 8.0;
/// Maximum number of characters of a fault's label in a graph; the list below the graphs has the
/// complete text.
const LABEL_CHARS: usize = 28;
/// Maximum number of faults that are drawn and listed. The list states the number of the others.
pub(super) const FAULTS_MAX: usize = 200;

/// Data of a run that all graphs of a page use.
pub(super) struct Run<'a> {
    pub(super) seconds: f64,
    pub(super) columns: &'a [Column],
    pub(super) faults: &'a [Fault],
    pub(super) max_ms: f64,
}

/// One graph.
pub(super) struct Frame {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// Description of the graph for screen readers.
    pub(super) about: String,
    pub(super) height: f64,
}

impl Run<'_> {
    pub(super) fn x(&self, at_s: f64) -> f64 {
        LEFT + (at_s / self.seconds).clamp(0.0, 1.0) * WIDTH
    }

    /// Describes the numbers of a column in one line of text.
    fn describe(&self, column: &Column) -> String {
        let at = moment(column.from_s, self.seconds);
        let mut text = format!("{at}: {}/s", grouped(column.rate()));
        if column.failed > 0 {
            text += &format!(", {} failed", column.failed);
        }
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            if let Some(time) = column.quantile_ms(share, self.max_ms) {
                text += &format!(", {name} {}", milliseconds(time));
            }
        }
        text
    }
}

impl Frame {
    /// Returns a figure: heading, `legend`, and the graph with `drawing` in it.
    pub(super) fn figure(&self, run: &Run<'_>, legend: &Markup, drawing: &Markup) -> Markup {
        let Self { id, title, about, height } = self;
        let (title_id, about_id) = (format!("{id}-title"), format!("{id}-about"));
        let view = format!("0 0 {} {}", LEFT + WIDTH + RIGHT, TOP + height + BOTTOM);
        html! {
            figure {
                figcaption { h3 { (title) } p class="legend" { (legend) } }
                div class="wide" tabindex="0" {
                    svg viewBox=(view) role="img" aria-labelledby={ (title_id) " " (about_id) } {
                        title id=(title_id) { (title) }
                        desc id=(about_id) { (about) }
                        (self.time_axis(run))
                        (drawing)
                        (self.pointer(run))
                        (self.faults(run))
                    }
                }
            }
        }
    }

    pub(super) fn bottom(&self) -> f64 {
        TOP + self.height
    }

    pub(super) fn y(&self, scale: Scale, value: f64) -> f64 {
        self.bottom() - scale.place(value) * self.height
    }

    /// Returns horizontal lines, with their values at the left.
    pub(super) fn value_axis(&self, scale: Scale, format: impl Fn(f64) -> String) -> Markup {
        let ticks = scale.ticks().into_iter().map(|tick| (self.y(scale, tick), format(tick)));
        html! {
            @for (y, label) in ticks {
                path class="grid" d=(format_args!("M{LEFT} {}h{WIDTH}", px(y))) {}
                (self.label_left(y, &label))
            }
        }
    }

    pub(super) fn label_left(&self, y: f64, text: &str) -> Markup {
        html! { text class="left" x=(px(LEFT - 8.0)) y=(px(y + 4.0)) { (text) } }
    }

    fn time_axis(&self, run: &Run<'_>) -> Markup {
        let bottom = self.bottom();
        html! {
            path class="axis" d=(format_args!("M{LEFT} {bottom}h{WIDTH}")) {}
            @for tick in time_ticks(run.seconds) {
                @let x = px(run.x(tick));
                path class="axis" d=(format_args!("M{x} {bottom}v4")) {}
                text class="below" x=(x) y=(px(bottom + 18.0)) { (moment(tick, run.seconds)) }
            }
        }
    }

    /// Returns a vertical line for each fault, with the fault's number, and with its label if there
    /// is enough room.
    fn faults(&self, run: &Run<'_>) -> Markup {
        let (top, end) = (TOP - 6.0, LEFT + WIDTH);
        let mut free_from = f64::NEG_INFINITY;
        let mut label = |number: usize, fault: &Fault| {
            let at = run.x(fault.at_s);
            let next = run.faults.get(number).map_or(end, |next| run.x(next.at_s));
            let long = |label: &str| LETTER * label.chars().count() as f64 + GAP;
            let label = format!("{number} {}", cut(&fault.what, LABEL_CHARS));
            let label = if next - at > long(&label) { label } else { number.to_string() };
            let is_free = at >= free_from;
            if is_free {
                free_from = at + long(&label);
            }
            is_free.then_some(label)
        };
        html! {
            @for (number, fault) in (1_usize..).zip(run.faults.iter().take(FAULTS_MAX)) {
                @let at = run.x(fault.at_s);
                g class="fault" {
                    title { (format_args!("{number}: {} at {:.1} s", fault.what, fault.at_s)) }
                    path d=(format_args!("M{} {top}V{}", px(at), self.bottom())) {}
                    @if let Some(label) = label(number, fault) {
                        text x=(px(at + 3.0)) y=(px(TOP - 10.0)) { (label) }
                    }
                }
            }
        }
    }

    /// Returns one invisible area for each column. While the pointer is over the area, the numbers
    /// of the column are shown.
    fn pointer(&self, run: &Run<'_>) -> Markup {
        html! {
            g class="pointer" {
                @for column in run.columns {
                    @let (from, to) = (run.x(column.from_s), run.x(column.from_s + column.width_s));
                    rect x=(px(from)) y=(TOP) width=(px(to - from)) height=(px(self.height)) {
                        title { (run.describe(column)) }
                    }
                }
            }
        }
    }
}

/// Shortens a string to `chars` characters, followed by an ellipsis.
fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
