//! Shard map: from key to shard, as one immutable value.
//!
//! A request takes one snapshot of the map and never looks twice. A new epoch is a new value;
//! nobody changes one in place.
//!
//! **Invariant:** every slot has exactly one owner, a shard of the map's topology.
//! **Not here:** how owners are chosen (`placement`), how a map is kept (`catalog`).

use crate::keyspace::{KeyError, Keyspace, SLOT_COUNT, ShardKey, Slot};
use crate::placement::{Placement, PlacementError};
use crate::topology::{ShardIndex, Topology};

/// Slot and shard of a key: the outcome of routing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLocation {
    /// The key's slot.
    pub slot: Slot,
    /// The slot's owner.
    pub shard: ShardIndex,
    /// Version of the map that routed the key.
    pub epoch: u64,
}

/// Consecutive slots with one owner; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
    /// Owner of the slots.
    pub shard: ShardIndex,
}

/// Keyspace, owners and topology at one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    epoch: u64,
    keyspace: Keyspace,
    placement: Placement,
    topology: Topology,
    owners: Box<[ShardIndex]>,
}

impl ShardMap {
    /// The first map of a new cluster, epoch 1.
    ///
    /// # Errors
    /// [`PlacementError`] if the placement does not fit the topology.
    pub fn first(
        keyspace: Keyspace,
        placement: Placement,
        topology: Topology,
    ) -> Result<Self, PlacementError> {
        let owners = placement.assign(&topology)?.into_boxed_slice();
        Ok(Self { epoch: 1, keyspace, placement, topology, owners })
    }

    /// A map as the catalog kept it.
    ///
    /// # Errors
    /// The sentence says what is wrong with the ranges: a gap, an overlap, a shard that is not
    /// there.
    pub fn restore(
        epoch: u64,
        keyspace: Keyspace,
        placement: Placement,
        topology: Topology,
        ranges: &[SlotRange],
    ) -> Result<Self, MapError> {
        let mut owners = Vec::with_capacity(usize::from(SLOT_COUNT));
        for range in ranges {
            let expected = owners.len();
            if usize::from(range.first) != expected || range.last < range.first {
                return Err(MapError::Gap { expected, found: range.first });
            }
            if range.shard.index() >= topology.len() {
                return Err(MapError::NoSuchShard { first: range.first });
            }
            owners.resize(usize::from(range.last) + 1, range.shard);
        }
        if owners.len() != usize::from(SLOT_COUNT) {
            return Err(MapError::Gap { expected: owners.len(), found: SLOT_COUNT });
        }
        Ok(Self { epoch, keyspace, placement, topology, owners: owners.into_boxed_slice() })
    }

    /// Explains why keyspace and placement contradict each other, naming both settings; `None` if
    /// they fit.
    ///
    /// The placement `partitions` assigns the partitions of the keyspace `list` to shards. With
    /// other partitions, or in a keyspace without any, its names refer to nothing.
    pub fn contradiction(&self) -> Option<String> {
        let Placement::Partitions(partitions) = &self.placement else { return None };
        match &self.keyspace {
            Keyspace::List(list) if partitions.are_blocks_of(list) => None,
            Keyspace::List(list) => Some(format!(
                "keyspace {list} and placement {partitions} have other partitions: give both the same names and \
                 weights, in the same order"
            )),
            Keyspace::Hash | Keyspace::Modulo | Keyspace::Range(_) | Keyspace::Matrix(_) => {
                Some(format!(
                    "placement {partitions} says where the partitions of keyspace list lie, and keyspace {} has none: \
                     use keyspace list with the same names and weights, or another placement",
                    self.keyspace.name()
                ))
            }
        }
    }

    /// Returns slot and shard of a key.
    ///
    /// # Errors
    /// [`KeyError`] if the keyspace has no place for the key.
    pub fn place(&self, key: ShardKey<'_>) -> Result<KeyLocation, KeyError> {
        let slot = self.keyspace.slot_of(key)?;
        Ok(KeyLocation { slot, shard: self.owner(slot), epoch: self.epoch })
    }

    /// Returns the owner of a slot.
    #[inline]
    pub fn owner(&self, slot: Slot) -> ShardIndex {
        self.owners[slot.index()]
    }

    /// The version: only grows.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Function from keys to slots.
    #[inline]
    pub fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }

    /// The recipe that the cluster was made with.
    #[inline]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The shards.
    #[inline]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The owners as consecutive ranges, in slot order.
    pub fn ranges(&self) -> Vec<SlotRange> {
        let mut ranges: Vec<SlotRange> = Vec::new();
        for (slot, &shard) in (0..SLOT_COUNT).zip(&self.owners) {
            match ranges.last_mut() {
                Some(range) if range.shard == shard => range.last = slot,
                Some(_) | None => ranges.push(SlotRange { first: slot, last: slot, shard }),
            }
        }
        ranges
    }

    /// The slots of one shard, ascending.
    pub fn slots_of(&self, shard: ShardIndex) -> impl Iterator<Item = u16> + '_ {
        (0..SLOT_COUNT).zip(&self.owners).filter(move |(_, owner)| **owner == shard).map(|(s, _)| s)
    }
}

/// Reason why stored ranges are no map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// Slots without owner, or with two.
    #[error("the slot table should go on at slot {expected}, but goes on at {found}")]
    Gap {
        /// Next slot without an owner.
        expected: usize,
        /// First slot of the next range.
        found: u16,
    },
    /// An owner that is not in the topology.
    #[error("the range that begins at slot {first} belongs to a shard that does not exist")]
    NoSuchShard {
        /// First slot of the range.
        first: u16,
    },
}
