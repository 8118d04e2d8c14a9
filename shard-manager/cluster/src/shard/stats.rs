//! Stats: the load of a shard and the last known state of its nodes, both reported without queries.
//!
//! **Not here:** probing all nodes (`Shard::probe`), which may find a different state.

use std::sync::Arc;
use std::time::Duration;

use engine::NodeReader;
use engine::replication::ReplicaState;
use model::stats::{ComparisonStats, NodeStats, PoolStats, ShardStats};
use model::topology::{Role, ShardNumber};

use super::Shard;

impl Shard {
    /// Returns the load of the shard and the last known state of its nodes. `shard` is the number
    /// of this shard.
    pub fn stats(&self, shard: ShardNumber) -> ShardStats {
        let leading = self.replication.timeline().leader();
        let pool = |reader: Option<Arc<dyn NodeReader>>| {
            reader.map_or_else(PoolStats::default, |reader| reader.pool_stats())
        };
        let reasons = self.primary.reasons();
        let primary = NodeStats {
            node: self.primary_name.clone(),
            role: Role::Primary,
            up: reasons.is_up(),
            reasons,
            lag: Some(Duration::ZERO),
            behind: Some(0),
            pool: self.primary.reader.pool_stats(),
        };
        let others = self.replicas.replicas().enumerate();
        let others = others.filter(|(index, _)| Some(*index) != leading);
        let replicas = others.map(|(index, replica)| {
            let applied = self.replication.replicas().applied(index);
            let behind = self.replication.primary().committed().saturating_sub(applied);
            let is_known =
                self.replication.replicas().state(index) == ReplicaState::Following || applied > 0;
            let reasons = self.replicas.reasons(index);
            NodeStats {
                node: self.replicas.present_name(index, leading),
                role: Role::Replica,
                up: reasons.is_up(),
                reasons,
                lag: self.replication.lag(index),
                behind: is_known.then_some(behind),
                pool: pool(replica.reader()),
            }
        });
        let nodes = std::iter::once(primary).chain(replicas).collect();
        let (passes, differences) = self.primary.copy_faults.counts();
        let compared = ComparisonStats { passes, differences };
        ShardStats { shard, lane: self.primary.lanes.stats(), compared, nodes }
    }

    /// Returns true if the engine itself distributes the shard's rows over nodes.
    pub fn is_partitioned(&self) -> bool {
        self.primary.lanes.is_partitioned()
    }
}
