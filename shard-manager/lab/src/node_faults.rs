//! Node faults: injects faults into nodes of an experiment's cluster, and waits until nodes reach a
//! state.
//!
//! **Invariant:** a fault ends when its value is dropped.
//! **Not here:** the effect of a fault (`engine::fault_injector`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::fault_injector::{FaultInjector, NodeFault, NodeMode};

use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::{LabCluster, PATIENCE, block_on};
use crate::lab_error::LabError;

/// Interval at which a condition is polled.
const LOOK: Duration = Duration::from_millis(5);

/// Fault of a node, which ends when this value is dropped.
pub(crate) struct InjectedFault(Arc<FaultInjector>);

impl Drop for InjectedFault {
    fn drop(&mut self) {
        self.0.set(NodeFault::default());
    }
}

/// Injects a fault into a node.
///
/// # Errors
/// [`LabError::Failed`] if the cluster has no such node, or faults cannot be injected into it.
pub(crate) fn inject(
    cluster: &LabCluster,
    node: &str,
    fault: NodeFault,
) -> Result<InjectedFault, LabError> {
    let injector = cluster.manager().faults().node(node);
    let injector = injector.ok_or_else(|| LabError::failed(format!("there is no node {node}")))?;
    injector.set(fault);
    Ok(InjectedFault(injector))
}

/// Returns the fault of a node in this mode, without a delay.
pub(crate) fn in_mode(mode: NodeMode) -> NodeFault {
    NodeFault { mode, ..NodeFault::default() }
}

/// Waits until a condition holds. `what` describes it for the error message.
///
/// # Errors
/// [`LabError`] if the condition does not hold within [`PATIENCE`], or the experiment is cancelled.
pub(crate) fn until(
    observer: &dyn ExperimentObserver,
    what: &str,
    mut holds: impl FnMut() -> bool,
) -> Result<(), LabError> {
    let began = Instant::now();
    while !holds() {
        observer.check_cancelled()?;
        if began.elapsed() > PATIENCE {
            return Err(LabError::Failed(format!("{what}: this did not happen in time")));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Waits until every node is up and fulfils its role as primary or replica.
///
/// # Errors
/// Errors of [`until`].
pub(crate) fn until_well(
    cluster: &LabCluster,
    observer: &dyn ExperimentObserver,
) -> Result<(), LabError> {
    until(observer, "every node fulfils its role", || {
        let health = cluster.manager().status().health(Instant::now() + PATIENCE);
        block_on(health).iter().flat_map(|shard| &shard.nodes).all(|node| node.up)
    })
}
