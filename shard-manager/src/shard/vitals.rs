//! Vitals: what is known of a shard without asking anybody, and what one short question tells.
//!
//! **Not here:** asking all nodes (`Shard::probe`), which may find another truth than is believed here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Shard;
use crate::error::Error;
use crate::progress::ReplicaState;
use crate::store::readers::Readers;
use crate::store::sqlite::footing::Footing;
use crate::topology::{Role, ShardIndex};
use crate::vitals::{Footprint, NodeVitals, PoolVitals, ShardVitals};

impl Shard {
    /// How busy it is, and how its nodes are believed to be. `shard` is its place among the shards.
    pub fn vitals(&self, shard: ShardIndex) -> ShardVitals {
        let leading = self.progress.leading();
        let pool = |readers: Option<Readers>| {
            readers.map_or_else(PoolVitals::default, |readers| readers.vitals())
        };
        let takes_writes = self.lanes.is_up() && !self.lanes.waits() && !self.progress.is_silent();
        let whole = !self.damaged.load(Ordering::Acquire) && self.check_writable().is_ok();
        let primary = NodeVitals {
            node: self.primary_name.clone(),
            role: Role::Primary,
            up: takes_writes && whole,
            lag: Some(Duration::ZERO),
            behind: Some(0),
            pool: self.primary.vitals(),
            trouble: self.trouble(),
        };
        let others = self.replicas.replicas().enumerate();
        let others = others.filter(|(index, _)| Some(*index) != leading);
        let replicas = others.map(|(index, replica)| {
            let applied = self.progress.applied_by(index);
            let behind = self.progress.committed().saturating_sub(applied);
            let is_known = self.progress.state(index) == ReplicaState::Following || applied > 0;
            NodeVitals {
                node: self.replica_name(index, leading),
                role: Role::Replica,
                up: self.replicas.is_believed_in(index),
                lag: self.progress.lag(index),
                behind: is_known.then_some(behind),
                pool: pool(replica.readers()),
                trouble: None,
            }
        });
        let nodes = std::iter::once(primary).chain(replicas).collect();
        ShardVitals { shard, lane: self.lanes.vitals(), nodes }
    }

    /// What is under the writes of its primary, if that is a file.
    pub fn footing(&self) -> Option<&Arc<Footing>> {
        self.primary.footing()
    }

    /// Refuses a write that cannot be carried out, or must not.
    pub(super) fn check_writable(&self) -> Result<(), Error> {
        self.check_reachable()?;
        self.footing().map_or(Ok(()), |footing| footing.check_writable())
    }

    /// What is wrong with its primary, where that is known.
    pub(super) fn trouble(&self) -> Option<String> {
        self.footing().and_then(|footing| footing.trouble())
    }

    /// Whether its rows lie where Citus puts them.
    pub fn is_citus(&self) -> bool {
        self.lanes.is_of_citus()
    }

    /// About how much it holds.
    ///
    /// # Errors
    /// As [`Shard::read_key`].
    pub async fn footprint(&self, deadline: Instant) -> Result<Footprint, Error> {
        self.primary.footprint(deadline).await
    }
}
