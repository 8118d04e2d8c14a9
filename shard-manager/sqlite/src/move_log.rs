//! Move log: finds the changes by clients in the change log that a copy of some slots does not have
//! yet.
//!
//! A move reads the changes that it must transfer from the shard's change log, which a guard keeps
//! from being trimmed (`move_traces`). Rows that a move copied to this shard are in the log as
//! well, in entries that begin with a move line. They are not changes by clients, and are skipped.
//!
//! **Invariant:** if the log no longer has some changes, that is always reported, and never treated
//! as if there were no changes.
//! **Not here:** reading the rows of a round (`move_reader`).

use diesel::QueryResult;
use diesel::sqlite::SqliteConnection;
use model::slot_set::SlotSet;
use moves::mark::Mark;

use super::connection::{Bind, Statement, for_each_row_while};
use super::stored_move::StoredMove;
use super::{ddl, log, move_line, slot_line, sql};

/// Returns the log position after which the changes begin that are not covered by a mark, which is
/// the position up to which a copy has all changes. Returns `None` if changes are not recorded for
/// the move, or if the log no longer has all of them.
pub(super) fn lacks_after(
    connection: &mut SqliteConnection,
    row: &StoredMove,
    mark: &Mark,
    position: u64,
) -> QueryResult<Option<u64>> {
    let Some(traced_after) = row.traced_after else { return Ok(None) };
    let after = match mark {
        Mark::Nothing => traced_after,
        Mark::Entry(entry) => *entry,
        Mark::Snapshot { .. } => return Ok(None),
    };
    if after < traced_after || after > position {
        return Ok(None);
    }
    let first = log::first_position(connection)?;
    // The log is empty if the file of a replica was put in the primary's place.
    let is_there = first.map_or(after == position, |first| first <= after + 1);
    Ok(is_there.then_some(after))
}

/// Returns true if a client has changed a row of the slots after a position of the log.
pub(super) fn has_change_after(
    connection: &mut SqliteConnection,
    slots: &SlotSet,
    after: u64,
) -> QueryResult<bool> {
    let mut has_change = false;
    each_change(connection, slots, after, |_, lines| {
        has_change = !lines.is_empty();
        Ok(!has_change)
    })?;
    Ok(has_change)
}

/// Calls `each` for each log entry after a position, until `each` returns false. It receives the
/// position of the entry, and those of its lines that are changes by clients to rows of the slots.
pub(super) fn each_change(
    connection: &mut SqliteConnection,
    slots: &SlotSet,
    after: u64,
    mut each: impl FnMut(u64, &[&[u8]]) -> QueryResult<bool>,
) -> QueryResult<()> {
    let binds = [Bind::Int(after as i64)];
    let statement = Statement { sql: sql::ENTRIES_AFTER, binds: &binds, cached: true };
    for_each_row_while(connection, statement, |row| {
        let position = row.int(0).unwrap_or(0) as u64;
        let read = |entry: &[u8]| each(position, &changes(entry, slots)?);
        row.blob(1, read).unwrap_or(Ok(true))
    })
}

/// Returns the lines of an entry that are changes by clients to rows of the slots.
fn changes<'e>(entry: &'e [u8], slots: &SlotSet) -> QueryResult<Vec<&'e [u8]>> {
    let is_other = move_line::is_move(entry) || slot_line::is_slots(entry) || ddl::is_schema(entry);
    if is_other {
        return Ok(Vec::new());
    }
    let mut changes = Vec::new();
    for line in log::lines(entry) {
        if log::slot_of(line)?.is_some_and(|slot| slots.contains(slot)) {
            changes.push(line);
        }
    }
    Ok(changes)
}
