//! Slot refusal: the reason why a shard refuses to read or write a slot, according to the slot
//! states that its database stores.
//!
//! **Not here:** the reaction to a refusal, which is to wait or to try another shard (`cluster`).

use std::time::Duration;

use crate::keyspace::Slot;
use crate::topology::ShardNumber;

/// Refusal of a slot by a shard. Nothing was read from the slot or written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRefusal {
    /// The slot.
    pub slot: Slot,
    /// State of the slot on the shard that refused it.
    pub state: RefusedState,
}

impl SlotRefusal {
    /// Creates the refusal of a slot for which the shard stores no state.
    pub fn absent(slot: Slot) -> Self {
        Self { slot, state: RefusedState::Absent }
    }
}

/// State of a slot in which a shard refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedState {
    /// The shard owns the slot, but the slot is fenced: the shard answers reads of it and refuses
    /// writes until the fence is lifted or ends by itself.
    Fenced {
        /// Longest time until the fence ends by itself.
        left: Duration,
    },
    /// The slot has moved to another shard.
    Moved {
        /// The new owner.
        to: ShardNumber,
    },
    /// Rows of the slot are being copied to the shard, which does not own the slot yet.
    Importing,
    /// The shard stores no state of the slot: it has never owned the slot, or has deleted the
    /// state.
    Absent,
}
