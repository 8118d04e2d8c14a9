//! SQLite: the embedded engine, in which every node is an SQLite file in WAL mode. The file of a
//! primary has one writing connection and pools of read connections. The file of a replica has one
//! applier, which replays the primary's change log, and read pools of its own.
//!
//! **Invariant:** an acknowledged write is in the WAL and synced (`synchronous=FULL`); only the
//! process that holds the lock of the data directory opens its files for writing.
//! **Not here:** the PostgreSQL engine (`postgres`), the choice of the node that answers a read
//! (`cluster`).
#![forbid(unsafe_code)]

pub mod access_store;
pub mod applier;
pub mod audit;
mod backend;
mod background;
pub mod backup;
mod batch;
pub mod catalog;
mod catalog_failure;
pub mod check;
pub mod compare;
mod comparison_loop;
mod connection;
pub mod control;
pub mod copy;
pub mod data_dir;
pub mod ddl;
mod declarations;
mod dialect;
pub mod digest;
pub mod doubt_record;
pub mod export;
pub mod file_reader;
pub mod file_watch;
mod index_ddl;
pub mod intents;
pub mod listed_indexes;
mod listed_moves;
mod log;
mod log_extent;
pub mod migrate;
mod move_change;
pub mod move_counts;
mod move_entry;
mod move_line;
mod move_log;
mod move_metadata;
pub mod move_reader;
pub mod move_traces;
mod moving_rows;
mod node_view;
pub mod offline_lists;
pub mod offline_view;
pub mod open;
pub mod open_file_check;
pub mod owned_slots;
pub mod read_gate;
mod read_only;
pub mod reader;
mod replayed_table;
pub mod replica;
mod row_hash;
mod row_json;
mod schema_state;
pub mod shard_file;
mod shard_files;
mod shard_opening;
mod slot_change;
mod slot_filter;
mod slot_line;
pub mod snapshot;
mod sql;
mod statement_deadline;
mod stored_move;
mod threads;
mod timeline;
pub mod writer;

pub use engine::open_error::OpenError;
use engine::private_file;

/// Lowest supported version of SQLite: earlier versions can corrupt a WAL that is reset while a
/// connection reads it.
const SQLITE_VERSION_MIN: [u32; 3] = [3, 51, 3];

/// Returns the version of the linked SQLite, such as `3.53.2`.
///
/// # Errors
/// [`OpenError`] if the SQLite library cannot be used.
pub fn version() -> Result<String, OpenError> {
    connection::sqlite_version()
}

/// Checks that the linked SQLite is new enough not to corrupt a WAL that is reset during a read.
///
/// # Errors
/// [`OpenError::SqliteTooOld`] if it is older, [`OpenError`] if the library cannot be used.
pub fn check_version() -> Result<(), OpenError> {
    let found = connection::sqlite_version()?;
    let numbers: Vec<u32> = found.split('.').filter_map(|number| number.parse().ok()).collect();
    if numbers[..] < SQLITE_VERSION_MIN[..] {
        return Err(OpenError::SqliteTooOld { found });
    }
    Ok(())
}
