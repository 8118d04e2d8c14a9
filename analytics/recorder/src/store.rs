//! Store: keeps histories over restarts, in a SQLite file or a PostgreSQL database. A source is the
//! name under which one recorder's history is stored.
//!
//! A [`HistoryWriter`] has its own thread. This thread reads the stored history, writes new frames
//! every [`WRITE_EVERY`], and removes stored frames that the rings no longer hold. Other threads do
//! not wait for it, because metrics are computed from memory. After an outage of the store, the
//! thread writes every frame that the rings still hold.
//!
//! **Invariant:** no thread except the history writer's waits for a file or a server.
//! **Not here:** the contents of a frame (`frame`); errors and requests in progress, which are not
//! stored.

mod address;
mod coverage;
mod history_writer;
mod postgres;
mod ring_index;
mod rollup;
mod row;
mod schema;
mod sqlite;

pub use address::{PostgresAddress, StoreAddress, StoreAddressError};
pub use history_writer::{CLOSE_MAX, HistoryWriter, HistoryWriterState, WRITE_EVERY};

use std::fmt::Display;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use diesel::QueryResult;

use postgres::PostgresStore;
use row::Row;
use sqlite::SqliteStore;

/// Reason why history cannot be stored now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be used, or the server does not respond or refuses the connection.
    #[error("{place}: {cause}")]
    Unusable {
        /// File or server.
        place: String,
        /// Cause of the failure.
        cause: String,
    },
    /// The file is damaged.
    #[error("{place} is damaged: {cause}")]
    Damaged {
        /// The file.
        place: String,
        /// Cause of the failure.
        cause: String,
    },
    /// The database belongs to another program and is left unchanged.
    #[error("{place} is the database of another program, and is left as it is: name another file")]
    Foreign {
        /// The file.
        place: String,
    },
    /// The file was written by a newer program.
    #[error("{place} is of a newer program ({newest}): name another file, or run that program")]
    Newer {
        /// The file.
        place: String,
        /// The version that this program does not know.
        newest: String,
    },
}

impl StoreError {
    fn file(path: &Path, cause: impl Display) -> Self {
        Self::Unusable { place: path.display().to_string(), cause: cause.to_string() }
    }

    fn server(address: &PostgresAddress, cause: impl Display) -> Self {
        Self::Unusable { place: address.to_string(), cause: cause.to_string() }
    }
}

/// An open store.
enum Store {
    Sqlite(SqliteStore),
    Postgres(Box<PostgresStore>),
}

/// Query for the next rows of one source and step.
#[derive(Clone, Copy)]
struct NextRows<'s> {
    source: &'s str,
    step: i32,
    /// Lower bound of the start of the rows, exclusive.
    after: i64,
    /// Maximum number of rows.
    most: i64,
}

/// New name for the source of stored rows.
struct SourceRename {
    from: String,
    to: String,
}

impl Store {
    fn open(address: &StoreAddress) -> Result<Self, StoreError> {
        match address {
            StoreAddress::Sqlite(path) => SqliteStore::open(path).map(Self::Sqlite),
            StoreAddress::Postgres(address) => {
                PostgresStore::open(address).map(|store| Self::Postgres(Box::new(store)))
            }
        }
    }

    fn frame_sizes(&mut self, source: &str) -> QueryResult<Vec<(i32, i64, i32)>> {
        match self {
            Self::Sqlite(store) => store.frame_sizes(source),
            Self::Postgres(store) => store.frame_sizes(source),
        }
    }

    fn rows(&mut self, next: NextRows<'_>) -> QueryResult<Vec<Row>> {
        match self {
            Self::Sqlite(store) => store.rows(next),
            Self::Postgres(store) => store.rows(next),
        }
    }

    fn write(&mut self, rows: &[Row], forget: &[(String, i32, i64)]) -> QueryResult<()> {
        match self {
            Self::Sqlite(store) => store.write(rows, forget),
            Self::Postgres(store) => store.write(rows, forget),
        }
    }

    fn rename(&mut self, sources: &[SourceRename; 2]) -> QueryResult<()> {
        match self {
            Self::Sqlite(store) => store.rename(sources),
            Self::Postgres(store) => store.rename(sources),
        }
    }

    fn forget_old(&mut self, step: i32, before: i64) -> QueryResult<()> {
        match self {
            Self::Sqlite(store) => store.forget_old(step, before),
            Self::Postgres(store) => store.forget_old(step, before),
        }
    }

    fn forget_new(&mut self, source: &str, step: i32, after: i64) -> QueryResult<()> {
        match self {
            Self::Sqlite(store) => store.forget_new(source, step, after),
            Self::Postgres(store) => store.forget_new(source, step, after),
        }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
