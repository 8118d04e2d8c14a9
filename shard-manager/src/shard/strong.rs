//! Strong: what a read must not miss, and the proof that strong reads need.
//!
//! **Invariant:** what a strong read must not miss was told by a primary that led after the read began.
//! **Not here:** which node answers (`shard`), the record that proves it (`store/postgres/proof`).

use std::time::Instant;

use super::{CATCH_UP_MAX, ReadDemand, Shard};
use crate::consistency::Level;
use crate::error::Error;
use crate::progress::Progress;
use crate::sabotage::{Mutation, is_on};

impl Shard {
    /// What a replica must show that answers this read; `None` if none may.
    pub(super) async fn floor(&self, demand: &ReadDemand) -> Result<Option<u64>, Error> {
        let floor = match demand.level {
            Level::One if is_on(Mutation::NoTokenWait) => 0,
            Level::One => demand.seen,
            Level::Quorum if is_on(Mutation::QuorumFromAny) => demand.seen,
            Level::Quorum | Level::All if self.progress.is_asked() => {
                let needed = Level::Quorum.replicas_needed(self.progress.replicas());
                if needed == 0 {
                    // Nobody else could lead.
                    return Ok(None);
                }
                let proven = self.proven(needed, demand.deadline).await?;
                if demand.level == Level::All {
                    return Ok(None);
                }
                proven.max(demand.seen)
            }
            // The writer itself is the proof: it is the only one, and has told what it acknowledged.
            Level::Quorum => demand.seen.max(self.progress.strong_floor()),
            Level::All => return Ok(None),
        };
        // A replica must know every table before it is asked for rows of any.
        Ok(Some(floor.max(self.progress.schema_position())))
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
                Err(Error::DeadlinePassed) if self.progress.is_silent() => {
                    return Err(Error::ShardUnavailable { shard: self.name.clone() });
                }
                proven => return proven,
            }
        }
    }

    async fn prove(&self, needed: usize, deadline: Instant) -> Result<u64, Error> {
        let marked = self.primary.mark(deadline).await?;
        let _confirmations = self.progress.ask_for_confirmations();
        let confirmed = |progress: &Progress| {
            let kept = progress.life() == marked.timeline;
            (!kept || progress.confirmed(marked.sequence) >= needed).then_some(kept)
        };
        match self.progress.until(deadline, confirmed).await {
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
