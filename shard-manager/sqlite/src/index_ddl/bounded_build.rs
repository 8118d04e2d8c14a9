//! Bounded build: builds an index in a transaction that is rolled back after a time limit.
//!
//! A statement is interrupted with SQLite's progress handler, to which diesel gives no access.
//! Therefore this transaction runs on a connection of rusqlite, which uses the same copy of SQLite
//! and its locks. SQLite calls the handler between the steps of a statement, but two steps may take
//! long and cannot be interrupted: sorting all rows in memory, if there is no disk space for a
//! temporary file, and the commit.
//!
//! **Invariant:** the index, the log entry and the counters are stored together or not at all; a
//! build that exceeds its limit before the commit stores nothing.
//! **Not here:** the contents of the entry (`ddl`), a build without a limit (`index_ddl`).

use std::path::Path;
use std::time::Instant;

use diesel::QueryResult;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use model::sabotage::{Mutation, is_on};
use model::table_index::TableIndex;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, ffi};

use super::create;
use crate::connection::{SETTINGS, uri};
use crate::sql;

/// Number of SQLite steps between two readings of the clock. Each row takes about ten steps.
const STEPS_BETWEEN: i32 = 1_000;
/// Page cache of 8 MiB, which is also the size of the pieces that are sorted in memory before they
/// are merged in a file.
const CACHE: &str = "PRAGMA cache_size=-8192";

/// Transaction that builds an index and logs it.
pub(crate) struct BoundedBuild<'b> {
    /// File of the primary, to which no other connection writes during the build.
    pub(crate) file: &'b Path,
    /// Index to build, which does not exist in the file yet.
    pub(crate) index: &'b TableIndex,
    /// True if there is enough disk space to sort the rows in a temporary file.
    pub(crate) sorts_in_file: bool,
    /// Time at which the build is stopped; `None` if it has no limit.
    pub(crate) until: Option<Instant>,
    /// The shard's counter of row versions.
    pub(crate) version: i64,
    /// Position of the log entry, which is also that of the file after the build.
    pub(crate) position: i64,
    /// Time and contents of the log entry.
    pub(crate) entry: (&'b str, &'b [u8]),
}

impl BoundedBuild<'_> {
    /// Executes the transaction. `before_commit` is called immediately before the commit.
    ///
    /// # Errors
    /// [`DieselError::RollbackTransaction`] if the limit was exceeded before the commit.
    pub(crate) fn run(&self, before_commit: impl FnOnce()) -> QueryResult<()> {
        let uri = uri(self.file, "mode=rw");
        let uri =
            uri.map_err(|error| database_error(DatabaseErrorKind::Unknown, error.to_string()))?;
        match self.store(&uri, before_commit) {
            Ok(true) => Ok(()),
            Ok(false) => Err(DieselError::RollbackTransaction),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Executes the transaction; returns false if its statements were done too late.
    fn store(&self, uri: &str, before_commit: impl FnOnce()) -> rusqlite::Result<bool> {
        let until = self.until;
        let is_late = move || until.is_some_and(|until| Instant::now() >= until);
        let mut connection = self.connect(uri)?;
        connection.progress_handler(STEPS_BETWEEN, Some(is_late))?;
        // SQLite rolls an interrupted transaction back by itself; otherwise its end does so.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        transaction.execute_batch(&create(self.index, &self.index.database_name()))?;
        let (at, changes) = self.entry;
        transaction.execute(sql::APPEND_LOG, (self.position, at, changes))?;
        transaction.execute(sql::SET_COUNTERS, (self.version, self.position))?;
        transaction.progress_handler(0, None::<fn() -> bool>)?;
        if is_late() {
            return Ok(false);
        }
        before_commit();
        transaction.commit()?;
        Ok(true)
    }

    fn connect(&self, uri: &str) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI;
        let connection = Connection::open_with_flags(uri, flags)?;
        connection.execute_batch(SETTINGS)?;
        connection.execute_batch(CACHE)?;
        if self.sorts_in_file {
            connection.execute_batch("PRAGMA temp_store=FILE")?;
        }
        if is_on(Mutation::SqliteSyncOff) {
            connection.execute_batch("PRAGMA synchronous=OFF")?;
        }
        Ok(connection)
    }
}

/// Converts an error to that of diesel with the same message.
fn failed(error: &rusqlite::Error) -> DieselError {
    if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) {
        return DieselError::RollbackTransaction;
    }
    let is_unique = error.sqlite_extended_error_code() == Some(ffi::SQLITE_CONSTRAINT_UNIQUE);
    let kind = match is_unique {
        true => DatabaseErrorKind::UniqueViolation,
        false => DatabaseErrorKind::Unknown,
    };
    database_error(kind, error.to_string())
}

fn database_error(kind: DatabaseErrorKind, message: String) -> DieselError {
    DieselError::DatabaseError(kind, Box::new(message))
}
