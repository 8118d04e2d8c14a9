//! Hash: the keyspace `hash`, in which the slot of a key is its hash modulo the number of slots.
//!
//! **Invariant:** the function never changes, because rows are stored by it.
//! **Not here:** the part of a key that is hashed in the keyspace `matrix` (`matrix`), the owner of
//! a slot (`placement`).

use super::{SLOT_COUNT, Slot};

/// Returns the hash of a shard key, of a part of it or of a name: XXH3 with 64 bits.
pub(super) fn hash(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

/// Returns the slot of a hash: its lowest bits.
pub(super) fn slot_of_hash(hash: u64) -> Slot {
    Slot((hash & u64::from(SLOT_COUNT - 1)) as u16)
}
