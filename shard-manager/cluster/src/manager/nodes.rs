//! Nodes: the interface of a manager for the nodes over which an engine distributes rows itself.
//!
//! **Not here:** carrying out a change (the engine), rebalances of these nodes (`rebalances`).

use std::time::Instant;

use engine::new_shard::NewShard;
use engine::node_distributor::{DistributorError, NodeChanged, NodeDistributor};

use super::Manager;

/// Interface of a [`Manager`] for nodes over which the engine distributes rows.
#[derive(Clone, Copy)]
pub struct Nodes<'m>(&'m dyn NodeDistributor);

impl<'m> Nodes<'m> {
    /// Returns the interface of a manager; `None` if the shard map, and not the engine, places the
    /// rows.
    pub fn of(manager: &'m Manager) -> Option<Self> {
        manager.backend.node_distributor().map(Self)
    }

    /// Adds a node, without rows. A node that was added before is left unchanged.
    ///
    /// Cancel safety: the change continues if the future is dropped.
    ///
    /// # Errors
    /// [`DistributorError`].
    pub async fn add(
        self,
        node: &NewShard,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<NodeChanged, DistributorError> {
        check_epoch(expected_epoch)?;
        self.0.add_node(node, deadline).await
    }

    /// Removes a node that has no rows. Its database is left unchanged.
    ///
    /// Cancel safety: the change continues if the future is dropped.
    ///
    /// # Errors
    /// [`DistributorError`].
    pub async fn remove(
        self,
        name: &str,
        expected_epoch: Option<u64>,
        deadline: Instant,
    ) -> Result<NodeChanged, DistributorError> {
        check_epoch(expected_epoch)?;
        self.0.remove_node(name, deadline).await
    }
}

fn check_epoch(expected_epoch: Option<u64>) -> Result<(), DistributorError> {
    match expected_epoch {
        None => Ok(()),
        Some(_) => Err(DistributorError::BadNode { member: "If-Match", cause: no_epoch() }),
    }
}

/// Returns the reason why a request cannot require an epoch of the shard map.
pub(super) fn no_epoch() -> String {
    "the epoch of the shard map says nothing about the nodes of this cluster, which the engine \
     distributes rows over: leave it out"
        .to_owned()
}
