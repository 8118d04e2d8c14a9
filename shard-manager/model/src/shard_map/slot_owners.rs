//! Slot owners: the owner of each slot, and the epoch in which the slot got that owner.
//!
//! Few different pairs of owner and epoch exist, because slots change their owner in groups. They
//! are stored once, and each slot has a 16-bit index, so that the table fits into the processor's
//! cache: every row of a bulk write reads it at a random place.
//!
//! **Invariant:** pairs are stored in the order of their first slot, and each is used by a slot, so
//! that equal owners have equal tables.
//! **Not here:** checks that owners and epochs are valid (`shard_map`).

use std::collections::HashMap;
use std::ops::RangeInclusive;

use crate::topology::ShardNumber;

/// Owner of a slot, and the epoch in which the slot got this owner.
pub(super) type Ownership = (ShardNumber, u64);

/// Owners of all slots of a map, in slot order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlotOwners {
    distinct: Box<[Ownership]>,
    /// Index in `distinct` for each slot. There are at most 65 536 slots, so 16 bits are enough.
    of_slot: Box<[u16]>,
}

impl SlotOwners {
    /// Returns the number of slots.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.of_slot.len()
    }

    /// Returns the owner of a slot, and the epoch in which the slot got it.
    ///
    /// # Panics
    /// If the slot is beyond the last slot of the map.
    #[inline]
    pub(super) fn get(&self, slot: usize) -> Ownership {
        self.distinct[usize::from(self.of_slot[slot])]
    }

    /// Returns the owners and epochs of all slots, in slot order.
    pub(super) fn iter(&self) -> impl Iterator<Item = Ownership> + '_ {
        self.of_slot.iter().map(|index| self.distinct[usize::from(*index)])
    }

    /// Returns the owners and epochs of these slots, in slot order; `None` if the map does not have
    /// all of them.
    pub(super) fn within(
        &self,
        slots: RangeInclusive<usize>,
    ) -> Option<impl Iterator<Item = Ownership> + '_> {
        let indexes = self.of_slot.get(slots)?;
        Some(indexes.iter().map(|index| self.distinct[usize::from(*index)]))
    }

    /// Returns every pair of owner and epoch that at least one slot has, each once.
    pub(super) fn distinct(&self) -> &[Ownership] {
        &self.distinct
    }
}

impl FromIterator<Ownership> for SlotOwners {
    fn from_iter<I: IntoIterator<Item = Ownership>>(all: I) -> Self {
        let mut distinct: Vec<Ownership> = Vec::new();
        let mut indexes: HashMap<Ownership, u16> = HashMap::new();
        let of_slot = all.into_iter().map(|ownership| {
            *indexes.entry(ownership).or_insert_with(|| {
                distinct.push(ownership);
                // Cannot overflow: maps have at most 65 536 slots.
                (distinct.len() - 1) as u16
            })
        });
        let of_slot = of_slot.collect();
        Self { distinct: distinct.into(), of_slot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(shard: u16, since: u64) -> Ownership {
        (ShardNumber(shard), since)
    }

    #[test]
    fn a_table_returns_the_owners_that_it_was_made_of() {
        let all: Vec<Ownership> =
            (0..=u16::MAX).map(|slot| pair(slot % 251, u64::from(slot))).collect();
        let owners: SlotOwners = all.iter().copied().collect();
        assert_eq!((owners.len(), owners.distinct().len()), (65_536, 65_536));
        assert!(owners.iter().eq(all.iter().copied()));
        assert!((0..all.len()).all(|slot| owners.get(slot) == all[slot]));
        let last = owners.within(65_534..=65_535).map(Iterator::collect::<Vec<_>>);
        assert_eq!(last, Some(all[65_534..].to_vec()));
        assert!(owners.within(65_535..=65_536).is_none());
    }

    #[test]
    fn a_changed_table_equals_one_that_is_made_of_the_changed_owners() {
        let owners: SlotOwners = [pair(0, 1), pair(0, 1), pair(1, 1)].into_iter().collect();
        let mut all: Vec<Ownership> = owners.iter().collect();
        all[2] = pair(0, 2);
        let moved: SlotOwners = all.iter().copied().collect();
        assert_eq!(moved, [pair(0, 1), pair(0, 1), pair(0, 2)].into_iter().collect());
        assert_eq!(moved.distinct(), [pair(0, 1), pair(0, 2)], "an unused pair is not kept");
        all[2] = pair(1, 1);
        assert_eq!(owners, all.into_iter().collect());
    }
}
