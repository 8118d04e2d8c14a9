//! Node view: the contents of one file of a shard at one instant.
//!
//! **Invariant:** all reads between [`NodeView::begin`] and [`NodeView::end`] see one snapshot.
//! **Not here:** the list of the expected files (`offline_view`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use engine::system_tables::{tessera_counts, tessera_shard};
use model::position::{Position, TimelineHistory};
use model::slot_set::SlotSet;
use model::table::Registry;

use super::connection::{OpenError, RowView, Statement, for_each_row};
use super::log::{self, Entry};
use super::owned_slots::OwnedSlots;
use super::read_only::{connect_read_only, open_read_only};
use super::stored_move::{self, StoredMove};
use super::{owned_slots, shard_file, sql, timeline};

/// The file of a node, opened for reading.
pub struct NodeView {
    path: PathBuf,
    connection: SqliteConnection,
}

/// Position and counters of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Position of the file.
    pub position: Position,
    /// Counter from which rows get their versions.
    pub version: i64,
    /// Number of rows of each table, as its writer counted them.
    pub counts: Vec<(String, i64)>,
    /// Number of rows in slots that have moved away or are being copied to the shard, for each
    /// table that has some. They are not among `counts`.
    pub foreign_counts: Vec<(String, i64)>,
}

impl FileState {
    /// Returns the number of rows of all tables that the shard owns.
    pub fn rows(&self) -> i64 {
        self.counts.iter().map(|(_, rows)| rows).sum()
    }
}

impl NodeView {
    pub(super) fn open(path: &Path, cluster_id: &str, shard: &str) -> Result<Self, OpenError> {
        let mut connection = open_read_only(path, &shard_file::MIGRATIONS)?;
        let signed: Option<(String, String)> = tessera_shard::table
            .select((tessera_shard::cluster_id, tessera_shard::shard))
            .first(&mut connection)
            .optional()
            .map_err(|error| OpenError::file(path, error))?;
        match signed {
            Some((cluster, _)) if cluster != cluster_id => {
                Err(OpenError::foreign(path, "the file belongs to another cluster"))
            }
            Some((_, found)) if found != shard => {
                let cause = format!("the file is that of {found}, not of {shard}");
                Err(OpenError::foreign(path, cause))
            }
            Some(_) => Ok(Self { path: path.to_owned(), connection }),
            None => Err(OpenError::foreign(path, "no shard has signed the file")),
        }
    }

    /// Begins a snapshot, which the first read fixes.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn begin(&mut self) -> Result<(), OpenError> {
        self.run(|connection| connection.batch_execute("BEGIN"))
    }

    /// Ends the snapshot: the next read sees the present contents.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn end(&mut self) -> Result<(), OpenError> {
        self.run(|connection| connection.batch_execute("COMMIT"))
    }

    /// Returns the position of the file.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn position(&mut self) -> Result<Position, OpenError> {
        self.run(timeline::position)
    }

    /// Returns position and counters of the file.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn file_state(&mut self) -> Result<FileState, OpenError> {
        self.run(|connection| {
            let position = timeline::position(connection)?;
            let version = tessera_shard::table.select(tessera_shard::version).first(connection)?;
            let counts = tessera_counts::table.order(tessera_counts::name);
            let counts =
                counts.select((tessera_counts::name, tessera_counts::rows)).load(connection)?;
            let foreign_counts = owned_slots::foreign_rows(connection)?;
            Ok(FileState { position, version, counts, foreign_counts })
        })
    }

    /// Returns the timelines of the file.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be read, or its timelines are inconsistent.
    pub fn history(&mut self) -> Result<TimelineHistory, OpenError> {
        let history = self.run(timeline::load)?;
        history
            .ok_or_else(|| OpenError::foreign(&self.path, "its timelines do not follow each other"))
    }

    /// Returns the tables that the file declares and has.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if the declared tables differ from those of the file.
    pub fn tables(&mut self) -> Result<Registry, OpenError> {
        shard_file::read_tables(&mut self.connection, &self.path)
    }

    /// Returns the names of the tables that are not declared.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn undeclared_tables(&mut self) -> Result<Vec<String>, OpenError> {
        let mut names = Vec::new();
        self.each(sql::UNDECLARED_TABLES, |row| {
            names.extend(row.text(0, str::to_owned));
            Ok(())
        })?;
        Ok(names)
    }

    /// Returns the slots in the file, and the state of each.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn slots(&mut self) -> Result<Vec<(u16, String)>, OpenError> {
        let mut slots = Vec::new();
        self.each(sql::SLOTS, |row| {
            let state = row.text(1, str::to_owned).unwrap_or_default();
            slots.push((row.int(0).unwrap_or(0) as u16, state));
            Ok(())
        })?;
        Ok(slots)
    }

    /// Returns the rows of moves.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub(super) fn moves(&mut self) -> Result<Vec<StoredMove>, OpenError> {
        self.run(stored_move::load)
    }

    /// Returns the slots that the shard of the file owns.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn owned_slots(&mut self) -> Result<Arc<SlotSet>, OpenError> {
        self.run(|connection| OwnedSlots::load(connection).map(|owned| owned.set))
    }

    /// Returns the first defect of the file's structure. Reads every page.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn defect(&mut self) -> Result<Option<String>, OpenError> {
        let mut found = String::new();
        self.each("PRAGMA quick_check(1)", |row| {
            found += &row.text(0, str::to_owned).unwrap_or_default();
            Ok(())
        })?;
        Ok(Some(found).filter(|found| found != "ok"))
    }

    /// Returns some entries of the change log after a position, oldest first; empty if there are
    /// none.
    pub(super) fn log_after(&mut self, position: u64) -> Result<Vec<Entry>, OpenError> {
        self.run(|connection| log::read_after(connection, position, None))
    }

    pub(super) fn each(
        &mut self,
        sql: &str,
        each: impl FnMut(&RowView<'_, '_>) -> QueryResult<()>,
    ) -> Result<(), OpenError> {
        let statement = Statement { sql, binds: &[], cached: false };
        self.run(|connection| for_each_row(connection, statement, each))
    }

    fn run<T>(
        &mut self,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
    ) -> Result<T, OpenError> {
        work(&mut self.connection).map_err(|error| OpenError::file(&self.path, error))
    }
}

/// Returns the id of the cluster that has signed a file with any schema; `None` if the file is not
/// signed or cannot be read.
pub(super) fn cluster_of(path: &Path) -> Option<String> {
    let mut connection = connect_read_only(path).ok()?;
    let mut id = None;
    let statement = Statement { sql: sql::SIGNED, binds: &[], cached: false };
    let read = for_each_row(&mut connection, statement, |row| {
        id = row.text(0, str::to_owned);
        Ok(())
    });
    read.ok().and(id)
}
