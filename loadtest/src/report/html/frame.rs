//! Frame: the parts that all graphs over time share, which are the figure, the axes, the marks of
//! faults, and the numbers under the pointer.
//!
//! **Invariant:** all graphs of a page have the same time axis, so that events at the same time
//! have the same horizontal position.
//! **Not here:** the contents of a graph (`graphs`, `heatmap`).

use super::axis::{Scale, moment, time_ticks};
use super::columns::Column;
use super::markup::Markup;
use super::words::grouped;
use crate::report::Fault;
use crate::report::text::milliseconds;

/// In units of the drawing: a page shows it about as wide.
pub(super) const LEFT: f64 = 74.0;
pub(super) const WIDTH: f64 = 856.0;
pub(super) const TOP: f64 = 24.0;
const RIGHT: f64 = 30.0;
const BOTTOM: f64 = 24.0;
/// A letter of a fault's label, about, and the gap after a label.
const LETTER: f64 = 7.6;
const GAP: f64 = 8.0;
/// Longest label in a graph; the list below has it whole.
const LABEL_CHARS: usize = 28;
/// Faults drawn. The list of them says how many there were.
pub(super) const FAULTS_MAX: usize = 200;

/// Parts that the graphs of a page share.
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

    /// The numbers of a column, in a line.
    fn describe(&self, column: &Column) -> String {
        let at = moment(column.from_s, self.seconds);
        let mut told = format!("{at}: {}/s", grouped(column.rate()));
        if column.failed > 0 {
            told += &format!(", {} failed", column.failed);
        }
        for (name, share) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            if let Some(time) = column.quantile_ms(share, self.max_ms) {
                told += &format!(", {name} {}", milliseconds(time));
            }
        }
        told
    }
}

impl Frame {
    /// A figure: heading, `legend`, and the graph that `draw` draws.
    pub(super) fn write(
        &self,
        run: &Run<'_>,
        page: &mut Markup,
        legend: impl FnOnce(&mut Markup),
        draw: impl FnOnce(&mut Markup),
    ) {
        let Self { id, title, about, height } = self;
        let (title_id, about_id) = (format!("{id}-title"), format!("{id}-about"));
        let view = format!("0 0 {} {}", LEFT + WIDTH + RIGHT, TOP + height + BOTTOM);
        let labels = format!("{title_id} {about_id}");
        page.node("figure", &[], |figure| {
            figure.node("figcaption", &[], |caption| {
                caption.leaf("h3", &[], title);
                caption.node("p", &[("class", &"legend")], legend);
            });
            let attributes: super::markup::Attributes<'_> =
                &[("viewBox", &view), ("role", &"img"), ("aria-labelledby", &labels)];
            figure.node("div", &[("class", &"wide"), ("tabindex", &"0")], |wide| {
                wide.node("svg", attributes, |svg| {
                    svg.leaf("title", &[("id", &title_id)], title);
                    svg.leaf("desc", &[("id", &about_id)], about);
                    self.time_axis(run, svg);
                    draw(svg);
                    self.pointer(run, svg);
                    self.faults(run, svg);
                });
            });
        });
        page.line();
    }

    pub(super) fn bottom(&self) -> f64 {
        TOP + self.height
    }

    pub(super) fn y(&self, scale: Scale, value: f64) -> f64 {
        self.bottom() - scale.place(value) * self.height
    }

    /// Lines across, with their values at the left.
    pub(super) fn value_axis(&self, scale: Scale, told: impl Fn(f64) -> String, svg: &mut Markup) {
        for tick in scale.ticks() {
            let y = self.y(scale, tick);
            let path = format!("M{LEFT} {}h{WIDTH}", px(y));
            svg.void("path", &[("class", &"grid"), ("d", &path)]);
            self.label_left(y, &told(tick), svg);
        }
    }

    pub(super) fn label_left(&self, y: f64, text: &str, svg: &mut Markup) {
        let (x, y) = (px(LEFT - 8.0), px(y + 4.0));
        svg.leaf("text", &[("class", &"left"), ("x", &x), ("y", &y)], text);
    }

    fn time_axis(&self, run: &Run<'_>, svg: &mut Markup) {
        let bottom = self.bottom();
        let path = format!("M{LEFT} {bottom}h{WIDTH}");
        svg.void("path", &[("class", &"axis"), ("d", &path)]);
        for tick in time_ticks(run.seconds) {
            let x = px(run.x(tick));
            let mark = format!("M{x} {bottom}v4");
            svg.void("path", &[("class", &"axis"), ("d", &mark)]);
            let y = px(bottom + 18.0);
            let told = moment(tick, run.seconds);
            svg.leaf("text", &[("class", &"below"), ("x", &x), ("y", &y)], told);
        }
    }

    /// A line for each fault, its number where there is room, and its label where there is more.
    fn faults(&self, run: &Run<'_>, svg: &mut Markup) {
        let (top, end) = (TOP - 6.0, LEFT + WIDTH);
        let mut free_from = f64::NEG_INFINITY;
        let shown = run.faults.iter().take(FAULTS_MAX);
        for (number, fault) in (1_usize..).zip(shown) {
            let at = run.x(fault.at_s);
            let (x, next) = (px(at), run.faults.get(number).map_or(end, |next| run.x(next.at_s)));
            svg.node("g", &[("class", &"fault")], |mark| {
                let told = format!("{number}: {} at {:.1} s", fault.what, fault.at_s);
                mark.leaf("title", &[], told);
                mark.void("path", &[("d", &format!("M{x} {top}V{}", self.bottom()))]);
                if at < free_from {
                    return;
                }
                let long = |label: &str| LETTER * label.chars().count() as f64 + GAP;
                let label = format!("{number} {}", cut(&fault.what, LABEL_CHARS));
                let label = if next - at > long(&label) { label } else { number.to_string() };
                free_from = at + long(&label);
                let (x, y) = (px(at + 3.0), px(TOP - 10.0));
                mark.leaf("text", &[("x", &x), ("y", &y)], label);
            });
        }
    }

    /// Areas that show nothing but their numbers when pointed at.
    fn pointer(&self, run: &Run<'_>, svg: &mut Markup) {
        let height = px(self.height);
        svg.node("g", &[("class", &"pointer")], |areas| {
            for column in run.columns {
                let (from, to) = (run.x(column.from_s), run.x(column.from_s + column.width_s));
                let (x, width) = (px(from), px(to - from));
                let attributes: super::markup::Attributes<'_> =
                    &[("x", &x), ("y", &TOP), ("width", &width), ("height", &height)];
                areas
                    .node("rect", attributes, |area| area.leaf("title", &[], run.describe(column)));
            }
        });
    }
}

/// The first so many letters.
fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Formats a coordinate to a tenth, which is too fine to see.
pub(super) fn px(place: f64) -> String {
    let rounded = (place * 10.0).round() / 10.0;
    rounded.to_string()
}
