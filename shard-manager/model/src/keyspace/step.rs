//! Step: what a keyspace found on the way from a key to its slot, for people who ask why a key is where it is.
//!
//! **Invariant:** an explanation ends at the slot that routing takes.
//! **Not here:** how it is shown (the router's `/api/route`).

use super::Slot;

/// A key's slot, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation<'k> {
    /// The slot.
    pub slot: Slot,
    /// What was found, in order.
    pub steps: Vec<Step<'k>>,
}

/// One thing found about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'k> {
    /// The key ends in these digits; as a number, modulo the number of slots, they are the slot.
    Integer(&'k str),
    /// The key lies in this range, which has a slot of its own.
    Range {
        /// The least key of the range; `None` if it has no lower end.
        from: Option<String>,
        /// The least key of the next range; `None` if there is none.
        below: Option<String>,
    },
    /// The key belongs to this partition, whose slots are these; both ends belong to it.
    Partition {
        /// Its name.
        name: String,
        /// Its first slot.
        first: Slot,
        /// Its last slot.
        last: Slot,
    },
    /// Only this part of the key is hashed.
    Server(&'k str),
    /// XXH3-64 of what is hashed, the whole key if nothing else was said. Modulo the number of slots, or of the
    /// partition's slots, it is the slot.
    Hash(u64),
}
