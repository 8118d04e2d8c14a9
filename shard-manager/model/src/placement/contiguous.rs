//! Contiguous: assigns one range of slots to each shard, in the order of the shards; used by `even`
//! and `weighted`.
//!
//! Redis Cluster first assigns slots in this way, and so did token rings before they had virtual
//! nodes. The number of slots of each shard is within one slot of its exact share, closer than
//! hashing gets, and the map has only as many ranges as there are shards. If the placement is
//! computed again with one more shard, all borders between ranges shift, so that slots also move
//! between the old shards. With shards of equal weight half of all slots move, however many shards
//! there are; that is far more than the share of the new shard. If the new shard has a much lower
//! weight than the others, few slots move (0.06 % for three weights of 1000 and a new one of 1). A
//! running cluster should be changed by `rebalance`, which moves as few slots as possible.
//!
//! **Invariant:** the ranges have the sizes that [`cut`] returns.
//! **Not here:** the choice of the weights (`placement`).

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
