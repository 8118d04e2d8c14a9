//! Strong: what a read must not miss, and the proof that strong reads need.
//!
//! **Invariant:** what a strong read must not miss was told by a primary that led after the read began.
//! **Not here:** which node answers (`shard`), the record that proves it (the engines).

use std::time::Instant;

use engine::ReadIndex;
use model::consistency::Level;
use model::error::Error;
use model::sabotage::{Mutation, is_on};

use super::{CATCH_UP_MAX, ReadRequirements, Shard};

impl Shard {
    /// What a replica must show that answers this read; `None` if none may.
    pub(super) async fn min_position(
        &self,
        requirements: &ReadRequirements,
    ) -> Result<Option<u64>, Error> {
        let min_position = match requirements.level {
            Level::One if is_on(Mutation::NoTokenWait) => 0,
            Level::One => requirements.seen,
            Level::Quorum if is_on(Mutation::QuorumFromAny) => requirements.seen,
            Level::Quorum | Level::All => {
                let needed =
                    Level::Quorum.replicas_needed(self.replication.timeline().replica_count());
                if needed == 0 {
                    // No other node could lead.
                    return Ok(None);
                }
                let proven = self.proven(needed, requirements.deadline).await?;
                if requirements.level == Level::All {
                    return Ok(None);
                }
                proven.max(requirements.seen)
            }
        };
        // A replica must know every table before it is asked for rows of any.
        Ok(Some(min_position.max(self.replication.primary().schema_position())))
    }

    /// A position that the primary had after this was called, when it was proven to lead: everything that any router has
    /// acknowledged before is at or below it.
    async fn proven(&self, needed: usize, deadline: Instant) -> Result<u64, Error> {
        loop {
            match self.prove(needed, deadline).await {
                // Another may lead in a moment.
                Err(Error::ShardUnavailable { .. }) if Instant::now() + CATCH_UP_MAX < deadline => {
                    tokio::time::sleep(CATCH_UP_MAX).await;
                }
                // It is not the client that had too little time.
                Err(Error::DeadlinePassed) if self.replication.timeline().is_silent() => {
                    return Err(Error::ShardUnavailable { shard: self.name.clone() });
                }
                proven => return proven,
            }
        }
    }

    async fn prove(&self, needed: usize, deadline: Instant) -> Result<u64, Error> {
        let marked = match self.primary.read_index(deadline).await? {
            ReadIndex::Confirmed(position) => return Ok(position),
            ReadIndex::AwaitQuorum(marked) => marked,
        };
        let _confirmations = self.replication.waiters().request_confirmations();
        let confirmed = || {
            let kept = self.replication.timeline().id() == marked.timeline;
            (!kept || self.replication.confirmations(marked.sequence) >= needed).then_some(kept)
        };
        match self.replication.waiters().until(deadline, confirmed).await {
            Some(true) => Ok(marked.sequence),
            Some(false) => Err(Error::ShardUnavailable { shard: self.name.clone() }),
            None => {
                let found = self.replicas.following();
                if found >= needed {
                    return Err(Error::DeadlinePassed);
                }
                let (shard, level) = (self.name.clone(), Level::Quorum);
                Err(Error::TooFewReplicas { shard, level, needed, found })
            }
        }
    }
}
