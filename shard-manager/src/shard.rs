//! Shard: one shard's nodes, and the way to each of them.
//!
//! **Invariant:** writes go through the lane, reads through the readers; nothing else touches the files.
//! **Not here:** which shard (`manager`).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::error::Error;
use crate::keyspace::Slot;
use crate::lane::Lane;
use crate::query::ReadQuery;
use crate::rows::Rows;
use crate::store::TableSize;
use crate::store::sqlite::OpenError;
use crate::store::sqlite::reader::{Housekeeping, Readers, Scope};
use crate::store::sqlite::writer::SqliteWriter;

/// Rows of a point read that may be read on the caller's own thread; more is work for another.
const INLINE_ROWS_MAX: u32 = 100;

/// Share of the time left that a read may wait for a connection: some must remain to read, and to tell that
/// there was no connection rather than no time.
const POOL_WAIT: f64 = 0.75;

/// A shard on embedded files.
pub struct Shard {
    name: String,
    /// The way to the primary's writer.
    pub lane: Lane,
    readers: Readers,
    sizing: Arc<Semaphore>,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHealth {
    /// `shard1-primary`.
    pub node: String,
    /// Whether it takes what its role demands.
    pub up: bool,
    /// How long it took to answer a probe, in milliseconds.
    pub latency_ms: f64,
}

impl Shard {
    /// Opens a shard's file for writing and reading.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be opened or no thread can be started.
    pub fn open(
        name: &str,
        primary: &Path,
        housekeeping: &Housekeeping,
    ) -> Result<Self, OpenError> {
        let writer = SqliteWriter::open(name, primary)?;
        let readers = Readers::open(name, primary, housekeeping)?;
        let lane = Lane::start(name, writer)
            .map_err(|error| OpenError::Io { path: name.to_owned(), cause: error.to_string() })?;
        Ok(Self { name: name.to_owned(), lane, readers, sizing: Arc::new(Semaphore::new(1)) })
    }

    /// The shard's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rows of one shard key. A plain read by key runs on this thread, where it is fastest: it is one
    /// short range of one index. Anything else runs on a thread that may block.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`], [`Error::PoolExhausted`] or [`Error::ShardUnavailable`].
    pub async fn read_key(
        &self,
        query: ReadQuery,
        (slot, key): (Slot, &str),
        deadline: Instant,
    ) -> Result<Rows, Error> {
        if query.is_point_read() && query.limit <= INLINE_ROWS_MAX {
            let inline = self.readers.try_read(&query, Scope::Key(slot, key));
            if let Some(rows) = inline {
                return rows;
            }
        }
        let readers = self.readers.clone();
        let key = key.to_owned();
        self.blocking(deadline, move |wait| readers.read(&query, Scope::Key(slot, &key), wait))
            .await
    }

    /// Rows of all keys, each with the values it is merged by.
    ///
    /// # Errors
    /// As [`Shard::read_key`].
    pub async fn read_all(&self, query: ReadQuery, deadline: Instant) -> Result<Rows, Error> {
        let readers = self.readers.clone();
        self.blocking(deadline, move |wait| readers.read(&query, Scope::Shard, wait)).await
    }

    /// Rows and bytes of each table. It visits every page, so one call at a time does; the others wait.
    ///
    /// # Errors
    /// As [`Shard::read_key`].
    pub async fn sizes(&self, deadline: Instant) -> Result<Vec<TableSize>, Error> {
        let turn = Arc::clone(&self.sizing).acquire_owned();
        let turn = tokio::time::timeout_at(deadline.into(), turn).await;
        let Ok(Ok(turn)) = turn else { return Err(Error::DeadlinePassed) };
        let readers = self.readers.clone();
        self.blocking(deadline, move |wait| {
            // Kept until the work ends, also if nobody waits for it any more.
            let _turn = turn;
            readers.sizes(wait)
        })
        .await
    }

    /// Asks the primary's reader and looks after its writer.
    pub async fn probe(&self, deadline: Instant) -> NodeHealth {
        let readers = self.readers.clone();
        let began = Instant::now();
        let probed = self.blocking(deadline, move |wait| readers.probe(wait)).await;
        NodeHealth {
            node: format!("{}-primary", self.name),
            // Busy is not down.
            up: matches!(probed, Ok(()) | Err(Error::PoolExhausted { .. })) && self.lane.is_up(),
            latency_ms: began.elapsed().as_secs_f64() * 1e3,
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(Duration) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let task = tokio::task::spawn_blocking(move || {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() { Err(Error::DeadlinePassed) } else { work(left.mul_f64(POOL_WAIT)) }
        });
        match tokio::time::timeout_at(deadline.into(), task).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(panic)) => {
                tracing::error!(shard = %self.name, %panic, "a read did not finish");
                Err(Error::Internal)
            }
            Err(_elapsed) => Err(Error::DeadlinePassed),
        }
    }
}
