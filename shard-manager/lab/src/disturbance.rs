//! Disturbance: a temporary fault of some nodes of an experiment's cluster. It is injected into the
//! node if its data is in files, or into the link in front of its server.
//!
//! **Invariant:** a disturbance ends when its value is dropped.
//! **Not here:** faults of nodes in files (`node_faults`), the links (`tcp_link`).

use assembly::ConnectedCluster;
use engine::fault_injector::NodeFault;

use crate::lab_cluster::LabCluster;
use crate::lab_error::LabError;
use crate::node_faults::{InjectedFault, inject};
use crate::tcp_link::{LinkState, TcpLink};

/// Database servers that are used instead of files, and the links (proxies) through which the
/// cluster reaches them. The calling function removes the servers afterwards.
#[derive(Debug)]
pub struct LinkedServers {
    /// Cluster of these servers, whose addresses are the ports of the links.
    pub cluster: ConnectedCluster,
    /// Name of each node, with the link in front of its server.
    pub links: Vec<(String, TcpLink)>,
    /// Database engine and its version, for the report.
    pub engine: String,
    /// Notes for the report on conditions that affect the numbers.
    pub notes: Vec<String>,
}

/// Disturbance of one node. It ends when the value is dropped.
pub(crate) trait Disturbance {}

impl Disturbance for InjectedFault {}

struct DisturbedLink<'l>(&'l TcpLink);

impl Disturbance for DisturbedLink<'_> {}

impl Drop for DisturbedLink<'_> {
    fn drop(&mut self) {
        self.0.set(LinkState::Open);
    }
}

/// Disturbs the nodes whose names fulfil a condition. Servers get this state of their links, nodes
/// in files get this fault.
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
