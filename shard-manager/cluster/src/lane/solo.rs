//! Solo changes: changes of the tables and of the slots, which wait in the same queue as the
//! writes.
//!
//! **Invariant:** a solo change is applied after everything queued before it, and before everything
//! queued after it; it never begins after its deadline.
//! **Not here:** the other shards, which must make the same change (`manager`).

use std::sync::Arc;
use std::time::Instant;

use engine::fair_channel::Refused;
use engine::slot_change::{SlotChange, SlotChangeError};
use engine::{BatchFailure, SchemaChange};
use model::error::{Error, Outcome};
use tokio::sync::oneshot;

use super::worker::Worker;
use super::{Claim, Lane, LaneFailure, Message, TAKEN};

/// A queued change that is applied alone.
pub(super) struct SoloOperation {
    change: SoloChange,
    deadline: Instant,
    claim: Arc<Claim>,
}

/// Change, and the channel of its result.
enum SoloChange {
    Tables(SchemaChange, oneshot::Sender<Result<u64, LaneFailure>>),
    Slots(SlotChange, oneshot::Sender<Result<u64, SlotChangeError>>),
}

impl SoloChange {
    fn fail(self, failure: LaneFailure) {
        // The client may have left.
        match self {
            Self::Tables(_, reply) => drop(reply.send(Err(failure))),
            Self::Slots(_, reply) => drop(reply.send(Err(failure.into()))),
        }
    }
}

impl From<LaneFailure> for SlotChangeError {
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
        };
        has_left || self.deadline <= Instant::now()
    }

    /// Reports that the change was never begun.
    pub(super) fn refuse(self, failure: LaneFailure) {
        self.change.fail(failure);
    }
}

impl Lane {
    /// Changes the tables and waits for the durable outcome, at most until `deadline`. Returns the
    /// shard's position after the change.
    ///
    /// Cancel safety: a dropped future cancels nothing; what was queued is applied.
    ///
    /// # Errors
    /// [`LaneFailure`]; its outcome is unknown only if the transaction had begun.
    pub async fn change_schema(
        &self,
        change: SchemaChange,
        deadline: Instant,
    ) -> Result<u64, LaneFailure> {
        let (reply, answer) = oneshot::channel();
        run_alone(self, SoloChange::Tables(change, reply), answer, deadline).await?
    }

    /// Changes the slots that the shard owns and waits for the durable outcome, at most until
    /// `deadline`. Returns the shard's position after the change.
    ///
    /// Cancel safety: a dropped future cancels nothing; what was queued is applied.
    ///
    /// # Errors
    /// [`SlotChangeError`]; its outcome is unknown only if the transaction had begun.
    pub async fn change_slots(
        &self,
        change: SlotChange,
        deadline: Instant,
    ) -> Result<u64, SlotChangeError> {
        let (reply, answer) = oneshot::channel();
        run_alone(self, SoloChange::Slots(change, reply), answer, deadline).await?
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
        }
    }
}
