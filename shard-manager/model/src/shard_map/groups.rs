//! Groups: the table groups of a shard map, and the slots of each group.
//!
//! **Invariant:** a map contains owners for exactly the slots of its groups.
//! **Not here:** the description of a group (`table_group`).

use std::ops::RangeInclusive;

use super::partitions::divided_partition;
use super::{ShardMap, SlotRange, since_epoch};
use crate::keyspace::Slot;
use crate::slot_set::SlotSet;
use crate::table_group::{GroupFault, GroupNumber, TableGroup};
use crate::topology::ShardNumber;

/// Table groups of a map.
#[derive(Clone, Copy, Debug)]
pub struct MapGroups<'m>(pub(super) &'m ShardMap);

impl<'m> MapGroups<'m> {
    /// Returns the number of groups, at least one.
    #[inline]
    pub fn count(self) -> usize {
        1 + self.0.further.len()
    }

    /// Returns true if work that concerns all slots has to be done group by group, because there
    /// are several groups, or because the only group may use only some of the shards.
    pub fn are_several(self) -> bool {
        self.count() > 1 || self.0.main.shards.is_some()
    }

    /// Returns the total number of slots of all groups.
    pub fn slot_count(self) -> usize {
        self.0.owners.len()
    }

    /// Returns the groups in the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = (GroupNumber, &'m TableGroup)> {
        let groups = std::iter::once(&self.0.main).chain(&self.0.further);
        (0..).map_while(GroupNumber::new).zip(groups)
    }

    /// Returns the group with this number; `None` if the map does not contain it yet.
    #[inline]
    pub fn get(self, group: GroupNumber) -> Option<&'m TableGroup> {
        match group.index().checked_sub(1) {
            None => Some(&self.0.main),
            Some(index) => self.0.further.get(index),
        }
    }

    /// Finds a group by name.
    pub fn find(self, name: &str) -> Option<GroupNumber> {
        self.iter().find(|(_, group)| group.name == name).map(|(number, _)| number)
    }

    /// Returns the name of a group; empty if the map does not contain the group.
    pub fn name_of(self, group: GroupNumber) -> &'m str {
        self.get(group).map_or("", |group| &group.name)
    }

    /// Returns the group of a new table whose declaration does not name a group: the one whose
    /// settings list the table, or else `main`.
    pub fn of_new_table(self, table: &str) -> GroupNumber {
        let mut groups = self.iter();
        let named = groups.find(|(_, group)| group.tables.iter().any(|name| name == table));
        named.map_or(GroupNumber::MAIN, |(number, _)| number)
    }

    /// Returns the tables that the settings of groups assign to a group, with the number of that
    /// group.
    pub fn tables(self) -> Vec<(String, GroupNumber)> {
        let named = self.iter().flat_map(|(number, group)| {
            group.tables.iter().map(move |table| (table.clone(), number))
        });
        named.collect()
    }

    /// Returns the slots that a shard owns in these groups.
    pub fn slots_of(self, shard: ShardNumber, groups: &[GroupNumber]) -> SlotSet {
        let slots = self.0.slots_of(shard).filter_map(Slot::new);
        slots.filter(|slot| groups.contains(&GroupNumber::of(*slot))).collect()
    }

    /// Returns the owners of the slots of a group, in slot order.
    pub fn owners(self, group: GroupNumber) -> Vec<ShardNumber> {
        let owners = self.0.owners.within(slot_indexes(group));
        owners.into_iter().flatten().map(|(owner, _)| owner).collect()
    }

    /// Returns the owners of the slots of a group as consecutive ranges, in slot order.
    pub fn ranges(self, group: GroupNumber) -> Vec<SlotRange> {
        let mut ranges: Vec<SlotRange> = Vec::new();
        for (slot, shard) in group.slots().zip(self.owners(group)) {
            match ranges.last_mut() {
                Some(range) if range.shard == shard => range.last = slot,
                Some(_) | None => ranges.push(SlotRange { first: slot, last: slot, shard }),
            }
        }
        ranges
    }

    /// Returns a group of at least one of these slots that does not allow this shard as an owner;
    /// `None` if the shard may own all of the slots.
    pub fn forbids(self, slots: &SlotSet, shard: ShardNumber) -> Option<&'m TableGroup> {
        let mut groups = self.iter().filter(|(_, group)| !group.allows(shard));
        let forbidden = groups.find(|(number, _)| !slots.is_disjoint(&SlotSet::of_group(*number)));
        forbidden.map(|(_, group)| group)
    }
}

/// Returns the map of one group as if it were the only one: its slots have the numbers of its
/// keyspace, and shards that may not own them have weight 0. Returns `None` if the map does not
/// contain the group, or if none of the group's shards has a weight above 0.
pub fn of_group(map: &ShardMap, group: GroupNumber) -> Option<ShardMap> {
    let main = map.groups().get(group)?.clone();
    let topology = main.topology(&map.topology)?;
    let owners = map.owners.within(slot_indexes(group))?.collect();
    Some(ShardMap { epoch: map.epoch, main, further: Box::default(), topology, owners })
}

/// Returns the slots of a group as indexes into the owners of all slots.
fn slot_indexes(group: GroupNumber) -> RangeInclusive<usize> {
    let slots = group.slots();
    usize::from(*slots.start())..=usize::from(*slots.end())
}

/// Returns the map of this epoch with one more group, whose slots get the owners that its placement
/// assigns.
///
/// # Errors
/// [`GroupFault`] if there are too many groups, or if the group cannot have its placement on these
/// shards.
pub fn with_group(map: &ShardMap, group: TableGroup, epoch: u64) -> Result<ShardMap, GroupFault> {
    let number = GroupNumber::new(map.groups().count()).ok_or(GroupFault::TooMany)?;
    let added = group.assign(&map.topology)?;
    let mut further = map.further.to_vec();
    further.push(group);
    let owners = map.owners.iter().chain(since_epoch(epoch, added)).collect();
    let further = further.into_boxed_slice();
    let next = ShardMap { epoch, further, owners, ..map.clone() };
    check_partitions(&next, number)?;
    Ok(next)
}

/// Returns the map of a new cluster with `main` as its first group, whose slots get the owners that
/// its placement assigns.
///
/// # Errors
/// [`GroupFault`] if the group cannot have its placement on these shards.
pub fn with_main(map: &ShardMap, main: TableGroup) -> Result<ShardMap, GroupFault> {
    let assigned = main.assign(&map.topology)?;
    let since = map.owners.iter().map(|(_, since)| since);
    let of_main = assigned.iter().copied().zip(since);
    let owners = of_main.chain(map.owners.iter().skip(assigned.len())).collect();
    let next = ShardMap { main, owners, ..map.clone() };
    check_partitions(&next, GroupNumber::MAIN)?;
    Ok(next)
}

/// Checks that the placement of a new group puts each partition on one shard.
fn check_partitions(map: &ShardMap, group: GroupNumber) -> Result<(), GroupFault> {
    let name = || map.groups().name_of(group).to_owned();
    match divided_partition(map, group) {
        Some(cause) => Err(GroupFault::Placement { group: name(), cause }),
        None => Ok(()),
    }
}
