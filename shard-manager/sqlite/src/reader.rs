//! Readers: pools of read-only connections to the file of one node.
//!
//! **Invariant:** a reader cannot write (`query_only`), and each read sees one snapshot of the
//! file.
//! **Not here:** the thread of a read (`shard`), merging over shards (`result_rows`).

mod places;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use engine::TableSize;
use engine::replication::ReplicationState;
use engine::system_tables::tessera_counts;
use scheduled_thread_pool::ScheduledThreadPool;

use super::connection::{
    Bind, DbErrorKind, OpenError, PreparedShapes, Statement, for_each_row, for_each_row_while, open,
};
use super::dialect::{Select, binds};
use super::open_file_check::OpenFileCheck;
use super::row_json::{push_object, value};
use super::sql;
use super::statement_deadline::StatementDeadline;
pub use engine::{NodeRows, Scope};
use model::error::Error;
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::stats::{PoolStats, SizeEstimate};
pub(super) use places::POOL_WAIT;
use places::PoolPlaces;

/// Number of connections to one node for point reads, and the same number for reads that may visit
/// many rows: without connections of their own, the short reads would wait for the long ones.
const READERS_MAX: u32 = 4;
/// Time for which an idle reader is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Maximum number of bytes of an answer that is read on the caller's own thread. A larger one is
/// read on another thread.
const INLINE_BYTES_MAX: usize = 128 << 10;
/// Initial capacity of the buffer for rows: most reads return few rows and never make it grow.
const ROWS_BYTES: usize = 1_024;
/// Each reader has a page cache of 2 MiB; the operating system caches the file for all of them.
/// Sorting large rows spills to a temporary file instead of filling memory.
const PRAGMAS: &str = "PRAGMA cache_size=-2048; PRAGMA temp_store=FILE; PRAGMA query_only=ON";

/// The thread that opens and closes connections for all pools; each pool would otherwise start
/// three.
#[derive(Clone)]
pub struct Housekeeping(Arc<ScheduledThreadPool>);

impl Housekeeping {
    /// Starts the thread.
    pub fn start() -> Self {
        Self(Arc::new(ScheduledThreadPool::new(1)))
    }
}

/// The pools of one node.
#[derive(Clone)]
pub struct ReaderPool {
    shard: String,
    visible_bound: VisibleBound,
    /// Proof for the primary's file.
    file_check: Option<Arc<OpenFileCheck>>,
    by_key: r2d2::Pool<Connector>,
    scans: r2d2::Pool<Connector>,
    /// Places of both pools, which tenants share.
    places: PoolPlaces,
    /// Reads that have found no connection free.
    waiting: Arc<AtomicUsize>,
}

/// Upper bound of the changes that a read of this node may have seen.
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

    /// Returns the bound, after the read; `None` if only the file contains it.
    fn seen(&self) -> Option<u64> {
        match self.replica {
            Some(index) => Some(self.replication.replicas().visible_bound(index)),
            None => self.replication.primary().visible_bound(),
        }
    }
}

impl ReaderPool {
    /// Creates the pools for the file of a node. The first connection is opened now, the others on
    /// demand.
    ///
    /// # Errors
    /// [`OpenError`] if the file cannot be opened.
    pub fn open(
        shard: &str,
        path: &Path,
        visible_bound: VisibleBound,
        housekeeping: &Housekeeping,
    ) -> Result<Self, OpenError> {
        Self::open_on(None, (shard, path), visible_bound, housekeeping)
    }

    /// Opens readers of the file that a writer has open, and never of another file of the same
    /// name.
    ///
    /// # Errors
    /// Errors of [`ReaderPool::open`].
    pub fn open_on(
        file_check: Option<&Arc<OpenFileCheck>>,
        (shard, path): (&str, &Path),
        visible_bound: VisibleBound,
        housekeeping: &Housekeeping,
    ) -> Result<Self, OpenError> {
        let file_check = file_check.cloned();
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
                .build(Connector { path: path.to_owned(), file_check: file_check.clone() })
                .map_err(|error| OpenError::file(path, error))
        };
        let (shard, waiting) = (shard.to_owned(), Arc::default());
        let (by_key, scans) = (pool(1)?, pool(0)?);
        let places = PoolPlaces::default();
        Ok(Self { shard, visible_bound, file_check, by_key, scans, places, waiting })
    }

    /// Returns the proof for the file; `None` for a replica's file.
    pub fn file_check(&self) -> Option<&Arc<OpenFileCheck>> {
        self.file_check.as_ref()
    }

    /// Returns the positions of the shard's nodes.
    pub(super) fn replication(&self) -> &ReplicationState {
        &self.visible_bound.replication
    }

    /// Reads the rows of a key on a connection that is free now; `None` if all are busy, or if the
    /// answer is large.
    pub fn try_read(&self, query: &ReadQuery, scope: Scope<'_>) -> Option<Result<NodeRows, Error>> {
        let mut reader = self.by_key.try_get()?;
        // A point read is short whatever its deadline.
        match self.checked(reader.read(query, scope, INLINE_BYTES_MAX)) {
            Ok(rows) if rows.bytes() > INLINE_BYTES_MAX => None,
            Ok(rows) => Some(self.with_position(&mut reader, rows)),
            Err(error) => Some(Err(error)),
        }
    }

    fn with_position(&self, reader: &mut Reader, rows: Rows) -> Result<NodeRows, Error> {
        let position = match self.visible_bound.seen() {
            Some(position) => position,
            // A commit is in progress. The position is read from the file after the rows, so it
            // bounds the changes that the read has seen.
            None => self.checked(reader.position())?,
        };
        let position = self.visible_bound.replication.timeline().position(position);
        Ok(NodeRows { rows, position, owned: None })
    }

    /// Reads until `deadline` on a connection that becomes free within `wait`. Blocks. Rows of a
    /// whole shard come with the values by which they are merged.
    ///
    /// # Errors
    /// [`Error::PoolExhausted`] if none did; [`Error::DeadlinePassed`]; [`Error::ShardUnavailable`]
    /// if the file cannot be read; [`Error::AnswerTooLarge`].
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
        reader.statement_deadline.set(deadline, query.has_patterns());
        let rows = self.checked(reader.read(query, scope, Rows::BYTES_MAX))?;
        if rows.is_too_large() {
            return Err(Error::AnswerTooLarge);
        }
        self.with_position(&mut reader, rows)
    }

    /// Reads one row of the file's schema, to prove that the node answers. Blocks for at most
    /// `wait` until a connection is free.
    ///
    /// # Errors
    /// Errors of [`ReaderPool::read`].
    pub fn probe(&self, wait: Duration) -> Result<(), Error> {
        let mut reader = self.checkout(&self.by_key, wait)?;
        let probed = reader.connection.batch_execute("SELECT count(*) FROM sqlite_schema");
        self.checked(probed)
    }

    /// Returns the rows (as counted by the writer) and bytes (summed over the pages in use) of each
    /// table. Blocks, and visits every page, so it should be called seldom.
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
                // The space for temporary files is full, which says nothing about the space of the
                // shard.
                DbErrorKind::Full => Error::ShardUnavailable { shard: self.shard.clone() },
                kind @ (DbErrorKind::Constraint(_) | DbErrorKind::Unusable) => {
                    kind.error(&self.shard)
                }
            }
        })
    }
}

/// Creates the readers of a pool.
#[derive(Debug)]
struct Connector {
    path: PathBuf,
    file_check: Option<Arc<OpenFileCheck>>,
}

impl r2d2::ManageConnection for Connector {
    type Connection = Reader;
    type Error = OpenError;

    fn connect(&self) -> Result<Reader, OpenError> {
        self.file_check.as_ref().map_or(Ok(()), |file_check| file_check.check())?;
        let mut connection = open(&self.path, PRAGMAS)?;
        let statement_deadline = StatementDeadline::on(&mut connection)
            .map_err(|error| OpenError::file(&self.path, error))?;
        Ok(Reader {
            connection,
            shapes: PreparedShapes::default(),
            statement_deadline,
            broken: false,
        })
    }

    fn is_valid(&self, _: &mut Reader) -> Result<(), OpenError> {
        Ok(())
    }

    fn has_broken(&self, reader: &mut Reader) -> bool {
        reader.broken
    }
}

/// A read-only connection and its prepared statements.
struct Reader {
    connection: SqliteConnection,
    shapes: PreparedShapes,
    statement_deadline: StatementDeadline,
    /// True if the connection must not be used again.
    broken: bool,
}

impl Reader {
    /// Reads a page until no rows are left or it has more than `bytes_max`, and counts the rows if
    /// the query requests that.
    fn read(&mut self, query: &ReadQuery, scope: Scope<'_>, bytes_max: usize) -> QueryResult<Rows> {
        if !query.counts {
            return self.page(query, scope, bytes_max);
        }
        // The page and the count see one snapshot. An error in between leaves the transaction open.
        self.broken = true;
        self.connection.batch_execute("BEGIN")?;
        let read = self.page(query, scope, bytes_max).and_then(|mut rows| {
            rows.total = Some(self.count(query, scope)?);
            Ok(rows)
        });
        // If the transaction stayed open, later reads would see the same snapshot.
        self.broken = self.connection.batch_execute("COMMIT").is_err();
        read
    }

    fn page(&mut self, query: &ReadQuery, scope: Scope<'_>, bytes_max: usize) -> QueryResult<Rows> {
        if query.limit == 0 {
            return Ok(Rows::default());
        }
        let keyed = scope.is_keyed();
        let select = Select::page(query, scope);
        let (table, order) = (&query.table, query.sort_keys(keyed));
        let page = query.limit as usize + if keyed { 0 } else { query.offset as usize };
        let (outputs, binds) = (query.outputs.len(), binds(&select));
        let cached = self.shapes.admit(&select.sql);
        let mut rows = Rows::with_capacity(ROWS_BYTES);
        let statement = Statement { sql: &select.sql, binds: &binds, cached };
        let mut last = Vec::new();
        for_each_row_while(&mut self.connection, statement, |row| {
            if rows.len() == page {
                rows.more_after = Some(std::mem::take(&mut last));
                return Ok(false);
            }
            rows.push(|out| push_object(out, row, shown(query)))?;
            if keyed && rows.len() == 1 {
                rows.version = row.int(outputs);
            }
            let first_key = outputs + usize::from(keyed);
            let keys = (first_key..).zip(&order);
            let keys = keys.map(|(at, by)| value(row, at, table.column(by.column).kind));
            if !keyed {
                keys.for_each(|key| rows.push_key(key));
            } else if rows.len() == page {
                last = keys.collect();
            }
            Ok(rows.bytes() <= bytes_max)
        })?;
        Ok(rows)
    }

    fn count(&mut self, query: &ReadQuery, scope: Scope<'_>) -> QueryResult<u64> {
        let select = Select::count(query, scope);
        let (sql, binds) = match scope {
            // The writer counts all rows of a table.
            Scope::Shard if query.conditions.is_empty() => {
                (sql::COUNTED, vec![Bind::Text(query.table.name())])
            }
            Scope::Shard | Scope::Key(..) => (&*select.sql, binds(&select)),
        };
        let statement = Statement { sql, binds: &binds, cached: self.shapes.admit(sql) };
        let mut total = 0;
        for_each_row(&mut self.connection, statement, |row| {
            total = row.int(0).unwrap_or(0) as u64;
            Ok(())
        })?;
        Ok(total)
    }

    fn position(&mut self) -> QueryResult<u64> {
        let statement = Statement { sql: sql::POSITION, binds: &[], cached: true };
        let mut position = 0;
        for_each_row(&mut self.connection, statement, |row| {
            position = row.int(0).unwrap_or(0) as u64;
            Ok(())
        })?;
        Ok(position)
    }

    fn counts(&mut self) -> QueryResult<Vec<(String, i64)>> {
        let counts = tessera_counts::table.order(tessera_counts::name);
        counts.select((tessera_counts::name, tessera_counts::rows)).load(&mut self.connection)
    }

    fn size_estimate(&mut self) -> QueryResult<SizeEstimate> {
        let rows = self.counts()?.into_iter().map(|(_, rows)| rows.max(0).cast_unsigned()).sum();
        let bytes = bytes_in_use(&mut self.connection)?;
        Ok(SizeEstimate { rows: Some(rows), is_estimate: false, bytes })
    }

    fn sizes(&mut self) -> QueryResult<Vec<TableSize>> {
        let counts = self.counts()?;
        let mut sizes = Vec::with_capacity(counts.len());
        for (table, rows) in counts {
            let mut bytes = 0;
            let binds = [Bind::Text(&table)];
            let statement = Statement { sql: TABLE_BYTES, binds: &binds, cached: true };
            for_each_row(&mut self.connection, statement, |row| {
                bytes = row.int(0).unwrap_or(0);
                Ok(())
            })?;
            sizes.push(TableSize { table, rows, bytes });
        }
        Ok(sizes)
    }
}

/// Returns the bytes of the pages of a file that are in use.
pub(super) fn bytes_in_use(connection: &mut SqliteConnection) -> QueryResult<u64> {
    let statement = Statement { sql: FILE_BYTES, binds: &[], cached: true };
    let mut bytes = 0;
    for_each_row(connection, statement, |row| {
        bytes = row.int(0).unwrap_or(0).max(0).cast_unsigned();
        Ok(())
    })?;
    Ok(bytes)
}

const FILE_BYTES: &str = "SELECT (p.page_count - f.freelist_count) * s.page_size
    FROM pragma_page_count AS p, pragma_freelist_count AS f, pragma_page_size AS s";

const TABLE_BYTES: &str = "SELECT sum(pgsize) FROM dbstat WHERE aggregate = TRUE
    AND name IN (SELECT name FROM sqlite_schema WHERE tbl_name = ?1)";

/// Returns the names and types of the outputs.
fn shown(query: &ReadQuery) -> impl Iterator<Item = (&str, model::value::ColumnType)> {
    query.outputs.iter().map(|output| {
        let column = query.table.column(output.column);
        (output.alias.as_deref().unwrap_or(&column.name), column.kind)
    })
}

#[cfg(test)]
mod tests;
