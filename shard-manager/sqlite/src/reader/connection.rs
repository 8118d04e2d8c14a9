//! Connection: one read-only connection to the file of a node, and the reads on it.
//!
//! A read returns only rows of slots that the shard owns in the snapshot of the read. The owned
//! slots are taken from memory if they are certain to match the snapshot, and otherwise read from
//! the file in the same snapshot (`owned_slots`).
//!
//! **Invariant:** each read sees one snapshot of the file, and no row of a slot that was not owned
//! in it.
//! **Not here:** the choice of a connection (`reader`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use diesel::QueryResult;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use engine::TableSize;
use engine::select::CoveredRows;
use engine::system_tables::tessera_counts;
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::sabotage::{Mutation, is_on};
use model::slot_refusal::SlotRefusal;
use model::slot_set::SlotSet;
use model::stats::SizeEstimate;

use super::{ReaderSource, Scope};
use crate::connection::{
    Bind, OpenError, PreparedShapes, Statement, bytes_in_use, for_each_row, for_each_row_while,
    open,
};
use crate::dialect::{Select, binds};
use crate::owned_slots::{KnownSlots, OwnedSlots, read_refusal};
use crate::row_json::{push_object, value};
use crate::slot_filter::SlotFilter;
use crate::sql;
use crate::statement_deadline::StatementDeadline;

/// Initial capacity of the buffer for rows: most reads return few rows and never make it grow.
const ROWS_BYTES: usize = 1_024;
/// Settings of each reader. The page cache is small (2 MiB), because the operating system caches
/// the file for all readers. Large sorts use a temporary file instead of filling memory.
const PRAGMAS: &str = "PRAGMA cache_size=-2048; PRAGMA temp_store=FILE; PRAGMA query_only=ON";

/// Result of a read, which contains only rows of slots that the shard owns.
pub(super) struct OwnedRows {
    pub(super) rows: Rows,
    /// Slots whose rows a scan covers.
    pub(super) owned: Option<Arc<SlotSet>>,
}

/// Creates the readers of a pool.
#[derive(Debug)]
pub(super) struct Connector {
    pub(super) path: PathBuf,
    pub(super) source: ReaderSource,
}

impl r2d2::ManageConnection for Connector {
    type Connection = Reader;
    type Error = OpenError;

    fn connect(&self) -> Result<Reader, OpenError> {
        self.source.file_check.as_ref().map_or(Ok(()), |file_check| file_check.check())?;
        let mut connection = open(&self.path, PRAGMAS)?;
        let failed = |error| OpenError::file(&self.path, error);
        let statement_deadline = StatementDeadline::on(&mut connection).map_err(failed)?;
        let slot_filter = SlotFilter::on(&mut connection).map_err(failed)?;
        Ok(Reader {
            connection,
            shapes: PreparedShapes::default(),
            statement_deadline,
            slot_filter,
            source: self.source.clone(),
            known: None,
            broken: false,
        })
    }

    fn is_valid(&self, _: &mut Reader) -> Result<(), OpenError> {
        Ok(())
    }

    fn has_broken(&self, reader: &mut Reader) -> bool {
        reader.broken
    }
}

/// A read-only connection and its prepared statements.
pub(super) struct Reader {
    connection: SqliteConnection,
    shapes: PreparedShapes,
    statement_deadline: StatementDeadline,
    slot_filter: SlotFilter,
    source: ReaderSource,
    /// The owned slots as they were at the last read.
    known: Option<KnownSlots>,
    /// True if the connection must not be used again.
    broken: bool,
}

impl Reader {
    /// Sets the deadline of the next statement. `slow_rows` is true if even a single row may take
    /// long to evaluate.
    pub(super) fn set_deadline(&self, deadline: Instant, slow_rows: bool) {
        self.statement_deadline.set(deadline, slow_rows);
    }

    /// Reads the file's schema, to prove that it can be read.
    pub(super) fn probe(&mut self) -> QueryResult<()> {
        self.connection.batch_execute("SELECT count(*) FROM sqlite_schema")
    }

    /// Reads a page of rows, which ends early if it exceeds `bytes_max`, and counts the rows if the
    /// query requests that. A read of one key is refused if the shard does not own the slot of the
    /// key; a scan leaves out rows of slots that the shard does not own.
    pub(super) fn read(
        &mut self,
        query: &ReadQuery,
        scope: Scope<'_>,
        bytes_max: usize,
    ) -> QueryResult<Result<OwnedRows, SlotRefusal>> {
        self.source.ownership.refresh(&mut self.known);
        if let Some(known) = self.known.take_if(|known| owns(&known.owned.set, scope)) {
            let foreign = foreign_filter(&known.owned, scope);
            let rows = if query.counts {
                self.in_snapshot(|reader| reader.rows(query, (scope, foreign), bytes_max))?
            } else {
                self.rows(query, (scope, foreign), bytes_max)?
            };
            let owned = covered_slots(&known.owned, scope);
            if self.source.ownership.is_current(&known) {
                self.known = Some(known);
                return Ok(Ok(OwnedRows { rows, owned }));
            }
        }
        self.in_snapshot(|reader| reader.read_by_file(query, scope, bytes_max))
    }

    /// Reads the owned slots from the file, and then the rows, in the current snapshot.
    fn read_by_file(
        &mut self,
        query: &ReadQuery,
        scope: Scope<'_>,
        bytes_max: usize,
    ) -> QueryResult<Result<OwnedRows, SlotRefusal>> {
        if let Scope::Key(slot, _) = scope {
            let refusal = read_refusal(&mut self.connection, slot)?;
            if let Some(state) = refusal.filter(|_| !is_on(Mutation::ReadUnowned)) {
                return Ok(Err(SlotRefusal { slot, state }));
            }
            let rows = self.rows(query, (scope, None), bytes_max)?;
            return Ok(Ok(OwnedRows { rows, owned: None }));
        }
        let owned = OwnedSlots::load(&mut self.connection)?;
        let rows = self.rows(query, (scope, foreign_filter(&owned, scope)), bytes_max)?;
        Ok(Ok(OwnedRows { rows, owned: covered_slots(&owned, scope) }))
    }

    /// Runs several statements in one snapshot.
    fn in_snapshot<T>(&mut self, work: impl FnOnce(&mut Self) -> QueryResult<T>) -> QueryResult<T> {
        // If the work fails, the transaction stays open, so the connection must not be used again.
        self.broken = true;
        self.connection.batch_execute("BEGIN")?;
        let done = work(self);
        // If the transaction stayed open, later reads would see the same snapshot.
        self.broken = self.connection.batch_execute("COMMIT").is_err();
        done
    }

    /// Reads a page, and counts the rows if the query requests that. If it counts, both statements
    /// must run in one snapshot. If `owned` is given, rows of all other slots are left out.
    fn rows(
        &mut self,
        query: &ReadQuery,
        (scope, owned): (Scope<'_>, Option<&Arc<SlotSet>>),
        bytes_max: usize,
    ) -> QueryResult<Rows> {
        let condition = owned.map(|owned| {
            self.slot_filter.set(owned);
            SlotFilter::CONDITION
        });
        let covered = CoveredRows { scope, condition };
        let mut rows = self.page(query, covered, bytes_max)?;
        if query.counts {
            rows.total = Some(self.count(query, covered)?);
        }
        Ok(rows)
    }

    fn page(
        &mut self,
        query: &ReadQuery,
        covered: CoveredRows<'_>,
        bytes_max: usize,
    ) -> QueryResult<Rows> {
        if query.limit == 0 {
            return Ok(Rows::default());
        }
        let keyed = covered.scope.is_keyed();
        let select = Select::page(query, covered);
        let (table, order) = (&query.table, query.sort_keys(keyed));
        let page = query.limit as usize + if keyed { 0 } else { query.offset as usize };
        let (outputs, binds) = (query.outputs.len(), binds(&select));
        let cached = self.shapes.admit(&select.sql);
        let mut rows = Rows::with_capacity(ROWS_BYTES);
        let statement = Statement { sql: &select.sql, binds: &binds, cached };
        let mut last = Vec::new();
        for_each_row_while(&mut self.connection, statement, |row| {
            if rows.len() == page {
                rows.more_after = Some(std::mem::take(&mut last));
                return Ok(false);
            }
            rows.push(|out| push_object(out, row, shown(query)))?;
            if keyed && rows.len() == 1 {
                rows.version = row.int(outputs);
            }
            let first_key = outputs + usize::from(keyed);
            let keys = (first_key..).zip(&order);
            let keys = keys.map(|(at, by)| value(row, at, table.column(by.column).kind));
            rows.keep_sort_keys(keys, (keyed, page), &mut last);
            Ok(rows.bytes() <= bytes_max)
        })?;
        Ok(rows)
    }

    fn count(&mut self, query: &ReadQuery, covered: CoveredRows<'_>) -> QueryResult<u64> {
        let select = Select::count(query, covered);
        let (sql, binds) = match covered.scope {
            // The writer keeps the number of all rows of the table that the shard owns, so no rows
            // need to be counted.
            Scope::Shard if query.conditions.is_empty() => {
                (sql::COUNTED, vec![Bind::Text(query.table.name())])
            }
            Scope::Shard | Scope::Key(..) => (&*select.sql, binds(&select)),
        };
        let statement = Statement { sql, binds: &binds, cached: self.shapes.admit(sql) };
        let mut total = 0;
        for_each_row(&mut self.connection, statement, |row| {
            total = row.int(0).unwrap_or(0) as u64;
            Ok(())
        })?;
        Ok(total)
    }

    pub(super) fn position(&mut self) -> QueryResult<u64> {
        let statement = Statement { sql: sql::POSITION, binds: &[], cached: true };
        let mut position = 0;
        for_each_row(&mut self.connection, statement, |row| {
            position = row.int(0).unwrap_or(0) as u64;
            Ok(())
        })?;
        Ok(position)
    }

    pub(super) fn counts(&mut self) -> QueryResult<Vec<(String, i64)>> {
        let counts = tessera_counts::table.order(tessera_counts::name);
        counts.select((tessera_counts::name, tessera_counts::rows)).load(&mut self.connection)
    }

    pub(super) fn size_estimate(&mut self) -> QueryResult<SizeEstimate> {
        let rows = self.counts()?.into_iter().map(|(_, rows)| rows.max(0).cast_unsigned()).sum();
        let bytes = bytes_in_use(&mut self.connection)?;
        Ok(SizeEstimate { rows: Some(rows), is_estimate: false, bytes })
    }

    pub(super) fn sizes(&mut self) -> QueryResult<Vec<TableSize>> {
        let counts = self.counts()?;
        let mut sizes = Vec::with_capacity(counts.len());
        for (table, rows) in counts {
            let mut bytes = 0;
            let binds = [Bind::Text(&table)];
            let statement = Statement { sql: TABLE_BYTES, binds: &binds, cached: true };
            for_each_row(&mut self.connection, statement, |row| {
                bytes = row.int(0).unwrap_or(0);
                Ok(())
            })?;
            sizes.push(TableSize { table, rows, bytes });
        }
        Ok(sizes)
    }
}

const TABLE_BYTES: &str = "SELECT sum(pgsize) FROM dbstat WHERE aggregate = TRUE
    AND name IN (SELECT name FROM sqlite_schema WHERE tbl_name = ?1)";

/// Returns the names and types of the outputs.
fn shown(query: &ReadQuery) -> impl Iterator<Item = (&str, model::value::ColumnType)> {
    query.outputs.iter().map(|output| {
        let column = query.table.column(output.column);
        (output.alias.as_deref().unwrap_or(&column.name), column.kind)
    })
}

/// Returns true if the shard owns the slot of the one key that is read.
#[inline]
fn owns(owned: &SlotSet, scope: Scope<'_>) -> bool {
    match scope {
        Scope::Key(slot, _) => owned.contains(slot) || is_on(Mutation::ReadUnowned),
        Scope::Shard => true,
    }
}

/// Returns the slots to which a read must be limited, if the file may contain rows of other slots.
fn foreign_filter<'o>(owned: &'o OwnedSlots, scope: Scope<'_>) -> Option<&'o Arc<SlotSet>> {
    let is_limited = owned.has_foreign && !is_on(Mutation::ReadUnowned);
    (!scope.is_keyed() && is_limited).then_some(&owned.set)
}

/// Returns the slots that a scan covers; `None` for a read of one key.
fn covered_slots(owned: &OwnedSlots, scope: Scope<'_>) -> Option<Arc<SlotSet>> {
    (!scope.is_keyed()).then(|| Arc::clone(&owned.set))
}
