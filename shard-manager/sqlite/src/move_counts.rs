//! Move counts: the numbers of rows in the slots of a move. They are kept up to date so that no
//! rows need to be counted at the moment when the slots change their owner.
//!
//! A shard that does not own the slots keeps the numbers in its file, and updates them with each
//! row that the move stores or deletes. On the owner, the rows were counted when both sides were
//! compared, and the change log shows the rows that were added or removed since then.
//!
//! **Invariant:** a number that may be wrong is not returned.
//! **Not here:** counting rows (`slot_change`), the numbers of all own and foreign rows
//! (`move_entry`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use diesel::QueryResult;
use diesel::sqlite::SqliteConnection;
use engine::slot_move::SlotDigest;
use model::idempotency;
use model::slot_set::SlotSet;

use super::batch::run;
use super::connection::{Bind, Statement, for_each_row};
use super::log::{self, Line};
use super::{move_log, owned_slots, sql};

/// Numbers of rows by table.
pub(super) type Counts = BTreeMap<String, i64>;

/// Returns the stored numbers of rows in the slots of a move, on the shard that does not own the
/// slots; `None` if the numbers are not known.
pub(super) fn load(connection: &mut SqliteConnection, id: &str) -> QueryResult<Option<Counts>> {
    let binds = [Bind::Text(id)];
    let statement = Statement { sql: sql::MOVE_COUNTS, binds: &binds, cached: true };
    let mut counts = Counts::new();
    for_each_row(connection, statement, |row| {
        counts.extend(row.text(0, str::to_owned).zip(row.int(1)));
        Ok(())
    })?;
    let is_known = !counts.is_empty() && counts.values().all(|rows| *rows >= 0);
    counts.retain(|_, rows| *rows > 0);
    Ok(is_known.then_some(counts))
}

/// Adds to the stored numbers of rows in the slots of a move.
pub(super) fn add(connection: &mut SqliteConnection, id: &str, added: &Counts) -> QueryResult<()> {
    for (table, added) in added {
        let binds = [Bind::Text(id), Bind::Text(table), Bind::Int(*added)];
        run(connection, sql::ADD_MOVE_ROWS, &binds)?;
    }
    Ok(())
}

/// Removes the stored numbers of rows in the slots of a move.
pub(super) fn remove(connection: &mut SqliteConnection, id: &str) -> QueryResult<()> {
    run(connection, sql::REMOVE_MOVE_COUNTS, &[Bind::Text(id)])
}

/// Numbers of rows that the last comparison of two shards has found, kept in memory.
#[derive(Debug, Default)]
pub struct ComparedCounts(Mutex<Option<Compared>>);

#[derive(Clone, Debug)]
struct Compared {
    slots: SlotSet,
    position: u64,
    counts: Counts,
}

impl ComparedCounts {
    /// Stores the numbers of rows that these slots have at a position of the log.
    pub(super) fn keep(&self, slots: &SlotSet, position: u64, digests: &[SlotDigest]) {
        let mut counts = Counts::new();
        let counted = digests.iter().filter(|digest| digest.table != idempotency::TABLE.name());
        for digest in counted {
            *counts.entry(digest.table.clone()).or_default() += digest.rows as i64;
        }
        let compared = Compared { slots: slots.clone(), position, counts };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(compared);
    }

    /// Returns the current numbers of rows in slots that the shard owns; `None` if these slots were
    /// not the last that were compared, or if the log does not have all changes since the
    /// comparison.
    pub(super) fn present(
        &self,
        connection: &mut SqliteConnection,
        slots: &SlotSet,
    ) -> QueryResult<Option<Counts>> {
        let compared = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let compared = compared.filter(|compared| compared.slots == *slots);
        let Some(Compared { position, mut counts, .. }) = compared else { return Ok(None) };
        // If the owned slots have changed since the comparison, a move may have stored or deleted
        // rows of these slots, which are not changes by clients.
        if position < owned_slots::generation(connection)? {
            return Ok(None);
        }
        let first = log::first_position(connection)?;
        if first.is_none_or(|first| first > position + 1) {
            return Ok(None);
        }
        move_log::each_change(connection, slots, position, |_, lines| {
            for line in lines {
                let line = Line::parse(line)?;
                if line.table != idempotency::TABLE.name() {
                    *counts.entry(line.table.to_string()).or_default() += line.change.rows_added();
                }
            }
            Ok(true)
        })?;
        counts.retain(|_, rows| *rows != 0);
        Ok(counts.values().all(|rows| *rows > 0).then_some(counts))
    }
}
