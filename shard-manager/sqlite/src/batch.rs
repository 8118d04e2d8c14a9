//! Batch: one write transaction on a shard's file, while it is in progress.
//!
//! A batch checks that this shard accepts writes of the slots, applies the changes, stores the
//! results of writes with an idempotency key, appends the changed rows to the change log, and
//! updates the counters. If SQLite refuses a statement, it undoes that statement only, so a bad
//! change does not affect the other changes of the batch.
//!
//! **Not here:** repeated changes (`idempotency`), reading and writing rows (`stored_rows`),
//! beginning and committing the transaction (`writer`).

mod idempotency;
mod stored_rows;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::WriteGroup;
use engine::atomic_group::{reason_to_undo, undone_error};
use engine::row_image::{self, ServerColumns, push_row};
use engine::system_tables::tessera_shard;
use model::error::Error;
use model::row_change::{Change, IMAGES_BYTES_MAX, Operation, RowDone, RowWrite};
use model::sabotage::{Mutation, is_on};
use model::slot_refusal::SlotRefusal;
use model::value::{Value, format_timestamp};

use super::connection::{Bind, DbErrorKind, PreparedShapes, Statement};
use super::{index_ddl, log, sql};
use stored_rows::StoredRows;

/// The two counters of a shard, which only grow: the last assigned row version, and the position of
/// the last log entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) version: i64,
    pub(super) position: i64,
}

impl Counters {
    pub(super) fn load(connection: &mut SqliteConnection) -> QueryResult<Self> {
        let row = tessera_shard::table.select((tessera_shard::version, tessera_shard::position));
        let (version, position) = row.first(connection)?;
        Ok(Self { version, position })
    }
}

/// A transaction in progress.
pub(super) struct Batch<'t> {
    rows: StoredRows<'t>,
    counters: Counters,
    /// Time at which the batch began; `now` is the same time as a string.
    began: DateTime<Utc>,
    now: String,
    log: Vec<u8>,
    rows_added: BTreeMap<String, i64>,
    /// True if the last row that was looked up did not exist. The next row is then probably new as
    /// well, so an insert is tried first, without a lookup.
    expects_new: bool,
}

/// Effects of a batch, if it is committed.
pub(super) struct Applied {
    pub(super) rows: Vec<Result<RowDone, Error>>,
    pub(super) counters: Counters,
    /// Number of bytes that the batch appended to the log.
    pub(super) logged: u64,
}

impl<'t> Batch<'t> {
    pub(super) fn new(
        connection: &'t mut SqliteConnection,
        counters: Counters,
        shapes: &'t mut PreparedShapes,
    ) -> Self {
        let began = Utc::now();
        let now = format_timestamp(began);
        let (log, rows_added) = (Vec::new(), BTreeMap::new());
        let rows = StoredRows { connection, shapes };
        Self { rows, counters, began, now, log, rows_added, expects_new: false }
    }

    /// Applies the groups in order. The changed rows and the returned rows together must not exceed
    /// [`IMAGES_BYTES_MAX`]. A larger batch is aborted so that it can be split, unless it consists
    /// of a single change or of one atomic group; an atomic group that is too large by itself is
    /// refused.
    pub(super) fn run(mut self, groups: &[WriteGroup<'_>]) -> QueryResult<Applied> {
        let refused = self.rows.refused_slots(groups, (self.began, &self.now))?;
        let count: usize = groups.iter().map(|group| group.rows.len()).sum();
        let mut rows = Vec::with_capacity(count);
        let mut answered = 0;
        for group in groups {
            if let Some(places) = group.atomic_rows.filter(|_| !is_on(Mutation::TornTransaction)) {
                let done = self.apply_atomic(group.rows, places, &refused)?;
                answered += done.iter().map(answered_bytes).sum::<usize>();
                rows.extend(done);
                if self.log.len() + answered > IMAGES_BYTES_MAX && groups.len() > 1 {
                    return Err(DieselError::RollbackTransaction);
                }
                continue;
            }
            for change in group.rows {
                let row = self.apply_accepted(change, &refused)?;
                answered += answered_bytes(&row);
                rows.push(row);
                if self.log.len() + answered > IMAGES_BYTES_MAX && count > 1 {
                    return Err(DieselError::RollbackTransaction);
                }
            }
        }
        if !self.log.is_empty() {
            self.append_log_and_counters()?;
        }
        Ok(Applied { rows, counters: self.counters, logged: self.log.len() as u64 })
    }

    /// Applies all of these changes or none: after a failure, all are undone, and each reports that
    /// it was undone. If one of their slots accepts no writes, no change is tried at all, because
    /// the failure of another change could otherwise be recorded under an idempotency key in that
    /// slot.
    fn apply_atomic(
        &mut self,
        changes: &[RowWrite],
        places: &[usize],
        refused_slots: &BTreeMap<u16, SlotRefusal>,
    ) -> QueryResult<Vec<Result<RowDone, Error>>> {
        self.rows.connection.batch_execute("SAVEPOINT whole")?;
        let (counters, logged, added) = (self.counters, self.log.len(), self.rows_added.clone());
        let mut done = Vec::with_capacity(changes.len());
        let mut answered = 0;
        let mut refused = changes.iter().enumerate().find_map(|(at, change)| {
            let refusal = refused_slots.get(&change.slot.number())?;
            Some((at, Error::SlotRefused(*refusal)))
        });
        let tried = if refused.is_none() { changes } else { &[] };
        for (at, change) in tried.iter().enumerate() {
            let row = self.apply_accepted(change, refused_slots)?;
            answered += answered_bytes(&row);
            if let Some(error) = reason_to_undo(&row, self.log.len() - logged + answered) {
                refused = Some((at, error));
                break;
            }
            done.push(row);
        }
        let Some((culprit, error)) = refused else {
            self.rows.connection.batch_execute("RELEASE whole")?;
            return Ok(done);
        };
        self.rows.connection.batch_execute("ROLLBACK TO whole; RELEASE whole")?;
        self.counters = counters;
        self.log.truncate(logged);
        self.rows_added = added;
        let verdict = |at: usize| undone_error(&error, at == culprit, places[culprit]);
        let numbered = changes.iter().enumerate();
        numbered.map(|(at, change)| self.undone(change, verdict(at))).collect()
    }

    /// Returns the result of a change that was undone. If its idempotency key was used before, that
    /// is the stored result of the first request.
    fn undone(&mut self, change: &RowWrite, error: Error) -> QueryResult<Result<RowDone, Error>> {
        if let Some(answer) = self.replayed(change)? {
            return Ok(answer);
        }
        let outcome = Err(error);
        self.remember(change, &outcome)?;
        Ok(outcome)
    }

    /// Applies a change, unless this shard accepts no writes of its slot, or a result is already
    /// stored under its idempotency key.
    fn apply_accepted(
        &mut self,
        change: &RowWrite,
        refused: &BTreeMap<u16, SlotRefusal>,
    ) -> QueryResult<Result<RowDone, Error>> {
        if let Some(refusal) = refused.get(&change.slot.number()) {
            return Ok(Err(Error::SlotRefused(*refusal)));
        }
        if let Some(answer) = self.replayed(change)? {
            return Ok(answer);
        }
        let mut outcome = self.apply(change)?;
        self.remember(change, &outcome)?;
        if let (Ok(done), false) = (&mut outcome, change.wants_row) {
            done.json = Vec::new();
        }
        Ok(outcome)
    }

    fn apply(&mut self, change: &RowWrite) -> QueryResult<Result<RowDone, Error>> {
        if self.expects_new
            && change.precondition.is_none()
            && matches!(change.operation, Operation::Upsert | Operation::Insert)
            && change.missing().is_none()
        {
            let image = row_image::new_row(change, &self.server_columns());
            match self.rows.insert(change, &image, true) {
                Ok(0) => self.expects_new = false,
                Ok(_) => return Ok(Ok(self.finish(change, Change::Created, &image))),
                // The row may already exist, and the conflict may be with that row itself, so the
                // row is looked up below.
                Err(error) if DbErrorKind::of(&error) == DbErrorKind::Constraint("unique") => {
                    self.expects_new = false;
                }
                Err(error) => return self.refusal(error),
            }
        }
        let current = self.rows.current(change)?;
        self.expects_new = current.is_none();
        let kind = match row_image::outcome(change, current.as_deref()) {
            Ok(kind) => kind,
            Err(refused) => return Ok(Err(refused)),
        };
        let image = match (kind, current) {
            (Change::Removed, Some(row)) => row,
            (Change::Changed, Some(row)) => {
                match row_image::merged_row(change, row, &self.server_columns()) {
                    Ok(row) => row,
                    Err(refused) => return Ok(Err(refused)),
                }
            }
            (Change::Created | Change::Changed | Change::Removed, _) => {
                row_image::new_row(change, &self.server_columns())
            }
        };
        let ran = match kind {
            Change::Created => self.rows.insert(change, &image, false).map(drop),
            Change::Changed => self.rows.update(change, &image),
            Change::Removed => self.rows.remove(change),
        };
        match ran {
            Ok(()) => Ok(Ok(self.finish(change, kind, &image))),
            Err(error) => self.refusal(error),
        }
    }

    /// Converts the violation of a constraint to the result of one change. Any other error fails
    /// the whole batch.
    fn refusal(&mut self, error: DieselError) -> QueryResult<Result<RowDone, Error>> {
        let DbErrorKind::Constraint(rule) = DbErrorKind::of(&error) else { return Err(error) };
        if let ("unique", DieselError::DatabaseError(_, information)) = (rule, &error) {
            let connection = &mut *self.rows.connection;
            let index = index_ddl::broken_unique(connection, information.message())?;
            if let Some(index) = index {
                return Ok(Err(Error::NotUnique { index }));
            }
        }
        Ok(Err(Error::Constraint { rule }))
    }

    /// Adds an applied change to the log and to the counts, and returns its result.
    fn finish(&mut self, change: &RowWrite, kind: Change, image: &[Value]) -> RowDone {
        let mut json = Vec::new();
        if kind != Change::Removed || change.wants_row || change.idempotency_key.is_some() {
            json.reserve(256);
            push_row(&mut json, &change.table, image);
        }
        let done = RowDone { change: kind, version: 0, json, replayed: false };
        self.note(change, done)
    }

    fn server_columns(&self) -> ServerColumns<'_> {
        ServerColumns { version: self.counters.version + 1, now: &self.now }
    }

    /// Assigns a version to an applied change, appends its line to the log, and updates the number
    /// of rows.
    fn note(&mut self, change: &RowWrite, mut done: RowDone) -> RowDone {
        self.counters.version += 1;
        let restarts = is_on(Mutation::VersionFromOne) && done.change == Change::Created;
        done.version = if restarts { 1 } else { self.counters.version };
        log::push_line(&mut self.log, change, &done);
        let added = done.change.rows_added();
        if added != 0 {
            match self.rows_added.get_mut(change.table.name()) {
                Some(sum) => *sum += added,
                None => drop(self.rows_added.insert(change.table.name().to_owned(), added)),
            }
        }
        done
    }

    fn append_log_and_counters(&mut self) -> QueryResult<()> {
        self.counters.position += 1;
        let Counters { version, position } = self.counters;
        let at = [Bind::Int(position), Bind::Text(&self.now), Bind::Blob(&self.log)];
        run(self.rows.connection, sql::APPEND_LOG, &at)?;
        run(self.rows.connection, sql::SET_COUNTERS, &[Bind::Int(version), Bind::Int(position)])?;
        add_rows(self.rows.connection, &self.rows_added)
    }
}

/// Adds these numbers to the stored row counts of the tables.
pub(super) fn add_rows(
    connection: &mut SqliteConnection,
    rows_added: &BTreeMap<String, i64>,
) -> QueryResult<()> {
    for (table, added) in rows_added.iter().filter(|(_, added)| **added != 0) {
        run(connection, sql::ADD_ROWS, &[Bind::Text(table), Bind::Int(*added)])?;
    }
    Ok(())
}

/// Executes an SQL statement that is kept prepared, because the same SQL is used often.
pub(super) fn run(
    connection: &mut SqliteConnection,
    sql: &str,
    binds: &[Bind<'_>],
) -> QueryResult<()> {
    Statement { sql, binds, cached: true }.execute(connection).map(drop)
}

fn answered_bytes(row: &Result<RowDone, Error>) -> usize {
    row.as_ref().map_or(0, |row| row.json.len())
}
