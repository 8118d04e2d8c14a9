//! Linked servers: the PostgreSQL servers of an experiment, each behind a *link*: a TCP proxy that
//! the experiment can slow down or cut.
//!
//! **Invariant:** the links, the servers and their folder are removed when the `ServersBehindLinks`
//! is dropped.
//! **Not here:** creating servers (`local_postgres`), the links (`lab::tcp_link`).

use ::lab::disturbance::LinkedServers;
use ::lab::experiment_observer::ExperimentObserver;
use ::lab::tcp_link::TcpLink;
use ::lab::work_folder::WorkFolder;
use assembly::ConnectedCluster;
use local_postgres::LocalNode;
use postgres::node_address::{Host, NodeAddress};

use super::lab_servers::{LocalServers, WorkPlace, cluster_of_nodes, parsed};
use crate::command::CommandError;

/// Servers of an experiment, behind their links. Fields are dropped in the order of declaration, so
/// the folder is removed last.
pub(super) struct ServersBehindLinks {
    linked: LinkedServers,
    _local: LocalServers,
    _folder: WorkFolder,
}

impl ServersBehindLinks {
    /// Starts a server for each node of this many shards with this many replicas each; returns
    /// `None` if the experiment uses files.
    pub(super) fn start(
        place: &WorkPlace,
        (shards, replicas, seed): (usize, usize, u64),
        observer: &dyn ExperimentObserver,
    ) -> Result<Option<Self>, CommandError> {
        if !place.postgres {
            return Ok(None);
        }
        let work_dir = place.work_dir.as_deref();
        let (folder, local) = LocalServers::start(work_dir, (shards, replicas), observer)?;
        let (cluster, links) = behind_links(local.nodes(), seed)?;
        let engine = local.engine("a server for each node, behind a link")?;
        let notes = folder.notes();
        let linked = LinkedServers { cluster, links, engine, notes };
        Ok(Some(Self { linked, _local: local, _folder: folder }))
    }

    /// Returns the servers for the experiment.
    pub(super) fn linked(&self) -> &LinkedServers {
        &self.linked
    }
}

/// Opens a link to each node. Returns the cluster, in which each node has the address of its link,
/// and the links with the names of their nodes.
pub(super) fn behind_links(
    nodes: &[LocalNode],
    seed: u64,
) -> Result<(ConnectedCluster, Vec<(String, TcpLink)>), CommandError> {
    let mut links = Vec::new();
    let cluster = cluster_of_nodes(nodes, |node| {
        // With one seed, all links would lose the same chunks of their connections. The connections
        // of a link add their numbers to its seed.
        let link = TcpLink::to(node.port, seed.wrapping_add((links.len() as u64) << 32));
        let link = link.map_err(|error| CommandError::Refused(error.to_string()))?;
        let address = through(node, &link)?;
        links.push((node.name.clone(), link));
        Ok(address)
    })?;
    Ok((cluster, links))
}

/// Returns the address at which a node is reached through its link.
fn through(node: &LocalNode, link: &TcpLink) -> Result<NodeAddress, CommandError> {
    let address = parsed(Some(node))?;
    let host = Host { host: "127.0.0.1".to_owned(), port: link.port() };
    Ok(NodeAddress { hosts: vec![host], ..address })
}
