//! Contiguous: a range of slots for each shard, in the shards' order; used by `even` and
//! `weighted`.
//!
//! Source: Redis Cluster's first assignment, and tables of tokens before virtual nodes. Each shard
//! is within one slot of its share, better than any hashing, and the whole map has as many ranges
//! as there are shards. When it is computed again with one more shard, all borders shift: the slots
//! of the new shard come from all others, and ranges of the shards in between move along. For
//! shards of equal weight that is half of all slots, however many shards there are, far more than
//! the new shard's share; for a light shard beside heavy ones it is little (0.06 % for three
//! weights of 1000 and one of 1). A running cluster is changed by `rebalance`, not by computing the
//! placement again.
//!
//! **Invariant:** sizes are those of [`cut`].
//! **Not here:** the meaning of the weights.

use crate::keyspace::SLOT_COUNT;
use crate::keyspace::blocks::cut;
use crate::topology::ShardNumber;

pub(super) fn assign(weights: impl Iterator<Item = u64> + Clone) -> Vec<ShardNumber> {
    let mut owners = Vec::with_capacity(usize::from(SLOT_COUNT));
    for (slots, shard) in cut(weights).zip((0..).map(ShardNumber)) {
        owners.resize(usize::from(slots.end), shard);
    }
    owners
}
