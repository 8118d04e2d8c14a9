//! Vitals: how busy a shard is now, how well its writes have shared transactions and how much it
//! holds, as plain numbers.
//!
//! Counters are updated once for each batch, never for each request, and reading them waits for
//! nothing. Each number is right by itself; two that are read while a batch ends may belong to
//! moments before and after it.
//!
//! **Not here:** asking nodes (`shard`, `store`), what is done with the numbers.

use std::time::Duration;

use crate::reason::Reasons;
use crate::topology::{Role, ShardIndex};

/// Classes of sizes of batches: 1, 2, up to 4, up to 8 and so on.
pub const BATCH_CLASSES: usize = 10;

/// The class of a batch of so many operations: class `c` holds those of at most
/// [`batch_class_max`]`(c)` that are too large for the class before. What is larger than all
/// classes belongs to the last.
pub fn batch_class(operations: usize) -> usize {
    let class = usize::BITS - operations.saturating_sub(1).leading_zeros();
    (class as usize).min(BATCH_CLASSES - 1)
}

/// The most operations of a batch of this class.
pub fn batch_class_max(class: usize) -> u64 {
    1 << class
}

/// One shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStats {
    /// Index of the shard.
    pub shard: ShardIndex,
    /// The way of its writes.
    pub lane: LaneStats,
    /// Findings of comparing its copies.
    pub compared: ComparisonStats,
    /// Its nodes, the primary first.
    pub nodes: Vec<NodeStats>,
}

impl ShardStats {
    /// The readers of all its nodes together.
    pub fn pool(&self) -> PoolStats {
        self.nodes.iter().fold(PoolStats::default(), |sum, node| sum.with(&node.pool))
    }

    /// The lag of the replica that is furthest behind; `None` if there is no replica, or none that
    /// tells.
    pub fn worst_lag(&self) -> Option<Duration> {
        let replicas = self.nodes.iter().filter(|node| node.role == Role::Replica);
        replicas.filter_map(|node| node.lag).max()
    }
}

/// Approximate size of a shard, as its primary knows it without reading rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeEstimate {
    /// Rows of its tables; `None` on Citus, which does not count them.
    pub rows: Option<u64>,
    /// True if `rows` is an estimate of the server; files count exactly.
    pub is_estimate: bool,
    /// Bytes in use: of its tables and their indexes on servers, of the whole file where it is one,
    /// its log included.
    pub bytes: u64,
}

/// Findings of comparing the copies of a shard since the process began; only files are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComparisonStats {
    /// Number of passes over all rows of all copies.
    pub passes: u64,
    /// Rows that were found to differ, summed over the passes.
    pub differences: u64,
}

/// Numbers of a lane, or of several lanes of one shard together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStats {
    /// Number of lanes that these numbers sum up.
    pub lanes: usize,
    /// Operations that wait.
    pub waiting: usize,
    /// Bytes of their rows.
    pub waiting_bytes: usize,
    /// Operations of the batches that are being applied.
    pub applying: usize,
    /// Most operations that may wait.
    pub waiting_max: usize,
    /// Most bytes that may wait.
    pub waiting_bytes_max: usize,
    /// True if no node accepts writes now, so that queued writes wait for one.
    pub waits_for_node: bool,
    /// Batches that became durable since the process began: each is one transaction, but for a bulk
    /// chunk that had to be taken apart, which counts as one.
    pub batches: u64,
    /// Their operations: a write is one, and so is a chunk of a bulk write.
    pub operations: u64,
    /// Their rows, those included that were answered with an error of their own.
    pub rows: u64,
    /// Operations of the largest batch.
    pub largest_batch: u64,
    /// Number of batches of each class: see [`batch_class`].
    pub batch_sizes: [u64; BATCH_CLASSES],
}

impl LaneStats {
    /// This lane and another one together.
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
        self.largest_batch = self.largest_batch.max(other.largest_batch);
        for (sum, count) in self.batch_sizes.iter_mut().zip(other.batch_sizes) {
            *sum += count;
        }
        self
    }
}

/// The readers of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Connections that read now.
    pub in_use: usize,
    /// Connections that are open.
    pub open: usize,
    /// Most connections that may be open.
    pub max: usize,
    /// Reads that wait for a connection.
    pub waiting: usize,
}

impl PoolStats {
    /// These readers and others together.
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

/// One node, as far as is known without asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStats {
    /// `shard1-primary`.
    pub node: String,
    /// Role of the node in its shard.
    pub role: Role,
    /// True if it is believed to do what its role demands: a primary takes writes, a replica is in
    /// the rotation.
    pub up: bool,
    /// Reasons why it does not; empty if it does.
    pub reasons: Reasons,
    /// Time since it had all that the primary has; `None` if it has not had it since this process
    /// began.
    pub lag: Option<Duration>,
    /// Distance of its position to the primary's: bytes of the log on servers, batches in files.
    /// `None` if its position is unknown.
    pub behind: Option<u64>,
    /// Its readers; none while it cannot be read.
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
            LaneStats { lanes: 1, waiting, largest_batch, batch_sizes, ..LaneStats::default() }
        };
        let both = lane(3, 7, 5).with(&lane(4, 2, 6));
        assert_eq!((both.lanes, both.waiting, both.largest_batch), (2, 7, 7));
        assert_eq!(both.batch_sizes[0], 11);
    }
}
