//! Chunk: the next rows of a copy in the order of their keys, as many as one round may have.
//!
//! **Invariant:** rows are read in steps, and the number of rows of a step depends on the average
//! size of the rows before, so that large rows do not exhaust the memory.
//! **Not here:** the order of tables and slots (`round`).

use diesel::QueryResult;
use engine::copy_key::{CopyKey, format_key};
use engine::slot_move::{RoundBudget, RoundError, row_bytes_max};
use model::keyspace::Slot;
use model::table::Table;
use model::value::Value;

use super::move_session::MoveSession;
use super::statements;
use crate::binary_value;
use crate::row_arrays::ColumnArrays;
use crate::statement::{Bind, RowView, Statement, for_each_row};

/// Number of rows of the first read of a chunk, when the size of the rows is not known yet.
const FIRST_ROWS: usize = 100;
/// Maximum number of rows of one read of a chunk.
const READ_ROWS_MAX: usize = 5_000;

type RoundResult<T> = QueryResult<Result<T, RoundError>>;

/// Returns the parameters for the values of an id.
pub(super) fn id_binds<'v>(table: &'v Table, id: &'v [Value]) -> impl Iterator<Item = Bind> + 'v {
    let columns = table.id().iter().map(|column| table.column(*column).kind);
    columns.zip(id).map(|(kind, value)| Bind::value(kind, value))
}

/// Chunk that is being read.
pub(super) struct Chunk<'c> {
    session: &'c MoveSession,
    /// Number of rows and bytes that the chunk may still take.
    budget: RoundBudget,
    /// Number of rows and bytes that were read so far.
    read: (usize, usize),
    /// Key of the last row, once the chunk is full.
    last: Option<String>,
}

impl<'c> Chunk<'c> {
    /// Creates a chunk without rows.
    pub(super) fn new(session: &'c MoveSession, budget: RoundBudget) -> Self {
        Self { session, budget, read: (0, 0), last: None }
    }

    /// Returns the key of the last row, in the format of a cursor, once the chunk is full.
    pub(super) fn take_last(&mut self) -> Option<String> {
        self.last.take()
    }

    /// Reads rows of one slot of a table, until the slot has no more or the chunk is full.
    pub(super) async fn read(
        &mut self,
        (table, slot): (&Table, Slot),
        after: Option<&CopyKey>,
        rows: &mut ColumnArrays,
    ) -> RoundResult<()> {
        let mut after = match after {
            Some(after) => Some((after.key.clone(), after.id(table)?)),
            None => None,
        };
        loop {
            let most = self.most();
            let read = self.read_some((table, slot), (after.as_ref(), most), rows).await?;
            let Ok((count, last)) = read else { return Ok(read.map(drop)) };
            if self.last.is_some() || count < most {
                return Ok(Ok(()));
            }
            after = last;
        }
    }

    /// Returns the number of rows to read next, based on the average size of the rows so far.
    fn most(&self) -> usize {
        let (rows, bytes) = self.read;
        let fitting = match rows {
            0 => FIRST_ROWS,
            rows => self.budget.bytes / (bytes / rows).max(1) + 1,
        };
        fitting.min(self.budget.rows).clamp(1, READ_ROWS_MAX)
    }

    /// Reads at most `most` rows after a key. Returns their number, and the key of the last one.
    async fn read_some(
        &mut self,
        (table, slot): (&Table, Slot),
        (after, most): (Option<&(String, Vec<Value>)>, usize),
        rows: &mut ColumnArrays,
    ) -> RoundResult<(usize, Option<(String, Vec<Value>)>)> {
        let mut binds = vec![Bind::integer(i32::from(slot.number())), Bind::bigint(most as i64)];
        if let Some((key, id)) = after {
            binds.push(Bind::text(key));
            binds.extend(id_binds(table, id));
        }
        let sql = statements::select_chunk(table, after.is_some());
        let statement = Statement { sql: &sql, binds: &binds, cached: true };
        let (mut count, mut last, mut is_too_large) = (0, None, false);
        let Self { budget, read, last: end, .. } = self;
        for_each_row(&self.session.connection, statement, |row| {
            if end.is_some() || is_too_large {
                return Ok(());
            }
            let bytes = rows.push_row(row);
            is_too_large = bytes > row_bytes_max(table);
            count += 1;
            *read = (read.0 + 1, read.1 + bytes);
            budget.rows = budget.rows.saturating_sub(1);
            budget.bytes = budget.bytes.saturating_sub(bytes);
            let is_full = budget.rows == 0 || budget.bytes == 0;
            if is_full || count == most {
                let (key, id) = key_of(row, table);
                if is_full {
                    *end = Some(format_key((table.name(), slot.number(), &key), &id));
                }
                last = Some((key, id));
            }
            Ok(())
        })
        .await?;
        let table = table.name().to_owned();
        Ok(if is_too_large { Err(RoundError::RowTooLarge { table }) } else { Ok((count, last)) })
    }
}

/// Returns the shard key and the id of a row with all columns of its table.
fn key_of(row: &RowView, table: &Table) -> (String, Vec<Value>) {
    let id = table.id().iter().map(|column| {
        let kind = table.column(*column).kind;
        row.cell(*column, |bytes| binary_value::decode(kind, bytes)).unwrap_or(Value::Null)
    });
    (row.text(Table::SHARD_KEY).unwrap_or_default(), id.collect())
}
