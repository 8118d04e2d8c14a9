//! Node reader: the traits through which the nodes of a shard are read, and the values they return.
//!
//! **Invariant:** a result was read from one snapshot of the node, and no future outlives the
//! deadline that it was given.
//! **Not here:** the choice of the node (`shard`, `replica_set`).

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use model::error::Error;
use model::fair_share::FairShare;
use model::keyspace::Slot;
use model::position::Position;
use model::query::ReadQuery;
use model::reason::Reason;
use model::result_rows::Rows;
use model::slot_set::SlotSet;
use model::stats::{MoverConnections, PoolStats, SizeEstimate};
use tokio::sync::OwnedSemaphorePermit;

use super::EngineFuture;

/// Read of the rows of one shard key.
#[derive(Clone, Copy)]
pub struct KeyRead<'a> {
    /// The query.
    pub query: &'a ReadQuery,
    /// The slot of the key.
    pub slot: Slot,
    /// The key.
    pub key: &'a str,
    /// Position that the node must have reached. A server is queried for its position; that of a
    /// file is known.
    pub min_position: u64,
    /// Time after which the result is no longer needed.
    pub deadline: Instant,
    /// Tenant for whom the rows are read.
    pub share: FairShare,
}

/// Read of the rows of all keys of a shard.
pub struct ScanRead {
    /// The query.
    pub query: Arc<ReadQuery>,
    /// Position that the node must have reached. A server is queried for its position; that of a
    /// file is known.
    pub min_position: u64,
    /// Time after which the result is no longer needed.
    pub deadline: Instant,
    /// Tenant for whom the rows are read.
    pub share: FairShare,
}

/// Connections that read one node.
pub trait NodeReader: Send + Sync {
    /// Reads the rows of one shard key.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`], [`Error::PoolExhausted`], [`Error::ShardUnavailable`],
    /// [`Error::AnswerTooLarge`], or [`Error::SlotRefused`] if the shard does not own the slot.
    fn read_key<'a>(&'a self, read: KeyRead<'a>) -> EngineFuture<'a, NodeRows>;

    /// Reads rows of all keys, or of those that the query names, each with the values by which it
    /// is merged. Rows of slots that the shard does not own are left out.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn scan(&self, read: ScanRead) -> EngineFuture<'_, NodeRows>;

    /// Sends the node the smallest possible request. [`Error::PoolExhausted`] means that the node
    /// is busy, not that it is down.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn probe(&self, deadline: Instant) -> EngineFuture<'_, ()>;

    /// Returns the number of connections, and of those that are in use.
    fn pool_stats(&self) -> PoolStats;
}

/// Position that strong reads must observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadIndex {
    /// Only this process writes, so the position is known without a request.
    Confirmed(u64),
    /// The primary wrote a record at this position. If a majority of the nodes has it, it was
    /// still the primary when the record was requested.
    AwaitQuorum(Position),
}

/// Connections that read the primary of a shard, whichever node that is.
pub trait PrimaryReader: NodeReader {
    /// Returns a position at or above everything that was acknowledged before this was called.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn read_index(&self, deadline: Instant) -> EngineFuture<'_, ReadIndex>;

    /// Returns a position that every read of the primary that begins now observes. For a server it
    /// is 0, unknown: a commit that was flushed, and so has a position, may still be invisible to a
    /// read.
    fn visible_position(&self) -> u64;

    /// Returns true if a timeline is later than all that are known here: another router may have
    /// noticed a promotion first.
    fn is_ahead(&self, timeline: u32) -> bool;

    /// Searches the nodes of the shard for the primary, if another process can promote a node.
    fn find_primary(&self) -> BoxFuture<'_, ()>;

    /// Checks that the primary may be written: its files were not lost.
    ///
    /// # Errors
    /// [`Error::FilesLost`].
    fn check_writable(&self) -> Result<(), Error>;

    /// Returns the reason why the primary accepts no writes, or will not after a restart, if its
    /// files were lost.
    fn loss(&self) -> Option<Reason>;

    /// Returns rows and bytes of each table. Reads every page or row. The permit is dropped when
    /// the work has ended, even if the future was dropped before.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn table_sizes(
        &self,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> EngineFuture<'_, Vec<TableSize>>;

    /// Returns the number of rows of each table.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn row_counts(&self, deadline: Instant) -> EngineFuture<'_, Vec<TableRows>>;

    /// Returns the approximate size of the node's data, without reading rows.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn size_estimate(&self, deadline: Instant) -> EngineFuture<'_, SizeEstimate>;

    /// Returns the free bytes of the disk on which rows are stored. A server does not report them:
    /// they are what the settings allow its database, less the size of the database; `None` if the
    /// settings allow no certain size.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn free_bytes(&self, deadline: Instant) -> EngineFuture<'_, Option<u64>>;

    /// Returns the connections that movers need with the node's server, and those that are free;
    /// `None` if the engine has no server.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn mover_connections(&self, deadline: Instant) -> EngineFuture<'_, Option<MoverConnections>>;

    /// Returns the nodes over which the engine itself distributes the shard's rows; none if it does
    /// not.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn worker_nodes(&self, deadline: Instant) -> EngineFuture<'_, Vec<WorkerNode>>;
}

/// Rows, and the position up to which they may show the shard's changes.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRows {
    /// The rows.
    pub rows: Rows,
    /// The position.
    pub position: Position,
    /// Slots whose rows a scan covers: those that the node owned in the snapshot of the rows.
    /// `None` for a read of one key, and from engines that distribute rows themselves.
    pub owned: Option<Arc<SlotSet>>,
}

/// Rows that a read covers: all rows, or those of one shard key.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'k> {
    /// The rows of one key.
    Key(Slot, &'k str),
    /// All rows of the shard.
    Shard,
}

impl Scope<'_> {
    /// Returns true for the rows of one key.
    #[inline]
    pub fn is_keyed(self) -> bool {
        matches!(self, Self::Key(..))
    }
}

/// Node to which the engine itself distributes a shard's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerNode {
    /// `coordinator`, or `worker` and its group.
    pub node: String,
    /// The group of nodes that the node belongs to; 0 is the coordinator's.
    pub group: i64,
    /// `primary`, `secondary` or `unavailable`.
    pub role: String,
    /// True if queries are sent to the node.
    pub active: bool,
    /// True if the node receives rows; false if a rebalance moves its rows away.
    pub gets_rows: bool,
    /// Number of the engine's own shards on the node, for all tables of Tessera.
    pub shards: i64,
    /// Size of these shards in bytes.
    pub bytes: i64,
}

/// Rows and bytes of one table on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// The table.
    pub table: String,
    /// Rows, exact.
    pub rows: i64,
    /// Bytes of the pages in use, those of its indexes included.
    pub bytes: i64,
}

/// Rows of one table on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// Rows, exact.
    pub rows: i64,
}
