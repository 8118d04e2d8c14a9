//! Stats: numbers about the load of shards, the grouping of writes into transactions, and the
//! amount of data.
//!
//! A lane is a queue of writes to a shard. Writes that wait in it are grouped into batches, and a
//! batch is normally one transaction. Counters are updated once for each batch, not for each
//! request, and reading them never waits. Each number is correct by itself, but if a batch ends
//! while several are read, some of them include that batch and others do not.
//!
//! **Not here:** collecting the numbers (`shard`, `postgres`, `sqlite`), using them.

use std::time::Duration;

use crate::reason::Reasons;
use crate::topology::{Role, ShardNumber};

/// Number of classes by which batches are counted. The classes are for 1 operation, 2, up to 4, up
/// to 8 and so on.
pub const BATCH_CLASSES: usize = 10;

/// Returns the size class of a batch with this many operations: the lowest class `c` for which
/// [`batch_class_max`]`(c)` is at least that number. The last class also counts all larger batches.
pub fn batch_class(operations: usize) -> usize {
    let class = usize::BITS - operations.saturating_sub(1).leading_zeros();
    (class as usize).min(BATCH_CLASSES - 1)
}

/// Returns the maximum number of operations of a batch in this size class.
pub fn batch_class_max(class: usize) -> u64 {
    1 << class
}

/// Statistics of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStats {
    /// Number of the shard.
    pub shard: ShardNumber,
    /// Combined statistics of the lanes of the shard.
    pub lane: LaneStats,
    /// Results of comparing the copies of the shard's rows.
    pub compared: ComparisonStats,
    /// Nodes of the shard, the primary first.
    pub nodes: Vec<NodeStats>,
}

impl ShardStats {
    /// Returns the numbers of read connections, summed over all nodes of the shard.
    pub fn pool(&self) -> PoolStats {
        self.nodes.iter().fold(PoolStats::default(), |sum, node| sum.with(&node.pool))
    }

    /// Returns the highest lag of a replica; `None` if the lag of no replica is known.
    pub fn worst_lag(&self) -> Option<Duration> {
        let replicas = self.nodes.iter().filter(|node| node.role == Role::Replica);
        replicas.filter_map(|node| node.lag).max()
    }
}

/// Approximate size of a shard, which its primary knows without reading rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeEstimate {
    /// Number of rows of all tables; `None` on Citus, which does not count them.
    pub rows: Option<u64>,
    /// True if `rows` is an estimate of the server, false if it is an exact count, as on files.
    pub is_estimate: bool,
    /// Number of bytes in use: on servers the size of the tables and their indexes, on files the
    /// size of the whole file with its log.
    pub bytes: u64,
}

/// Number of connections that movers, the tasks that carry out moves, need to one database server,
/// and number that they can still open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoverConnections {
    /// Maximum number of connections that movers will open in addition to those that they have.
    pub needed: u64,
    /// Number of connections that the server still permits.
    pub free: u64,
    /// Name of the setting that limits the number of connections.
    pub limit: &'static str,
}

/// Results of comparing the copies of a shard's rows since the process began. Copies are compared
/// only on files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComparisonStats {
    /// Number of completed comparisons of all rows of all copies.
    pub passes: u64,
    /// Number of rows that differed, summed over all comparisons.
    pub differences: u64,
}

/// Upper bounds, in milliseconds, of the buckets of [`ParkedStats::waits`].
pub const PARKED_WAITS_MS: [u32; 20] =
    [1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 300, 500, 1_000, 2_000, 5_000];

/// Statistics of parked writes: a shard has refused the slots of these writes, for example during a
/// move, and they wait until a shard accepts these slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkedStats {
    /// Number of rows that wait now.
    pub rows: usize,
    /// Total size of these rows in bytes.
    pub bytes: usize,
    /// Maximum number of rows that may wait at the same time.
    pub rows_max: usize,
    /// Maximum total size, in bytes, of the rows that may wait at the same time.
    pub bytes_max: usize,
    /// Number of rows that have been parked since the process began, including those that wait now.
    pub total: u64,
    /// Number of rows that could not be parked, because one of the two limits was reached.
    pub refused: u64,
    /// Longest of the waits that have ended.
    pub longest: Duration,
    /// Number of rows whose wait has ended, in buckets by duration. Each row is counted only in the
    /// bucket of the lowest bound of [`PARKED_WAITS_MS`] that its wait did not exceed; the last
    /// bucket is for waits longer than all bounds.
    pub waits: [u64; PARKED_WAITS_MS.len() + 1],
    /// Sum of all waits that have ended.
    pub waited: Duration,
}

/// Statistics of one lane, or the combined statistics of several lanes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Number of lanes whose statistics are combined here.
    pub lanes: usize,
    /// Number of operations that wait in the queue.
    pub waiting: usize,
    /// Total size of the rows of the waiting operations, in bytes.
    pub waiting_bytes: usize,
    /// Number of operations in the batches that are being applied.
    pub applying: usize,
    /// Maximum number of operations that may wait.
    pub waiting_max: usize,
    /// Maximum total size, in bytes, of the rows that may wait.
    pub waiting_bytes_max: usize,
    /// True if no node of the shard accepts writes now, so that the queued writes wait for one that
    /// does.
    pub waits_for_node: bool,
    /// Number of batches that have become durable since the process began. A batch is one
    /// transaction, unless a chunk of a bulk write had to be split into several, which still counts
    /// as one batch.
    pub batches: u64,
    /// Number of operations in these batches. A single write is one operation, and so is a chunk of
    /// a bulk write.
    pub operations: u64,
    /// Number of rows in these batches, including rows that were refused while the others of their
    /// batch were stored.
    pub rows: u64,
    /// Number of operations that were refused because their tenant had more than half of the queue.
    pub refused: u64,
    /// Number of operations in the largest batch.
    pub largest_batch: u64,
    /// Number of batches in each size class ([`batch_class`]).
    pub batch_sizes: [u64; BATCH_CLASSES],
    /// Total time since the process began during which the lanes carried out transactions of moves,
    /// so that writes of clients had to wait. It is zero if movers have their own connections to
    /// the database.
    pub move_time: Duration,
}

impl LaneStats {
    /// Returns the combined numbers of this lane and another one.
    #[must_use]
    pub fn with(mut self, other: &Self) -> Self {
        self.lanes += other.lanes;
        self.waiting += other.waiting;
        self.waiting_bytes += other.waiting_bytes;
        self.applying += other.applying;
        self.waiting_max += other.waiting_max;
        self.waiting_bytes_max += other.waiting_bytes_max;
        self.waits_for_node |= other.waits_for_node;
        self.batches += other.batches;
        self.operations += other.operations;
        self.rows += other.rows;
        self.refused += other.refused;
        self.largest_batch = self.largest_batch.max(other.largest_batch);
        self.move_time += other.move_time;
        for (sum, count) in self.batch_sizes.iter_mut().zip(other.batch_sizes) {
            *sum += count;
        }
        self
    }
}

/// Pool of connections through which one node is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Number of connections in use.
    pub in_use: usize,
    /// Number of open connections.
    pub open: usize,
    /// Maximum number of open connections.
    pub max: usize,
    /// Number of reads that wait for a connection.
    pub waiting: usize,
}

impl PoolStats {
    /// Returns the sums of the numbers of this pool and another one.
    #[must_use]
    pub fn with(self, other: &Self) -> Self {
        Self {
            in_use: self.in_use + other.in_use,
            open: self.open + other.open,
            max: self.max + other.max,
            waiting: self.waiting + other.waiting,
        }
    }
}

/// Statistics of one node, which the router knows without querying the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStats {
    /// Name of the node, such as `shard1-primary`.
    pub node: String,
    /// Role of the node in its shard.
    pub role: Role,
    /// True if the node, as far as the router knows, fulfils its role: a primary accepts writes,
    /// and a replica may answer reads.
    pub up: bool,
    /// Reasons that concern the health of the node. If `up` is true, the set is empty or has only
    /// reasons that need an operator but do not prevent the node from fulfilling its role.
    pub reasons: Reasons,
    /// Time since the node last had all changes of the primary; `None` if that was not the case
    /// since this process began.
    pub lag: Option<Duration>,
    /// Distance between the positions of the node and of the primary: bytes of WAL on servers,
    /// batches on files. `None` if the position of the node is unknown.
    pub behind: Option<u64>,
    /// Pool of read connections to the node. All its numbers are zero while the node cannot be
    /// read.
    pub pool: PoolStats,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_counted_in_the_smallest_class_that_holds_it() {
        for operations in 1..=512 {
            let class = batch_class(operations);
            assert!(operations as u64 <= batch_class_max(class), "{operations}");
            assert!(class == 0 || operations as u64 > batch_class_max(class - 1), "{operations}");
        }
        assert_eq!(batch_class(512), BATCH_CLASSES - 1);
        assert_eq!(batch_class(100_000), BATCH_CLASSES - 1);
    }

    #[test]
    fn lanes_together_have_the_sums_and_the_largest_batch_of_all() {
        let lane = |waiting, largest_batch, first| {
            let mut batch_sizes = [0; BATCH_CLASSES];
            batch_sizes[0] = first;
            let refused = waiting as u64;
            let rest = LaneStats::default();
            LaneStats { lanes: 1, waiting, refused, largest_batch, batch_sizes, ..rest }
        };
        let both = lane(3, 7, 5).with(&lane(4, 2, 6));
        assert_eq!((both.lanes, both.waiting, both.largest_batch), (2, 7, 7));
        assert_eq!(both.refused, 7);
        assert_eq!(both.batch_sizes[0], 11);
    }
}
