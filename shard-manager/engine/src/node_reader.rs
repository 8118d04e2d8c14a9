//! Node reader: the traits through which the nodes of a shard are read, and the values they return.
//!
//! **Invariant:** a result was read from one snapshot of the node, and every future ends by the
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
    /// Position that the node must have reached. A server is queried for its position; the position
    /// of a file is known without a query.
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
    /// Position that the node must have reached. A server is queried for its position; the position
    /// of a file is known without a query.
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

    /// Reads rows of all keys, or of the keys that the query names. Each row has the values that
    /// are needed to merge it with the rows of other shards. Rows in slots that the shard does not
    /// own are left out.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn scan(&self, read: ScanRead) -> EngineFuture<'_, NodeRows>;

    /// Sends the smallest possible request to the node, to find out if it responds.
    /// [`Error::PoolExhausted`] means that the node is busy, not that it is down.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn probe(&self, deadline: Instant) -> EngineFuture<'_, ()>;

    /// Returns the number of all connections, and the number of connections in use.
    fn pool_stats(&self) -> PoolStats;
}

/// Position that a strong (linearizable) read must observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadIndex {
    /// The position is known without a request, because only this process writes to the shard.
    Confirmed(u64),
    /// The node that is assumed to be the primary has written a log record at this position. If a
    /// majority of the nodes has that record, the node was still the primary when the record was
    /// requested.
    AwaitQuorum(Position),
}

/// Connections that read the primary of a shard, whichever node is the primary at the time.
pub trait PrimaryReader: NodeReader {
    /// Returns a position at or above everything that was acknowledged before this was called.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn read_index(&self, deadline: Instant) -> EngineFuture<'_, ReadIndex>;

    /// Returns a position that every read of the primary that begins now observes. For a server it
    /// is 0, that is, unknown: a commit may already be flushed, and so have a position, while reads
    /// do not see it yet.
    fn visible_position(&self) -> u64;

    /// Returns true if a timeline is later than all timelines that this process knows: another
    /// router may have noticed a promotion first.
    fn is_ahead(&self, timeline: u32) -> bool;

    /// Searches the nodes of the shard for the present primary, if other processes can promote a
    /// node.
    fn find_primary(&self) -> BoxFuture<'_, ()>;

    /// Checks that the primary accepts writes, that is, that its files were not lost.
    ///
    /// # Errors
    /// [`Error::FilesLost`].
    fn check_writable(&self) -> Result<(), Error>;

    /// Returns the reason why the primary accepts no writes now, or will accept none after a
    /// restart, because files were lost; `None` if no files were lost.
    fn loss(&self) -> Option<Reason>;

    /// Returns the number of rows and bytes of each table, for which it reads every page or row.
    /// The permit is held until this work has ended, even if the future is dropped earlier.
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

    /// Returns the number of free bytes on the disk that stores the rows. A server does not report
    /// this number: for a server, it is the size that the settings allow for the database, less the
    /// present size of the database. `None` if the number is not known, for example because the
    /// settings name no size.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn free_bytes(&self, deadline: Instant) -> EngineFuture<'_, Option<u64>>;

    /// Returns the number of connections to the node's server that movers need, and the number of
    /// free connections; `None` if the engine has no server.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn mover_connections(&self, deadline: Instant) -> EngineFuture<'_, Option<MoverConnections>>;

    /// Returns the nodes over which the engine itself distributes the shard's rows; an empty list
    /// if it does not distribute them.
    ///
    /// # Errors
    /// Errors of [`NodeReader::read_key`].
    fn worker_nodes(&self, deadline: Instant) -> EngineFuture<'_, Vec<WorkerNode>>;
}

/// Rows, with the highest position whose changes they may show.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRows {
    /// The rows.
    pub rows: Rows,
    /// The position.
    pub position: Position,
    /// Slots whose rows a scan covers: those that the shard owned in the snapshot of the rows.
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
    /// Name of the node: `coordinator`, or `worker` and the number of its group.
    pub node: String,
    /// Number of the group of nodes that the node belongs to; 0 is the group of the coordinator.
    pub group: i64,
    /// Role of the node: `primary`, `secondary` or `unavailable`.
    pub role: String,
    /// True if queries are sent to the node.
    pub active: bool,
    /// True if the node receives rows; false if a rebalance moves its rows away.
    pub gets_rows: bool,
    /// Number of the engine's own shards on the node that belong to tables of Tessera.
    pub shards: i64,
    /// Size of these shards in bytes.
    pub bytes: i64,
}

/// Number of rows and bytes of one table on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// The table.
    pub table: String,
    /// Exact number of rows.
    pub rows: i64,
    /// Number of bytes of the pages in use, including those of the table's indexes.
    pub bytes: i64,
}

/// Number of rows of one table on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// Exact number of rows.
    pub rows: i64,
}
