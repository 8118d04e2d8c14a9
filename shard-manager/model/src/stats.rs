//! Stats: load of the shards, grouping of writes into transactions, and amount of data, as plain
//! numbers.
//!
//! Counters are updated once for each batch, never for each request, and reading them never waits.
//! Each number is correct by itself; two that are read while a batch ends may belong to moments
//! before and after it.
//!
//! **Not here:** querying nodes (`shard`, `postgres`, `sqlite`), the use of the numbers.

use std::time::Duration;

use crate::reason::Reasons;
use crate::topology::{Role, ShardNumber};

/// Number of size classes of batches: 1, 2, up to 4, up to 8 and so on.
pub const BATCH_CLASSES: usize = 10;

/// Returns the class of a batch of this many operations: class `c` holds those of at most
/// [`batch_class_max`]`(c)` that are too large for the class before. The last class also holds all
/// larger batches.
pub fn batch_class(operations: usize) -> usize {
    let class = usize::BITS - operations.saturating_sub(1).leading_zeros();
    (class as usize).min(BATCH_CLASSES - 1)
}

/// Returns the highest number of operations of a batch of this class.
pub fn batch_class_max(class: usize) -> u64 {
    1 << class
}

/// Statistics of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStats {
    /// Number of the shard.
    pub shard: ShardNumber,
    /// Statistics of its lanes.
    pub lane: LaneStats,
    /// Results of comparing its copies.
    pub compared: ComparisonStats,
    /// Nodes of the shard, the primary first.
    pub nodes: Vec<NodeStats>,
}

impl ShardStats {
    /// Returns the sums for the readers of all its nodes.
    pub fn pool(&self) -> PoolStats {
        self.nodes.iter().fold(PoolStats::default(), |sum, node| sum.with(&node.pool))
    }

    /// Returns the lag of the replica that is furthest behind; `None` if no replica reports one.
    pub fn worst_lag(&self) -> Option<Duration> {
        let replicas = self.nodes.iter().filter(|node| node.role == Role::Replica);
        replicas.filter_map(|node| node.lag).max()
    }
}

/// Approximate size of a shard, known to its primary without reading rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeEstimate {
    /// Rows of its tables; `None` on Citus, which does not count them.
    pub rows: Option<u64>,
    /// True if `rows` is an estimate of the server; for files it is an exact count.
    pub is_estimate: bool,
    /// Bytes in use: on servers those of its tables and their indexes; of a file, the whole size
    /// including its log.
    pub bytes: u64,
}

/// Connections with a database server that movers need, and those that they can open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoverConnections {
    /// Highest number that movers open in addition to those that they have.
    pub needed: u64,
    /// Number of free connections.
    pub free: u64,
    /// Setting that limits the number of connections, as an operator names it.
    pub limit: &'static str,
}

/// Results of comparing the copies of a shard since the process began; only files are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComparisonStats {
    /// Number of passes over all rows of all copies.
    pub passes: u64,
    /// Number of rows found to differ, summed over the passes.
    pub differences: u64,
}

/// Bounds in milliseconds by which waits of writes for their slots are counted.
pub const PARKED_WAITS_MS: [u32; 20] =
    [1, 2, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 300, 500, 1_000, 2_000, 5_000];

/// Statistics of the writes that wait until a shard accepts their slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ParkedStats {
    /// Rows that wait now.
    pub rows: usize,
    /// Bytes of these rows.
    pub bytes: usize,
    /// Highest number of rows that may wait.
    pub rows_max: usize,
    /// Highest number of bytes that may wait.
    pub bytes_max: usize,
    /// Rows that have waited or wait, since the process began.
    pub total: u64,
    /// Rows for which there was no room.
    pub refused: u64,
    /// Longest wait that has ended.
    pub longest: Duration,
    /// Rows whose wait has ended, by the bound of [`PARKED_WAITS_MS`] that it has not exceeded; the
    /// last count is of longer waits.
    pub waits: [u64; PARKED_WAITS_MS.len() + 1],
    /// Sum of these waits.
    pub waited: Duration,
}

/// Statistics of a lane, or of several lanes of one shard together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Number of lanes that these numbers sum up.
    pub lanes: usize,
    /// Number of waiting operations.
    pub waiting: usize,
    /// Bytes of their rows.
    pub waiting_bytes: usize,
    /// Number of operations in the batches that are being applied.
    pub applying: usize,
    /// Highest number of waiting operations.
    pub waiting_max: usize,
    /// Highest number of waiting bytes.
    pub waiting_bytes_max: usize,
    /// True if no node accepts writes now, so that queued writes wait for one.
    pub waits_for_node: bool,
    /// Number of durable batches since the process began. Each is one transaction, except a bulk
    /// chunk that had to be split, which counts once.
    pub batches: u64,
    /// Number of their operations: a write is one, and so is a chunk of a bulk write.
    pub operations: u64,
    /// Number of their rows, including those that failed on their own.
    pub rows: u64,
    /// Number of operations that were refused because their tenant had more than half of the queue.
    pub refused: u64,
    /// Number of operations in the largest batch.
    pub largest_batch: u64,
    /// Number of batches of each class: see [`batch_class`].
    pub batch_sizes: [u64; BATCH_CLASSES],
    /// Time for which changes of moves have kept the lanes from clients' writes since the process
    /// began. Zero where movers have connections of their own.
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

/// Connections that read one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections that read now.
    pub in_use: usize,
    /// Connections that are open.
    pub open: usize,
    /// Highest number of open connections.
    pub max: usize,
    /// Number of reads that wait for a connection.
    pub waiting: usize,
}

impl PoolStats {
    /// Returns the combined numbers of these readers and others.
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

/// Statistics of one node, known without querying it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStats {
    /// Name of the node, such as `shard1-primary`.
    pub node: String,
    /// Role of the node in its shard.
    pub role: Role,
    /// True if the node fulfils its role, as far as is known: a primary accepts writes, a replica
    /// is in the rotation.
    pub up: bool,
    /// Reasons why it does not; empty if it does.
    pub reasons: Reasons,
    /// Time since it had everything that the primary has; `None` if it never had since this process
    /// began.
    pub lag: Option<Duration>,
    /// Distance of its position to the primary's: bytes of the log on servers, batches in files.
    /// `None` if its position is unknown.
    pub behind: Option<u64>,
    /// Readers of the node; all zero while it cannot be read.
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
