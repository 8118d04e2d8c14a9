//! Modulo: slot number modulo number of shards.
//!
//! Source: the oldest rule, `hash % N`, here over slots instead of keys. Shares differ by at most
//! one slot, and an owner is easy to compute by hand. When the placement of N shards is computed
//! again with one more or one fewer, nearly all slots change their owner: with one more, N of every
//! N + 1. And every slot is a range of its own, so that the map has the greatest possible length.
//!
//! **Invariant:** weights are ignored, except that a shard of weight 0 gets no slots.
//! **Not here:** the keyspace of the same name, from keys to slots.

use super::takers;
use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, Topology};

pub(super) fn assign(topology: &Topology) -> Vec<ShardNumber> {
    let takers = takers(topology);
    (0..SLOT_COUNT).map(|slot| takers[usize::from(slot) % takers.len()]).collect()
}
