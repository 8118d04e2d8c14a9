//! Chapter servers: the PostgreSQL servers of one chapter of the tour. A *link* is a TCP proxy in
//! front of a server, which a chapter can cut.
//!
//! **Invariant:** the links, the servers and their folder are removed when the `ServersOfChapter`
//! is dropped.
//! **Not here:** creating servers (`local_postgres`), the chapters (`lab::tour`).

use std::path::Path;

use ::lab::disturbance::LinkedServers;
use ::lab::experiment_observer::ExperimentObserver;
use ::lab::lab_error::LabError;
use ::lab::tour::{ChapterServers, ChapterSize};
use ::lab::work_folder::WorkFolder;
use assembly::TemporaryDatabase;

use super::lab_servers::{LocalServers, cluster_of_nodes, parsed};
use super::linked_servers::behind_links;
use crate::command::CommandError;

/// Servers of a chapter. Fields are dropped in the order of declaration, so the folder is removed
/// last.
pub(super) struct ServersOfChapter {
    /// Database of the catalog, on the server of the shard that joins; `None` if no shard joins in
    /// the chapter.
    _catalog: Option<TemporaryDatabase>,
    linked: LinkedServers,
    joining: Option<String>,
    local: LocalServers,
    _folder: WorkFolder,
}

impl ServersOfChapter {
    /// Starts a server for each node, also for those of a shard that joins in the chapter. If the
    /// shards have replicas, the cluster reaches each server through a link.
    pub(super) fn start(
        work_dir: Option<&Path>,
        (size, seed): (ChapterSize, u64),
        observer: &dyn ExperimentObserver,
    ) -> Result<Self, CommandError> {
        let ChapterSize { shards, replicas, grows } = size;
        let shards = shards + usize::from(grows);
        let (folder, local) = LocalServers::start(work_dir, (shards, replicas), observer)?;
        let (mut cluster, links) = match replicas {
            0 => (cluster_of_nodes(local.nodes(), |node| parsed(Some(node)))?, Vec::new()),
            _ => behind_links(local.nodes(), seed)?,
        };
        let (mut catalog, mut joining) = (None, None);
        if grows && let Some(last) = cluster.address.shards.pop() {
            // A router sends passwords only to servers in its settings. The catalog is on the
            // server of the shard that joins, so that this server is in the settings.
            let name = format!("tessera_lab_{}_catalog", folder.run());
            let database = TemporaryDatabase::create(&last.primary, &name)?;
            cluster.address.catalog = Some(database.address().clone());
            catalog = Some(database);
            joining = Some(last.primary.location());
        }
        let (engine, notes) = (local.engine("a server for each node")?, folder.notes());
        let linked = LinkedServers { cluster, links, engine, notes };
        Ok(Self { _catalog: catalog, linked, joining, local, _folder: folder })
    }
}

impl ChapterServers for ServersOfChapter {
    fn linked(&self) -> &LinkedServers {
        &self.linked
    }

    fn joining(&self) -> Option<&str> {
        self.joining.as_deref()
    }

    fn dir(&self) -> Result<&Path, LabError> {
        self.local.dir()
    }

    fn kill(&self) -> Result<(), LabError> {
        self.local.kill()
    }

    fn start_again(&self) -> Result<(), LabError> {
        self.local.start_again()
    }
}
