//! Slot copy: copies the rows of slots that a shard takes over from the file of the other shard. It
//! is used only in test builds, in which slots constantly change their owner.
//!
//! The other shard no longer owns the slots, so their rows do not change there. The copied rows are
//! not added to the change log, because the shards have no replicas.
//!
//! **Invariant:** rows of slots that the shard owns are neither removed nor replaced.
//! **Not here:** the change of the slots (`slot_change`), the order in which both shards change
//! (`cluster`).

use std::fs;
use std::path::{Path, PathBuf};

use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use diesel::{QueryResult, RunQueryDsl};
use engine::slot_change::{SlotChange, SlotStep};
use model::idempotency;
use model::sabotage::hands_slots_over;
use model::slot_set::SlotSet;
use model::table::Table;
use model::value::Value;

use crate::batch::{Counters, run};
use crate::connection::{Bind, OpenError, Statement, for_each_row, open};
use crate::declarations::{self, unreadable};
use crate::owned_slots::{SlotState, each_state, json_list};
use crate::row_json::value;
use crate::sql;

const PRAGMAS: &str = "PRAGMA query_only=ON";

/// Copies the rows of the slots that a change takes over, inside the transaction of that change.
/// Returns the counters, with the version raised to at least that of the other shard.
pub(super) fn copy_rows(
    connection: &mut SqliteConnection,
    (mut counters, own): (Counters, &Path),
    change: &SlotChange,
) -> QueryResult<Counters> {
    if !hands_slots_over() || change.step != SlotStep::TakeOver {
        return Ok(counters);
    }
    let Some(other) = other_primary(own) else { return Ok(counters) };
    let mut slots = change.slots.clone();
    each_state(connection, &change.slots, |slot, state| {
        if SlotState::is_owned(state) {
            slots.remove(slot);
        }
    })?;
    let failed = |error: OpenError| DieselError::QueryBuilderError(Box::new(error));
    let mut source = open(&other, PRAGMAS).map_err(failed)?;
    counters.version = counters.version.max(Counters::load(&mut source)?.version);
    for table in declarations::load(&mut source)? {
        let table = table.into_table().map_err(|cause| unreadable(&cause))?;
        let (removed, added) = copy_table((&mut source, connection), &table, &slots)?;
        let name = Bind::Text(table.name());
        run(connection, sql::SUBTRACT_FOREIGN_ROWS, &[name, Bind::Int(removed)])?;
        let name = Bind::Text(table.name());
        run(connection, sql::ADD_FOREIGN_ROWS, &[name, Bind::Int(added)])?;
    }
    copy_table((&mut source, connection), &idempotency::TABLE, &slots)?;
    Ok(counters)
}

/// Returns the file of the other shard's primary; `None` if the folder does not have exactly one
/// other primary file.
fn other_primary(own: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(own.parent()?).ok()?.filter_map(Result::ok);
    let is_primary = |path: &PathBuf| path.to_string_lossy().ends_with("-primary.db");
    let mut others = files.map(|file| file.path()).filter(|path| is_primary(path) && path != own);
    others.next().filter(|_| others.next().is_none())
}

/// Replaces the rows of slots in a table, and returns the numbers of rows removed and added.
fn copy_table(
    (source, target): (&mut SqliteConnection, &mut SqliteConnection),
    table: &Table,
    slots: &SlotSet,
) -> QueryResult<(i64, i64)> {
    let list = json_list(slots);
    let binds = [Bind::Text(&list)];
    let within = format!("FROM {} WHERE slot IN (SELECT value FROM json_each(?1))", table.name());
    let sql = format!("DELETE {within}");
    let removed = Statement { sql: &sql, binds: &binds, cached: false }.execute(target)?;
    let names: Vec<&str> = table.columns().iter().map(|column| &*column.name).collect();
    let sql = format!("SELECT {} {within}", names.join(","));
    let mut rows: Vec<Vec<Value>> = Vec::new();
    for_each_row(source, Statement { sql: &sql, binds: &binds, cached: false }, |row| {
        let columns = table.columns().iter().enumerate();
        rows.push(columns.map(|(at, column)| value(row, at, column.kind)).collect());
        Ok(())
    })?;
    let replace = sql::replace(table);
    for row in &rows {
        let binds: Vec<Bind<'_>> = row.iter().map(Bind::from).collect();
        Statement { sql: &replace, binds: &binds, cached: true }.execute(target)?;
    }
    Ok((removed as i64, rows.len() as i64))
}
