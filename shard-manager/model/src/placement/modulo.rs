//! Modulo: slot number modulo number of shards.
//!
//! Source: the oldest rule of all, `hash % N`, here over slots instead of keys. Shares differ by at
//! most one slot, and anybody can compute an owner in the head. Built again for one shard more or
//! less, whichever it is, nearly all slots change owner: N in N + 1, for N shards and one more. And
//! every slot is a range of its own, so that the map is as long as it can be.
//!
//! **Invariant:** weights are ignored.
//! **Not here:** the keyspace of the same name, from keys to slots.

use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardIndex, Topology};

pub(super) fn assign(topology: &Topology) -> Vec<ShardIndex> {
    let shards = topology.len() as u16;
    (0..SLOT_COUNT).map(|slot| ShardIndex(slot % shards)).collect()
}
