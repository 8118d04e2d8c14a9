//! Strong reads: the position that a strong read must observe, and the proof that the position is
//! recent enough.
//!
//! **Invariant:** the position that a strong read must observe comes from a node that was proven to
//! be primary after the read began.
//! **Not here:** the choice of the node (`reads`), the log record that serves as the proof (the
//! engines).

use std::time::Instant;

use engine::ReadIndex;
use engine::replication::Timeline;
use model::consistency::Level;
use model::error::Error;
use model::sabotage::{Mutation, is_on};

use super::confirmation::confirmed;
use super::reads::{CATCH_UP_MAX, ReadRequirements, Reads};

impl Reads<'_> {
    /// Returns the position that a replica must have applied to serve this read; `None` if the
    /// primary must serve it.
    pub(super) async fn min_position(
        self,
        requirements: &ReadRequirements,
    ) -> Result<Option<u64>, Error> {
        let min_position = match requirements.level {
            Level::One if is_on(Mutation::NoTokenWait) => 0,
            Level::One => requirements.seen,
            Level::Quorum if is_on(Mutation::QuorumFromAny) => requirements.seen,
            Level::Quorum | Level::All => {
                let needed =
                    Level::Quorum.replicas_needed(self.0.replication.timeline().replica_count());
                if needed == 0 {
                    // No other node can become the primary, so nothing has to be proven.
                    return Ok(None);
                }
                let proven = self.proven(needed, requirements.deadline).await?;
                if requirements.level == Level::All {
                    return Ok(None);
                }
                proven.max(requirements.seen)
            }
        };
        // A replica must have applied the last change of the tables and of the owned slots before
        // it is read.
        Ok(Some(min_position.max(self.0.replication.primary().schema_position())))
    }

    /// Returns a position that the primary had at a moment after this call began, when it was
    /// proven to be the primary. Every change that any router acknowledged before this call is at
    /// or below the position.
    async fn proven(self, needed: usize, deadline: Instant) -> Result<u64, Error> {
        loop {
            match self.prove(needed, deadline).await {
                // Tries again, because another node may become the primary soon.
                Err(Error::ShardUnavailable { .. }) if Instant::now() + CATCH_UP_MAX < deadline => {
                    tokio::time::sleep(CATCH_UP_MAX).await;
                }
                // If the primary does not respond, the failure is not due to the client's deadline.
                Err(Error::DeadlinePassed) if self.0.replication.timeline().is_silent() => {
                    return Err(Error::ShardUnavailable { shard: self.0.name.clone() });
                }
                proven => return proven,
            }
        }
    }

    async fn prove(self, needed: usize, deadline: Instant) -> Result<u64, Error> {
        let marked = match self.0.primary.reader.read_index(deadline).await? {
            ReadIndex::Confirmed(position) => return Ok(position),
            ReadIndex::AwaitQuorum(marked) => marked,
        };
        let _confirmations = self.0.replication.waiters().request_confirmations();
        let is_kept = |timeline: &Timeline| timeline.id() == marked.timeline;
        let ended = || confirmed(&self.0.replication, (marked.sequence, needed), is_kept);
        match self.0.replication.waiters().until(deadline, ended).await {
            Some(true) => Ok(marked.sequence),
            Some(false) => Err(Error::ShardUnavailable { shard: self.0.name.clone() }),
            None => {
                let found = self.0.replicas.following();
                if found >= needed {
                    return Err(Error::DeadlinePassed);
                }
                let (shard, level) = (self.0.name.clone(), Level::Quorum);
                Err(Error::TooFewReplicas { shard, level, needed, found })
            }
        }
    }
}
