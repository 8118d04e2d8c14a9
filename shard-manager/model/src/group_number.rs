//! Group number: the table group that a slot belongs to.
//!
//! **Invariant:** the slot numbers of the groups are disjoint, and every slot belongs to one group.
//! **Not here:** the description of a group (`table_group`).

use std::ops::RangeInclusive;

use crate::keyspace::{GROUPS_MAX, SLOT_COUNT, Slot};

/// Number of a table group, `0..GROUPS_MAX`. A group keeps its number for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNumber(u8);

impl GroupNumber {
    /// Number of the group `main`, which has every table that is not assigned to another group.
    pub const MAIN: Self = Self(0);

    /// Returns the group with this number, if the number is valid.
    pub fn new(number: usize) -> Option<Self> {
        u8::try_from(number).ok().filter(|number| usize::from(*number) < GROUPS_MAX).map(Self)
    }

    /// Returns the group that a slot belongs to.
    #[inline]
    pub fn of(slot: Slot) -> Self {
        Self((slot.number() / SLOT_COUNT) as u8)
    }

    /// Returns the number as an index into a list of groups.
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Returns the number of the group's first slot.
    #[inline]
    pub fn first_slot(self) -> u16 {
        u16::from(self.0) * SLOT_COUNT
    }

    /// Returns the numbers of the group's slots.
    pub fn slots(self) -> RangeInclusive<u16> {
        self.first_slot()..=self.first_slot() + (SLOT_COUNT - 1)
    }

    /// Converts a slot of the cluster to the slot of the group's keyspace, whose numbers begin with
    /// 0; `None` if the slot belongs to another group.
    #[inline]
    pub(crate) fn within(self, slot: Slot) -> Option<Slot> {
        slot.number().checked_sub(self.first_slot()).filter(|n| *n < SLOT_COUNT).and_then(Slot::new)
    }

    /// Converts a slot of the group's keyspace, whose numbers begin with 0, to the slot of the
    /// cluster.
    #[inline]
    pub(crate) fn slot(self, within: Slot) -> Slot {
        Slot::of_group(self.first_slot(), within)
    }
}
