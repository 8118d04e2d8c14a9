//! Routing step: one step from a key to its slot, to explain where a key is stored.
//!
//! **Invariant:** an explanation ends at the slot that routing uses.
//! **Not here:** its presentation (the router's `/api/route`).

use super::Slot;

/// Slot of a key, and the steps that lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<'k> {
    /// The slot.
    pub slot: Slot,
    /// The steps, in order.
    pub steps: Vec<RoutingStep<'k>>,
}

/// Step of the explanation of a key's slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingStep<'k> {
    /// The key ends in these digits; as a number, modulo the number of slots, they are the slot.
    Integer(&'k str),
    /// The key lies in this range, which has a slot of its own.
    Range {
        /// Lowest key of the range; `None` if it has no lower end.
        from: Option<String>,
        /// Lowest key of the next range; `None` if there is none.
        below: Option<String>,
    },
    /// The key belongs to this partition, which has the slots from `first` to `last`.
    Partition {
        /// Name of the partition.
        name: String,
        /// First slot of the partition.
        first: Slot,
        /// Last slot of the partition.
        last: Slot,
    },
    /// Only this part of the key is hashed.
    Server(&'k str),
    /// XXH3-64 of the hashed part, which is the whole key unless an earlier step names a part. The
    /// slot is this number modulo the number of slots, or of the partition's slots.
    Hash(u64),
}
