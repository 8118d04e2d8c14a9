//! Node servers: the PostgreSQL servers of an experiment, one for each node of its cluster.
//!
//! **Invariant:** the servers and their folder are removed when the `NodeServers` is dropped.
//! **Not here:** creating servers (`local_postgres`), servers behind links (`linked_servers`).

use std::path::Path;

use ::lab::databases::ServerNodes;
use ::lab::experiment_observer::ExperimentObserver;
use ::lab::lab_cluster::LabCluster;
use ::lab::work_folder::WorkFolder;
use local_postgres::LocalCluster;

use super::lab_servers::{LocalServers, WorkPlace, cluster_of_nodes, parsed};
use crate::command::CommandError;

/// Servers of an experiment. Fields are dropped in the order of declaration, so the folder is
/// removed last.
pub(super) struct NodeServers {
    nodes: ServerNodes,
    local: LocalServers,
    _folder: WorkFolder,
}

impl NodeServers {
    /// Starts a server for each node of this many shards with this many replicas each; returns
    /// `None` if the experiment uses files.
    pub(super) fn start(
        place: &WorkPlace,
        size: (usize, usize),
        observer: &dyn ExperimentObserver,
    ) -> Result<Option<Self>, CommandError> {
        if !place.postgres {
            return Ok(None);
        }
        let work_dir = place.work_dir.as_deref();
        let (folder, local) = LocalServers::start(work_dir, size, observer)?;
        let nodes = ServerNodes {
            cluster: cluster_of_nodes(local.nodes(), |node| parsed(Some(node)))?,
            engine: local.engine("a server for each node")?,
            notes: folder.notes(),
        };
        Ok(Some(Self { nodes, local, _folder: folder }))
    }

    /// Returns the cluster of the servers, for the experiment.
    pub(super) fn nodes(&self) -> &ServerNodes {
        &self.nodes
    }

    /// Returns the servers, to kill them and to start them again.
    pub(super) fn local(&self) -> &LocalServers {
        &self.local
    }
}

/// Connects to the servers in a folder, which another process has created.
pub(super) fn connect_to(dir: &Path) -> Result<LabCluster, CommandError> {
    let local = LocalCluster::open(dir)?;
    let cluster = cluster_of_nodes(local.nodes(), |node| parsed(Some(node)))?;
    Ok(LabCluster::connected(&cluster)?)
}
