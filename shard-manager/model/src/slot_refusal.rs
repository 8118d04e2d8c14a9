//! Slot refusal: the reason why a shard accepts no read or write of a slot, as its database states
//! it.
//!
//! **Not here:** the response to a refusal: waiting, or another shard (`cluster`).

use std::time::Duration;

use crate::keyspace::Slot;
use crate::topology::ShardNumber;

/// Refusal of a slot by a shard. Nothing was read or stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRefusal {
    /// The slot.
    pub slot: Slot,
    /// State of the slot on the shard that refused it.
    pub state: RefusedState,
}

impl SlotRefusal {
    /// Creates the refusal of a slot about which the shard knows nothing.
    pub fn absent(slot: Slot) -> Self {
        Self { slot, state: RefusedState::Absent }
    }
}

/// State in which a shard refuses a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedState {
    /// The shard owns the slot and accepts no writes of it until the fence is lifted, at the latest
    /// after this time. It answers reads.
    Fenced {
        /// Time until the fence ends by itself.
        left: Duration,
    },
    /// The slot has moved to another shard.
    Moved {
        /// The new owner.
        to: ShardNumber,
    },
    /// Rows of the slot are being copied to the shard, which does not own it yet.
    Importing,
    /// The shard has never owned the slot, or has forgotten it.
    Absent,
}
