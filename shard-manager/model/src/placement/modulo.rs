//! Modulo: assigns a slot to the shard whose place in the order is the slot number modulo the
//! number of shards.
//!
//! Source: the oldest rule, `hash % N`, here over slots instead of keys. The numbers of slots of
//! two shards differ by at most one, and an owner is easy to compute by hand. When the placement of
//! N shards is computed again with one shard more or fewer, nearly all slots change their owner:
//! with one more, N of every N + 1. With more than one shard every slot is also a range of its own,
//! so that the map has as many ranges as slots.
//!
//! **Invariant:** weights are ignored, except that a shard of weight 0 gets no slots.
//! **Not here:** the keyspace of the same name, which maps keys to slots (`keyspace/modulo.rs`).

use super::takers;
use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, Topology};

pub(super) fn assign(topology: &Topology) -> Vec<ShardNumber> {
    let takers = takers(topology);
    (0..SLOT_COUNT).map(|slot| takers[usize::from(slot) % takers.len()]).collect()
}
