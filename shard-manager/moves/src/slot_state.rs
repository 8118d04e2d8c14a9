//! Slot state: the right that a shard has to a slot, as its database stores it.
//!
//! **Invariant:** a shard without a state for a slot neither owns it nor knows its owner.
//! **Not here:** the refusal that a client receives (`model::slot_refusal`).

use std::time::Duration;

use model::topology::ShardNumber;

/// State of a slot on a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// The shard serves reads and writes of the slot.
    Owned,
    /// The shard serves reads of the slot, but writes of it wait.
    Fenced {
        /// Time of the shard's clock, in milliseconds, after which writes are accepted again.
        until: u64,
    },
    /// The slot belongs to another shard. The state is kept so that requests find the new owner.
    Moved {
        /// The new owner.
        to: ShardNumber,
    },
    /// Rows of the slot are being copied to the shard, which serves neither reads nor writes of it.
    Importing {
        /// Owner that the shard's state [`SlotState::Moved`] named before the copy began. That
        /// state is restored if the copy is abandoned. `None` if the slot had no state before.
        moved_to: Option<ShardNumber>,
    },
}

impl SlotState {
    /// Returns true if the shard owns the slot, so that no other shard may write to it.
    pub fn is_owned(self) -> bool {
        matches!(self, Self::Owned | Self::Fenced { .. })
    }

    /// Returns true if the shard accepts writes of the slot when its clock shows `now`, in
    /// milliseconds.
    ///
    /// A fence is ignored if it ends later than `hold_max` from now. Otherwise a clock that was set
    /// back would block writes for longer than a fence may last.
    pub fn admits_writes(self, now: u64, hold_max: Duration) -> bool {
        let latest = now.saturating_add(u64::try_from(hold_max.as_millis()).unwrap_or(u64::MAX));
        match self {
            Self::Owned => true,
            Self::Fenced { until } => !(now <= until && until <= latest),
            Self::Moved { .. } | Self::Importing { .. } => false,
        }
    }
}
