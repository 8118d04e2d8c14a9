//! Connected: from the addresses of PostgreSQL nodes to a cluster that serves.
//!
//! One router opens at a time: the others wait for the lock of the catalog. What one has done, the next finds done; what
//! one that died has begun, the next finishes.
//!
//! **Invariant:** a cluster that opens has every shard, each its own, the same tables on each, and none that differs
//! from its declaration.
//! **Not here:** what is asked of an open cluster.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::Manager;
use super::agreement::{Agreement, Declared, agree};
use super::backing::{Backing, Servers};
use super::following::Following;
use super::members::{self, Members};
use crate::address::{ClusterAddress, ServerEngine, ShardAddress, Timeouts};
use crate::home::Homes;
use crate::lane::{Holds, Lane};
use crate::lanes::Lanes;
use crate::position::TimelineHistory;
use crate::progress::Progress;
use crate::shard::Shard;
use crate::store::cluster::Wanted;
use crate::store::open_error::OpenError;
use crate::store::postgres::candidate;
use crate::store::postgres::catalog::{Catalog, Cluster};
use crate::store::postgres::citus::{Citus, setup, watch};
use crate::store::postgres::hazards::Hazards;
use crate::store::postgres::leader::{self, Leader};
use crate::store::postgres::node::{Node, Target};
use crate::store::postgres::readers::Readers as NodeReaders;
use crate::store::postgres::replica::Replica as StreamingReplica;
use crate::store::postgres::session::Session;
use crate::store::postgres::shard_database::{Claim, Found, ShardDatabase, shard_of};
use crate::store::postgres::writer::PgWriter;
use crate::store::readers::Readers;
use crate::store::replica::Replica;
use crate::table::Registry;

/// Where a cluster of PostgreSQL nodes is and what it must be.
#[derive(Clone, Debug)]
pub struct ConnectedCluster {
    /// Its nodes.
    pub address: ClusterAddress,
    /// What the operator asks for.
    pub wanted: Wanted,
}

/// How long a start waits until it knows of each replica whether it follows: servers that are busy take their time.
const REPLICAS_WAIT: Duration = Duration::from_secs(10);

/// A shard whose database has been found good.
struct Opened {
    /// The primary first.
    members: Vec<Node>,
    position: u64,
    history: TimelineHistory,
    citus: Option<Arc<Citus>>,
    hazards: Hazards,
}

impl Manager {
    /// Opens a cluster of PostgreSQL nodes, making what is new and migrating what is old. Blocks.
    ///
    /// # Errors
    /// [`OpenError`], with a sentence that tells the operator what to do.
    pub fn connect(cluster: &ConnectedCluster) -> Result<Self, OpenError> {
        // On a thread of its own: whoever calls this may run a runtime already.
        let opened = std::thread::scope(|scope| scope.spawn(|| Self::open_servers(cluster)).join());
        opened.unwrap_or_else(|_| Err(OpenError::node("the router", "it could not be started")))
    }

    fn open_servers(cluster: &ConnectedCluster) -> Result<Self, OpenError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("postgres")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| OpenError::node("the router", error))?;
        let (opened, registry, found, catalog) = runtime.block_on(open(cluster))?;
        let manager = assemble(runtime, opened, registry, found, catalog)?;
        manager.await_replicas();
        Ok(manager)
    }

    /// A router that serves should have its replicas; those that are out of reach are not waited for.
    fn await_replicas(&self) {
        let deadline = Instant::now() + REPLICAS_WAIT;
        while self.shards.iter().any(Shard::awaits_replicas) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Checks every node, and makes all shards alike.
async fn open(
    cluster: &ConnectedCluster,
) -> Result<(Vec<Opened>, Registry, Cluster, Option<Vec<Node>>), OpenError> {
    let ConnectedCluster { address, wanted } = cluster;
    let wanted = Wanted {
        shards: Some(address.shards.len()),
        weights: wanted.weights.clone().or_else(|| weights(&address.shards)),
        ..wanted.clone()
    };
    let names: Vec<String> = address.shards.iter().enumerate().map(name).collect();
    let members = members::find(address, &names).await?;
    let (sessions, nodes): (Vec<Session>, Vec<Vec<Node>>) =
        members.into_iter().map(|Members { session, nodes }| (session, nodes)).unzip();
    check_distinct(&sessions, &names)?;
    check_engine(&sessions, &names, address.engine).await?;
    let at = address.catalog.as_ref().unwrap_or(&nodes[0][0].address);
    let (session, hosts) = members::connect_catalog(at, address).await?;
    let identity = session.identity.clone();
    let node = |at| members::node("catalog".to_owned(), at, address, &identity);
    let apart = address.catalog.is_some();
    let catalog_nodes = apart.then(|| hosts.into_iter().map(node).collect::<Vec<_>>());
    let catalog = Catalog::on(session.connection).lock_to_open().await?;
    if !catalog.is_made().await? {
        check_unsigned(&sessions, &names).await?;
    }
    let catalog = catalog.migrate().await?;
    let found = catalog.cluster(&wanted, &names).await?;
    check_names(&found, &names)?;
    let pending = catalog.intents().await.map_err(|error| OpenError::node("catalog", error))?;
    let mut databases = Vec::with_capacity(sessions.len());
    let mut prepared = Vec::with_capacity(sessions.len());
    for ((index, session), (nodes, name)) in
        found.map.topology().indices().zip(sessions).zip(nodes.into_iter().zip(&names))
    {
        let slots: Vec<u16> = found.map.slots_of(index).collect();
        let is_new = !found.ready;
        let claim = Claim { cluster_id: &found.cluster_id, shard: name, slots: &slots, is_new };
        let history = leader::history(&session.connection, &session.identity).await;
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
        let removed = catalog.remove(intent.table.name()).await;
        removed.map_err(|error| OpenError::node("catalog", error))?;
    }
    catalog.unlock().await?;
    Ok((opened, registry, found, catalog_nodes))
}

/// Whether the nodes that are named make shards: each one primary, each replica of one of them. Nothing is changed.
///
/// # Errors
/// [`OpenError`] with the first reason why not.
pub async fn check_members(address: &ClusterAddress) -> Result<(), OpenError> {
    let names: Vec<String> = address.shards.iter().enumerate().map(name).collect();
    let members = members::find(address, &names).await?;
    let sessions: Vec<Session> =
        members.into_iter().map(|Members { session, .. }| session).collect();
    check_distinct(&sessions, &names)
}

fn name((index, shard): (usize, &ShardAddress)) -> String {
    shard.name.clone().unwrap_or_else(|| format!("shard{}", index + 1))
}

/// Weights, if any is said.
fn weights(shards: &[ShardAddress]) -> Option<Vec<u32>> {
    let said = shards.iter().any(|shard| shard.weight.is_some());
    said.then(|| shards.iter().map(|shard| shard.weight.unwrap_or(1)).collect())
}

/// Two shards in one database would each hold half of what the other looks for.
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

/// Each server must be what the operator says it is.
async fn check_engine(
    sessions: &[Session],
    names: &[String],
    engine: ServerEngine,
) -> Result<(), OpenError> {
    for (session, name) in sessions.iter().zip(names) {
        let told =
            |error: &dyn std::fmt::Display| OpenError::node(&format!("{name}-primary"), error);
        let mismatch = setup::mismatch(&session.connection, engine).await;
        if let Some(cause) = mismatch.map_err(|error| told(&error))? {
            return Err(told(&cause));
        }
    }
    Ok(())
}

/// A catalog that knows nothing is a new cluster's: databases that are somebody's already are not for it.
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

/// The lanes of a shard: one, or one to each group of workers of Citus.
fn lanes(
    (name, leader): (&str, &Arc<Leader>),
    timeouts: Timeouts,
    progress: &Arc<Progress>,
    homes: &Homes,
) -> Lanes {
    let holds = Holds::default();
    let lane = || {
        let writer = PgWriter::new(name, leader, timeouts, progress);
        Lane::spawn_held(name, writer, homes.another(), holds.clone())
    };
    let Some(citus) = leader.citus() else { return lane().into() };
    tokio::spawn(watch::watch(Arc::clone(leader)));
    let count = citus.parts().groups().len().clamp(1, Lanes::MAX);
    let others = (1..count).map(|_| lane()).collect();
    Lanes::of_groups(lane(), others, Arc::clone(citus))
}

/// Starts the lanes, the readers and the watchers.
fn assemble(
    runtime: Runtime,
    opened: Vec<Opened>,
    registry: Registry,
    found: Cluster,
    catalog: Option<Vec<Node>>,
) -> Result<Manager, OpenError> {
    let entered = runtime.enter();
    let homes = Homes::new(runtime.handle().clone());
    let mut shards = Vec::with_capacity(opened.len());
    let mut followed = Vec::with_capacity(opened.len());
    for (index, opened) in found.map.topology().indices().zip(opened) {
        let name = found.map.topology().name(index);
        let Opened { members, position, history, citus, hazards } = opened;
        let (identity, timeouts) = (members[0].identity.clone(), members[0].timeouts);
        let progress = Arc::new(Progress::new(history, position, members.len()).asked());
        progress.schema_changed(position);
        let leader = Leader::new(members, &identity, Some(&progress), citus);
        leader.set_hazards(hazards);
        let lanes = lanes((name, &leader), timeouts, &progress, &homes);
        let target = Target::Leader(Arc::clone(&leader));
        let readers = Arc::new(NodeReaders::start(&target, name, &progress, &homes));
        let watched = (0..leader.members().len()).map(|index| {
            Replica::Postgres(StreamingReplica::start(&leader, (index, &progress), (name, &homes)))
        });
        let (watched, readers) = (watched.collect(), Readers::Postgres(readers));
        shards.push(Shard::new(name, Arc::clone(&progress), lanes, readers, watched));
        followed.push((leader, progress));
    }
    let catalog = match catalog {
        Some(nodes) => {
            let identity = nodes[0].identity.clone();
            let leader = Leader::new(nodes, &identity, None, None);
            candidate::watch(&leader);
            leader
        }
        None => Arc::clone(&followed[0].0),
    };
    let map = Arc::new(ArcSwap::from_pointee(found.map));
    let registry = Arc::new(ArcSwap::from_pointee(registry));
    let following = Arc::new(Following {
        catalog,
        shards: followed,
        map: Arc::clone(&map),
        registry: Arc::clone(&registry),
        closed: AtomicBool::new(false),
        turn: Mutex::new(()),
    });
    tokio::spawn(Arc::clone(&following).run());
    drop(entered);
    let backing = Backing::Servers(Servers::new(following, runtime, homes));
    Ok(Manager::of(map, registry, shards, found.token_key, backing))
}
