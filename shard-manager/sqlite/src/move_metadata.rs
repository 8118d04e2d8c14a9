//! Move metadata: reads the states of slots and the records of moves from a file, which are the
//! input of the rules of moves, and computes what a change has altered in them.
//!
//! **Invariant:** the computed difference contains everything that the rules have changed.
//! **Not here:** the rules (crate `moves`), storing the difference (`move_entry`).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use diesel::sqlite::SqliteConnection;
use engine::move_record::move_name;
use engine::stored_move::slot_state;
use model::keyspace::Slot;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;
use model::value::format_timestamp;
use moves::identity::MoveId;
use moves::shard_metadata::ShardMetadata;
use moves::slot_state::SlotState;

use super::connection::{Bind, RowView, Statement, for_each_row};
use super::declarations::unreadable;
use super::move_counts::{self, ComparedCounts, Counts};
use super::move_line::{MoveLine, SlotGroup};
use super::owned_slots::{json_list, slot};
use super::slot_change::row_counts;
use super::stored_move::StoredMove;
use super::{batch::Counters, sql};

/// Reads the records of all moves, and the states of some slots.
pub(super) fn load(
    connection: &mut SqliteConnection,
    moves: &[StoredMove],
    slots: &SlotSet,
    version: i64,
) -> QueryResult<ShardMetadata> {
    let moves: Result<Vec<_>, _> = moves.iter().map(StoredMove::row).collect();
    let version = version as u64;
    Ok(ShardMetadata { slots: states(connection, slots)?, moves: moves?, generation: 0, version })
}

/// Returns the states of those of the given slots of which the file has a record.
fn states(
    connection: &mut SqliteConnection,
    slots: &SlotSet,
) -> QueryResult<BTreeMap<Slot, SlotState>> {
    let list = json_list(slots);
    let binds = [Bind::Text(&list)];
    let statement = Statement { sql: sql::SLOT_STATES, binds: &binds, cached: true };
    let mut states = BTreeMap::new();
    for_each_row(connection, statement, |row| {
        let slot = slot(row).ok_or_else(|| unreadable(&"a slot does not exist"))?;
        states.insert(slot, state(row)?);
        Ok(())
    })?;
    Ok(states)
}

/// Reads the state of a slot from a query row with the columns slot, state, `until` and `moved_to`.
fn state(row: &RowView<'_, '_>) -> QueryResult<SlotState> {
    let moved_to = row.text(3, |number| number.parse().map(ShardNumber));
    let moved_to = moved_to.transpose().map_err(|error| unreadable(&error))?;
    let state = row.text(1, str::to_owned).unwrap_or_default();
    let until = row.text(2, |until| until.parse::<DateTime<Utc>>().ok()).flatten();
    let until = until.map_or(0, |until| until.timestamp_millis()).max(0) as u64;
    Ok(slot_state(&state, until, moved_to)?)
}

/// Metadata before and after a change of a move.
pub(super) struct Difference<'d> {
    /// The move.
    pub(super) id: MoveId,
    /// Records of all moves before the change.
    pub(super) stored: &'d [StoredMove],
    /// Slots of the move.
    pub(super) slots: &'d SlotSet,
    pub(super) before: &'d ShardMetadata,
    pub(super) after: &'d ShardMetadata,
    /// Counters of the shard as of the log entry of the change.
    pub(super) counters: Counters,
    pub(super) now: DateTime<Utc>,
    /// Numbers of rows that the last comparison of two shards has found.
    pub(super) compared: &'d ComparedCounts,
}

impl Difference<'_> {
    /// Returns the move line for the change log. Must be called before the line is carried out.
    pub(super) fn line(&self, connection: &mut SqliteConnection) -> QueryResult<MoveLine> {
        let Self { id, before, after, .. } = self;
        let row = after.row(*id).filter(|row| before.row(*id) != Some(*row));
        let traced_after = self.traced_after()?;
        let row = row.map(|row| StoredMove::of(row, traced_after)).transpose()?;
        let counts = self.counts(connection)?;
        Ok(MoveLine {
            emptied: false,
            id: move_name(*id),
            row,
            forgotten: before.row(*id).is_some() && after.row(*id).is_none(),
            slots: self.groups(),
            counts,
            version: self.counters.version,
        })
    }

    /// Returns the position after which changes are recorded for the move. It applies only if the
    /// move still records changes after this one.
    fn traced_after(&self) -> QueryResult<u64> {
        for stored in self.stored {
            if stored.move_id()? == self.id {
                return Ok(stored.traced_after.unwrap_or(self.counters.position as u64));
            }
        }
        Ok(self.counters.position as u64)
    }

    /// Returns, for each table, the number of rows that become own or foreign rows.
    fn counts(&self, connection: &mut SqliteConnection) -> QueryResult<Counts> {
        let slots = self.slots_to_count();
        let is_whole = slots == *self.slots;
        let known = match slots.iter().next() {
            None => return Ok(Counts::new()),
            Some(slot) if is_whole && self.after.owns(slot) => {
                move_counts::load(connection, &move_name(self.id))?
            }
            Some(slot) if is_whole && self.before.owns(slot) => {
                self.compared.present(connection, &slots)?
            }
            Some(_) => None,
        };
        known.map_or_else(|| row_counts(connection, &slots), Ok)
    }

    /// Returns the slots whose rows become own or foreign rows.
    fn slots_to_count(&self) -> SlotSet {
        let is_counted = |slot: &Slot| match (self.before.state(*slot), self.after.state(*slot)) {
            (None, Some(_)) => true,
            (Some(before), Some(after)) => before.is_owned() != after.is_owned(),
            (_, None) => false,
        };
        self.slots.iter().filter(is_counted).collect()
    }

    /// Returns the slots whose state has changed, grouped by their new state.
    fn groups(&self) -> Vec<SlotGroup> {
        let mut groups: Vec<(Option<SlotState>, SlotSet)> = Vec::new();
        for slot in self.slots.iter() {
            let state = self.after.state(slot);
            if state == self.before.state(slot) {
                continue;
            }
            match groups.iter_mut().find(|(known, _)| *known == state) {
                Some((_, slots)) => slots.insert(slot),
                None => groups.push((state, [slot].into_iter().collect())),
            }
        }
        groups.into_iter().map(|(state, slots)| self.group(state, &slots)).collect()
    }

    fn group(&self, state: Option<SlotState>, slots: &SlotSet) -> SlotGroup {
        let group = |state: &str| SlotGroup {
            ranges: slots.ranges(),
            state: Some(state.to_owned()),
            fenced_at: None,
            until: None,
            moved_to: None,
        };
        match state {
            None => SlotGroup { state: None, ..group("") },
            Some(SlotState::Owned) => group("owned"),
            Some(SlotState::Fenced { until }) => {
                let end = i64::try_from(until).ok().and_then(DateTime::from_timestamp_millis);
                SlotGroup {
                    fenced_at: Some(format_timestamp(self.now)),
                    until: Some(format_timestamp(end.unwrap_or(self.now))),
                    ..group("fenced")
                }
            }
            Some(SlotState::Moved { to }) => {
                SlotGroup { moved_to: Some(to.0.to_string()), ..group("moved") }
            }
            Some(SlotState::Importing { moved_to }) => {
                SlotGroup { moved_to: moved_to.map(|to| to.0.to_string()), ..group("importing") }
            }
        }
    }
}
