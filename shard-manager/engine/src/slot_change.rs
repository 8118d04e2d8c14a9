//! Slot change: a change of the slots that a shard owns, which its writer carries out in one
//! durable transaction.
//!
//! A fence is a time during which a shard accepts no writes to some slots that it owns; it ends by
//! itself. The writer holds the fence lock of the shard exclusively while it makes a change: the
//! change sees every write that was accepted before it, and every later write is checked against
//! the changed state of the slots.
//!
//! **Invariant:** a change applies to all of its slots or to none; if the slots are already in the
//! requested state, a change succeeds and does nothing.
//! **Not here:** the checks of writes and reads (the engines), the owners in the catalog.

use std::time::Duration;

use model::error::{Error, Outcome};
use model::slot_set::SlotSet;
use model::topology::ShardNumber;

/// Longest time for which one change may fence the writes of slots.
pub const FENCE_MAX: Duration = Duration::from_secs(60);

/// Change of some slots of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotChange {
    /// The slots.
    pub slots: SlotSet,
    /// Change that is made to each of them.
    pub step: SlotStep,
}

/// Change of the state of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotStep {
    /// Owned or fenced slots accept no writes for this time, at most [`FENCE_MAX`]. Reads continue.
    Fence {
        /// Time after which the fence ends by itself.
        hold: Duration,
    },
    /// Fenced slots accept writes again.
    Release,
    /// Owned or fenced slots belong to another shard from now on. Their rows stay on this shard,
    /// which no longer reads or writes them.
    HandOver {
        /// The new owner.
        to: ShardNumber,
    },
    /// The shard owns these slots from now on; it did not own them before.
    TakeOver,
}

/// Failure of a change of slots. Nothing was changed, unless the outcome of [`Self::Failed`] is
/// unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotChangeError {
    /// The shard does not own some of the slots.
    #[error("{shard} does not own the slots {slots}")]
    NotOwned {
        /// Name of the shard.
        shard: String,
        /// Slots that the shard does not own.
        slots: SlotSet,
    },
    /// The fence lock was not free in time: other writes held it.
    #[error("the fence lock of {shard} was not free in time: try again")]
    Busy {
        /// Name of the shard.
        shard: String,
    },
    /// The engine distributes rows by itself and has no slots of its own.
    #[error("{shard} distributes its rows itself")]
    Unsupported {
        /// Name of the shard.
        shard: String,
    },
    /// The transaction failed.
    #[error("{error}")]
    Failed {
        /// Cause.
        error: Error,
        /// Outcome of the change: rejected or unknown.
        outcome: Outcome,
    },
}
