//! Solo changes: changes of tables, slots and moves, which wait in the queue of the writes and are
//! applied alone.
//!
//! **Invariant:** a solo change is applied after everything queued before it, and before everything
//! queued after it; it never begins after its deadline.
//! **Not here:** the other shards, which must make the same change (`manager`).

use std::sync::Arc;
use std::time::Instant;

use engine::fair_channel::Refused;
use engine::slot_change::{SlotChange, SlotChangeError};
use engine::slot_move::{MoveChange, MoveChangeError};
use engine::{BatchFailure, SchemaChange};
use model::error::{Error, Outcome};
use moves::request_context::MoveEffect;
use tokio::sync::oneshot;

use super::worker::Worker;
use super::{Claim, Lane, LaneFailure, Message, TAKEN};

/// A queued change that is applied alone.
pub(super) struct SoloOperation {
    change: SoloChange,
    deadline: Instant,
    claim: Arc<Claim>,
}

/// A change, with the channel to which its result is sent.
enum SoloChange {
    Tables(SchemaChange, oneshot::Sender<Result<u64, LaneFailure>>),
    Slots(SlotChange, oneshot::Sender<Result<u64, SlotChangeError>>),
    Move(Box<MoveChange>, oneshot::Sender<Result<MoveEffect, MoveChangeError>>),
}

impl SoloChange {
    fn fail(self, failure: LaneFailure) {
        // The client may have left.
        match self {
            Self::Tables(_, reply) => drop(reply.send(Err(failure))),
            Self::Slots(_, reply) => drop(reply.send(Err(failure.into()))),
            Self::Move(_, reply) => drop(reply.send(Err(failure.into()))),
        }
    }
}

impl From<LaneFailure> for SlotChangeError {
    fn from(LaneFailure { error, outcome }: LaneFailure) -> Self {
        Self::Failed { error, outcome }
    }
}

impl From<LaneFailure> for MoveChangeError {
    fn from(LaneFailure { error, outcome }: LaneFailure) -> Self {
        Self::Failed { error, outcome }
    }
}

impl SoloOperation {
    /// Returns true if the client has left or the deadline has passed.
    pub(super) fn is_over(&self) -> bool {
        let has_left = match &self.change {
            SoloChange::Tables(_, reply) => reply.is_closed(),
            SoloChange::Slots(_, reply) => reply.is_closed(),
            SoloChange::Move(_, reply) => reply.is_closed(),
        };
        has_left || self.deadline <= Instant::now()
    }

    /// Reports that the change was never begun.
    pub(super) fn refuse(self, failure: LaneFailure) {
        self.change.fail(failure);
    }
}

/// Solo changes of one lane.
#[derive(Clone, Copy)]
pub struct SoloChanges<'l>(pub(super) &'l Lane);

impl SoloChanges<'_> {
    /// Changes the tables and waits for the durable outcome, at most until `deadline`. Returns the
    /// shard's position after the change.
    ///
    /// Cancel safety: dropping the future does not cancel a queued change: it is still applied,
    /// unless its deadline passes first, or it is dropped while no node accepts writes.
    ///
    /// # Errors
    /// [`LaneFailure`]; its outcome is unknown only if the transaction had begun.
    pub async fn change_schema(
        self,
        change: SchemaChange,
        deadline: Instant,
    ) -> Result<u64, LaneFailure> {
        let (reply, answer) = oneshot::channel();
        run_alone(self.0, SoloChange::Tables(change, reply), answer, deadline).await?
    }

    /// Changes the slots that the shard owns and waits for the durable outcome, at most until
    /// `deadline`. Returns the shard's position after the change.
    ///
    /// Cancel safety: dropping the future does not cancel a queued change: it is still applied,
    /// unless its deadline passes first, or it is dropped while no node accepts writes.
    ///
    /// # Errors
    /// [`SlotChangeError`]; its outcome is unknown only if the transaction had begun.
    pub async fn change_slots(
        self,
        change: SlotChange,
        deadline: Instant,
    ) -> Result<u64, SlotChangeError> {
        let (reply, answer) = oneshot::channel();
        run_alone(self.0, SoloChange::Slots(change, reply), answer, deadline).await?
    }

    /// Carries out a change for a move and waits for the durable outcome, at most until `deadline`.
    ///
    /// Cancel safety: dropping the future does not cancel a queued change: it is still applied,
    /// unless its deadline passes first, or it is dropped while no node accepts writes.
    ///
    /// # Errors
    /// [`MoveChangeError`]; its outcome is unknown only if the transaction had begun.
    pub async fn change_move(
        self,
        change: MoveChange,
        deadline: Instant,
    ) -> Result<MoveEffect, MoveChangeError> {
        let (reply, answer) = oneshot::channel();
        run_alone(self.0, SoloChange::Move(Box::new(change), reply), answer, deadline).await?
    }
}

/// Queues a change and waits for its result.
async fn run_alone<T>(
    lane: &Lane,
    change: SoloChange,
    answer: oneshot::Receiver<T>,
    deadline: Instant,
) -> Result<T, LaneFailure> {
    let claim = Arc::new(Claim::default());
    let operation = SoloOperation { change, deadline, claim: Arc::clone(&claim) };
    let shard = || lane.shard.clone();
    lane.queue.try_send(Message::Solo(operation), 0).map_err(|refused| {
        let error = match refused {
            Refused::Full(_) | Refused::Share(_) => Error::QueueFull { shard: shard() },
            Refused::Closed(_) => Error::ShardUnavailable { shard: shard() },
        };
        LaneFailure { error, outcome: Outcome::Rejected }
    })?;
    match tokio::time::timeout_at(deadline.into(), answer).await {
        Ok(Ok(outcome)) => Ok(outcome),
        Ok(Err(_gone)) => Err(claim.give_up(Error::ShardUnavailable { shard: shard() })),
        Err(_elapsed) => Err(claim.give_up(lane.late())),
    }
}

impl Worker {
    pub(super) async fn change_alone(&mut self, operation: SoloOperation) {
        let SoloOperation { change, deadline, claim } = operation;
        if deadline <= Instant::now() {
            return change.fail(claim.give_up(Error::DeadlinePassed));
        }
        if !claim.decide(TAKEN) {
            return;
        }
        // The client may have left.
        match change {
            SoloChange::Tables(change, reply) => {
                let failed = |BatchFailure { error, outcome, .. }| LaneFailure { error, outcome };
                let _ = reply.send(self.writer.change_schema(&change).await.map_err(failed));
            }
            SoloChange::Slots(change, reply) => {
                let _ = reply.send(self.writer.change_slots(&change).await);
            }
            SoloChange::Move(change, reply) => {
                let begun = Instant::now();
                let changed = self.writer.change_move(&change).await;
                self.state.tally.add_move(begun.elapsed());
                let _ = reply.send(changed);
            }
        }
    }
}
