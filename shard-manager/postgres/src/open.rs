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
use engine::cluster_spec::ClusterSpec;
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
use super::catalog_follower::CatalogFollower;
use super::catalog_watch;
use super::citus::{Citus, setup};
use super::citus_watch;
use super::discovery::{self, Members};
use super::hazards::Hazards;
use super::node::Node;
use super::node_address::{ClusterAddress, ServerEngine, ShardAddress, Timeouts};
use super::primary_tracker::PrimaryTracker;
use super::readers::Readers;
use super::replica::Replica;
use super::session::Session;
use super::shard_database::{Claim, Found, ShardDatabase, shard_of};
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
    let (opened, registry, found, catalog) = runtime.block_on(prepare(cluster))?;
    Ok(assemble(runtime, opened, registry, found, catalog))
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

/// Checks every node, and brings all shards to the same schema.
async fn prepare(
    cluster: &ConnectedCluster,
) -> Result<(Vec<Opened>, Registry, Cluster, Option<Vec<Node>>), OpenError> {
    let ConnectedCluster { address, wanted } = cluster;
    let wanted = ClusterSpec {
        shards: Some(address.shards.len()),
        weights: wanted.weights.clone().or_else(|| weights(&address.shards)),
        ..wanted.clone()
    };
    let names: Vec<String> = address.shards.iter().enumerate().map(name).collect();
    let members = discovery::find(address, &names).await?;
    let (sessions, nodes): (Vec<Session>, Vec<Vec<Node>>) =
        members.into_iter().map(|Members { session, nodes }| (session, nodes)).unzip();
    check_distinct(&sessions, &names)?;
    check_engine(&sessions, &names, address.engine).await?;
    let at = address.catalog.as_ref().unwrap_or(&nodes[0][0].address);
    let (session, hosts) = discovery::connect_catalog(at, address).await?;
    let identity = session.identity.clone();
    let node = |at| discovery::node("catalog".to_owned(), at, address, &identity);
    let apart = address.catalog.is_some();
    let catalog_nodes = apart.then(|| hosts.into_iter().map(node).collect::<Vec<_>>());
    let catalog = Catalog::on(session.connection).lock_to_open().await?;
    if !catalog.is_made().await? {
        check_unsigned(&sessions, &names).await?;
    }
    let catalog = catalog.migrate().await?;
    let found = catalog.cluster(&wanted, &names).await?;
    check_names(&found, &names)?;
    let pending =
        catalog.intents().load().await.map_err(|error| OpenError::node("catalog", error))?;
    let mut databases = Vec::with_capacity(sessions.len());
    let mut prepared = Vec::with_capacity(sessions.len());
    for ((index, session), (nodes, name)) in
        found.map.topology().numbers().zip(sessions).zip(nodes.into_iter().zip(&names))
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
    for intent in &pending {
        let removed = catalog.intents().remove(intent.table.name()).await;
        removed.map_err(|error| OpenError::node("catalog", error))?;
    }
    catalog.unlock().await?;
    Ok((opened, registry, found, catalog_nodes))
}

/// Checks that the listed nodes form shards: each shard has one primary, and each replica belongs
/// to a shard. Changes nothing.
///
/// # Errors
/// [`OpenError`] with the first reason why they do not.
pub async fn check_members(address: &ClusterAddress) -> Result<(), OpenError> {
    let names: Vec<String> = address.shards.iter().enumerate().map(name).collect();
    let members = discovery::find(address, &names).await?;
    let sessions: Vec<Session> =
        members.into_iter().map(|Members { session, .. }| session).collect();
    check_distinct(&sessions, &names)
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
        let signed = shard_of(&session.connection).await;
        if let Some(shard) = signed.map_err(|error| OpenError::node(&node, error))? {
            let cause = format!(
                "the database is that of {shard} of another cluster, and the catalog is empty: give all shards in their \
                 order, and MAINDB_URL if the cluster was made with one"
            );
            return Err(OpenError::node(&node, cause));
        }
    }
    Ok(())
}

fn check_names(found: &Cluster, names: &[String]) -> Result<(), OpenError> {
    let known: Vec<&str> =
        found.map.topology().shards().iter().map(|shard| shard.name.as_str()).collect();
    if known != names {
        return Err(OpenError::Conflict(format!(
            "the cluster has the shards {}, and these were given: {}",
            known.join(", "),
            names.join(", ")
        )));
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
        slot_news: Arc::clone(leader.slot_news()),
        replicas: replicas.iter().map(node).collect(),
    };
    ServerShard { opened, leader, replicas }
}

/// Starts the readers and the watchers of all shards, and follows the catalog.
fn assemble(
    runtime: Runtime,
    opened: Vec<Opened>,
    registry: Registry,
    found: Cluster,
    catalog: Option<Vec<Node>>,
) -> OpenedCluster {
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
    let followed: Vec<(Arc<PrimaryTracker>, Arc<ReplicationState>)> = followed.collect();
    let catalog = match catalog {
        Some(nodes) => {
            let identity = nodes[0].identity.clone();
            let leader = PrimaryTracker::new(nodes, &identity, None, None);
            catalog_watch::start(&leader);
            leader
        }
        None => Arc::clone(&followed[0].0),
    };
    let map = Arc::new(PublishedMap::new(found.map));
    let registry = Arc::new(ArcSwap::from_pointee(registry));
    let follower = Arc::new(CatalogFollower {
        catalog,
        shards: followed,
        map: Arc::clone(&map),
        registry: Arc::clone(&registry),
        access: AccessFeed::default(),
        closed: AtomicBool::new(false),
        turn: Mutex::new(()),
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
