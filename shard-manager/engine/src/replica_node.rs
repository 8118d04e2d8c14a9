//! Replica node: the trait through which the cluster uses a replica of a shard.
//!
//! **Not here:** the choice of the replica (`replica_set`), replication of its rows (the engines).

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::fault_injector::FaultInjector;
use super::node_reader::NodeReader;

/// Name and address of a node, for logs.
#[derive(Clone, Copy)]
pub struct NodeLabel<'n> {
    /// Name of the node in its present role.
    pub name: &'n str,
    /// Address, if it is a server.
    pub address: Option<&'n (dyn Display + Sync)>,
}

/// Node of a shard that follows the primary.
pub trait ReplicaNode: Send + Sync {
    /// Returns the name that the node had when the cluster was opened.
    fn opened_name(&self) -> &str;

    /// Returns its present name and address.
    fn current(&self) -> NodeLabel<'_>;

    /// Returns the connections that read it; `None` while it cannot be read.
    fn reader(&self) -> Option<Arc<dyn NodeReader>>;

    /// Returns its fault injector; `None` if this process cannot pause it.
    fn fault_injector(&self) -> Option<&Arc<FaultInjector>>;

    /// Returns true if it is believed to be reachable.
    fn is_reachable(&self) -> bool;

    /// Returns true if it is believed to receive the changes of the primary.
    fn is_streaming(&self) -> bool;

    /// Records that a read of the node failed. The node is then checked before the next read.
    fn read_failed(&self);

    /// Records that the node did not answer a probe. A server is then checked; a file is checked
    /// only after a failed read.
    fn probe_failed(&self);

    /// Returns the interval at which the node's position is reported; zero if each change of the
    /// position is reported.
    fn report_interval(&self) -> Duration;

    /// Returns true if the node runs independently of the primary: it may respond when the primary
    /// does not, and it may stop responding without an error.
    fn outlives_primary(&self) -> bool;

    /// Ends the thread or task that maintains the node. Blocks.
    fn stop(&self);
}
