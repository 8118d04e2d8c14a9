//! Ring: draws the points of the shards on a circle, and the arc that each point owns.

use std::f64::consts::TAU;

use maud::html;
use report_page::px;

use super::{Drawing, RingChart, colour};

const SIZE: f64 = 420.0;
const RADIUS: f64 = 160.0;
const THICKNESS: f64 = 26.0;
/// Maximum number of points that are drawn.
const POINTS_MAX: usize = 1_024;

pub(super) fn drawing(chart: &RingChart) -> Drawing {
    let points = &chart.points[..chart.points.len().min(POINTS_MAX)];
    let before = points.iter().cycle().skip(points.len().saturating_sub(1)).map(|(at, _)| *at);
    // A point owns the arc that ends at it, because a slot belongs to the next point on the ring.
    let arcs = before.zip(points).map(|(from, (to, shard))| {
        let from = if from > *to { from - 1.0 } else { from };
        (arc(from, *to), tick(*to), *shard)
    });
    let content = html! {
        g transform="translate(255 0)" {
            @for (area, tick, shard) in arcs {
                path class=(colour(shard)) d=(area) {}
                path class="axis" d=(tick) {}
            }
            text class="below" x=(SIZE / 2.0) y=(SIZE / 2.0) { (points.len()) " points" }
            text class="below" x=(SIZE / 2.0) y=(px(SIZE / 2.0 + 18.0)) { "0 is at the top" }
        }
    };
    let (shards, count) = (chart.shards.len(), points.len());
    let about = format!("{count} points of {shards} shards on a ring, and the arcs that they own");
    Drawing { width: 930.0, height: SIZE, content, about }
}

/// Returns the coordinates of a position on the ring, from 0 to 1, at this radius.
fn place(share: f64, radius: f64) -> String {
    let (sin, cos) = (share * TAU).sin_cos();
    format!("{} {}", px(SIZE / 2.0 + radius * sin), px(SIZE / 2.0 - radius * cos))
}

fn arc(from: f64, to: f64) -> String {
    let (outer, inner) = (RADIUS, RADIUS - THICKNESS);
    let large = u8::from(to - from > 0.5);
    format!(
        "M{}A{outer} {outer} 0 {large} 1 {}L{}A{inner} {inner} 0 {large} 0 {}z",
        place(from, outer),
        place(to, outer),
        place(to, inner),
        place(from, inner)
    )
}

fn tick(at: f64) -> String {
    format!("M{}L{}", place(at, RADIUS), place(at, RADIUS + 8.0))
}
