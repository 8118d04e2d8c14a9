//! Connection loss: ends the wait for a response from a node to which the connection was lost.
//!
//! **Invariant:** the wait is ended only if the node was reported as down after the request was
//! sent.
//! **Not here:** noticing that a node is down (the engines).

use std::time::Duration;

use super::ReplicationState;

/// Interval at which the connection to a node with an outstanding response is checked.
const LOSS_CHECK_EVERY: Duration = Duration::from_secs(1);
/// Number of checks after a loss of the connection until an outstanding response is no longer
/// expected.
const LOSS_CHECKS_MAX: u32 = 3;

/// Waits until a few seconds after the connection to a node is lost. The node may never respond to
/// requests that were sent before the loss, even if it can be reached again. `None` stands for the
/// primary.
pub async fn presumed_lost(replication: &ReplicationState, replica: Option<usize>) {
    let losses = || {
        let node = replica.or_else(|| replication.timeline.leader());
        node.map_or(0, |node| replication.replicas.losses(node))
    };
    let (before, mut checks) = (losses(), 0);
    while checks < LOSS_CHECKS_MAX {
        tokio::time::sleep(LOSS_CHECK_EVERY).await;
        // One loss is enough: an older connection may be dead although the node is reachable
        // again.
        checks += u32::from(losses() != before);
    }
}
