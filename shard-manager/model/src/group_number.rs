//! Group number: the table group that a slot belongs to.
//!
//! **Invariant:** the slots of the groups are disjoint, and each slot has a group.
//! **Not here:** the description of a group (`table_group`).

use std::ops::RangeInclusive;

use crate::keyspace::{GROUPS_MAX, SLOT_COUNT, Slot};

/// Number of a group, given once: `0..GROUPS_MAX`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNumber(u8);

impl GroupNumber {
    /// Group `main`, to which tables belong that name no group.
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

    /// Converts one of the group's slots to a slot of its keyspace; `None` for a slot of another
    /// group.
    #[inline]
    pub(crate) fn within(self, slot: Slot) -> Option<Slot> {
        slot.number().checked_sub(self.first_slot()).filter(|n| *n < SLOT_COUNT).and_then(Slot::new)
    }

    /// Converts a slot of the group's keyspace to the group's slot.
    #[inline]
    pub(crate) fn slot(self, within: Slot) -> Slot {
        Slot::of_group(self.first_slot(), within)
    }
}
