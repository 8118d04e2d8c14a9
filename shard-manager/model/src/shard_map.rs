//! Shard map: the owner of every slot, and so the shard of every key, as one immutable value.
//!
//! A request uses the same map from its beginning to its end. Each change of the map creates a new
//! value with a higher epoch; a map is never changed in place.
//!
//! **Invariant:** every slot has exactly one owner, which is a shard of the map's topology.
//! **Not here:** choosing owners (`placement`), storing a map (`catalog`).

mod groups;
pub mod partitions;
mod slot_owners;

use partitions::{location, slot_of_row};
use slot_owners::{Ownership, SlotOwners};

use crate::keyspace::{GROUPS_MAX, KeyError, Keyspace, SLOT_COUNT, ShardKey, Slot};
use crate::placement::{Placement, PlacementError};
use crate::slot_set::SlotSet;
use crate::table::Table;
use crate::table_group::TableGroup;
use crate::topology::{self, ShardNumber, ShardState, Topology};

pub use groups::{MapGroups, of_group, with_group, with_main};

/// Result of routing a key: its slot, and the shard that owns the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyLocation {
    /// Slot of the key.
    pub slot: Slot,
    /// Owner of the slot.
    pub shard: ShardNumber,
    /// Epoch of the map that routed the key.
    pub epoch: u64,
    /// Epoch in which the slot got this owner. If a shard has reported a new owner that the
    /// router's map does not contain yet, this is the epoch after that of the map.
    pub since: u64,
}

/// Consecutive slots with one owner, including both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
    /// Owner of the slots.
    pub shard: ShardNumber,
}

/// Owner of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotOwner {
    /// The slot.
    pub slot: u16,
    /// Shard that owns the slot.
    pub shard: ShardNumber,
    /// Epoch in which the slot got this owner.
    pub since: u64,
}

/// Table groups, owners of all slots and topology at one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardMap {
    epoch: u64,
    main: TableGroup,
    /// Groups other than `main`, from number 1 on. Most clusters have none.
    further: Box<[TableGroup]>,
    topology: Topology,
    /// Owner of each slot, in slot order, so that the slots of a group are consecutive.
    owners: SlotOwners,
}

impl ShardMap {
    /// Creates the first map of a new cluster, with epoch 1.
    ///
    /// # Errors
    /// [`PlacementError`] if the placement does not fit the topology.
    pub fn first(
        keyspace: Keyspace,
        placement: Placement,
        topology: Topology,
    ) -> Result<Self, PlacementError> {
        let owners = since_epoch(1, placement.assign(&topology)?).collect();
        let main = TableGroup::main(keyspace, placement);
        Ok(Self { epoch: 1, main, further: Box::default(), topology, owners })
    }

    /// Restores a map from the catalog.
    ///
    /// # Errors
    /// [`MapError`] if the ranges have gaps, overlap or name an unknown shard.
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
                return Err(MapError::Gap { expected, found: usize::from(range.first) });
            }
            if range.shard.index() >= topology.len() {
                return Err(MapError::NoSuchShard { first: range.first });
            }
            owners.resize(usize::from(range.last) + 1, range.shard);
        }
        if owners.len() != usize::from(SLOT_COUNT) {
            return Err(MapError::Gap { expected: owners.len(), found: usize::from(SLOT_COUNT) });
        }
        let owners = since_epoch(1, owners).collect();
        let main = TableGroup::main(keyspace, placement);
        Ok(Self { epoch, main, further: Box::default(), topology, owners })
    }

    /// Restores a map from the owner of every slot, in slot order. `further` contains the groups
    /// other than `main`, in the order of their numbers.
    ///
    /// # Errors
    /// [`MapError`] if a slot is missing or has two owners, or if an owner is not valid.
    pub fn from_owners(
        epoch: u64,
        main: TableGroup,
        further: Vec<TableGroup>,
        topology: Topology,
        owners: impl IntoIterator<Item = SlotOwner>,
    ) -> Result<Self, MapError> {
        if further.len() >= GROUPS_MAX {
            return Err(MapError::Groups { count: further.len() + 1 });
        }
        let count = usize::from(SLOT_COUNT) * (1 + further.len());
        let mut all: Vec<Ownership> = Vec::with_capacity(count);
        for owner in owners {
            let expected = all.len();
            if usize::from(owner.slot) != expected {
                return Err(MapError::Gap { expected, found: usize::from(owner.slot) });
            }
            check_owner(&owner, epoch, &topology)?;
            all.push((owner.shard, owner.since));
        }
        if all.len() != count {
            return Err(MapError::Gap { expected: all.len(), found: count });
        }
        let owners = all.into_iter().collect();
        Ok(Self { epoch, main, further: further.into_boxed_slice(), topology, owners })
    }

    /// Returns the slot and shard of a row of a table. They depend on its key and, if the table has
    /// a [`partitions::partition_column`], on the value of that column.
    ///
    /// # Errors
    /// [`KeyError`] if the keyspace has no slot for the row.
    #[inline]
    pub fn locate(
        &self,
        table: &Table,
        key: ShardKey<'_>,
        partition: Option<&str>,
    ) -> Result<KeyLocation, KeyError> {
        Ok(location(self, slot_of_row(self, table, key, partition)?))
    }

    /// Returns the slot and shard of a key in the group `main`, if the key alone determines them.
    ///
    /// # Errors
    /// [`KeyError`] if the keyspace has no slot for the key.
    pub fn place(&self, key: ShardKey<'_>) -> Result<KeyLocation, KeyError> {
        Ok(location(self, self.main.keyspace.slot_of(key)?))
    }

    /// Returns the owner of a slot.
    #[inline]
    pub fn owner(&self, slot: Slot) -> ShardNumber {
        self.owners.get(slot.index()).0
    }

    /// Returns the epoch in which a slot got its present owner.
    #[inline]
    pub fn since(&self, slot: Slot) -> u64 {
        self.owners.get(slot.index()).1
    }

    /// Returns the epoch, which is the version of the map and only grows.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Returns the keyspace of the group `main`.
    #[inline]
    pub fn keyspace(&self) -> &Keyspace {
        &self.main.keyspace
    }

    /// Returns the placement with which the group `main` was created.
    #[inline]
    pub fn placement(&self) -> &Placement {
        &self.main.placement
    }

    /// Returns the table groups.
    #[inline]
    pub fn groups(&self) -> MapGroups<'_> {
        MapGroups(self)
    }

    /// Returns the shards of the cluster.
    #[inline]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Returns the owner of every slot, in slot order.
    pub fn owners(&self) -> impl Iterator<Item = SlotOwner> + '_ {
        let owners = (0..=u16::MAX).zip(self.owners.iter());
        owners.map(|(slot, (shard, since))| SlotOwner { slot, shard, since })
    }

    /// Returns the owners of all slots as consecutive ranges, in slot order. A range never extends
    /// over two groups.
    pub fn ranges(&self) -> Vec<SlotRange> {
        let groups = self.groups().iter();
        groups.flat_map(|(group, _)| self.groups().ranges(group)).collect()
    }

    /// Returns the slots of one shard, ascending.
    pub fn slots_of(&self, shard: ShardNumber) -> impl Iterator<Item = u16> + '_ {
        let owned = (0..=u16::MAX).zip(self.owners.iter());
        owned.filter(move |(_, (owner, _))| *owner == shard).map(|(slot, _)| slot)
    }
}

/// Returns the latest epoch in which a slot of the map got its present owner.
pub fn latest_since(map: &ShardMap) -> u64 {
    map.owners.distinct().iter().map(|(_, since)| *since).max().unwrap_or(1)
}

/// Returns these owners in slot order, with the epoch in which they got their slots.
fn since_epoch(
    epoch: u64,
    owners: impl IntoIterator<Item = ShardNumber>,
) -> impl Iterator<Item = Ownership> {
    owners.into_iter().map(move |owner| (owner, epoch))
}

/// Returns the map of a later epoch, which has this topology and differs in these owners.
///
/// # Errors
/// [`MapError`] if an owner is not valid.
pub fn followed_by(
    map: &ShardMap,
    epoch: u64,
    topology: Topology,
    changed: impl IntoIterator<Item = SlotOwner>,
) -> Result<ShardMap, MapError> {
    let mut all: Vec<Ownership> = map.owners.iter().collect();
    for owner in changed {
        let (slot, expected) = (usize::from(owner.slot), all.len());
        let known = all.get_mut(slot).ok_or(MapError::Gap { expected, found: slot })?;
        check_owner(&owner, epoch, &topology)?;
        *known = (owner.shard, owner.since);
    }
    let owners = all.into_iter().collect();
    Ok(ShardMap { epoch, topology, owners, ..map.clone() })
}

/// Returns the map with only the first `shards` shards of its topology; `None` if one of the others
/// owns slots.
pub fn with_first_shards(map: &ShardMap, shards: usize) -> Option<ShardMap> {
    if map.owners.distinct().iter().any(|(owner, _)| owner.index() >= shards) {
        return None;
    }
    Some(ShardMap { topology: map.topology.first(shards), ..map.clone() })
}

/// Returns the map for a router that has not opened the joining shards. They count as retired,
/// which is possible because joining shards own no slots.
pub fn without_joining(map: &ShardMap) -> ShardMap {
    ShardMap { topology: topology::without_joining(&map.topology), ..map.clone() }
}

/// Returns the map with these shards in the state joining, at the same epoch; `None` if one of them
/// owns slots.
pub fn with_joining(map: &ShardMap, shards: &[ShardNumber]) -> Option<ShardMap> {
    if map.owners.distinct().iter().any(|(owner, _)| shards.contains(owner)) {
        return None;
    }
    let mut all = map.topology.shards().to_vec();
    for number in shards {
        all.get_mut(number.index())?.state = ShardState::Joining;
    }
    Some(ShardMap { topology: Topology::restore(all).ok()?, ..map.clone() })
}

/// Creates the map of the next epoch, in which these slots belong to `shard`.
///
/// # Errors
/// [`MapError::NoSuchShard`] if the topology has no such shard.
pub fn with_owner(
    map: &ShardMap,
    slots: &SlotSet,
    shard: ShardNumber,
) -> Result<ShardMap, MapError> {
    let epoch = map.epoch + 1;
    let mut all: Vec<Ownership> = map.owners.iter().collect();
    for slot in slots.iter() {
        if shard.index() >= map.topology.len() {
            return Err(MapError::NoSuchShard { first: slot.number() });
        }
        all[slot.index()] = (shard, epoch);
    }
    let owners = all.into_iter().collect();
    Ok(ShardMap { epoch, owners, ..map.clone() })
}

fn check_owner(owner: &SlotOwner, epoch: u64, topology: &Topology) -> Result<(), MapError> {
    let slot = owner.slot;
    match topology.shards().get(owner.shard.index()) {
        None => Err(MapError::UnknownOwner { slot, shard: owner.shard.0 }),
        Some(shard) if shard.state == ShardState::Retired => {
            Err(MapError::RetiredOwner { slot, shard: shard.name.clone() })
        }
        Some(_) if !(1..=epoch).contains(&owner.since) => {
            Err(MapError::Since { slot, since: owner.since, epoch })
        }
        Some(_) => Ok(()),
    }
}

/// Reason why stored ranges or owners are not a valid map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A slot has no owner, or two owners.
    #[error("the slot table should go on at slot {expected}, but goes on at {found}")]
    Gap {
        /// First slot that has no owner so far, which should come next.
        expected: usize,
        /// Slot that comes next instead. If the stored owners end too early, this is the number of
        /// slots that the map should have.
        found: usize,
    },
    /// There are more table groups than 16-bit slot numbers permit.
    #[error("there are {count} table groups, but at most {GROUPS_MAX} are possible")]
    Groups {
        /// Number of groups.
        count: usize,
    },
    /// The owner of a range is not in the topology.
    #[error("the range that begins at slot {first} belongs to a shard that does not exist")]
    NoSuchShard {
        /// First slot of the range.
        first: u16,
    },
    /// The owner of a slot is not in the topology.
    #[error("slot {slot} belongs to shard number {shard}, which does not exist")]
    UnknownOwner {
        /// The slot.
        slot: u16,
        /// Number of the owner.
        shard: u16,
    },
    /// The owner of a slot is retired.
    #[error("slot {slot} belongs to {shard}, which is retired")]
    RetiredOwner {
        /// The slot.
        slot: u16,
        /// Name of the owner.
        shard: String,
    },
    /// The epoch in which a slot got its owner is 0, or higher than the epoch of the map.
    #[error("slot {slot} has its owner since epoch {since}, and the epochs are 1 to {epoch}")]
    Since {
        /// The slot.
        slot: u16,
        /// Stored epoch in which the slot got its owner.
        since: u64,
        /// Epoch of the map.
        epoch: u64,
    },
}
