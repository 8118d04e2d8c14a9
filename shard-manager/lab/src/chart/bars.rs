//! Bars: draws numbers as horizontal bars in groups.

use maud::{Markup, html};
use report_page::axis::Scale;
use report_page::px;
use report_page::words::grouped;

use super::{BarChart, Drawing, LEFT, WIDTH, colour};

/// Height of one bar, and of the gap after a group, in SVG units.
const BAR: f64 = 15.0;
const GAP: f64 = 12.0;
/// Width of the space for the number to the right of the longest bar.
const RIGHT: f64 = 110.0;
/// Maximum number of groups that are drawn. The tables of the report have all of them.
const GROUPS_MAX: usize = 60;

pub(super) fn drawing(chart: &BarChart) -> Drawing {
    let groups = &chart.groups[..chart.groups.len().min(GROUPS_MAX)];
    let values = groups.iter().flat_map(|(_, values)| values.iter().copied());
    let scale = Scale::fitting(values);
    let rows = groups.iter().scan(GAP, |top, (label, values)| {
        let own = *top;
        *top += values.len() as f64 * BAR + GAP;
        Some((own, label, values))
    });
    let rows: Vec<_> = rows.collect();
    let end = rows.last().map_or(GAP, |(top, _, values)| top + values.len() as f64 * BAR + GAP);
    let content = html! {
        (axis(scale, end))
        @for (top, label, values) in &rows {
            @let middle = top + values.len() as f64 * BAR / 2.0 + 4.0;
            text class="left" x=(px(LEFT - 8.0)) y=(px(middle)) { (label) }
            @for (index, value) in values.iter().enumerate() {
                @let y = top + index as f64 * BAR;
                @let width = scale.place(*value) * (WIDTH - RIGHT);
                rect class=(colour(index)) x=(LEFT) y=(px(y)) width=(px(width)) height=(px(BAR - 2.0)) {}
                text x=(px(LEFT + width + 6.0)) y=(px(y + BAR - 4.0)) { (number(*value, chart.unit)) }
            }
        }
    };
    let logarithmic = if scale.is_logarithmic() { "; equal steps are equal ratios" } else { "" };
    let about = format!("{} groups of bars in {}{logarithmic}", groups.len(), chart.unit);
    Drawing { width: LEFT + WIDTH, height: end + 24.0, content, about }
}

fn axis(scale: Scale, end: f64) -> Markup {
    html! {
        @for tick in scale.ticks() {
            @let x = px(LEFT + scale.place(tick) * (WIDTH - RIGHT));
            path class="grid" d=(format_args!("M{x} 4V{}", px(end))) {}
            text class="below" x=(x) y=(px(end + 16.0)) { (short(tick)) }
        }
    }
}

/// Formats a number with its unit.
pub(super) fn number(value: f64, unit: &str) -> String {
    format!("{} {unit}", short(value)).trim_end().to_owned()
}

/// Formats a number with about three significant digits.
fn short(value: f64) -> String {
    match value {
        value if value == 0.0 || value >= 100.0 => grouped(value.round()),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}
