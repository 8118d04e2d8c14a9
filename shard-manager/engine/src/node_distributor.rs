//! Node distributor: the trait that controls an engine (Citus) that distributes rows over nodes
//! itself.
//!
//! A node of such an engine corresponds to a shard of other engines: a rebalance balances the
//! nodes, and a drain empties one. The engine itself carries out rebalances and stores them. They
//! therefore continue while no router runs, and rebalances that were not started through Tessera
//! are listed as well.
//!
//! **Invariant:** a request that the engine does not support is refused with a reason, and nothing
//! begins before the requirements of the engine are met.
//! **Not here:** moves of slots (`move_catalog`), the sizes of the nodes (`node_reader`).

use std::time::Instant;

use futures_util::future::BoxFuture;
use model::error::{Error, Outcome};

use super::new_shard::{NewShard, NewShardRefusal};
use super::rebalance_catalog::RebalanceListError;
use super::rebalance_draft::RebalanceDraft;
use super::rebalance_record::RebalanceOrder;
use super::rebalance_view::{PlanView, RebalanceBegun, RebalanceView};

/// Future of a request.
pub type DistributorFuture<'a, T> = BoxFuture<'a, Result<T, DistributorError>>;

/// Control of an engine that distributes rows over nodes.
///
/// Cancel safety: if a future is dropped, its change continues.
pub trait NodeDistributor: Send + Sync {
    /// Plans a rebalance or a drain, and changes nothing. Requirements of the engine that are not
    /// met are listed in the plan, as its refusals.
    ///
    /// # Errors
    /// [`DistributorError`].
    fn plan_rebalance<'a>(
        &'a self,
        draft: &'a RebalanceDraft,
        deadline: Instant,
    ) -> DistributorFuture<'a, PlanView>;

    /// Begins a rebalance or a drain, if all requirements are met and something has to move. A node
    /// that is drained receives no more rows, even if it is already empty and nothing has to move.
    ///
    /// # Errors
    /// [`DistributorError`].
    fn begin_rebalance<'a>(
        &'a self,
        draft: &'a RebalanceDraft,
        deadline: Instant,
    ) -> DistributorFuture<'a, RebalanceBegun>;

    /// Returns the rebalances in progress and the last ones that have ended, with their moves, the
    /// latest first.
    ///
    /// # Errors
    /// [`DistributorError::Failed`].
    fn rebalances(&self, deadline: Instant) -> DistributorFuture<'_, Vec<RebalanceView>>;

    /// Sends a command to a rebalance, and returns its state afterwards. A node whose drain is
    /// cancelled receives rows again.
    ///
    /// # Errors
    /// [`DistributorError`].
    fn order_rebalance<'a>(
        &'a self,
        id: &'a str,
        order: RebalanceOrder,
        deadline: Instant,
    ) -> DistributorFuture<'a, RebalanceView>;

    /// Adds a node, without rows. A node that was added before is left unchanged.
    ///
    /// # Errors
    /// [`DistributorError`].
    fn add_node<'a>(
        &'a self,
        node: &'a NewShard,
        deadline: Instant,
    ) -> DistributorFuture<'a, NodeChanged>;

    /// Removes a node that has no rows. Its database is left unchanged.
    ///
    /// # Errors
    /// [`DistributorError`].
    fn remove_node<'a>(
        &'a self,
        name: &'a str,
        deadline: Instant,
    ) -> DistributorFuture<'a, NodeChanged>;
}

/// Node after a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeChanged {
    /// Name of the node.
    pub name: String,
    /// Number that the engine has assigned to the node.
    pub number: u32,
    /// State of the node.
    pub state: MemberState,
    /// Number of the engine's own shards on the node; shards that always move together count as
    /// one.
    pub parts: usize,
    /// False if the node was already in this state before the request.
    pub is_new: bool,
}

/// State of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// The node receives rows.
    Serving,
    /// The node receives no rows, and a rebalance moves its rows away.
    Draining,
    /// The node no longer belongs to the cluster.
    Retired,
}

impl MemberState {
    /// Returns the name, as in responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Retired => "retired",
        }
    }
}

/// Reason why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DistributorError {
    /// A member of the description of a rebalance requests something that the engine does not
    /// support.
    #[error("{member}: {cause}")]
    BadRebalance {
        /// Name of the member, or of the header.
        member: &'static str,
        /// A sentence with the remedy.
        cause: String,
    },
    /// A member of the description of a node cannot be used.
    #[error("{member}: {cause}")]
    BadNode {
        /// Name of the member, or of the header.
        member: &'static str,
        /// A sentence with the remedy.
        cause: String,
    },
    /// The cluster has no node of this name.
    #[error("the cluster has no node {0}")]
    NoNode(String),
    /// The state of the nodes does not permit it: a sentence.
    #[error("{0}")]
    NodeState(String),
    /// The server of a new node cannot be used.
    #[error(transparent)]
    NewNode(#[from] NewShardRefusal),
    /// A requirement of the engine is not met: a sentence with the remedy.
    #[error("{0}")]
    Need(String),
    /// The engine does not support this request: a sentence with the remedy.
    #[error("{0}")]
    NoSuchOrder(String),
    /// There is no such rebalance, it does not accept the command, or another one is in progress.
    #[error(transparent)]
    List(#[from] RebalanceListError),
    /// The engine cannot be reached, or has not answered in time.
    #[error("{error}")]
    Failed {
        /// The error.
        error: Error,
        /// Outcome of the request.
        outcome: Outcome,
    },
}

impl DistributorError {
    /// Returns the error of the engine and the outcome of the request, if the engine could not be
    /// used.
    pub fn failure(&self) -> Option<(&Error, Outcome)> {
        match self {
            Self::Failed { error, outcome } => Some((error, *outcome)),
            Self::NewNode(NewShardRefusal::Failed(error))
            | Self::List(RebalanceListError::Failed(error)) => Some((error, Outcome::Unknown)),
            Self::BadRebalance { .. }
            | Self::BadNode { .. }
            | Self::NoNode(_)
            | Self::NodeState(_)
            | Self::NewNode(_)
            | Self::Need(_)
            | Self::NoSuchOrder(_)
            | Self::List(_) => None,
        }
    }
}
