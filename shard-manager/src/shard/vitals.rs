//! Vitals: what is known of a shard without asking anybody, and what one short question tells.
//!
//! **Not here:** asking all nodes (`Shard::probe`), which may find another truth than is believed here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shard;
use crate::engine::NodeReader;
use crate::error::Error;
use crate::progress::ReplicaState;
use crate::topology::{Role, ShardIndex};
use crate::vitals::{ComparedVitals, Footprint, NodeVitals, PoolVitals, ShardVitals};

impl Shard {
    /// How busy it is, and how its nodes are believed to be. `shard` is its place among the shards.
    pub fn vitals(&self, shard: ShardIndex) -> ShardVitals {
        let leading = self.progress.leading();
        let pool = |reader: Option<Arc<dyn NodeReader>>| {
            reader.map_or_else(PoolVitals::default, |reader| reader.pool_stats())
        };
        let reasons = self.reasons_of_primary();
        let primary = NodeVitals {
            node: self.primary_name.clone(),
            role: Role::Primary,
            up: reasons.is_up(),
            reasons,
            lag: Some(Duration::ZERO),
            behind: Some(0),
            pool: self.primary.pool_stats(),
        };
        let others = self.replicas.replicas().enumerate();
        let others = others.filter(|(index, _)| Some(*index) != leading);
        let replicas = others.map(|(index, replica)| {
            let applied = self.progress.applied_by(index);
            let behind = self.progress.committed().saturating_sub(applied);
            let is_known = self.progress.state(index) == ReplicaState::Following || applied > 0;
            let reasons = self.reasons_of_replica(index);
            NodeVitals {
                node: self.replica_name(index, leading),
                role: Role::Replica,
                up: reasons.is_up(),
                reasons,
                lag: self.progress.lag(index),
                behind: is_known.then_some(behind),
                pool: pool(replica.reader()),
            }
        });
        let nodes = std::iter::once(primary).chain(replicas).collect();
        let (passes, differences) = self.doubts.counted();
        let compared = ComparedVitals { passes, differences };
        ShardVitals { shard, lane: self.lanes.vitals(), compared, nodes }
    }

    /// Returns true if the engine distributes the shard's rows over nodes by a rule of its own.
    pub fn is_partitioned(&self) -> bool {
        self.lanes.is_partitioned()
    }

    /// About how much it holds.
    ///
    /// # Errors
    /// As [`Shard::read_key`].
    pub async fn footprint(&self, deadline: Instant) -> Result<Footprint, Error> {
        self.primary.size_estimate(deadline).await
    }
}
