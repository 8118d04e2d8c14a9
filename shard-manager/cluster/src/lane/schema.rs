//! Schema: changes of the tables, which wait in the same queue as the writes.
//!
//! **Invariant:** a change of the tables is applied after everything queued before it, and before
//! everything queued after it; it never begins after its deadline.
//! **Not here:** the other shards, which must make the same change (`manager`).

use std::sync::Arc;
use std::time::Instant;

use engine::fair_channel::Refused;
use engine::{BatchFailure, SchemaChange};
use model::error::{Error, Outcome};
use tokio::sync::oneshot;

use super::worker::Worker;
use super::{Claim, Lane, LaneFailure, Message, TAKEN};

/// A queued change of the tables.
pub(super) struct SchemaOperation {
    change: SchemaChange,
    deadline: Instant,
    claim: Arc<Claim>,
    reply: oneshot::Sender<Result<u64, LaneFailure>>,
}

impl SchemaOperation {
    /// Returns true if the client has left or the deadline has passed.
    pub(super) fn is_over(&self) -> bool {
        self.reply.is_closed() || self.deadline <= Instant::now()
    }

    /// Reports that the change was never begun.
    pub(super) fn refuse(self, failure: LaneFailure) {
        // The client may have left.
        let _ = self.reply.send(Err(failure));
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
        let claim = Arc::new(Claim::default());
        let operation = SchemaOperation { change, deadline, claim: Arc::clone(&claim), reply };
        let shard = || self.shard.clone();
        self.queue.try_send(Message::Schema(operation), 0).map_err(|refused| {
            let error = match refused {
                Refused::Full(_) | Refused::Share(_) => Error::QueueFull { shard: shard() },
                Refused::Closed(_) => Error::ShardUnavailable { shard: shard() },
            };
            LaneFailure { error, outcome: Outcome::Rejected }
        })?;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_gone)) => Err(claim.give_up(Error::ShardUnavailable { shard: shard() })),
            Err(_elapsed) => Err(claim.give_up(self.late())),
        }
    }
}

impl Worker {
    pub(super) async fn change_schema(&mut self, operation: SchemaOperation) {
        let SchemaOperation { change, deadline, claim, reply } = operation;
        let outcome = if deadline <= Instant::now() {
            Err(claim.give_up(Error::DeadlinePassed))
        } else if claim.decide(TAKEN) {
            let failed = |BatchFailure { error, outcome, .. }| LaneFailure { error, outcome };
            self.writer.change_schema(&change).await.map_err(failed)
        } else {
            return;
        };
        // The client may have left.
        let _ = reply.send(outcome);
    }
}
