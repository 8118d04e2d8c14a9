//! Majority: the nodes that must have a change, so that no failover of the shard undoes it.
//!
//! **Invariant:** of n replicas ⌈n/2⌉ are enough: together with the primary they are more than half
//! of the nodes. A shard without replicas is confirmed by its primary.
//! **Not here:** the levels of writes (`model::consistency`), the positions of nodes
//! (`engine::replication`).

use std::time::Instant;

use engine::replication::Waiting;
use model::position::Position;

use super::Shard;

/// Face of a [`Shard`] for the majority of its nodes.
#[derive(Clone, Copy)]
pub struct Majority<'s> {
    shard: &'s Shard,
    /// True if positions name the timeline of the shard's servers. Files have one timeline as long
    /// as they are open.
    has_timelines: bool,
}

impl<'s> Majority<'s> {
    /// Returns the face for a shard whose positions name timelines, or do not.
    pub fn of(shard: &'s Shard, has_timelines: bool) -> Self {
        Self { shard, has_timelines }
    }

    /// Returns the number of replicas that are needed.
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

    /// Returns true if no failover undoes what the primary had at a position.
    pub fn has_confirmed(self, position: Position) -> bool {
        let replication = &self.shard.replication;
        let is_present = || !self.has_timelines || position.timeline == replication.timeline().id();
        // The timeline is compared before and after: another one has other positions.
        is_present()
            && replication.confirmations(position.sequence) >= self.needed()
            && is_present()
    }

    /// Makes replicas sync what they apply, until the guard is dropped.
    pub fn request_confirmations(self) -> Waiting<'s> {
        self.shard.replication.waiters().request_confirmations()
    }

    /// Waits until a position is confirmed, and returns false if it is not by the deadline, or its
    /// timeline has ended.
    pub async fn await_confirmation(self, position: Position, deadline: Instant) -> bool {
        let replication = &self.shard.replication;
        let _confirmations = self.request_confirmations();
        let ended = || {
            let has_ended = self.has_timelines && position.timeline != replication.timeline().id();
            if self.has_confirmed(position) { Some(true) } else { has_ended.then_some(false) }
        };
        replication.waiters().until(deadline, ended).await.unwrap_or(false)
    }
}
