//! Stored rows: the statements of a batch that read and write rows of clients.
//!
//! **Not here:** the results of changes (`batch`), the change log (`log`).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use engine::WriteGroup;
use engine::idempotency_expiry::IdempotencyExpiry;
use model::keyspace::Slot;
use model::row_change::RowWrite;
use model::slot_refusal::SlotRefusal;
use model::value::{Value, push_json_number};

use crate::connection::{Bind, PreparedShapes, Statement, for_each_row};
use crate::row_json::value;
use crate::{owned_slots, sql};

/// The rows of a file, within a transaction of its writer.
pub(super) struct StoredRows<'t> {
    pub(super) connection: &'t mut SqliteConnection,
    pub(super) shapes: &'t mut PreparedShapes,
}

impl StoredRows<'_> {
    /// Returns those slots of the changes of which this shard accepts no writes at the time `now`,
    /// with the reason. The states are read from the database inside the transaction that writes
    /// the rows.
    pub(super) fn refused_slots(
        &mut self,
        groups: &[WriteGroup<'_>],
        now: (DateTime<Utc>, &str),
    ) -> QueryResult<BTreeMap<u16, SlotRefusal>> {
        let mut slots = Vec::new();
        for change in groups.iter().flat_map(|group| group.rows) {
            slots.push(if slots.is_empty() { b'[' } else { b',' });
            push_json_number(&mut slots, change.slot.number());
        }
        slots.push(b']');
        let slots = String::from_utf8(slots).expect("digits, commas and brackets are ASCII");
        let binds = [Bind::Text(&slots), Bind::Text(now.1)];
        let statement = Statement { sql: sql::SLOTS_REFUSED, binds: &binds, cached: true };
        let mut refused = BTreeMap::new();
        for_each_row(self.connection, statement, |row| {
            if let Some(slot) = owned_slots::slot(row) {
                let state = owned_slots::refused_state(row, now.0);
                refused.insert(slot.number(), SlotRefusal { slot, state });
            }
            Ok(())
        })?;
        Ok(refused)
    }

    /// Returns the current row of a change, with the columns that a response contains; `None` if
    /// there is no such row. The row cannot change before the batch ends, because the file has no
    /// other writer.
    pub(super) fn current(&mut self, change: &RowWrite) -> QueryResult<Option<Vec<Value>>> {
        let mut binds = Vec::with_capacity(change.id.len() + 2);
        push_row_binds(&mut binds, change);
        let table = &change.table;
        let statements = self.shapes.statements(table);
        let statement = Statement { sql: &statements.select_row, binds: &binds, cached: true };
        let mut current = None;
        for_each_row(self.connection, statement, |row| {
            let columns = table.answered().map(|column| table.column(column).kind);
            current = Some(columns.enumerate().map(|(at, kind)| value(row, at, kind)).collect());
            Ok(())
        })?;
        Ok(current)
    }

    /// Inserts a row and returns the number of inserted rows: 0 if the row already exists and
    /// `may_exist` is set.
    pub(super) fn insert(
        &mut self,
        change: &RowWrite,
        row: &[Value],
        may_exist: bool,
    ) -> QueryResult<usize> {
        let slot = Bind::Int(i64::from(change.slot.number()));
        let mut binds = Vec::with_capacity(row.len() + 2);
        binds.extend([slot, Bind::Text(&change.key)]);
        binds.extend(row.iter().map(Bind::from));
        let statements = self.shapes.statements(&change.table);
        let sql = if may_exist { &statements.insert_new } else { &statements.insert };
        Statement { sql, binds: &binds, cached: true }.execute(self.connection)
    }

    /// Updates those columns of a row that the change sets, its version and its time of change.
    pub(super) fn update(&mut self, change: &RowWrite, row: &[Value]) -> QueryResult<()> {
        let table = &change.table;
        let set: Vec<usize> = change.set.iter().map(|(column, _)| *column).collect();
        let mut binds: Vec<Bind<'_>> = change.set.iter().map(|(_, value)| value.into()).collect();
        let first = table.answered().start;
        let stamps = [table.version(), table.version() + 2];
        binds.extend(stamps.map(|column| Bind::from(&row[column - first])));
        push_row_binds(&mut binds, change);
        self.execute(&sql::update(table, &set), &binds)
    }

    /// Deletes the row of a change.
    pub(super) fn remove(&mut self, change: &RowWrite) -> QueryResult<()> {
        let mut binds = Vec::with_capacity(change.id.len() + 2);
        push_row_binds(&mut binds, change);
        self.execute(&sql::remove(&change.table), &binds)
    }

    fn execute(&mut self, sql: &str, binds: &[Bind<'_>]) -> QueryResult<()> {
        let statement = Statement { sql, binds, cached: self.shapes.admit(sql) };
        statement.execute(self.connection).map(drop)
    }

    /// Returns the fingerprint and the result that are stored under an idempotency key, if there is
    /// a record.
    pub(super) fn remembered(
        &mut self,
        change: &RowWrite,
        key: &str,
    ) -> QueryResult<Option<(String, String)>> {
        let slot = Bind::Int(i64::from(change.slot.number()));
        let binds = [slot, Bind::Text(&change.key), Bind::Text(key)];
        let statement = Statement { sql: sql::REMEMBERED, binds: &binds, cached: true };
        let mut found = None;
        for_each_row(self.connection, statement, |row| {
            let text = |column| row.text(column, str::to_owned).unwrap_or_default();
            found = Some((text(0), text(1)));
            Ok(())
        })?;
        Ok(found)
    }

    /// Returns slot, shard key and idempotency key of up to `most` expired records, oldest first.
    /// Records of slots that are in a move or accept no writes now are left out. Returns none if
    /// `expiry` demands a newer record as evidence that the clock is right, and there is no such
    /// record.
    pub(super) fn old_records(
        &mut self,
        expiry: &IdempotencyExpiry,
        now: &str,
        most: usize,
    ) -> QueryResult<Vec<(Slot, String, String)>> {
        let IdempotencyExpiry { from, until, witness } = expiry;
        if let Some((from, until)) = witness {
            let binds = [Bind::Text(from), Bind::Text(until)];
            let statement = Statement { sql: sql::WITNESS, binds: &binds, cached: true };
            let mut is_sure = false;
            for_each_row(self.connection, statement, |_| {
                is_sure = true;
                Ok(())
            })?;
            if !is_sure {
                return Ok(Vec::new());
            }
        }
        let most = Bind::Int(most as i64);
        let binds = [Bind::Text(from), Bind::Text(until), most, Bind::Text(now)];
        let statement = Statement { sql: sql::FORGOTTEN, binds: &binds, cached: true };
        let mut old = Vec::new();
        for_each_row(self.connection, statement, |row| {
            let slot = row.int(0).and_then(|slot| Slot::new(u16::try_from(slot).ok()?));
            let text = |column| row.text(column, str::to_owned).unwrap_or_default();
            old.extend(slot.map(|slot| (slot, text(1), text(2))));
            Ok(())
        })?;
        Ok(old)
    }
}

fn push_row_binds<'c>(binds: &mut Vec<Bind<'c>>, change: &'c RowWrite) {
    binds.extend([Bind::Int(i64::from(change.slot.number())), Bind::Text(&change.key)]);
    binds.extend(change.id.iter().map(Bind::from));
}
