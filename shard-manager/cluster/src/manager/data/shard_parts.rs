//! Shard parts: the outcomes of a bulk write, grouped by the shard to which each row was sent last.
//!
//! **Not here:** sending rows (`bulk`), rows that a shard has refused (`waiting_rows`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use model::position::Position;
use model::row_change::{Change, RowDone};
use model::topology::ShardNumber;

use super::super::Manager;
use super::bulk_rows::{BulkPart, BulkRow, BulkRowDone};
use super::refused_row::RefusedRow;

/// Outcomes of rows, by shard.
#[derive(Debug, Default)]
pub(super) struct ShardParts(BTreeMap<ShardNumber, BulkPart>);

impl ShardParts {
    /// Adds the outcomes of rows that a shard has processed after the rows it already has here.
    pub(super) fn absorb(&mut self, manager: &Manager, shard: ShardNumber, part: BulkPart) {
        if part.rows.is_empty() {
            return;
        }
        match self.0.entry(shard) {
            Entry::Vacant(entry) => drop(entry.insert(part)),
            Entry::Occupied(entry) => {
                let known = entry.into_mut();
                known.rows.extend(part.rows);
                let open = manager.shards().find(shard);
                let holds = |one| {
                    open.as_deref().is_none_or(|shard| shard.replication.timeline().holds(one))
                };
                known.seen = later(known.seen, part.seen, holds);
                known.times = known.times.and_then(part.times);
            }
        }
    }

    /// Adds rows that no shard has accepted in time.
    pub(super) fn reject(&mut self, rows: Vec<RefusedRow>) {
        for row in rows {
            self.of(row.row.place.shard).rows.push(row.into_done());
        }
    }

    /// Reports success for rows that no shard has stored. This is the effect of a mutation (a
    /// deliberate fault for tests).
    pub(super) fn pretend(&mut self, rows: Vec<RefusedRow>) {
        for RefusedRow { row, .. } in rows {
            let BulkRow { index, place, .. } = row;
            let (change, version, json) = (Change::Changed, 0, Vec::new());
            let outcome = Ok(RowDone { change, version, json, replayed: false });
            self.of(place.shard).rows.push(BulkRowDone { index, place, outcome });
        }
    }

    /// Returns the part of a shard.
    pub(super) fn of(&mut self, shard: ShardNumber) -> &mut BulkPart {
        self.0.entry(shard).or_default()
    }

    /// Returns all parts.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut BulkPart> {
        self.0.values_mut()
    }

    /// Returns the shards and their parts, in order.
    pub(super) fn into_parts(self) -> impl Iterator<Item = (ShardNumber, BulkPart)> {
        self.0.into_iter()
    }
}

/// Returns the later position. If the positions have different timelines and the shard's history
/// has lost one of them, returns the lost one, because a later position must not hide the loss.
/// `holds` returns true if the history contains a position.
pub(super) fn later(
    seen: Option<Position>,
    position: Option<Position>,
    holds: impl Fn(Position) -> bool,
) -> Option<Position> {
    let (Some(seen), Some(now)) = (seen, position) else { return seen.or(position) };
    let is_lost = |one: &Position| seen.timeline != now.timeline && !holds(*one);
    let later = if seen.sequence > now.sequence { seen } else { now };
    Some([seen, now].into_iter().find(is_lost).unwrap_or(later))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(timeline: u32, sequence: u64) -> Option<Position> {
        Some(Position { timeline, sequence })
    }

    #[test]
    fn the_later_position_counts_unless_the_other_is_lost() {
        // Timeline 2 began at position 90 of timeline 1.
        let holds = |one: Position| one.timeline == 2 || one.sequence <= 90;
        assert_eq!(later(None, position(1, 5), holds), position(1, 5));
        assert_eq!(later(position(1, 5), None, holds), position(1, 5));
        assert_eq!(later(position(1, 7), position(1, 5), holds), position(1, 7));
        assert_eq!(later(position(1, 80), position(2, 95), holds), position(2, 95));
        for lost in [91, 95, 100] {
            assert_eq!(later(position(1, lost), position(2, 95), holds), position(1, lost));
            assert_eq!(later(position(2, 95), position(1, lost), holds), position(1, lost));
        }
    }
}
