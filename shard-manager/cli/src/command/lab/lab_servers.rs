//! Lab servers: the PostgreSQL servers of an experiment, with empty databases for its clusters.
//!
//! **Invariant:** the servers and the databases are removed when the value that owns them is
//! dropped; on a server that `MAINDB_URL` names, only the database of the experiment is removed.
//! **Not here:** creating servers (`local_postgres`), the experiments (`lab`).

use std::path::{Path, PathBuf};
use std::thread;

use ::lab::databases::ServerDatabases;
use ::lab::experiment_observer::ExperimentObserver;
use ::lab::lab_error::LabError;
use ::lab::run::ServerSides;
use ::lab::work_folder::WorkFolder;
use assembly::{ConnectedCluster, TemporaryDatabase, server_version};
use clap::Args;
use engine::cluster_spec::ClusterSpec;
use local_postgres::{LocalCluster, LocalError, LocalNode, LocalSpec, Stop};
use model::topology::Role;
use postgres::node_address::{ClusterAddress, NodeAddress, ServerEngine, ShardAddress, Timeouts};

use crate::command::CommandError;
use crate::command::access::catalog_place::{CATALOG_VARIABLE, addresses, variable};
use crate::terminal::say;

/// Name of the servers' folder, in the temporary folder of the experiment.
const DIR: &str = "servers";

/// Maximum number of servers of an experiment, because each needs about 30 MiB and ten processes.
const SERVERS_MAX: usize = 64;

/// Place of the databases of an experiment, on the command line.
#[derive(Args, Clone, Debug)]
pub(super) struct WorkPlace {
    /// Folder for the temporary folder of the databases [default: that of the system]
    #[arg(long, value_name = "DIR")]
    pub(super) work_dir: Option<PathBuf>,
    /// Use PostgreSQL servers, which are created for this experiment
    #[arg(long)]
    pub(super) postgres: bool,
}

/// Sizes of the clusters of an experiment.
pub(super) struct ClusterSizes<'s> {
    /// Number of shards of each cluster, in the order in which the experiment opens them.
    pub(super) shards: &'s [usize],
    /// True if another shard joins the first cluster.
    pub(super) grows: bool,
}

/// Databases of an experiment, on servers that were created for it. Fields are dropped in the order
/// of declaration: the databases, then the servers, then their folder.
pub(super) struct DatabaseServers {
    databases: ServerDatabases,
    _created: Vec<TemporaryDatabase>,
    _local: LocalServers,
    _folder: WorkFolder,
}

/// Servers of `lab run`, which compares one database without sharding with a cluster of shards.
/// Fields are dropped in the order of declaration: the database, then the servers, then their
/// folder.
pub(super) struct LabServers {
    one: TemporaryDatabase,
    /// Servers that were created for the experiment; `None` if the shards are files.
    local: Option<LocalServers>,
    engine: String,
    notes: Vec<String>,
    _folder: WorkFolder,
}

/// Servers that were created for an experiment, and that are stopped and removed when the value is
/// dropped.
pub(super) struct LocalServers(Option<LocalCluster>);

impl WorkPlace {
    /// Starts servers with an empty database for each shard of clusters of these sizes; returns
    /// `None` if the experiment uses files.
    pub(super) fn start(
        &self,
        sizes: &ClusterSizes<'_>,
        observer: &dyn ExperimentObserver,
    ) -> Result<Option<DatabaseServers>, CommandError> {
        let start = || {
            let folder = WorkFolder::create(self.work_dir.as_deref())?;
            DatabaseServers::start(folder, sizes, observer)
        };
        self.postgres.then(start).transpose()
    }
}

impl DatabaseServers {
    /// Starts one server for each shard of the largest cluster, and one more if a shard joins. Each
    /// shard of a cluster has its database on another server; different clusters share servers.
    fn start(
        folder: WorkFolder,
        sizes: &ClusterSizes<'_>,
        observer: &dyn ExperimentObserver,
    ) -> Result<Self, CommandError> {
        let largest = sizes.shards.iter().copied().max().unwrap_or(1);
        let count = largest + usize::from(sizes.grows);
        let local = LocalServers::up(&folder, (count, 0), observer)?;
        let nodes = local.primaries().map(|node| parsed(Some(node)));
        let nodes: Vec<NodeAddress> = nodes.collect::<Result<_, _>>()?;
        let mut created = Vec::new();
        let mut create = |server: &NodeAddress, suffix: &str| -> Result<_, CommandError> {
            let name = format!("tessera_lab_{}_{suffix}", folder.run());
            let database = TemporaryDatabase::create(server, &name)?;
            let address = database.address().clone();
            created.push(database);
            Ok(address)
        };
        let mut clusters = Vec::new();
        for (number, shards) in sizes.shards.iter().enumerate() {
            let servers = nodes.iter().take(*shards).enumerate();
            let databases =
                servers.map(|(shard, server)| create(server, &format!("{number}_{shard}")));
            clusters.push(cluster(databases.collect::<Result<_, _>>()?));
        }
        let mut how = "a server for each shard";
        let mut joining = None;
        if let Some((first, server)) = clusters.first_mut().zip(nodes.get(largest)) {
            // A router sends passwords only to servers in its settings. The catalog is on the
            // server of the shard that joins, so that this server is in the settings.
            first.address.catalog = Some(create(server, "catalog")?);
            joining = Some(create(server, "joining")?.location());
            how = "a server for each shard, and the catalog on that of the shard that joins";
        }
        let (engine, notes) = (local.engine(how)?, folder.notes());
        let databases = ServerDatabases { clusters, joining, engine, notes };
        Ok(Self { databases, _created: created, _local: local, _folder: folder })
    }

    /// Returns the databases for the experiment.
    pub(super) fn databases(&self) -> &ServerDatabases {
        &self.databases
    }
}

impl LabServers {
    /// Creates the database without sharding, on the server that `MAINDB_URL` names. With
    /// `--postgres`, also starts a server for each shard and, if `MAINDB_URL` is not set, one for
    /// the database without sharding. Returns `None` if there is neither `--postgres` nor
    /// `MAINDB_URL`, so that the experiment uses files only.
    pub(super) fn start(
        place: &WorkPlace,
        shards: usize,
        observer: &dyn ExperimentObserver,
    ) -> Result<Option<Self>, CommandError> {
        let main = main_server()?;
        if main.is_none() && !place.postgres {
            return Ok(None);
        }
        if let Some(main) = &main {
            report_unused(main, observer)?;
        }
        let folder = WorkFolder::create(place.work_dir.as_deref())?;
        let local = place.postgres.then(|| {
            let servers = shards + usize::from(main.is_none());
            LocalServers::up(&folder, (servers, 0), observer)
        });
        let local = local.transpose()?;
        let (server, notes) = match main {
            Some(main) => {
                let note = note_of_main(&main, local.is_some())?;
                (main, vec![note])
            }
            None => (parsed(local.iter().flat_map(LocalServers::primaries).last())?, Vec::new()),
        };
        let engine = match &local {
            Some(local) => local.engine("a server for each database")?,
            None => format!("PostgreSQL {}, the one database", server_version(&server)?),
        };
        let notes = match &local {
            Some(_) => [folder.notes(), notes].concat(),
            None => notes,
        };
        let name = format!("tessera_lab_{}", folder.run());
        let one = TemporaryDatabase::create(&server, &name)?;
        observer.report(&format!("the one database is {name}, dropped at the end"));
        Ok(Some(Self { one, local, engine, notes, _folder: folder }))
    }

    /// Returns the databases of both sides of the comparison: the one without sharding, and those
    /// of the shards.
    pub(super) fn sides(&self, shards: usize) -> Result<ServerSides, CommandError> {
        let cluster_of_shards = |local: &LocalServers| {
            let nodes = local.primaries().take(shards);
            let nodes = nodes.map(|node| parsed(Some(node)));
            Ok::<_, CommandError>(cluster(nodes.collect::<Result<_, _>>()?))
        };
        Ok(ServerSides {
            one: cluster(vec![self.one.address().clone()]),
            shards: self.local.as_ref().map(cluster_of_shards).transpose()?,
            engine: self.engine.clone(),
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

/// Returns a note for the report about the server that `MAINDB_URL` names. `has_servers` is true if
/// the shards are on servers, too.
fn note_of_main(main: &NodeAddress, has_servers: bool) -> Result<String, CommandError> {
    let difference = match has_servers {
        true => "whose machine and settings may differ from those of the shards",
        false => "while the shards are files: use --postgres for shards on servers",
    };
    Ok(format!(
        "the one database is on {}, the server of {CATALOG_VARIABLE} with PostgreSQL {}, {difference}",
        main.location(),
        server_version(main)?
    ))
}

/// Reports databases on a server that were created by labs and that no session uses, usually
/// because the lab was killed. They are not dropped, because a lab that is just starting may have
/// created one.
fn report_unused(
    server: &NodeAddress,
    observer: &dyn ExperimentObserver,
) -> Result<(), CommandError> {
    let unused = TemporaryDatabase::unused(server)?;
    if !unused.is_empty() {
        let drops = unused.iter().map(|name| format!("DROP DATABASE {name};"));
        let drops: Vec<String> = drops.collect();
        observer.report(&format!(
            "{} has databases of labs that no session uses; unless a lab is just starting there, drop them: {}",
            server.location(),
            drops.join(" ")
        ));
    }
    Ok(())
}

/// Returns the server that `MAINDB_URL` names; `None` if the variable is not set.
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

/// Returns the cluster that these servers form. `address_of` returns the address at which the
/// cluster reaches a server.
pub(super) fn cluster_of_nodes(
    nodes: &[LocalNode],
    mut address_of: impl FnMut(&LocalNode) -> Result<NodeAddress, CommandError>,
) -> Result<ConnectedCluster, CommandError> {
    let mut shards = Vec::new();
    for of_shard in nodes.chunk_by(|one, next| one.shard == next.shard) {
        let (mut primary, mut replicas) = (None, Vec::new());
        for node in of_shard {
            let address = address_of(node)?;
            match node.role {
                Role::Primary => primary = Some(address),
                Role::Replica => replicas.push(address),
            }
        }
        let primary =
            primary.ok_or_else(|| CommandError::Refused("a shard has no primary".to_owned()))?;
        shards.push(ShardAddress { name: None, weight: None, primary, replicas });
    }
    Ok(cluster_of(shards))
}

/// Returns the cluster of these shards, with the catalog on the first one.
fn cluster_of(shards: Vec<ShardAddress>) -> ConnectedCluster {
    let address = ClusterAddress {
        engine: ServerEngine::Postgres,
        shards,
        replicas: Vec::new(),
        catalog: None,
        timeouts: Timeouts::default(),
        disk_bytes: None,
    };
    ConnectedCluster { address, wanted: ClusterSpec::default() }
}

impl LocalServers {
    /// Starts a server for each node of `shards` shards with `replicas` replicas each, in the
    /// folder of an experiment. If these are more than [`SERVERS_MAX`] servers, none is started. If
    /// one does not start, or the experiment is cancelled, those that were started are stopped.
    pub(super) fn up(
        folder: &WorkFolder,
        (shards, replicas): (usize, usize),
        observer: &dyn ExperimentObserver,
    ) -> Result<Self, CommandError> {
        let count = shards * (replicas + 1);
        if count > SERVERS_MAX {
            return Err(CommandError::Refused(format!(
                "an experiment starts at most {SERVERS_MAX} PostgreSQL servers, and these settings need {count}: lower \
                 them, or leave out --postgres"
            )));
        }
        observer.report(&format!("starting {count} PostgreSQL servers"));
        let dir = folder.join(DIR);
        let spec = LocalSpec { shards, replicas, ..LocalSpec::new(dir) };
        let started = LocalCluster::up_temporary(&spec, &|| observer.is_cancelled());
        let local = started.map(|cluster| Self(Some(cluster)));
        // The cancellation is reported even if a server failed at the same time.
        observer.check_cancelled()?;
        Ok(local?)
    }

    /// Creates the folder of an experiment in `work_dir`, and starts in it a server for each node
    /// of `shards` shards with `replicas` replicas each.
    pub(super) fn start(
        work_dir: Option<&Path>,
        (shards, replicas): (usize, usize),
        observer: &dyn ExperimentObserver,
    ) -> Result<(WorkFolder, Self), CommandError> {
        let folder = WorkFolder::create(work_dir)?;
        let local = Self::up(&folder, (shards, replicas), observer)?;
        Ok((folder, local))
    }

    /// Returns the version of the servers for the report, followed by `how`, a phrase about their
    /// use.
    pub(super) fn engine(&self, how: &str) -> Result<String, CommandError> {
        let version = server_version(&parsed(self.primaries().next())?)?;
        Ok(format!("PostgreSQL {version}, {how}"))
    }

    /// Returns the servers.
    pub(super) fn nodes(&self) -> &[LocalNode] {
        self.0.as_ref().map_or(&[], LocalCluster::nodes)
    }

    /// Returns the folder of the servers, by which another process finds them.
    ///
    /// # Errors
    /// [`LabError::Failed`] if no server was created.
    pub(super) fn dir(&self) -> Result<&Path, LabError> {
        let none = || LabError::Failed("no server was created".to_owned());
        self.0.as_ref().map(LocalCluster::dir).ok_or_else(none)
    }

    /// Kills all processes of all servers.
    ///
    /// # Errors
    /// [`LabError::Failed`] if a server continues.
    pub(super) fn kill(&self) -> Result<(), LabError> {
        self.for_each(|node| node.stop(Stop::Kill))
    }

    /// Starts the servers again, and returns once they accept connections.
    ///
    /// # Errors
    /// [`LabError::Failed`] if a server does not start.
    pub(super) fn start_again(&self) -> Result<(), LabError> {
        self.for_each(LocalNode::start)
    }

    /// Applies a function to all servers concurrently.
    fn for_each(
        &self,
        act: impl Fn(&LocalNode) -> Result<(), LocalError> + Sync,
    ) -> Result<(), LabError> {
        let act = &act;
        thread::scope(|scope| {
            let nodes = self.nodes().iter();
            let begun: Vec<_> = nodes.map(|node| scope.spawn(move || act(node))).collect();
            begun.into_iter().try_for_each(|begun| match begun.join() {
                Ok(done) => done.map_err(|error| LabError::Failed(error.to_string())),
                Err(_) => Err(LabError::Failed("a thread of the lab has ended".to_owned())),
            })
        })
    }

    fn primaries(&self) -> impl Iterator<Item = &LocalNode> {
        self.0.iter().flat_map(LocalCluster::primaries)
    }
}

impl Drop for LocalServers {
    fn drop(&mut self) {
        if let Some(local) = self.0.take() {
            // An error is ignored: the folder of the servers is removed next, and a server whose
            // folder is gone stops.
            let _ = local.destroy();
        }
    }
}
