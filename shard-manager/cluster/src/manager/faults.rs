//! Faults: the interface of a manager that delays, stops or cuts off nodes, for tests and for
//! teaching.
//!
//! **Not here:** the effect of a fault on a node (`engine::fault_injector`).

use std::sync::Arc;

use engine::fault_injector::{FaultInjector, NodeFault};

use super::Manager;

/// Interface of a [`Manager`] for injected faults.
#[derive(Clone, Copy)]
pub struct Faults<'m>(pub(super) &'m Manager);

impl Faults<'_> {
    /// Returns the nodes of all shards that faults can be injected into, each with its fault.
    pub fn all(self) -> Vec<(String, NodeFault)> {
        let shards = self.0.shards.load();
        let nodes = shards.iter().flat_map(|(_, shard)| {
            let (primary, replicas) = shard.nodes();
            let names = std::iter::once(primary).chain(replicas.iter().map(String::as_str));
            names.filter_map(|node| Some((node.to_owned(), shard.fault_injector(node)?.fault())))
        });
        nodes.collect()
    }

    /// Returns the fault injector of a node; `None` if there is no such node, or if it is a replica
    /// on a server.
    pub fn node(self, node: &str) -> Option<Arc<FaultInjector>> {
        let shards = self.0.shards.load();
        shards.iter().find_map(|(_, shard)| shard.fault_injector(node).cloned())
    }
}
