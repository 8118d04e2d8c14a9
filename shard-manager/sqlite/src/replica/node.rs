//! Node: implements the engine-independent interface of a replica for the cluster.
//!
//! **Not here:** reading from the replica (`file_reader`), keeping it up to date (`replica`).

use std::sync::Arc;
use std::time::Duration;

use engine::fault_injector::FaultInjector;
use engine::{NodeLabel, NodeReader, ReplicaNode};

use super::FileReplica;

impl ReplicaNode for FileReplica {
    fn opened_name(&self) -> &str {
        self.node()
    }

    fn current(&self) -> NodeLabel<'_> {
        NodeLabel { name: self.node(), address: None }
    }

    fn reader(&self) -> Option<Arc<dyn NodeReader>> {
        self.readers().map(|reader| reader as Arc<dyn NodeReader>)
    }

    fn fault_injector(&self) -> Option<&Arc<FaultInjector>> {
        Some(&self.fault_injector)
    }

    fn is_reachable(&self) -> bool {
        Self::is_reachable(self)
    }

    fn is_streaming(&self) -> bool {
        Self::is_reachable(self)
    }

    fn read_failed(&self) {
        self.suspect();
    }

    fn probe_failed(&self) {}

    fn report_interval(&self) -> Duration {
        Duration::ZERO
    }

    fn outlives_primary(&self) -> bool {
        false
    }

    fn stop(&self) {
        Self::stop(self);
    }
}
