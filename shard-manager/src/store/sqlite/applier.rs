//! Applier: replays a primary's change log on the file of a replica, in order, each entry once.
//!
//! The position that was reached is stored in the transaction that holds the rows: so after any crash the
//! replica goes on exactly where it stands. Transactions are synced only when someone asks for it; without a
//! sync a loss of power may take the last ones back, position and all, and they are replayed again. The log
//! keeps them until they are synced.
//!
//! **Invariant:** the rows of a replica are those that its primary had at the replica's position.
//! **Not here:** when to apply, and what follows from failures (`replica`).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;

use super::batch::{Counters, add_rows, run};
use super::connection::{Bind, OpenError, Trouble, open};
use super::log::{self, Entry, Line};
use super::{ddl, shard_file, sql, timeline};
use crate::idempotency;
use crate::row_change::Change;
use crate::sabotage::{Mutation, is_on};
use crate::store::SchemaChange;
use crate::table::Table;

/// Little cache: a replica's writes are spread over its file anyway.
const REPLICA_PRAGMAS: &str = "PRAGMA cache_size=-4096";
const LOG_PRAGMAS: &str = "PRAGMA cache_size=-512; PRAGMA query_only=ON";

/// The two ends of a replication.
pub struct Applier {
    log: SqliteConnection,
    replica: SqliteConnection,
    tables: HashMap<String, Replayed>,
    timeline: u32,
    version: i64,
    position: u64,
    /// Beyond this nothing is applied.
    until: u64,
    /// Whether the connection syncs its commits now.
    syncs: bool,
}

/// A table and the statements that replay its changes.
struct Replayed {
    table: Arc<Table>,
    replace: String,
    remove: String,
}

impl Replayed {
    fn of(table: &Arc<Table>) -> Self {
        let (replace, remove) = (sql::replace(table), sql::remove(table));
        Self { table: Arc::clone(table), replace, remove }
    }
}

/// Why an applier cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The log does not go on where the replica stands: it was trimmed beyond.
    #[error("the change log does not go on where the copy stands")]
    LogTrimmed,
    /// The primary's file cannot be read.
    #[error("the primary cannot be read: {0}")]
    Primary(DieselError),
    /// The replica has no room for it.
    #[error("there is no room: {0}")]
    Full(DieselError),
    /// The replica's file is not well, or not what it should be.
    #[error("the copy is damaged: {0}")]
    Damaged(DieselError),
    /// The replica does not take it, for another reason.
    #[error("the copy cannot be written: {0}")]
    Replica(DieselError),
}

impl Applier {
    /// Opens both ends. The replica's file must have been made.
    ///
    /// # Errors
    /// [`OpenError`] if one of the files cannot be used.
    pub fn open(primary: &Path, replica: &Path, current: u32) -> Result<Self, OpenError> {
        let mut log = open(primary, LOG_PRAGMAS)?;
        let mut connection = open(replica, REPLICA_PRAGMAS)?;
        let told = |error| OpenError::file(replica, error);
        timeline::copy(&mut log, &mut connection).map_err(told)?;
        let Counters { version, position } = Counters::load(&mut connection).map_err(told)?;
        // What the replica's own file has: it learns of new tables as it learns of rows.
        let known = shard_file::read_tables(&mut connection, replica)?;
        let tables = known.tables().chain([&*idempotency::TABLE]);
        let tables = tables.map(|table| (table.name().to_owned(), Replayed::of(table))).collect();
        let (replica, timeline) = (connection, current);
        let position = position as u64;
        Ok(Self { log, replica, tables, timeline, version, position, until: u64::MAX, syncs: true })
    }

    /// Up to where the replica has the primary's changes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Up to where the primary is.
    ///
    /// # Errors
    /// [`ApplyError::Primary`] if its file cannot be read.
    pub fn primary_position(&mut self) -> Result<u64, ApplyError> {
        timeline::position(&mut self.log).map(|found| found.sequence).map_err(ApplyError::Primary)
    }

    /// Applies nothing beyond a position from now on.
    pub fn stop_after(&mut self, position: u64) {
        self.until = position;
    }

    /// Applies the next entries of the log in one transaction, at most up to those made at `not_after`, and
    /// tells whether there were any. `before_commit` learns the new position before it can be seen.
    ///
    /// # Errors
    /// [`ApplyError`]; nothing of the transaction is kept then.
    pub fn step(
        &mut self,
        sync: bool,
        not_after: Option<&str>,
        before_commit: impl FnOnce(u64),
    ) -> Result<bool, ApplyError> {
        if self.position >= self.until {
            return Ok(false);
        }
        let entries = log::read_after(&mut self.log, self.position, not_after);
        let mut entries = entries.map_err(ApplyError::Primary)?;
        entries.retain(|entry| entry.position <= self.until);
        let change = change_of_tables(&mut entries).map_err(ApplyError::replica)?;
        let Some(last) = entries.last().map(|entry| entry.position) else {
            return if self.is_behind_the_log()? { Err(ApplyError::LogTrimmed) } else { Ok(false) };
        };
        if entries[0].position != self.position + 1 {
            return Err(ApplyError::LogTrimmed);
        }
        self.set_sync(sync).map_err(ApplyError::replica)?;
        let Self { replica, tables, timeline, version, .. } = self;
        // What failed inside is kept aside: SQLite may have rolled back by itself, and then diesel reports its
        // own rollback that found nothing to undo.
        let mut cause = None;
        let applied = replica.immediate_transaction(|connection| {
            let replayed = match &change {
                Some(change) => ddl::apply(connection, change, last as i64).map(|_| *version),
                None => replay(connection, (tables, *version), &entries),
            };
            let replayed = replayed.and_then(|version| {
                let timeline = i64::from(*timeline);
                let at = [Bind::Int(version), Bind::Int(last as i64), Bind::Int(timeline)];
                run(connection, sql::SET_REPLICA, &at).map(|()| version)
            });
            let version = replayed.inspect_err(|error| cause = Some(ApplyError::meaning(error)))?;
            before_commit(last);
            Ok::<_, DieselError>(version)
        });
        self.version = applied.map_err(|error| match cause {
            Some(meaning) => meaning(error),
            None => ApplyError::replica(error),
        })?;
        self.position = last;
        if let Some(change) = change {
            self.learn(&change);
        }
        Ok(true)
    }

    /// Takes note of a change of the tables that is committed.
    fn learn(&mut self, change: &SchemaChange) {
        let name = change.table().name();
        match change {
            SchemaChange::Make(table) => {
                drop(self.tables.insert(name.to_owned(), Replayed::of(table)))
            }
            SchemaChange::Drop(_) => drop(self.tables.remove(name)),
        }
    }

    /// Syncs what was applied without a sync.
    ///
    /// # Errors
    /// [`ApplyError`] of the replica.
    pub fn sync(&mut self) -> Result<(), ApplyError> {
        self.set_sync(true).map_err(ApplyError::replica)?;
        // A commit syncs the WAL as a whole, whatever little it adds to it; but it must add something.
        run(&mut self.replica, sql::COUNT_SYNC, &[]).map_err(ApplyError::replica)
    }

    /// Folds the WAL into the file, for a tidy end. Best effort.
    pub fn close(mut self) {
        let _ = self.sync();
        let _ = self.replica.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)");
    }

    fn set_sync(&mut self, sync: bool) -> QueryResult<()> {
        if self.syncs != sync {
            let level = if sync { "PRAGMA synchronous=FULL" } else { "PRAGMA synchronous=NORMAL" };
            self.replica.batch_execute(level)?;
            self.syncs = sync;
        }
        Ok(())
    }

    /// Whether nothing follows only because all that followed was trimmed.
    fn is_behind_the_log(&mut self) -> Result<bool, ApplyError> {
        let primary = timeline::position(&mut self.log).map_err(ApplyError::Primary)?;
        let empty = log::is_empty(&mut self.log).map_err(ApplyError::Primary)?;
        Ok(empty && primary.sequence > self.position)
    }
}

impl ApplyError {
    fn replica(error: DieselError) -> Self {
        Self::meaning(&error)(error)
    }

    /// What an error of the replica means.
    fn meaning(error: &DieselError) -> fn(DieselError) -> Self {
        let unfit = matches!(error, DieselError::DeserializationError(_) | DieselError::NotFound);
        match Trouble::of(error) {
            Trouble::Full => Self::Full,
            // The log tells what the rows became: it can break no rule that the primary kept.
            Trouble::Broken | Trouble::Constraint(_) => Self::Damaged,
            // Nor tell of a table or a column that a copy of the primary would not have.
            Trouble::Other if unfit => Self::Damaged,
            Trouble::Other => Self::Replica,
        }
    }
}

/// A change of the tables is a transaction of its own, so that it is learned exactly if it is kept: leaves the
/// entries before the next one, or that one alone.
fn change_of_tables(entries: &mut Vec<Entry>) -> QueryResult<Option<SchemaChange>> {
    for index in 0..entries.len() {
        if let Some(change) = ddl::logged(&entries[index].changes)? {
            entries.truncate(index.max(1));
            return Ok((index == 0).then_some(change));
        }
    }
    Ok(None)
}

/// Replays entries, and tells the highest version of the rows.
fn replay(
    connection: &mut SqliteConnection,
    (tables, version): (&HashMap<String, Replayed>, i64),
    entries: &[Entry],
) -> QueryResult<i64> {
    let mut replay = Replay { connection, tables, version, added: BTreeMap::new() };
    entries.iter().try_for_each(|entry| replay.entry(entry))?;
    let Replay { connection, version, added, .. } = replay;
    add_rows(connection, &added).map(|()| version)
}

/// One transaction on the replica while it runs.
struct Replay<'r> {
    connection: &'r mut SqliteConnection,
    tables: &'r HashMap<String, Replayed>,
    version: i64,
    added: BTreeMap<String, i64>,
}

impl Replay<'_> {
    fn entry(&mut self, entry: &Entry) -> QueryResult<()> {
        log::lines(&entry.changes).try_for_each(|line| self.line(&Line::parse(line)?))
    }

    fn line(&mut self, line: &Line<'_>) -> QueryResult<()> {
        let replayed = self.tables.get(&*line.table).ok_or(DieselError::NotFound)?;
        let table = &replayed.table;
        let values = line.values(table)?;
        let mut binds = Vec::with_capacity(values.len() + 2);
        binds.extend([Bind::Int(i64::from(line.slot)), Bind::Text(&line.key)]);
        if line.change == Change::Removed {
            binds.extend(values.iter().map(Bind::from));
            if !is_on(Mutation::Resurrect) {
                run(self.connection, &replayed.remove, &binds)?;
            }
            self.version = self.version.max(line.version);
        } else {
            binds.extend(values.iter().map(Bind::from));
            run(self.connection, &replayed.replace, &binds)?;
            if let Bind::Int(version) = binds[table.version()] {
                self.version = self.version.max(version);
            }
        }
        let added = line.change.rows_added();
        if added != 0 {
            match self.added.get_mut(&*line.table) {
                Some(sum) => *sum += added,
                None => drop(self.added.insert(line.table.to_string(), added)),
            }
        }
        Ok(())
    }
}
