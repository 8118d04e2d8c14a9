//! Majority: the nodes that must have a change so that no failover of the shard can undo it.
//!
//! **Invariant:** of n replicas ⌈n/2⌉ are enough: together with the primary they are more than half
//! of the nodes. A shard without replicas is confirmed by its primary.
//! **Not here:** the levels of writes (`model::consistency`), the positions of nodes
//! (`engine::replication`).

use std::time::Instant;

use engine::replication::Waiting;
use model::position::Position;

use super::Shard;

/// Interface of a [`Shard`] for the majority of its nodes.
#[derive(Clone, Copy)]
pub struct Majority<'s> {
    shard: &'s Shard,
}

impl<'s> Majority<'s> {
    /// Returns the interface of a shard for its majority.
    pub fn of(shard: &'s Shard) -> Self {
        Self { shard }
    }

    /// Returns the number of replicas that form a majority together with the primary.
    pub fn needed(self) -> usize {
        self.shard.replication.timeline().replica_count().div_ceil(2)
    }

    /// Returns the number of replicas that follow now.
    pub fn following(self) -> usize {
        self.shard.replicas.following()
    }

    /// Returns true if enough replicas follow now.
    pub fn follows(self) -> bool {
        self.following() >= self.needed()
    }

    /// Returns true if no failover can undo the changes up to a position of the primary.
    pub fn has_confirmed(self, position: Position) -> bool {
        let replication = &self.shard.replication;
        let is_present = || !self.has_timeline_ended(position);
        // The timeline is compared before and after the count: positions of another timeline do not
        // count.
        is_present()
            && replication.confirmations(position.sequence) >= self.needed()
            && is_present()
    }

    /// Makes replicas sync the changes that they apply to disk, until the guard is dropped.
    pub fn request_confirmations(self) -> Waiting<'s> {
        self.shard.replication.waiters().request_confirmations()
    }

    /// Waits until a position is confirmed. Returns false if the deadline passes first, or if the
    /// timeline of the position ends.
    pub async fn await_confirmation(self, position: Position, deadline: Instant) -> bool {
        let replication = &self.shard.replication;
        let _confirmations = self.request_confirmations();
        let ended = || {
            let has_ended = self.has_timeline_ended(position);
            if self.has_confirmed(position) { Some(true) } else { has_ended.then_some(false) }
        };
        replication.waiters().until(deadline, ended).await.unwrap_or(false)
    }

    /// Returns true if the shard's servers have begun another timeline than that of the position.
    /// Files have one timeline as long as they are open.
    fn has_timeline_ended(self, position: Position) -> bool {
        let moves = self.shard.primary().moves();
        let known = moves.and_then(|moves| moves.reader().position_timeline(position.timeline));
        known.is_some_and(|timeline| timeline != self.shard.replication.timeline().id())
    }
}
