//! Open: opens a cluster of PostgreSQL nodes by their addresses.
//!
//! One router opens the cluster at a time: others wait for the lock of the catalog. A router leaves
//! completed work as it is, and finishes work that a crashed router has begun.
//!
//! **Invariant:** an opened cluster has every shard, each in its own database, the same tables on
//! each, and no table that differs from its declaration.
//! **Not here:** serving an open cluster (`manager`).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use engine::access_store::AccessFeed;
use engine::cluster_spec::{ClusterSpec, warn_of_differences};
use engine::open_error::OpenError;
use engine::published_map::PublishedMap;
use engine::replication::{ReplicaState, ReplicationState};
use engine::runtime_pool::RuntimePool;
use engine::schema_agreement::{Agreement, Declared, agree};
use engine::{
    LaneControls, OpenedCluster, OpenedReplica, OpenedShard, ReplicaNode, WRITERS_MAX,
    WritePartitioner, WriterKind,
};
use model::position::TimelineHistory;
use model::table::Registry;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::backend::Servers;
use super::catalog::{Catalog, Cluster};
use super::catalog_follower::{CatalogFollower, FollowedShards};
use super::catalog_watch;
use super::citus::{Citus, setup};
use super::citus_watch;
use super::discovery::{self, Members};
use super::hazards::Hazards;
use super::node::Node;
use super::node_address::{ClusterAddress, NodeAddress, ServerEngine, ShardAddress, Timeouts};
use super::primary_tracker::PrimaryTracker;
use super::readers::Readers;
use super::replica::Replica;
use super::session::Session;
use super::shard_addresses::{self, ShardAddresses};
use super::shard_database::{Claim, Found, ShardDatabase, signature};
use super::target::Target;
use super::timeline_file;
use super::writer::PgWriter;

/// Addresses and settings of a cluster of PostgreSQL nodes.
#[derive(Clone, Debug)]
pub struct ConnectedCluster {
    /// Addresses of the nodes.
    pub address: ClusterAddress,
    /// Settings that the operator has specified.
    pub wanted: ClusterSpec,
}

/// Longest time that a start waits until the state of each replica is known: busy servers answer
/// late.
const REPLICAS_WAIT: Duration = Duration::from_secs(10);

/// A shard whose database was checked and prepared.
struct Opened {
    /// The primary first.
    members: Vec<Node>,
    position: u64,
    history: TimelineHistory,
    citus: Option<Arc<Citus>>,
    hazards: Hazards,
}

/// Opens a cluster of PostgreSQL nodes: creates missing schemas and migrates old ones. Blocks.
///
/// # Errors
/// [`OpenError`], whose message states the remedy.
pub fn open(cluster: &ConnectedCluster) -> Result<OpenedCluster, OpenError> {
    // A thread of its own, because the caller may already run a runtime, which must not block.
    let opened = std::thread::scope(|scope| scope.spawn(|| open_servers(cluster)).join());
    opened.unwrap_or_else(|_| Err(OpenError::node("the router", "it could not be started")))
}

fn open_servers(cluster: &ConnectedCluster) -> Result<OpenedCluster, OpenError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("postgres")
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| OpenError::node("the router", error))?;
    let prepared = runtime.block_on(prepare(cluster))?;
    Ok(assemble(runtime, prepared))
}

/// Shard whose readers and watchers run, with the parts that only this engine knows.
struct ServerShard {
    opened: OpenedShard,
    leader: Arc<PrimaryTracker>,
    replicas: Vec<Arc<Replica>>,
}

/// Waits until the replicas follow, so that they can serve reads from the start, but not for those
/// that cannot be reached.
fn await_replicas(shards: &[ServerShard]) {
    let deadline = Instant::now() + REPLICAS_WAIT;
    let is_open = |ServerShard { opened, replicas, .. }: &ServerShard| {
        let replication = &opened.replication;
        replicas.iter().enumerate().any(|(index, replica)| {
            let follows = replication.replicas().state(index) == ReplicaState::Following;
            !follows && replication.timeline().leader() != Some(index) && replica.is_reachable()
        })
    };
    while shards.iter().any(is_open) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Cluster whose databases were checked and prepared.
struct PreparedCluster {
    shards: Vec<Opened>,
    registry: Registry,
    found: Cluster,
    catalog: CatalogNodes,
}

/// Servers of the catalog.
enum CatalogNodes {
    /// Those of the shard with this index.
    OfShard(usize),
    /// Servers of its own, the primary first.
    Apart(Vec<Node>),
}

/// Catalog that is locked, with sessions to the primaries of all shards.
struct LockedCluster {
    catalog: Catalog,
    nodes: CatalogNodes,
    found: Cluster,
    names: Vec<String>,
    sessions: Vec<Session>,
    members: Vec<Vec<Node>>,
}

/// Number of times that a start looks again because another router changed the cluster meanwhile.
const LOOKS_MAX: usize = 5;

/// Finds all nodes, locks the catalog and reads it, or creates it for a new cluster.
async fn lock(cluster: &ConnectedCluster) -> Result<LockedCluster, OpenError> {
    for _ in 0..LOOKS_MAX {
        if let Some(locked) = try_lock(cluster).await? {
            return Ok(locked);
        }
    }
    let cause = "the cluster has changed each time while it was opened: start the router again";
    Err(OpenError::node("the catalog", cause))
}

/// Returns `None` if another router has changed the shards after they were found.
async fn try_lock(
    ConnectedCluster { address, wanted }: &ConnectedCluster,
) -> Result<Option<LockedCluster>, OpenError> {
    let ShardAddresses { cluster: address, is_made, catalog_shard, differences } =
        &shard_addresses::find(address).await?;
    let names: Vec<String> = address.shards.iter().enumerate().map(name).collect();
    let found = discovery::find(address, &names).await?;
    let (sessions, members): (Vec<Session>, Vec<Vec<Node>>) =
        found.into_iter().map(|Members { session, nodes }| (session, nodes)).unzip();
    check_distinct(&sessions, &names)?;
    check_engine(&sessions, &names, address.engine).await?;
    let at = address.catalog.as_ref().unwrap_or(&members[*catalog_shard][0].address);
    let (session, hosts) = discovery::connect_catalog(at, address).await?;
    let identity = session.identity.clone();
    let node = |at| discovery::node("catalog".to_owned(), at, address, &identity);
    let nodes = match &address.catalog {
        Some(_) => CatalogNodes::Apart(hosts.into_iter().map(node).collect()),
        None => CatalogNodes::OfShard(*catalog_shard),
    };
    let catalog = Catalog::on(session.connection).lock_to_open().await?;
    if catalog.is_made().await? != *is_made {
        return Ok(None);
    }
    if !is_made {
        check_unsigned(&sessions, &names).await?;
    }
    let catalog = catalog.migrate().await?;
    let found = catalog.cluster(&wanted_of(wanted, address, *is_made), &names).await?;
    let topology = found.map.topology();
    if !topology.members().map(|(_, shard)| &shard.name).eq(&names) {
        return Ok(None);
    }
    let weights = weight_differences(&found, address);
    let all = differences.iter().chain(&found.differences).chain(&weights);
    warn_of_differences(&all.cloned().collect::<Vec<_>>());
    Ok(Some(LockedCluster { catalog, nodes, found, names, sessions, members }))
}

/// Returns the settings to compare with the catalog. The addresses of a new cluster determine its
/// shards; those of an existing one are compared by themselves.
fn wanted_of(wanted: &ClusterSpec, address: &ClusterAddress, is_made: bool) -> ClusterSpec {
    let of_addresses = weights(&address.shards);
    let (shards, weights) = if is_made {
        (None, wanted.weights.clone().filter(|_| of_addresses.is_none()))
    } else {
        (Some(address.shards.len()), wanted.weights.clone().or(of_addresses))
    };
    ClusterSpec { shards, weights, ..wanted.clone() }
}

/// Returns a sentence for each shard whose address has another weight than the catalog.
fn weight_differences(found: &Cluster, address: &ClusterAddress) -> Vec<String> {
    let members = found.map.topology().members().zip(&address.shards);
    let other = members.filter_map(|((_, shard), address)| {
        let weight = address.weight.filter(|weight| *weight != shard.weight)?;
        let (name, own) = (&shard.name, shard.weight);
        Some(format!(
            "the weight of {name} is {own}, not {weight}: the weights of a cluster stay as they are"
        ))
    });
    other.collect()
}

/// Checks every node, and brings all shards to the same schema.
async fn prepare(cluster: &ConnectedCluster) -> Result<PreparedCluster, OpenError> {
    let LockedCluster { catalog, nodes: catalog_nodes, found, names, sessions, members } =
        lock(cluster).await?;
    let address = &cluster.address;
    let pending =
        catalog.intents().load().await.map_err(|error| OpenError::node("catalog", error))?;
    let mut databases = Vec::with_capacity(sessions.len());
    let mut prepared = Vec::with_capacity(sessions.len());
    for ((index, session), (nodes, name)) in
        found.map.topology().numbers().zip(sessions).zip(members.into_iter().zip(&names))
    {
        let slots: Vec<u16> = found.map.slots_of(index).collect();
        let is_new = !found.ready;
        let claim = Claim { cluster_id: &found.cluster_id, shard: name, slots: &slots, is_new };
        let history = timeline_file::history(&session.connection, &session.identity).await;
        let place = nodes[0].name.clone();
        let known = (address.engine == ServerEngine::Citus).then(Arc::<Citus>::default);
        let database =
            ShardDatabase::on(place, session.connection, session.identity, known.clone());
        let (database, ready) = database.prepare(&claim).await?;
        databases.push((database, (nodes, history, known)));
        prepared.push(ready);
    }
    let declared: Vec<Declared<'_>> = prepared
        .into_iter()
        .zip(&names)
        .map(|(Found { tables, made, .. }, shard)| Declared { shard, tables, made })
        .collect();
    let Agreement { registry, changes } = agree(&declared, &pending)?;
    let mut opened = Vec::with_capacity(databases.len());
    for ((mut database, (members, history, citus)), changes) in databases.into_iter().zip(changes) {
        database.settle(&changes).await?;
        let position = database.position().await;
        let position = position.map_err(|error| OpenError::node(&members[0].name, error))?;
        let hazards = database.hazards().await;
        let hazards = hazards.map_err(|error| OpenError::node(&members[0].name, error))?;
        opened.push(Opened { members, position, history, citus, hazards });
    }
    catalog.set_ready().await?;
    let numbers = found.map.topology().numbers().map(|number| i64::from(number.0));
    let located = numbers.zip(opened.iter().map(|shard| location(&shard.members)));
    let kept = catalog.map_tables().keep_addresses(&located.collect::<Vec<_>>()).await;
    kept.map_err(|error| OpenError::node("catalog", error))?;
    for intent in &pending {
        let removed = catalog.intents().remove(intent.table.name()).await;
        removed.map_err(|error| OpenError::node("catalog", error))?;
    }
    catalog.unlock().await?;
    Ok(PreparedCluster { shards: opened, registry, found, catalog: catalog_nodes })
}

/// Returns the address of all nodes of a shard, without user and password.
fn location(members: &[Node]) -> String {
    let hosts = members.iter().flat_map(|node| node.address.hosts.iter().cloned()).collect();
    NodeAddress { hosts, ..members[0].address.clone() }.location()
}

/// Result of checking the addresses of a cluster.
pub struct CheckedAddresses {
    /// Sentences about settings that are not in force.
    pub differences: Vec<String>,
    /// Address of the catalog, if there is a cluster already.
    pub catalog: Option<NodeAddress>,
}

/// Checks that the listed nodes form shards: each shard has one primary, and each replica belongs
/// to a shard. Changes nothing.
///
/// # Errors
/// [`OpenError`] with the first reason why they do not.
pub async fn check_members(address: &ClusterAddress) -> Result<CheckedAddresses, OpenError> {
    let ShardAddresses { cluster: address, is_made, catalog_shard, differences } =
        shard_addresses::find(address).await?;
    let names: Vec<String> = address.shards.iter().enumerate().map(name).collect();
    let members = discovery::find(&address, &names).await?;
    let sessions: Vec<Session> =
        members.into_iter().map(|Members { session, .. }| session).collect();
    check_distinct(&sessions, &names)?;
    let of_shard = || address.shards.get(catalog_shard).map(|shard| shard.primary.clone());
    let catalog = address.catalog.clone().or_else(of_shard).filter(|_| is_made);
    Ok(CheckedAddresses { differences, catalog })
}

fn name((index, shard): (usize, &ShardAddress)) -> String {
    shard.name.clone().unwrap_or_else(|| format!("shard{}", index + 1))
}

/// Returns the weights of the shards; `None` if no address specifies one.
fn weights(shards: &[ShardAddress]) -> Option<Vec<u32>> {
    let said = shards.iter().any(|shard| shard.weight.is_some());
    said.then(|| shards.iter().map(|shard| shard.weight.unwrap_or(1)).collect())
}

/// Refuses two shards in one database, which would mix their rows.
fn check_distinct(sessions: &[Session], names: &[String]) -> Result<(), OpenError> {
    let place = |session: &Session| (session.identity.system, session.identity.database.clone());
    for (index, session) in sessions.iter().enumerate() {
        let before = sessions[..index].iter().position(|other| place(other) == place(session));
        if let Some(before) = before {
            return Err(OpenError::Conflict(format!(
                "{} and {} are the same database: give each shard its own",
                names[before], names[index]
            )));
        }
    }
    Ok(())
}

/// Checks that each server runs the engine that the operator has specified.
async fn check_engine(
    sessions: &[Session],
    names: &[String],
    engine: ServerEngine,
) -> Result<(), OpenError> {
    for (session, name) in sessions.iter().zip(names) {
        let failed =
            |error: &dyn std::fmt::Display| OpenError::node(&format!("{name}-primary"), error);
        let mismatch = setup::mismatch(&session.connection, engine).await;
        if let Some(cause) = mismatch.map_err(|error| failed(&error))? {
            return Err(failed(&cause));
        }
    }
    Ok(())
}

/// Refuses databases that belong to a cluster already. Called when the catalog is empty, so that
/// the cluster is a new one.
async fn check_unsigned(sessions: &[Session], names: &[String]) -> Result<(), OpenError> {
    for (session, name) in sessions.iter().zip(names) {
        let node = format!("{name}-primary");
        let signed = signature(&session.connection).await;
        if let Some((_, shard)) = signed.map_err(|error| OpenError::node(&node, error))? {
            let cause = format!(
                "the database is that of {shard} of another cluster, and none of the given ones holds its catalog: give \
                 all shards, and MAINDB_URL if the cluster was made with one"
            );
            return Err(OpenError::node(&node, cause));
        }
    }
    Ok(())
}

/// Returns the writers of a shard: one, or one for each group of workers of Citus.
fn writers(
    (name, leader): (&str, &Arc<PrimaryTracker>),
    timeouts: Timeouts,
    replication: &Arc<ReplicationState>,
    runtimes: &RuntimePool,
) -> Vec<WriterKind> {
    let groups = leader.citus().map_or(1, |citus| citus.parts().groups().len());
    let writers = (0..groups.clamp(1, WRITERS_MAX)).map(|_| {
        let writer = PgWriter::new(name, leader, timeouts, replication);
        WriterKind::Task(Box::new(writer), runtimes.handle())
    });
    writers.collect()
}

/// Starts the readers and the watchers of a shard.
fn start_shard(name: &str, opened: Opened, runtimes: &RuntimePool) -> ServerShard {
    let Opened { members, position, history, citus, hazards } = opened;
    let (identity, timeouts) = (members[0].identity.clone(), members[0].timeouts);
    let replication = ReplicationState::new(history, position, members.len());
    let replication = Arc::new(replication.with_shared_writers());
    replication.primary().record_schema_change(position);
    let leader = PrimaryTracker::new(members, &identity, Some(&replication), citus);
    leader.hazards().set(hazards);
    let writers = writers((name, &leader), timeouts, &replication, runtimes);
    if leader.citus().is_some() {
        tokio::spawn(citus_watch::watch(Arc::clone(&leader)));
    }
    let target = Target::Primary(Arc::clone(&leader));
    let primary = Arc::new(Readers::start(&target, name, &replication, runtimes));
    let replicas: Vec<Arc<Replica>> = (0..leader.members().len())
        .map(|index| Replica::start(&leader, (index, &replication), (name, runtimes)))
        .collect();
    let node = |replica: &Arc<Replica>| OpenedReplica {
        node: Arc::clone(replica) as _,
        findings: Arc::default(),
    };
    let opened = OpenedShard {
        name: name.to_owned(),
        replication,
        writers,
        partitioner: leader.citus().map(|citus| Arc::clone(citus) as Arc<dyn WritePartitioner>),
        controls: LaneControls::default(),
        primary,
        findings: Arc::default(),
        doubts: Arc::default(),
        slot_news: Arc::clone(&leader.slot_news),
        replicas: replicas.iter().map(node).collect(),
    };
    ServerShard { opened, leader, replicas }
}

/// Starts the readers and the watchers of all shards, and follows the catalog.
fn assemble(runtime: Runtime, prepared: PreparedCluster) -> OpenedCluster {
    let PreparedCluster { shards: opened, registry, found, catalog } = prepared;
    let entered = runtime.enter();
    let runtimes = RuntimePool::new(runtime.handle().clone());
    let topology = found.map.topology();
    let shards: Vec<ServerShard> = topology
        .numbers()
        .zip(opened)
        .map(|(index, opened)| start_shard(topology.name(index), opened, &runtimes))
        .collect();
    let followed = shards.iter().map(|ServerShard { opened, leader, .. }| {
        (Arc::clone(leader), Arc::clone(&opened.replication))
    });
    let followed: FollowedShards = topology.numbers().zip(followed).collect();
    let catalog = match catalog {
        CatalogNodes::Apart(nodes) => {
            let identity = nodes[0].identity.clone();
            let leader = PrimaryTracker::new(nodes, &identity, None, None);
            catalog_watch::start(&leader);
            leader
        }
        CatalogNodes::OfShard(index) => Arc::clone(&shards[index].leader),
    };
    let map = Arc::new(PublishedMap::new(found.map));
    let registry = Arc::new(ArcSwap::from_pointee(registry));
    let follower = Arc::new(CatalogFollower {
        catalog,
        shards: ArcSwap::from_pointee(followed),
        map: Arc::clone(&map),
        registry: Arc::clone(&registry),
        access: AccessFeed::default(),
        closed: AtomicBool::new(false),
        turn: Mutex::default(),
        map_failed_at: Mutex::default(),
    });
    tokio::spawn(Arc::clone(&follower).run());
    drop(entered);
    await_replicas(&shards);
    OpenedCluster {
        map,
        registry,
        token_key: found.token_key,
        shards: shards.into_iter().map(|shard| shard.opened).collect(),
        backend: Box::new(Servers::new(follower, runtime, runtimes)),
    }
}
