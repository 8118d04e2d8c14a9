//! Readers: pools of read-only connections to the file of one node.
//!
//! **Invariant:** a reader cannot write (`query_only`), and each read sees one snapshot of the
//! file.
//! **Not here:** the thread that executes a read (`shard`), merging the results of several shards
//! (`result_rows`).

mod connection;
mod places;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use engine::TableSize;
use engine::replication::ReplicationState;
use scheduled_thread_pool::ScheduledThreadPool;

use super::connection::{DbErrorKind, OpenError};
use super::open_file_check::OpenFileCheck;
use super::owned_slots::SlotOwnership;
use super::statement_deadline::StatementDeadline;
use connection::{Connector, OwnedRows, Reader};
pub use engine::{NodeRows, Scope};
use model::error::Error;
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::stats::{PoolStats, SizeEstimate};
pub(super) use places::POOL_WAIT;
use places::PoolPlaces;

/// Maximum number of connections to one node in each of its two pools. One pool is for point reads
/// and the other for reads that may visit many rows, so that short reads do not wait for long ones.
const READERS_MAX: u32 = 4;
/// Time after which an idle connection is closed.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Maximum size in bytes of a result that is read on the thread of the request itself. A larger
/// result is read on a thread that may block.
const INLINE_BYTES_MAX: usize = 128 << 10;

/// The one thread that opens and closes connections for all pools; without it, each pool would
/// start three threads.
#[derive(Clone)]
pub struct Housekeeping(Arc<ScheduledThreadPool>);

impl Housekeeping {
    /// Starts the thread.
    pub fn start() -> Self {
        Self(Arc::new(ScheduledThreadPool::new(1)))
    }
}

/// The two connection pools of one node: one for point reads, one for all other reads.
#[derive(Clone)]
pub struct ReaderPool {
    shard: String,
    visible_bound: VisibleBound,
    source: ReaderSource,
    by_key: r2d2::Pool<Connector>,
    scans: r2d2::Pool<Connector>,
    /// Divides the connections of both pools fairly among tenants.
    places: PoolPlaces,
    /// Number of reads that are waiting because no connection is free.
    waiting: Arc<AtomicUsize>,
}

/// Facts about a node's file that its readers share with its writer or its applier.
#[derive(Clone, Debug, Default)]
pub struct ReaderSource {
    /// Check that the path of the primary's file still leads to the file that is open, so that
    /// another file is never read; `None` for a replica.
    pub file_check: Option<Arc<OpenFileCheck>>,
    /// Slots that the shard of the file owns.
    pub ownership: Arc<SlotOwnership>,
}

/// Upper bound for the position of the changes that a read of this node may have seen.
#[derive(Clone)]
pub struct VisibleBound {
    replication: Arc<ReplicationState>,
    replica: Option<usize>,
}

impl VisibleBound {
    /// Creates the bound for reads of the primary.
    pub fn primary(replication: &Arc<ReplicationState>) -> Self {
        Self { replication: Arc::clone(replication), replica: None }
    }

    /// Creates the bound for reads of a replica.
    pub fn replica(replication: &Arc<ReplicationState>, index: usize) -> Self {
        Self { replication: Arc::clone(replication), replica: Some(index) }
    }

    /// Returns the bound; must be called after the read. Returns `None` while a commit is in
    /// progress, when the position must be read from the file.
    fn seen(&self) -> Option<u64> {
        match self.replica {
            Some(index) => Some(self.replication.replicas().visible_bound(index)),
            None => self.replication.primary().visible_bound(),
        }
    }
}

impl ReaderPool {
    /// Creates the pools for a node's file that has no writer in this process. The first connection
    /// is opened at once, the others on demand.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be opened.
    pub fn open(
        shard: &str,
        path: &Path,
        visible_bound: VisibleBound,
        housekeeping: &Housekeeping,
    ) -> Result<Self, OpenError> {
        let source = ReaderSource::default();
        Self::open_on(source, (shard, path), visible_bound, housekeeping)
    }

    /// Creates the pools for a file that a writer or an applier of this process has open.
    ///
    /// # Errors
    /// Errors of [`ReaderPool::open`].
    pub fn open_on(
        source: ReaderSource,
        (shard, path): (&str, &Path),
        visible_bound: VisibleBound,
        housekeeping: &Housekeeping,
    ) -> Result<Self, OpenError> {
        let pool = |idle| {
            r2d2::Pool::builder()
                .max_size(READERS_MAX)
                .min_idle(Some(idle))
                // A local file needs no probe before each use, which would double the cost of a
                // point read.
                .test_on_check_out(false)
                .idle_timeout(Some(IDLE_MAX))
                .max_lifetime(None)
                .thread_pool(Arc::clone(&housekeeping.0))
                .build(Connector { path: path.to_owned(), source: source.clone() })
                .map_err(|error| OpenError::file(path, error))
        };
        let (shard, waiting) = (shard.to_owned(), Arc::default());
        let (by_key, scans) = (pool(1)?, pool(0)?);
        let places = PoolPlaces::default();
        Ok(Self { shard, visible_bound, source, by_key, scans, places, waiting })
    }

    /// Returns the check of the file; `None` for a replica's file.
    pub fn file_check(&self) -> Option<&Arc<OpenFileCheck>> {
        self.source.file_check.as_ref()
    }

    /// Returns the positions of the shard's nodes.
    pub(super) fn replication(&self) -> &ReplicationState {
        &self.visible_bound.replication
    }

    /// Reads the rows of a key if a connection is free now. Returns `None` if all connections are
    /// busy, or if the result is too large for the thread of the request.
    pub fn try_read(&self, query: &ReadQuery, scope: Scope<'_>) -> Option<Result<NodeRows, Error>> {
        let mut reader = self.by_key.try_get()?;
        // A point read is so short that it needs no deadline.
        match self.checked(reader.read(query, scope, INLINE_BYTES_MAX)) {
            Ok(Ok(read)) if read.rows.bytes() > INLINE_BYTES_MAX => None,
            Ok(Ok(read)) => Some(self.with_position(&mut reader, read)),
            Ok(Err(refusal)) => Some(Err(Error::SlotRefused(refusal))),
            Err(error) => Some(Err(error)),
        }
    }

    fn with_position(&self, reader: &mut Reader, read: OwnedRows) -> Result<NodeRows, Error> {
        let position = match self.visible_bound.seen() {
            Some(position) => position,
            // A commit is in progress. The position is read from the file after the rows, so no
            // change that the read has seen is above it.
            None => self.checked(reader.position())?,
        };
        let position = self.visible_bound.replication.timeline().position(position);
        Ok(NodeRows { rows: read.rows, position, owned: read.owned })
    }

    /// Waits up to `wait` for a free connection, and reads until `deadline` at most. Blocks. A read
    /// of a whole shard also returns the values by which the rows of several shards are merged.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] if no connection became free; [`Error::DeadlinePassed`];
    /// [`Error::ShardUnavailable`] if the file cannot be read; [`Error::AnswerTooLarge`];
    /// [`Error::SlotRefused`] if the shard does not own the slot of the one key that is read.
    pub fn read(
        &self,
        query: &ReadQuery,
        scope: Scope<'_>,
        (wait, deadline): (Duration, Instant),
    ) -> Result<NodeRows, Error> {
        let mut reader = match scope {
            Scope::Key(..) if query.is_point_read() => self.checkout(&self.by_key, wait)?,
            Scope::Key(..) | Scope::Shard => self.checkout(&self.scans, wait)?,
        };
        reader.set_deadline(deadline, query.has_patterns());
        let read = self.checked(reader.read(query, scope, Rows::BYTES_MAX))?;
        let read = read.map_err(Error::SlotRefused)?;
        if read.rows.is_too_large() {
            return Err(Error::AnswerTooLarge);
        }
        self.with_position(&mut reader, read)
    }

    /// Reads one row of the file's schema, to prove that the node answers. Blocks for at most
    /// `wait` until a connection is free.
    ///
    /// # Errors
    /// Errors of [`ReaderPool::read`].
    pub fn probe(&self, wait: Duration) -> Result<(), Error> {
        let mut reader = self.checkout(&self.by_key, wait)?;
        self.checked(reader.probe())
    }

    /// Returns, for each table, the number of rows as counted by the writer and the size in bytes,
    /// summed over its pages. Blocks, and visits every page, so it should be called rarely.
    ///
    /// # Errors
    /// Errors of [`ReaderPool::read`].
    pub fn sizes(&self, wait: Duration) -> Result<Vec<TableSize>, Error> {
        let mut reader = self.checkout(&self.scans, wait)?;
        self.checked(reader.sizes())
    }

    /// Returns the number of rows of each table, as counted by the writer. Blocks.
    ///
    /// # Errors
    /// Errors of [`ReaderPool::read`].
    pub fn counts(&self, wait: Duration) -> Result<Vec<(String, i64)>, Error> {
        let mut reader = self.checkout(&self.by_key, wait)?;
        self.checked(reader.counts())
    }

    /// Returns the number of rows, as counted by the writer, and the bytes of all pages in use of
    /// the file. Blocks for a moment.
    ///
    /// # Errors
    /// Errors of [`ReaderPool::read`].
    pub fn size_estimate(&self, wait: Duration) -> Result<SizeEstimate, Error> {
        let mut reader = self.checkout(&self.by_key, wait)?;
        self.checked(reader.size_estimate())
    }

    /// Returns the numbers of connections, of those in use, and of reads that wait for one.
    pub fn stats(&self) -> PoolStats {
        let waiting = self.waiting.load(Ordering::Relaxed) + self.places.waiting();
        let start = PoolStats { waiting, ..PoolStats::default() };
        [&self.by_key, &self.scans].into_iter().fold(start, |sum, pool| {
            let state = pool.state();
            let in_use = (state.connections - state.idle_connections) as usize;
            let (open, max) = (state.connections as usize, pool.max_size() as usize);
            sum.with(&PoolStats { in_use, open, max, waiting: 0 })
        })
    }

    fn checkout(
        &self,
        pool: &r2d2::Pool<Connector>,
        wait: Duration,
    ) -> Result<r2d2::PooledConnection<Connector>, Error> {
        if let Some(reader) = pool.try_get() {
            return Ok(reader);
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let reader = pool.get_timeout(wait);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        reader.map_err(|_late| Error::PoolExhausted { shard: self.shard.clone() })
    }

    fn checked<T>(&self, result: QueryResult<T>) -> Result<T, Error> {
        result.map_err(|error| {
            if StatementDeadline::is_late(&error) {
                return Error::DeadlinePassed;
            }
            tracing::error!(shard = %self.shard, %error, "a read failed");
            match DbErrorKind::of(&error) {
                DbErrorKind::Other => Error::Internal,
                // The disk for temporary files is full, which does not mean that the shard's own
                // disk is full.
                DbErrorKind::Full => Error::ShardUnavailable { shard: self.shard.clone() },
                kind @ (DbErrorKind::Constraint(_) | DbErrorKind::Unusable) => {
                    kind.error(&self.shard)
                }
            }
        })
    }
}

#[cfg(test)]
mod tests;
