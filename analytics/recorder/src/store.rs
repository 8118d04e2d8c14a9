//! Store: the history of a source, a router, where a restart does not take it: in a file of SQLite, or in a database of
//! PostgreSQL.
//!
//! A [`HistoryWriter`] has a thread of its own. It gives back what was kept, writes the slots that are finished every
//! [`WRITE_EVERY`], and forgets those that the rings have forgotten. Nobody waits for it: figures come from memory, and
//! a store that is away is caught up with from there.
//!
//! **Invariant:** no thread but the keeper's own waits for a file or a server.
//! **Not here:** what a frame is (`frame`), errors and what is going on (they are not kept).

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

/// Why history cannot be kept now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be used, or the server does not answer or refuses.
    #[error("{place}: {cause}")]
    Unusable {
        /// Where.
        place: String,
        /// What is wrong.
        cause: String,
    },
    /// What is there cannot be read.
    #[error("{place} is damaged: {cause}")]
    Damaged {
        /// The file.
        place: String,
        /// What is wrong.
        cause: String,
    },
    /// A database of somebody else: it is left as it is.
    #[error("{place} is the database of another program, and is left as it is: name another file")]
    Foreign {
        /// The file.
        place: String,
    },
    /// What is there was made by a newer program.
    #[error("{place} is of a newer program ({newest}): name another file, or run that program")]
    Newer {
        /// The file.
        place: String,
        /// The version that is unknown here.
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

/// A store that is open.
enum Store {
    Sqlite(SqliteStore),
    Postgres(Box<PostgresStore>),
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

    fn slots(&mut self, source: &str) -> QueryResult<Vec<(i32, i64, i32)>> {
        match self {
            Self::Sqlite(store) => store.slots(source),
            Self::Postgres(store) => store.slots(source),
        }
    }

    fn rows(&mut self, source: &str, step: i32, after: i64, most: i64) -> QueryResult<Vec<Row>> {
        match self {
            Self::Sqlite(store) => store.rows(source, step, after, most),
            Self::Postgres(store) => store.rows(source, step, after, most),
        }
    }

    fn write(&mut self, rows: &[Row], forget: &[(String, i32, i64)]) -> QueryResult<()> {
        match self {
            Self::Sqlite(store) => store.write(rows, forget),
            Self::Postgres(store) => store.write(rows, forget),
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
