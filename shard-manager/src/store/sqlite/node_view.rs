//! Node view: what one file of a shard holds, at one instant.
//!
//! **Invariant:** all that is read between [`NodeView::begin`] and [`NodeView::end`] is of one snapshot.
//! **Not here:** which files there should be (`view`).

use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;

use super::connection::{OpenError, RowView, Statement, for_each_row};
use super::log::{self, Entry};
use super::view::open_to_look;
use super::{shard_file, sql, timeline};
use crate::position::{Position, TimelineHistory};
use crate::store::schema::{tessera_counts, tessera_shard};
use crate::table::Registry;

/// The file of a node that is looked at.
pub struct NodeView {
    path: PathBuf,
    connection: SqliteConnection,
}

/// Where a file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The position that it has reached.
    pub position: Position,
    /// The counter that stamps rows.
    pub version: i64,
    /// Rows of each table, as its writer counted them.
    pub counts: Vec<(String, i64)>,
}

impl Standing {
    /// Rows of all tables.
    pub fn rows(&self) -> i64 {
        self.counts.iter().map(|(_, rows)| rows).sum()
    }
}

impl NodeView {
    pub(super) fn open(path: &Path, cluster_id: &str, shard: &str) -> Result<Self, OpenError> {
        let mut connection = open_to_look(path, &shard_file::MIGRATIONS)?;
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

    /// From now on, one snapshot is seen: that of the first read.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn begin(&mut self) -> Result<(), OpenError> {
        self.told(|connection| connection.batch_execute("BEGIN"))
    }

    /// The next read sees what is there then.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn end(&mut self) -> Result<(), OpenError> {
        self.told(|connection| connection.batch_execute("COMMIT"))
    }

    /// The position that the file has reached.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn position(&mut self) -> Result<Position, OpenError> {
        self.told(timeline::position)
    }

    /// Where the file stands.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn standing(&mut self) -> Result<Standing, OpenError> {
        self.told(|connection| {
            let position = timeline::position(connection)?;
            let version = tessera_shard::table.select(tessera_shard::version).first(connection)?;
            let counts = tessera_counts::table.order(tessera_counts::name);
            let counts =
                counts.select((tessera_counts::name, tessera_counts::rows)).load(connection)?;
            Ok(Standing { position, version, counts })
        })
    }

    /// The timelines of the file.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be read, or its timelines make no history.
    pub fn history(&mut self) -> Result<TimelineHistory, OpenError> {
        let history = self.told(timeline::load)?;
        history
            .ok_or_else(|| OpenError::foreign(&self.path, "its timelines do not follow each other"))
    }

    /// The tables that the file declares and has.
    ///
    /// # Errors
    /// [`OpenError::Foreign`] if it has others than it declares.
    pub fn tables(&mut self) -> Result<Registry, OpenError> {
        shard_file::read_tables(&mut self.connection, &self.path)
    }

    /// The tables that nobody declared.
    ///
    /// # Errors
    /// [`OpenError::Database`] if the file cannot be read.
    pub fn strange_tables(&mut self) -> Result<Vec<String>, OpenError> {
        let mut names = Vec::new();
        self.each(sql::STRANGE_TABLES, |row| {
            names.extend(row.text(0, str::to_owned));
            Ok(())
        })?;
        Ok(names)
    }

    /// The slots that the file knows of, and the state of each.
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

    /// The first defect of the file's structure. Reads every page.
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

    /// Some entries of the change log after a position, oldest first; none if there are none.
    pub(super) fn log_after(&mut self, position: u64) -> Result<Vec<Entry>, OpenError> {
        self.told(|connection| log::read_after(connection, position, None))
    }

    pub(super) fn each(
        &mut self,
        sql: &str,
        each: impl FnMut(&RowView<'_, '_>) -> QueryResult<()>,
    ) -> Result<(), OpenError> {
        let statement = Statement { sql, binds: &[], cached: false };
        self.told(|connection| for_each_row(connection, statement, each))
    }

    fn told<T>(
        &mut self,
        work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
    ) -> Result<T, OpenError> {
        work(&mut self.connection).map_err(|error| OpenError::file(&self.path, error))
    }
}
