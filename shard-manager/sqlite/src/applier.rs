//! Applier: replays a primary's change log on the file of a replica, in order.
//!
//! The position is stored in the same transaction as the rows, so after any crash the replica
//! continues exactly where its rows end. Transactions are synced to disk only on request. A power
//! loss may therefore undo the last transactions together with their position, and their entries
//! are replayed. For this purpose the primary's log keeps each entry until the replica has synced
//! it, up to a maximum size of the log. A replica whose next entry is gone is rebuilt.
//!
//! **Invariant:** the rows of a replica are those that its primary had at the replica's position.
//! **Not here:** deciding when to apply entries, and the consequences of failures (`replica`).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::SchemaChange;
use model::idempotency;
use model::row_change::Change;
use model::sabotage::{Mutation, is_on};
use model::table::Table;

use super::batch::{Counters, add_rows, run};
use super::connection::{Bind, DbErrorKind, OpenError, open};
use super::log::{self, Entry, Line};
use super::move_line::{self, MoveLine};
use super::owned_slots::{OwnedSlots, SlotOwnership};
use super::replayed_table::ReplayedTable;
use super::slot_line::{self, SlotLine};
use super::{ddl, index_ddl, move_entry, shard_file, slot_change, sql, timeline};

/// Small page cache, because a replica's writes are spread over its file and a larger cache would
/// not help.
const REPLICA_PRAGMAS: &str = "PRAGMA cache_size=-4096";
const LOG_PRAGMAS: &str = "PRAGMA cache_size=-512; PRAGMA query_only=ON";

/// Connections to the files of the primary and the replica, and the state of the replay.
pub struct Applier {
    log: SqliteConnection,
    replica: SqliteConnection,
    tables: HashMap<String, ReplayedTable>,
    ownership: Arc<SlotOwnership>,
    timeline: u32,
    version: i64,
    position: u64,
    /// Last position to apply; later entries are ignored.
    until: u64,
    /// True if the connection to the replica currently syncs its commits.
    syncs: bool,
}

/// Reason why an applier cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The log was trimmed beyond the position of the replica.
    #[error("the change log does not continue from the position of the copy")]
    LogTrimmed,
    /// The primary's file cannot be read.
    #[error("the primary cannot be read: {0}")]
    Primary(DieselError),
    /// The disk of the replica is full.
    #[error("the disk is full: {0}")]
    Full(DieselError),
    /// The file of the replica is damaged or has wrong contents.
    #[error("the copy is damaged: {0}")]
    Damaged(DieselError),
    /// The replica cannot be written for another reason.
    #[error("the copy cannot be written: {0}")]
    Replica(DieselError),
}

impl Applier {
    /// Opens both files. The replica's file must exist.
    ///
    /// # Errors
    /// [`OpenError`] if one of the files cannot be used.
    pub fn open(primary: &Path, replica: &Path, current: u32) -> Result<Self, OpenError> {
        let mut log = open(primary, LOG_PRAGMAS)?;
        let mut connection = open(replica, REPLICA_PRAGMAS)?;
        // An unreadable primary is reported as an error of the primary's file, so that an intact
        // replica is not rebuilt.
        let timelines =
            timeline::rows(&mut log).map_err(|error| OpenError::file(primary, error))?;
        let failed = |error| OpenError::file(replica, error);
        timeline::replace(&mut connection, &timelines).map_err(failed)?;
        let Counters { version, position } = Counters::load(&mut connection).map_err(failed)?;
        // The tables are read from the replica's own file, because the replica receives later
        // tables only when it reaches their entries in the log.
        let known = shard_file::read_tables(&mut connection, replica)?;
        let tables = known.tables().chain([&*idempotency::TABLE]);
        let unique = index_ddl::tables_with_unique(&mut connection).map_err(failed)?;
        let replayed = |table: &Arc<Table>| ReplayedTable::of(table, unique.contains(table.name()));
        let tables = tables.map(|table| (table.name().to_owned(), replayed(table))).collect();
        let ownership = Arc::new(SlotOwnership::default());
        ownership.finish_change(OwnedSlots::load(&mut connection).map_err(failed)?);
        Ok(Self {
            log,
            replica: connection,
            tables,
            ownership,
            timeline: current,
            version,
            position: position as u64,
            until: u64::MAX,
            syncs: true,
        })
    }

    /// Returns the slots that the shard owns at the position of the replica.
    pub fn slot_ownership(&self) -> &Arc<SlotOwnership> {
        &self.ownership
    }

    /// Returns the position of the replica.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the position of the primary.
    ///
    /// # Errors
    /// [`ApplyError::Primary`] if the primary's file cannot be read.
    pub fn primary_position(&mut self) -> Result<u64, ApplyError> {
        timeline::position(&mut self.log).map(|found| found.sequence).map_err(ApplyError::Primary)
    }

    /// Sets the last position to apply; later entries are ignored.
    pub fn stop_after(&mut self, position: u64) {
        self.until = position;
    }

    /// Applies the next entries of the log in one transaction, up to the position `last`, and
    /// returns true if there were any. `before_commit` is called with the new position before the
    /// transaction commits.
    ///
    /// # Errors
    /// [`ApplyError`]; the transaction is rolled back then.
    pub fn step(
        &mut self,
        sync: bool,
        last: Option<u64>,
        before_commit: impl FnOnce(u64),
    ) -> Result<bool, ApplyError> {
        if self.position >= self.until {
            return Ok(false);
        }
        let entries = log::read_after(&mut self.log, self.position, last);
        let mut entries = entries.map_err(ApplyError::Primary)?;
        entries.retain(|entry| entry.position <= self.until);
        let change = change_alone(&mut entries).map_err(ApplyError::replica)?;
        let Some(last) = entries.last().map(|entry| entry.position) else {
            return if self.is_behind_the_log()? { Err(ApplyError::LogTrimmed) } else { Ok(false) };
        };
        if entries[0].position != self.position + 1 {
            return Err(ApplyError::LogTrimmed);
        }
        self.set_sync(sync).map_err(ApplyError::replica)?;
        let Self { replica, tables, ownership, timeline, version, .. } = self;
        let mut owned = None;
        // The first error is kept, because SQLite may already have rolled back, and diesel then
        // reports only that its own rollback found no transaction.
        let mut cause = None;
        let applied = replica.immediate_transaction(|connection| {
            let replayed = match &change {
                Some(ChangeAlone::Tables(change)) => {
                    ddl::apply(connection, change, last as i64).map(|_| *version)
                }
                Some(ChangeAlone::Slots(line)) => slot_change::apply(connection, line, last as i64)
                    .map(|changed| {
                        owned = changed;
                        line.version().max(*version)
                    }),
                Some(ChangeAlone::Move(line, rows)) => {
                    let changed = move_entry::apply(connection, (line, rows), None, last as i64);
                    changed.map(|changed| {
                        owned = changed;
                        line.version.max(*version)
                    })
                }
                None => replay(connection, (tables, *version), &entries),
            };
            let replayed = replayed.and_then(|version| {
                let timeline = i64::from(*timeline);
                let at = [Bind::Int(version), Bind::Int(last as i64), Bind::Int(timeline)];
                run(connection, sql::SET_REPLICA, &at).map(|()| version)
            });
            let version = replayed.inspect_err(|error| cause = Some(ApplyError::meaning(error)))?;
            before_commit(last);
            if owned.is_some() {
                ownership.begin_change();
            }
            Ok::<_, DieselError>(version)
        });
        self.version = applied.map_err(|error| match cause {
            Some(meaning) => meaning(error),
            None => ApplyError::replica(error),
        })?;
        self.position = last;
        if let Some(owned) = owned {
            self.ownership.finish_change(owned);
        }
        if let Some(ChangeAlone::Tables(change)) = change {
            self.learn(&change);
        }
        Ok(true)
    }

    /// Records a committed change of the tables.
    fn learn(&mut self, change: &SchemaChange) {
        let name = change.table().name();
        match change {
            SchemaChange::Make(table) => {
                drop(self.tables.insert(name.to_owned(), ReplayedTable::of(table, false)));
            }
            SchemaChange::Drop(_) => drop(self.tables.remove(name)),
            SchemaChange::Index(change) => {
                if let Some(replayed) = self.tables.get_mut(name) {
                    replayed.learn(change);
                }
            }
        }
    }

    /// Syncs the changes that were applied without a sync.
    ///
    /// # Errors
    /// [`ApplyError`] if the replica cannot be written.
    pub fn sync(&mut self) -> Result<(), ApplyError> {
        self.set_sync(true).map_err(ApplyError::replica)?;
        // A commit syncs the whole WAL, but only if it writes something, so this statement writes a
        // counter.
        run(&mut self.replica, sql::COUNT_SYNC, &[]).map_err(ApplyError::replica)
    }

    /// Syncs the replica and checkpoints the WAL into the file before an orderly shutdown; errors
    /// are ignored.
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

    /// Returns true if the log is empty although the primary is ahead of the replica: the next
    /// entries were trimmed.
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

    /// Returns the variant for an error of the replica.
    fn meaning(error: &DieselError) -> fn(DieselError) -> Self {
        let unfit = matches!(error, DieselError::DeserializationError(_) | DieselError::NotFound);
        let is_locked = error.to_string().contains("locked");
        match DbErrorKind::of(error) {
            DbErrorKind::Full => Self::Full,
            // Another process holds a lock on the file, which does not mean that the file is
            // damaged.
            DbErrorKind::Unusable if is_locked => Self::Replica,
            // All rows in the log met the constraints on the primary, so a violation means that the
            // replica is damaged.
            DbErrorKind::Unusable | DbErrorKind::Constraint(_) => Self::Damaged,
            // An intact copy of the primary has all tables and columns that occur in the log, so a
            // missing one means that the replica is damaged.
            DbErrorKind::Other if unfit => Self::Damaged,
            DbErrorKind::Other => Self::Replica,
        }
    }
}

/// Change of tables, slots or a move, which has a log entry of its own and is replayed in a
/// transaction of its own.
enum ChangeAlone {
    Tables(SchemaChange),
    Slots(SlotLine),
    /// Change of a move: its line, and the lines about rows that follow it in the entry.
    Move(Box<MoveLine>, Vec<u8>),
}

impl ChangeAlone {
    fn of(entry: &Entry) -> QueryResult<Option<Self>> {
        if let Some(line) = slot_line::logged(&entry.changes)? {
            return Ok(Some(Self::Slots(line)));
        }
        if let Some((line, rows)) = move_line::logged(&entry.changes)? {
            return Ok(Some(Self::Move(Box::new(line), rows.to_vec())));
        }
        Ok(ddl::logged(&entry.changes)?.map(Self::Tables))
    }
}

/// Returns the first of these entries, and shortens the list to it, if it changes tables, slots or
/// a move. Otherwise returns `None`, and shortens the list to the entries before the first such
/// change; a later step reads the rest again. Such a change is replayed in a transaction of its
/// own, so that it takes effect in memory only if it was stored, and the stored row counts already
/// include the rows before it.
fn change_alone(entries: &mut Vec<Entry>) -> QueryResult<Option<ChangeAlone>> {
    for index in 0..entries.len() {
        if let Some(change) = ChangeAlone::of(&entries[index])? {
            entries.truncate(index.max(1));
            return Ok((index == 0).then_some(change));
        }
    }
    Ok(None)
}

/// Replays entries about rows, and returns the highest row version so far.
fn replay(
    connection: &mut SqliteConnection,
    (tables, version): (&HashMap<String, ReplayedTable>, i64),
    entries: &[Entry],
) -> QueryResult<i64> {
    let mut replay = Replay { connection, tables, version, added: BTreeMap::new() };
    entries.iter().try_for_each(|entry| replay.entry(entry))?;
    let Replay { connection, version, added, .. } = replay;
    add_rows(connection, &added).map(|()| version)
}

/// Replay of entries about rows, within one transaction on the replica.
struct Replay<'r> {
    connection: &'r mut SqliteConnection,
    tables: &'r HashMap<String, ReplayedTable>,
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
            run(self.connection, &replayed.store, &binds)?;
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

#[cfg(test)]
mod tests {
    use diesel::result::DatabaseErrorKind;

    use super::*;
    use crate::connection::create;

    #[test]
    fn an_error_of_the_primary_names_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let [primary, replica] = ["primary.db", "replica.db"].map(|name| folder.path().join(name));
        for file in [&primary, &replica] {
            drop(create(file).expect("a file"));
        }
        let error = Applier::open(&primary, &replica, 1).err().expect("there are no tables");
        let OpenError::Database { path, .. } = &error else { panic!("{error}") };
        assert_eq!(*path, primary.display().to_string());
    }

    #[test]
    fn a_replica_that_another_process_locks_is_not_damaged() {
        let error = |message: &str| {
            let message = Box::new(message.to_owned());
            ApplyError::replica(DieselError::DatabaseError(DatabaseErrorKind::Unknown, message))
        };
        assert!(matches!(error("database is locked"), ApplyError::Replica(_)));
        assert!(matches!(error("disk I/O error"), ApplyError::Damaged(_)));
    }
}
