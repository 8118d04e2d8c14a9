//! Slots: the interface of a manager that fences slots, and hands them from one shard to another.
//!
//! A fence stops the writes of its slots for a short time: the writes wait, and reads continue. A
//! fence ends by itself, so none remains after a process dies.
//!
//! **Invariant:** a slot that is handed over never has two owners. The source gives it up before
//! the target takes it, so for a moment it has none.
//! **Not here:** copying rows, the owners in the catalog, waiting writes (`data/waiting_rows`).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use engine::refusal_code::RefusalCode;
use engine::slot_change::{FENCE_MAX, SlotChange, SlotChangeError, SlotStep};
use futures_util::future::join_all;
use model::slot_set::{SlotSet, SlotSetError, check_known};
use model::topology::ShardNumber;

use super::Manager;
use crate::shard::Shard;

/// Wait before a change is tried again while other writes hold the fence lock.
const BUSY_WAIT: Duration = Duration::from_millis(50);
/// Time limit for releasing the fences of a request that has failed.
const UNDO_MAX: Duration = Duration::from_secs(2);

/// Interface of a [`Manager`] for the slots of its shards.
#[derive(Clone, Copy)]
pub struct Slots<'m>(pub(super) &'m Manager);

/// Reason why slots were not changed, or not on all shards.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotsError {
    /// No slots are named.
    #[error("name at least one slot")]
    NoSlots,
    /// The cluster has no such slot.
    #[error(transparent)]
    NoSlot(#[from] SlotSetError),
    /// The requested duration of the fence is shorter than 1 ms, or too long.
    #[error("a fence lasts from 1 ms to {} s", FENCE_MAX.as_secs())]
    Hold,
    /// The shard is not one of the cluster, or is not open.
    #[error("there is no open shard of number {}", .0.0)]
    NoShard(ShardNumber),
    /// A shard did not carry out its change. Other shards may have carried out theirs.
    #[error(transparent)]
    Shard(#[from] SlotChangeError),
}

/// Slots of one shard, and the result of their change.
type ChangedPart = (SlotSet, Result<(), SlotsError>);

impl SlotsError {
    /// Returns the public code; `None` if the shards cannot carry the change out now.
    pub fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::NoSlots | Self::NoSlot(_) | Self::Hold => Some(RefusalCode::BadFence),
            Self::NoShard(_) => None,
            Self::Shard(error) => RefusalCode::of_slot_change(error),
        }
    }
}

impl Manager {
    /// Returns the interface for the slots of the shards.
    pub fn slots(&self) -> Slots<'_> {
        Slots(self)
    }
}

impl Slots<'_> {
    /// Makes the writes of these slots wait, for at most `hold`. The slots may belong to several
    /// shards. A slot that is already fenced gets a new fence. If one shard does not fence its
    /// slots, the other shards release theirs.
    ///
    /// # Errors
    /// [`SlotsError`]. Fences of shards that do not respond end by themselves.
    pub async fn fence(
        self,
        slots: &SlotSet,
        hold: Duration,
        deadline: Instant,
    ) -> Result<(), SlotsError> {
        if hold < Duration::from_millis(1) || hold > FENCE_MAX {
            return Err(SlotsError::Hold);
        }
        let parts = self.change_owned(slots, SlotStep::Fence { hold }, deadline).await?;
        let done = parts.iter().filter(|(_, changed)| changed.is_ok());
        let done: SlotSet = done.flat_map(|(slots, _)| slots.iter()).collect();
        let fenced = outcome(parts);
        if fenced.is_err() && !done.is_empty() {
            let released = self.release(&done, Instant::now() + UNDO_MAX).await;
            if let Err(error) = released {
                tracing::debug!(%error, "the fences of a failed request end by themselves");
            }
        }
        fenced
    }

    /// Ends the fences of these slots, so that their writes continue.
    ///
    /// # Errors
    /// [`SlotsError`]. Shards that were not reached end their fences by themselves.
    pub async fn release(self, slots: &SlotSet, deadline: Instant) -> Result<(), SlotsError> {
        outcome(self.change_owned(slots, SlotStep::Release, deadline).await?)
    }

    /// Makes one shard the owner of slots of another shard. Rows are not copied, and the catalog is
    /// not changed, so this is useful only for slots without rows, and in tests.
    ///
    /// # Errors
    /// [`SlotsError`]. If the second shard fails, the slots have no owner until this is called
    /// again.
    pub async fn hand_over(
        self,
        slots: &SlotSet,
        (from, to): (ShardNumber, ShardNumber),
        deadline: Instant,
    ) -> Result<(), SlotsError> {
        self.check(slots)?;
        // Both shards are looked up before the first one is changed.
        let source = self.0.shards().find(from).ok_or(SlotsError::NoShard(from))?;
        let target = self.0.shards().find(to).ok_or(SlotsError::NoShard(to))?;
        let step = |step| SlotChange { slots: slots.clone(), step };
        change(&source, step(SlotStep::HandOver { to }), deadline).await?;
        change(&target, step(SlotStep::TakeOver), deadline).await
    }

    /// Changes slots on the shards that own them, all at the same time. Returns the slots of each
    /// shard with the result.
    async fn change_owned(
        self,
        slots: &SlotSet,
        step: SlotStep,
        deadline: Instant,
    ) -> Result<Vec<ChangedPart>, SlotsError> {
        self.check(slots)?;
        let mut by_shard: BTreeMap<ShardNumber, SlotSet> = BTreeMap::new();
        for slot in slots.iter() {
            let owner = self.0.router.locate(slot).shard;
            by_shard.entry(owner).or_insert_with(SlotSet::empty).insert(slot);
        }
        let changes = by_shard.into_iter().map(async |(number, slots)| {
            let part = SlotChange { slots: slots.clone(), step };
            let changed = match self.0.shards().find(number) {
                Some(shard) => change(&shard, part, deadline).await,
                None => Err(SlotsError::NoShard(number)),
            };
            (slots, changed)
        });
        Ok(join_all(changes).await)
    }

    fn check(self, slots: &SlotSet) -> Result<(), SlotsError> {
        if slots.is_empty() {
            return Err(SlotsError::NoSlots);
        }
        Ok(check_known(slots, self.0.map().groups().slot_count())?)
    }
}

/// Returns the first error of the parts of a change.
fn outcome(parts: Vec<ChangedPart>) -> Result<(), SlotsError> {
    parts.into_iter().try_for_each(|(_, changed)| changed)
}

/// Changes slots of a shard, as soon as its fence lock is free.
pub(super) async fn change(
    shard: &Shard,
    change: SlotChange,
    deadline: Instant,
) -> Result<(), SlotsError> {
    loop {
        match shard.change_slots(change.clone(), deadline).await {
            Err(SlotChangeError::Busy { .. }) if Instant::now() + BUSY_WAIT < deadline => {
                tokio::time::sleep(BUSY_WAIT).await;
            }
            changed => return Ok(changed.map(drop)?),
        }
    }
}
