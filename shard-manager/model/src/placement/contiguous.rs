//! Contiguous: each shard a range of slots, in the shards' order; behind `even` and `weighted`.
//!
//! Source: Redis Cluster's first assignment, and every table of tokens before virtual nodes. Each
//! shard is within one slot of its share, better than any hashing, and the whole map is as many
//! ranges as there are shards. Built again for one shard more, all borders shift: what it gains
//! comes from all others, and passes through those that lie between. For shards of equal weight
//! that is half of all slots, however many there are, far more than the new shard's share; for a
//! light one beside heavy ones it is little (of three weights of 1000 and one of 1, 0.06 %). A
//! running cluster is changed by `rebalance`, not by building again.
//!
//! **Invariant:** sizes are those of [`cut`].
//! **Not here:** what the weights mean.

use crate::keyspace::SLOT_COUNT;
use crate::keyspace::blocks::cut;
use crate::topology::ShardIndex;

pub(super) fn assign(weights: impl Iterator<Item = u64> + Clone) -> Vec<ShardIndex> {
    let mut owners = Vec::with_capacity(usize::from(SLOT_COUNT));
    for (slots, shard) in cut(weights).zip((0..).map(ShardIndex)) {
        owners.resize(usize::from(slots.end), shard);
    }
    owners
}
