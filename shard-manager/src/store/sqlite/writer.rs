//! Writer: applies batches of changes to a shard's file, each batch one durable transaction.
//!
//! In that transaction it checks that the slots are owned here, applies the changes, appends what the
//! rows became to the change log, and keeps the counters. A statement that SQLite refuses is undone by
//! SQLite alone, so a bad change does not hurt its neighbours.
//!
//! **Invariant:** the counters in memory equal those in the file whenever no transaction runs.
//! **Not here:** who waits for a batch (`lane`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::Utc;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;

use super::connection::{Bind, OpenError, Shapes, Statement, Trouble, for_each_row, open};
use super::row_json::push_object;
use super::schema::tessera_shard;
use super::sql;
use crate::error::{Error, Outcome};
use crate::row::{Operation, RowWrite};
use crate::store::{BatchFailure, Change, RowDone, Writer};
use crate::table::Table;
use crate::value::{format_timestamp, push_json_number, push_json_string};

/// 8 MiB of page cache: the inner pages of the trees of a few million rows.
const PRAGMAS: &str = "PRAGMA cache_size=-8192";

/// The one writing connection to a shard's file.
pub struct SqliteWriter {
    shard: String,
    path: PathBuf,
    /// `None` after a failure that may have left the connection in doubt: opened anew by the next batch.
    connection: Option<SqliteConnection>,
    counters: Counters,
    shapes: Shapes,
}

/// What only grows: versions of rows, positions in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters {
    version: i64,
    position: i64,
}

impl SqliteWriter {
    /// Opens the writing connection to the file of a shard.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be opened or lacks its counters.
    pub fn open(shard: &str, path: &Path) -> Result<Self, OpenError> {
        let mut connection = open(path, PRAGMAS)?;
        let counters = Counters::load(&mut connection).map_err(|e| OpenError::file(path, e))?;
        Ok(Self {
            shard: shard.to_owned(),
            path: path.to_owned(),
            connection: Some(connection),
            counters,
            shapes: Shapes::default(),
        })
    }

    fn reopen(&mut self) -> Result<SqliteConnection, BatchFailure> {
        let reopened = Self::open(&self.shard, &self.path).map_err(|error| {
            tracing::error!(shard = %self.shard, %error, "the shard's file cannot be opened again");
            BatchFailure {
                error: Error::ShardUnavailable { shard: self.shard.clone() },
                outcome: Outcome::Rejected,
                divisible: false,
            }
        })?;
        self.counters = reopened.counters;
        self.shapes = reopened.shapes;
        Ok(reopened.connection.expect("open() always connects"))
    }

    /// Before COMMIT was sent nothing can have been stored. After it, only "disk full" is certain.
    fn failure(&self, trouble: &Trouble, committing: bool) -> BatchFailure {
        let certain = !committing || *trouble == Trouble::Full;
        BatchFailure {
            error: match trouble {
                // A row's own is answered in its place; one that comes here is of our books.
                Trouble::Constraint(_) => Error::Internal,
                Trouble::Full | Trouble::Broken | Trouble::Other => trouble.error(&self.shard),
            },
            outcome: if certain { Outcome::Rejected } else { Outcome::Unknown },
            divisible: !committing && *trouble == Trouble::Other,
        }
    }
}

impl Writer for SqliteWriter {
    fn apply(
        &mut self,
        changes: &[&RowWrite],
    ) -> Result<Vec<Result<RowDone, Error>>, BatchFailure> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.reopen()?,
        };
        // What failed inside is kept aside: SQLite may have rolled back by itself, and then diesel reports
        // its own rollback that found nothing to undo.
        let (mut committing, mut cause) = (false, None);
        let mut after = self.counters;
        let applied = connection.immediate_transaction(|connection| {
            let mut batch = Batch::new(connection, after, &mut self.shapes);
            let results =
                batch.run(changes).inspect_err(|error| cause = Some(Trouble::of(error)))?;
            after = batch.counters;
            committing = true;
            Ok::<_, DieselError>(results)
        });
        match applied {
            Ok(results) => {
                self.counters = after;
                self.connection = Some(connection);
                Ok(results)
            }
            Err(error) => {
                let trouble = cause.unwrap_or_else(|| Trouble::of(&error));
                tracing::error!(shard = %self.shard, %error, ?trouble, committing, "a batch failed");
                Err(self.failure(&trouble, committing))
            }
        }
    }

    fn close(&mut self) {
        if let Some(connection) = &mut self.connection {
            // Best effort: what the WAL keeps is as durable as what the file keeps.
            let _ = connection.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)");
        }
        self.connection = None;
    }
}

impl Counters {
    fn load(connection: &mut SqliteConnection) -> QueryResult<Self> {
        let row = tessera_shard::table.select((tessera_shard::version, tessera_shard::position));
        let (version, position) = row.first(connection)?;
        Ok(Self { version, position })
    }
}

/// One transaction while it runs.
struct Batch<'t> {
    connection: &'t mut SqliteConnection,
    shapes: &'t mut Shapes,
    counters: Counters,
    now: String,
    log: Vec<u8>,
    rows_added: BTreeMap<String, i64>,
}

impl<'t> Batch<'t> {
    fn new(
        connection: &'t mut SqliteConnection,
        counters: Counters,
        shapes: &'t mut Shapes,
    ) -> Self {
        let now = format_timestamp(Utc::now());
        Self { connection, shapes, counters, now, log: Vec::new(), rows_added: BTreeMap::new() }
    }

    fn run(&mut self, changes: &[&RowWrite]) -> QueryResult<Vec<Result<RowDone, Error>>> {
        let foreign = self.slots_not_owned(changes)?;
        let mut results = Vec::with_capacity(changes.len());
        for change in changes {
            results.push(if foreign.contains(&i64::from(change.slot.number())) {
                Err(Error::SlotNotOwned)
            } else {
                self.apply(change)?
            });
        }
        if !self.log.is_empty() {
            self.keep_books()?;
        }
        Ok(results)
    }

    /// The database decides who owns a slot, inside the transaction that writes to it.
    fn slots_not_owned(&mut self, changes: &[&RowWrite]) -> QueryResult<BTreeSet<i64>> {
        let mut slots = Vec::with_capacity(changes.len() * 6);
        for change in changes {
            slots.push(if slots.is_empty() { b'[' } else { b',' });
            push_json_number(&mut slots, change.slot.number());
        }
        slots.push(b']');
        let slots = String::from_utf8(slots).expect("digits, commas and brackets are ASCII");
        let binds = [Bind::Text(&slots), Bind::Text(&self.now)];
        let statement = Statement { sql: sql::SLOTS_NOT_OWNED, binds: &binds, cached: true };
        let mut foreign = BTreeSet::new();
        for_each_row(self.connection, statement, |row| {
            foreign.extend(row.int(0));
            Ok(())
        })?;
        Ok(foreign)
    }

    fn apply(&mut self, change: &RowWrite) -> QueryResult<Result<RowDone, Error>> {
        let applied = match change.operation {
            Operation::Upsert => match self.update(change)? {
                Err(Error::NoSuchRow) => self.insert(change)?,
                done => done,
            },
            Operation::Insert => self.insert(change)?,
            Operation::Update => self.update(change)?,
            Operation::Delete => self.delete(change)?,
        };
        Ok(applied.map(|done| self.note(change, done)))
    }

    fn update(&mut self, change: &RowWrite) -> QueryResult<Result<RowDone, Error>> {
        let set: Vec<usize> = change.set.iter().map(|(column, _)| *column).collect();
        let now = std::mem::take(&mut self.now);
        let mut binds: Vec<Bind<'_>> = change.set.iter().map(|(_, value)| value.into()).collect();
        binds.extend([Bind::Int(self.counters.version + 1), Bind::Text(&now)]);
        push_row_binds(&mut binds, change);
        let applied = self.execute(change, &sql::update(&change.table, &set), &binds);
        self.now = now;
        Ok(done(applied?, Change::Changed, Error::NoSuchRow))
    }

    fn insert(&mut self, change: &RowWrite) -> QueryResult<Result<RowDone, Error>> {
        if let Some(column) = change.missing() {
            let (table, column) = (change.table.name().to_owned(), column.to_owned());
            return Ok(Err(crate::row::RowError::MissingColumn { table, column }.into()));
        }
        let set: Vec<usize> = change.set.iter().map(|(column, _)| *column).collect();
        let now = std::mem::take(&mut self.now);
        let mut binds = Vec::with_capacity(change.set.len() + change.id.len() + 5);
        push_row_binds(&mut binds, change);
        binds.extend(change.set.iter().map(|(_, value)| Bind::from(value)));
        let version = Bind::Int(self.counters.version + 1);
        binds.extend([version, Bind::Text(&now), Bind::Text(&now)]);
        let applied = self.execute(change, &sql::insert(&change.table, &set), &binds);
        self.now = now;
        Ok(done(applied?, Change::Created, Error::Exists))
    }

    fn delete(&mut self, change: &RowWrite) -> QueryResult<Result<RowDone, Error>> {
        let mut binds = Vec::with_capacity(change.id.len() + 2);
        push_row_binds(&mut binds, change);
        let applied = self.execute(change, &sql::delete(&change.table), &binds)?;
        Ok(done(applied, Change::Removed, Error::NoSuchRow))
    }

    /// Runs a statement that returns the row it touched. A constraint is an answer, not a failure.
    fn execute(
        &mut self,
        change: &RowWrite,
        sql: &str,
        binds: &[Bind<'_>],
    ) -> QueryResult<Result<Option<Vec<u8>>, Error>> {
        let statement = Statement { sql, binds, cached: self.shapes.admit(sql) };
        let table = &change.table;
        let mut json = None;
        let ran = for_each_row(self.connection, statement, |row| {
            let columns = table.answered().map(|index| table.column(index));
            let mut object = Vec::with_capacity(256);
            push_object(&mut object, row, columns.map(|column| (&*column.name, column.kind)))?;
            json = Some(object);
            Ok(())
        });
        match ran {
            Ok(()) => Ok(Ok(json)),
            Err(error) => match Trouble::of(&error) {
                Trouble::Constraint(rule) => Ok(Err(Error::Constraint { rule })),
                Trouble::Full | Trouble::Broken | Trouble::Other => Err(error),
            },
        }
    }

    /// Notes an applied change: version, log, number of rows.
    fn note(&mut self, change: &RowWrite, mut done: RowDone) -> RowDone {
        self.counters.version += 1;
        done.version = self.counters.version;
        push_log_line(&mut self.log, change, &done);
        let added = match done.change {
            Change::Created => 1,
            Change::Changed => 0,
            Change::Removed => -1,
        };
        if added != 0 {
            match self.rows_added.get_mut(change.table.name()) {
                Some(sum) => *sum += added,
                None => drop(self.rows_added.insert(change.table.name().to_owned(), added)),
            }
        }
        if !change.wants_row {
            done.json = Vec::new();
        }
        done
    }

    fn keep_books(&mut self) -> QueryResult<()> {
        self.counters.position += 1;
        let Counters { version, position } = self.counters;
        let at = [Bind::Int(position), Bind::Text(&self.now), Bind::Blob(&self.log)];
        run(self.connection, sql::APPEND_LOG, &at)?;
        run(self.connection, sql::SET_COUNTERS, &[Bind::Int(version), Bind::Int(position)])?;
        for (table, added) in self.rows_added.iter().filter(|(_, added)| **added != 0) {
            run(self.connection, sql::ADD_ROWS, &[Bind::Text(table), Bind::Int(*added)])?;
        }
        Ok(())
    }
}

fn run(connection: &mut SqliteConnection, sql: &str, binds: &[Bind<'_>]) -> QueryResult<()> {
    Statement { sql, binds, cached: true }.execute(connection).map(drop)
}

fn push_row_binds<'c>(binds: &mut Vec<Bind<'c>>, change: &'c RowWrite) {
    binds.extend([Bind::Int(i64::from(change.slot.number())), Bind::Text(&change.key)]);
    binds.extend(change.id.iter().map(Bind::from));
}

fn done(
    applied: Result<Option<Vec<u8>>, Error>,
    change: Change,
    untouched: Error,
) -> Result<RowDone, Error> {
    let json = applied?.ok_or(untouched)?;
    Ok(RowDone { change, version: 0, json })
}

/// `{"table":…,"slot":…,"key":…,"row":{…}}`, or `"removed":{…},"version":…` for a removal. After-images
/// only: to replay them needs no clock and no condition.
fn push_log_line(log: &mut Vec<u8>, change: &RowWrite, done: &RowDone) {
    let table: &Table = &change.table;
    log.extend_from_slice(b"{\"table\":\"");
    log.extend_from_slice(table.name().as_bytes());
    log.extend_from_slice(b"\",\"slot\":");
    push_json_number(log, change.slot.number());
    log.extend_from_slice(b",\"key\":");
    push_json_string(log, &change.key);
    match done.change {
        Change::Created | Change::Changed => log.extend_from_slice(b",\"row\":"),
        Change::Removed => {
            log.extend_from_slice(b",\"version\":");
            push_json_number(log, done.version);
            log.extend_from_slice(b",\"removed\":");
        }
    }
    log.extend_from_slice(&done.json);
    log.extend_from_slice(b"}\n");
}
