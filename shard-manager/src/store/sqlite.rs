//! SQLite: the embedded engine. A shard is a file in WAL mode with one writer and a pool of readers.
//!
//! **Invariant:** an acknowledged write is in the WAL and synced (`synchronous=FULL`); only the process that
//! holds the lock of the data directory opens its files for writing.
//! **Not here:** the PostgreSQL engine; the choice of node.

pub mod catalog;
mod connection;
pub mod data_dir;
pub mod reader;
mod row_json;
mod schema;
pub mod shard_file;
mod sql;
pub mod writer;

pub use connection::OpenError;

/// SQLite before this version can corrupt a WAL that is reset while it is read.
const SQLITE_VERSION_MIN: i32 = 3_051_003;

/// Refuses to go on with a SQLite that has the WAL-reset defect.
///
/// # Errors
/// [`OpenError::SqliteTooOld`].
pub fn check_version() -> Result<(), OpenError> {
    let found = connection::sqlite_version();
    if found < SQLITE_VERSION_MIN { Err(OpenError::SqliteTooOld { found }) } else { Ok(()) }
}
