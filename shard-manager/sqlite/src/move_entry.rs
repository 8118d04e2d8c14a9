//! Move entry: carries out one change of a move on a file, in the same way on a primary and on its
//! replicas.
//!
//! **Invariant:** the generation of slots is the position at which the state of a slot last changed
//! other than by a fence; the numbers of own and foreign rows are updated whenever their slots
//! change owner.
//! **Not here:** the decision (`move_change`), the format of the entry (`move_line`).

use diesel::QueryResult;
use diesel::sqlite::SqliteConnection;
use model::slot_set::SlotSet;

use super::batch::run;
use super::connection::Bind;
use super::move_line::{MoveLine, SlotGroup};
use super::moving_rows::{self, PrimaryScope};
use super::owned_slots::{OwnedSlots, each_state, json_list};
use super::{move_counts, sql, stored_move};

/// Carries out a move line and the lines about rows that follow it, inside a transaction, at this
/// position of the log. `scope` is `None` on a replica, which repeats what its primary accepted.
/// Returns the owned slots after the change; `None` if no state of a slot has changed except by a
/// fence.
pub(super) fn apply(
    connection: &mut SqliteConnection,
    (line, rows): (&MoveLine, &[u8]),
    scope: Option<PrimaryScope<'_>>,
    position: i64,
) -> QueryResult<Option<OwnedSlots>> {
    let mut is_fence = true;
    for group in &line.slots {
        is_fence &= set_state(connection, group, line)?;
    }
    if let Some(row) = &line.row {
        stored_move::store(connection, row)?;
    }
    if line.emptied || line.forgotten {
        move_counts::remove(connection, &line.id)?;
    }
    if line.forgotten {
        stored_move::remove(connection, &line.id)?;
    }
    if !rows.is_empty() {
        let added = moving_rows::apply(connection, rows, scope)?;
        for (table, added) in &added {
            let sql = if *added > 0 { sql::ADD_FOREIGN_ROWS } else { sql::SUBTRACT_FOREIGN_ROWS };
            run(connection, sql, &[Bind::Text(table), Bind::Int(added.abs())])?;
        }
        if !line.forgotten {
            move_counts::add(connection, &line.id, &added)?;
        }
    }
    if is_fence {
        return Ok(None);
    }
    run(connection, sql::SET_GENERATION, &[Bind::Int(position)])?;
    OwnedSlots::load(connection).map(Some)
}

/// Slots of a change, divided by what the shard had recorded about them before the change.
pub(super) struct KnownBefore {
    /// Slots that the shard owned.
    pub(super) owned: SlotSet,
    /// Slots of which the shard had no record.
    pub(super) unknown: SlotSet,
}

impl KnownBefore {
    pub(super) fn load(connection: &mut SqliteConnection, slots: &SlotSet) -> QueryResult<Self> {
        let (mut owned, mut unknown) = (SlotSet::empty(), slots.clone());
        each_state(connection, slots, |slot, state| {
            unknown.remove(slot);
            if state.is_owned() {
                owned.insert(slot);
            }
        })?;
        Ok(Self { owned, unknown })
    }
}

/// Sets the state of some slots, and counts their rows as own or foreign ones. Returns true if a
/// fence was set, renewed or lifted.
fn set_state(
    connection: &mut SqliteConnection,
    group: &SlotGroup,
    line: &MoveLine,
) -> QueryResult<bool> {
    let slots = group.slots()?;
    let before = KnownBefore::load(connection, &slots)?;
    let was_owned = !before.owned.is_empty();
    if was_owned != group.is_owned() {
        move_counts::remove(connection, &line.id)?;
    }
    if was_owned && !group.is_owned() {
        move_counts::add(connection, &line.id, &line.counts)?;
    }
    for (table, rows) in &line.counts {
        let binds = [Bind::Text(table), Bind::Int(*rows)];
        match (was_owned, group.is_owned()) {
            (false, true) => {
                run(connection, sql::ADD_ROWS, &binds)?;
                run(connection, sql::SUBTRACT_FOREIGN_ROWS, &binds)?;
            }
            (true, false) => {
                run(connection, sql::SUBTRACT_ROWS, &binds)?;
                run(connection, sql::ADD_FOREIGN_ROWS, &binds)?;
            }
            (false, false) if !before.unknown.is_empty() => {
                run(connection, sql::ADD_FOREIGN_ROWS, &binds)?;
            }
            (true, true) | (false, false) => {}
        }
    }
    let list = json_list(&slots);
    match &group.state {
        Some(state) => {
            let [fenced_at, until, moved_to] = [&group.fenced_at, &group.until, &group.moved_to]
                .map(|column| column.as_deref().map_or(Bind::Null, Bind::Text));
            let binds = [Bind::Text(&list), Bind::Text(state), fenced_at, until, moved_to];
            run(connection, sql::SET_SLOTS, &binds)?;
        }
        None => run(connection, sql::REMOVE_SLOTS, &[Bind::Text(&list)])?,
    }
    Ok(was_owned && group.is_owned())
}
