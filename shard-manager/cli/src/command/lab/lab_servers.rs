//! Lab servers: PostgreSQL servers of an experiment, with an empty database for each side.
//!
//! **Invariant:** the servers and the databases are removed when their value is dropped; on a
//! server that `MAINDB_URL` names, only the database of the experiment is removed.
//! **Not here:** creating servers (`local_postgres`), the experiment (`lab::run`).

use ::lab::experiment_observer::ExperimentObserver;
use ::lab::run::ServerSides;
use ::lab::work_folder::WorkFolder;
use assembly::{ConnectedCluster, TemporaryDatabase};
use engine::cluster_spec::ClusterSpec;
use local_postgres::{LocalCluster, LocalNode, LocalSpec};
use postgres::node_address::{ClusterAddress, NodeAddress, ServerEngine, ShardAddress, Timeouts};

use crate::command::CommandError;
use crate::command::access::catalog_place::{CATALOG_VARIABLE, addresses, variable};
use crate::terminal::say;

/// Folder of the servers in the temporary folder.
const DIR: &str = "servers";

/// Servers of an experiment. Fields are dropped in the order of declaration.
pub(super) struct LabServers {
    one: TemporaryDatabase,
    local: LocalServers,
    notes: Vec<String>,
    _folder: WorkFolder,
}

/// Servers that the experiment has created, removed when they are dropped.
pub(super) struct LocalServers(Option<LocalCluster>);

impl LabServers {
    /// Starts a server for each shard, and one for the one database unless `MAINDB_URL` names its
    /// server.
    pub(super) fn start(
        folder: WorkFolder,
        shards: usize,
        observer: &dyn ExperimentObserver,
    ) -> Result<Self, CommandError> {
        let main = main_server()?;
        let servers = shards + usize::from(main.is_none());
        observer.report(&format!("starting {servers} PostgreSQL servers"));
        let local = LocalServers::up(&folder, (servers, 0))?;
        let name = format!("tessera_lab_{}", folder.run());
        let mut notes = Vec::new();
        let server = match main {
            Some(main) => {
                let note = format!(
                    "the one database is on {}, the server of {CATALOG_VARIABLE}, whose machine and settings may differ \
                     from those of the shards",
                    main.location()
                );
                notes.push(note);
                main
            }
            None => parsed(local.primaries().last())?,
        };
        let one = TemporaryDatabase::create(&server, &name)?;
        observer.report(&format!("the one database is {name}, dropped at the end"));
        Ok(Self { one, local, notes, _folder: folder })
    }

    /// Returns the databases of both sides.
    pub(super) fn sides(&self, shards: usize) -> Result<ServerSides, CommandError> {
        let nodes = self.local.primaries().take(shards);
        let nodes = nodes.map(|node| parsed(Some(node))).collect::<Result<Vec<_>, _>>()?;
        Ok(ServerSides {
            one: cluster(vec![self.one.address().clone()]),
            shards: cluster(nodes),
            engine: self.local.engine("a server for each database"),
            notes: self.notes.clone(),
        })
    }
}

impl Drop for LabServers {
    fn drop(&mut self) {
        if let Err(error) = self.one.remove() {
            let database = &self.one.address().database;
            say(format_args!(
                "the database {database} could not be dropped, drop it yourself: {error}"
            ));
        }
    }
}

/// Returns the server that the variable names.
fn main_server() -> Result<Option<NodeAddress>, CommandError> {
    let Some(urls) = variable(CATALOG_VARIABLE)? else { return Ok(None) };
    let mut all = addresses(CATALOG_VARIABLE, &urls)?.into_iter();
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(Some(one)),
        (_, _) => {
            let line =
                format!("{CATALOG_VARIABLE}: the lab needs the address of exactly one server");
            Err(CommandError::Refused(line))
        }
    }
}

pub(super) fn parsed(node: Option<&LocalNode>) -> Result<NodeAddress, CommandError> {
    let node = node.ok_or_else(|| CommandError::Refused("no server was created".to_owned()))?;
    let address = node.url(&node.database()).parse::<NodeAddress>();
    address.map_err(|error| CommandError::Refused(error.to_string()))
}

fn cluster(primaries: Vec<NodeAddress>) -> ConnectedCluster {
    let shard = |primary| ShardAddress { name: None, weight: None, primary, replicas: Vec::new() };
    cluster_of(primaries.into_iter().map(shard).collect())
}

/// Returns the cluster of these shards, with the catalog on the first one.
pub(super) fn cluster_of(shards: Vec<ShardAddress>) -> ConnectedCluster {
    let address = ClusterAddress {
        engine: ServerEngine::Postgres,
        shards,
        replicas: Vec::new(),
        catalog: None,
        timeouts: Timeouts::default(),
    };
    ConnectedCluster { address, wanted: ClusterSpec::default() }
}

impl LocalServers {
    /// Starts servers in the folder of an experiment: this many shards, and replicas of each.
    pub(super) fn up(
        folder: &WorkFolder,
        (shards, replicas): (usize, usize),
    ) -> Result<Self, CommandError> {
        let dir = folder.join(DIR);
        Ok(Self(Some(LocalCluster::up(&LocalSpec { shards, replicas, ..LocalSpec::new(dir) })?)))
    }

    /// Returns the version of the servers, followed by `how` they are used, for the report.
    pub(super) fn engine(&self, how: &str) -> String {
        let version = self.0.as_ref().map_or(0, |local| local.programs().major);
        format!("PostgreSQL {version}, {how}")
    }

    /// Returns the servers.
    pub(super) fn nodes(&self) -> &[LocalNode] {
        self.0.as_ref().map_or(&[], LocalCluster::nodes)
    }

    fn primaries(&self) -> impl Iterator<Item = &LocalNode> {
        self.0.iter().flat_map(LocalCluster::primaries)
    }
}

impl Drop for LocalServers {
    fn drop(&mut self) {
        if let Some(local) = self.0.take() {
            // The folder is removed next, and servers without a folder stop.
            let _ = local.destroy();
        }
    }
}
