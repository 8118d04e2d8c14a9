//! Disturbance: a fault between the cluster of an experiment and some of its nodes, in files or on
//! servers behind links.
//!
//! **Invariant:** a disturbance ends when its value is dropped.
//! **Not here:** the faults of files (`node_faults`), the links (`tcp_link`).

use assembly::ConnectedCluster;
use engine::fault_injector::NodeFault;

use crate::lab_cluster::LabCluster;
use crate::lab_error::LabError;
use crate::node_faults::{InjectedFault, inject};
use crate::tcp_link::{LinkState, TcpLink};

/// Servers to use instead of files, and the links through which the cluster reaches them. The
/// caller removes them afterwards.
#[derive(Debug)]
pub struct LinkedServers {
    /// The nodes, at the ports of the links.
    pub cluster: ConnectedCluster,
    /// Name of each node, and its link.
    pub links: Vec<(String, TcpLink)>,
    /// Servers and their version, for the report.
    pub engine: String,
    /// Conditions that affect the numbers, for the report.
    pub notes: Vec<String>,
}

/// Disturbance of the connections to a node. It ends when the value is dropped.
pub(crate) trait Disturbance {}

impl Disturbance for InjectedFault {}

struct DisturbedLink<'l>(&'l TcpLink);

impl Disturbance for DisturbedLink<'_> {}

impl Drop for DisturbedLink<'_> {
    fn drop(&mut self) {
        self.0.set(LinkState::Open);
    }
}

/// Disturbs the nodes whose names fulfil a condition: on servers by the state of their links, in
/// files by a fault.
///
/// # Errors
/// [`LabError::Failed`] if faults cannot be injected into one of the nodes.
pub(crate) fn disturb<'s>(
    (cluster, servers): (&LabCluster, Option<&'s LinkedServers>),
    is_about: impl Fn(&str) -> bool,
    (fault, link): (NodeFault, LinkState),
) -> Result<Vec<Box<dyn Disturbance + 's>>, LabError> {
    if let Some(servers) = servers {
        let links = servers.links.iter().filter(|(node, _)| is_about(node));
        let disturbed = links.map(|(_, of_node)| {
            of_node.set(link);
            Box::new(DisturbedLink(of_node)) as Box<dyn Disturbance>
        });
        return Ok(disturbed.collect());
    }
    let nodes = cluster.manager().faults().all().into_iter().map(|(node, _)| node);
    let disturbed = nodes.filter(|node| is_about(node)).map(|node| {
        let fault = inject(cluster, &node, fault)?;
        Ok(Box::new(fault) as Box<dyn Disturbance>)
    });
    disturbed.collect()
}
