//! Slots: draws the owners of all slots as coloured bars, one bar for each shard map.
//!
//! A picture has no space for every slot, so a column stands for 32 slots and shows the owner of
//! the first of them.

use std::fmt::Write;

use maud::html;
use model::keyspace::SLOT_COUNT;
use report_page::px;

use super::{Drawing, LEFT, SlotChart, WIDTH, colour};

/// Number of slots that one column stands for.
const COLUMN: u16 = 32;
const ROW: f64 = 18.0;
const GAP: f64 = 8.0;
/// Maximum number of shard maps that are drawn.
const ROWS_MAX: usize = 40;

pub(super) fn drawing(chart: &SlotChart) -> Drawing {
    let rows = &chart.rows[..chart.rows.len().min(ROWS_MAX)];
    let height = rows.len() as f64 * (ROW + GAP) + GAP;
    let content = html! {
        g class="cells" {
            @for (row, (label, ranges)) in rows.iter().enumerate() {
                @let top = GAP + row as f64 * (ROW + GAP);
                text class="left" x=(px(LEFT - 8.0)) y=(px(top + 13.0)) { (label) }
                @for (shard, path) in paths(ranges, chart.shards.len(), top).iter().enumerate() {
                    @if !path.is_empty() { path class=(colour(shard)) d=(path) {} }
                }
            }
        }
        text x=(LEFT) y=(px(height + 12.0)) { "slot 0" }
        text class="left" x=(px(LEFT + WIDTH - 20.0)) y=(px(height + 12.0)) { (SLOT_COUNT - 1) }
    };
    let about = format!("Owners of all {SLOT_COUNT} slots in {} maps", rows.len());
    Drawing { width: LEFT + WIDTH, height: height + 20.0, content, about }
}

/// Returns the SVG path of each shard's area in one row.
fn paths(ranges: &[(u16, u16, usize)], shards: usize, top: f64) -> Vec<String> {
    let mut paths = vec![String::new(); shards];
    let mut columns: Vec<(u16, u16, usize)> = Vec::new();
    let mut at = 0;
    for slot in (0..SLOT_COUNT).step_by(usize::from(COLUMN)) {
        while ranges.get(at).is_some_and(|(_, last, _)| *last < slot) {
            at += 1;
        }
        let Some(owner) = ranges.get(at).filter(|(first, ..)| *first <= slot) else { continue };
        match columns.last_mut() {
            Some((_, end, shard)) if *end == slot && *shard == owner.2 => *end = slot + COLUMN,
            Some(_) | None => columns.push((slot, slot + COLUMN, owner.2)),
        }
    }
    let x = |slot: u16| px(LEFT + f64::from(slot) / f64::from(SLOT_COUNT) * (WIDTH - 20.0));
    for (first, end, shard) in columns {
        // Writing to a String cannot fail.
        if let Some(path) = paths.get_mut(shard) {
            let _ = write!(path, "M{} {top}H{}v{ROW}H{}z", x(first), x(end), x(first));
        }
    }
    paths
}
