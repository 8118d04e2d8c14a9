//! Routing step: one step of the computation from a key to its slot, to explain where a key is
//! stored.
//!
//! **Invariant:** the slot of an explanation is the one that routing uses.
//! **Not here:** showing an explanation (the router's `/api/route`).

use super::Slot;

/// Slot of a key, and the steps that lead to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<'k> {
    /// The slot.
    pub slot: Slot,
    /// The steps, in order.
    pub steps: Vec<RoutingStep<'k>>,
}

/// One step of the explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoutingStep<'k> {
    /// The key ends in these digits. The slot is their value modulo the number of slots.
    Integer(&'k str),
    /// The key lies in this range, which has a slot of its own.
    Range {
        /// Lowest key of the range; `None` if the range has no lower bound.
        from: Option<String>,
        /// Lowest key of the next range; `None` if this range has no upper bound.
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
    /// XXH3-64 of the key, or of the part of it that an earlier step names. The slot is this number
    /// modulo the number of slots. If an earlier step names a partition, it is the first slot of
    /// the partition plus this number modulo the number of the partition's slots.
    Hash(u64),
}
