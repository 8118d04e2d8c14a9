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
use futures_util::future::join_all;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::Manager;
use super::agreement::{Agreement, Declared, agree};
use super::backing::{Backing, Servers};
use super::following::Following;
use crate::address::{ClusterAddress, NodeAddress, ShardAddress};
use crate::home::Homes;
use crate::lane::Lane;
use crate::position::History;
use crate::progress::Progress;
use crate::shard::Shard;
use crate::store::cluster::Wanted;
use crate::store::open_error::OpenError;
use crate::store::postgres::catalog::{Catalog, Cluster};
use crate::store::postgres::node::Node;
use crate::store::postgres::primary_log::PrimaryLog;
use crate::store::postgres::readers::Readers as NodeReaders;
use crate::store::postgres::replica::Replica as StreamingReplica;
use crate::store::postgres::requirements;
use crate::store::postgres::session::{self, Identity, Session, Wanted as Role};
use crate::store::postgres::shard_database::{Claim, Found, ShardDatabase, shard_of};
use crate::store::postgres::writer::PgWriter;
use crate::store::readers::Readers;
use crate::store::replica::Replica;
use crate::table::Registry;
use crate::topology;

/// What servers show of these sessions.
const OPENING: &str = "tessera opening";

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
    primary: Node,
    replicas: Vec<Node>,
    position: u64,
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
) -> Result<(Vec<Opened>, Registry, Cluster, Node), OpenError> {
    let ConnectedCluster { address, wanted } = cluster;
    let wanted = Wanted {
        shards: Some(address.shards.len()),
        weights: wanted.weights.clone().or_else(|| weights(&address.shards)),
        ..wanted.clone()
    };
    let names: Vec<String> = address.shards.iter().enumerate().map(name).collect();
    let connected = address.shards.iter().zip(&names).map(async |(shard, name)| {
        connect(&shard.primary, &format!("{name}-primary"), Role::Primary, address).await
    });
    let sessions: Vec<Session> = join_all(connected).await.into_iter().collect::<Result<_, _>>()?;
    check_distinct(&sessions, &names)?;
    let at = address.catalog.as_ref().unwrap_or(&address.shards[0].primary);
    let session = connect(at, "catalog", Role::Primary, address).await?;
    let catalog_node = node("catalog", at, address, &session.identity);
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
    for ((index, session), (shard, name)) in
        found.map.topology().indices().zip(sessions).zip(address.shards.iter().zip(&names))
    {
        let slots: Vec<u16> = found.map.slots_of(index).collect();
        let is_new = !found.ready;
        let claim = Claim { cluster_id: &found.cluster_id, shard: name, slots: &slots, is_new };
        let primary = node(&format!("{name}-primary"), &shard.primary, address, &session.identity);
        let database =
            ShardDatabase::on(primary.name.clone(), session.connection, session.identity);
        let (database, ready) = database.prepare(&claim).await?;
        databases.push((database, primary));
        prepared.push(ready);
    }
    let declared: Vec<Declared<'_>> = prepared
        .into_iter()
        .zip(&names)
        .map(|(Found { tables, made, .. }, shard)| Declared { shard, tables, made })
        .collect();
    let Agreement { registry, changes } = agree(&declared, &pending)?;
    let mut opened = Vec::with_capacity(databases.len());
    for ((mut database, primary), changes) in databases.into_iter().zip(changes) {
        database.settle(&changes).await?;
        let position = database.position().await;
        let position = position.map_err(|error| OpenError::node(&primary.name, error))?;
        opened.push(Opened { primary, replicas: Vec::new(), position });
    }
    catalog.set_ready().await?;
    for intent in &pending {
        let removed = catalog.remove(intent.table.name()).await;
        removed.map_err(|error| OpenError::node("catalog", error))?;
    }
    catalog.unlock().await?;
    find_replicas(&mut opened, &names, address).await?;
    Ok((opened, registry, found, catalog_node))
}

fn name((index, shard): (usize, &ShardAddress)) -> String {
    shard.name.clone().unwrap_or_else(|| format!("shard{}", index + 1))
}

/// Weights, if any is said.
fn weights(shards: &[ShardAddress]) -> Option<Vec<u32>> {
    let said = shards.iter().any(|shard| shard.weight.is_some());
    said.then(|| shards.iter().map(|shard| shard.weight.unwrap_or(1)).collect())
}

fn node(name: &str, at: &NodeAddress, cluster: &ClusterAddress, identity: &Identity) -> Node {
    let (name, address, timeouts) = (name.to_owned(), at.clone(), cluster.timeouts);
    Node { name, address, timeouts, identity: identity.clone() }
}

async fn connect(
    at: &NodeAddress,
    name: &str,
    role: Role,
    cluster: &ClusterAddress,
) -> Result<Session, OpenError> {
    let session = session::connect(at, OPENING, role, &cluster.timeouts).await;
    check_fit(session.map_err(|error| OpenError::node(name, error))?, name, cluster).await
}

/// A replica that answers; one that is no replica at all is a mistake.
async fn connect_replica(
    at: &NodeAddress,
    name: &str,
    cluster: &ClusterAddress,
) -> Result<Option<Session>, OpenError> {
    let fit = match session::connect(at, OPENING, Role::Replica, &cluster.timeouts).await {
        Ok(session) => check_fit(session, name, cluster).await,
        Err(error) if error.is_wrong_role() => return Err(OpenError::node(name, error)),
        Err(error) => Err(OpenError::node(name, error)),
    };
    let silent = |error: &OpenError| tracing::warn!(%error, "a replica does not answer");
    Ok(fit.inspect_err(silent).ok())
}

async fn check_fit(
    mut session: Session,
    name: &str,
    cluster: &ClusterAddress,
) -> Result<Session, OpenError> {
    let replicas = usize::from(!cluster.replicas.is_empty())
        + cluster.shards.iter().map(|shard| shard.replicas.len()).sum::<usize>();
    let warnings = requirements::check(&mut session, replicas).await;
    for warning in warnings.map_err(|unfit| OpenError::node(name, unfit))? {
        tracing::warn!(node = name, "{warning}");
    }
    Ok(session)
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

/// Matches replicas to their primaries: those named with a shard by that, the others by the system identifier and the
/// database. One that does not answer now is that of the only shard whose database is called as its own: it counts,
/// because what `quorum` and `all` promise must not depend on who was up at a start.
async fn find_replicas(
    opened: &mut [Opened],
    names: &[String],
    address: &ClusterAddress,
) -> Result<(), OpenError> {
    for ((shard, opened), name) in address.shards.iter().zip(opened.iter_mut()).zip(names) {
        for at in &shard.replicas {
            let replica = format!("{name}-replica{}", opened.replicas.len() + 1);
            let session = connect_replica(at, &replica, address).await?;
            let primary = &opened.primary.identity;
            let identity = session.map_or_else(|| primary.clone(), |session| session.identity);
            if identity.system != primary.system || identity.database != primary.database {
                let cause = format!("it is no replica of {name}: it copies another database");
                return Err(OpenError::node(&replica, cause));
            }
            opened.replicas.push(node(&replica, at, address, &identity));
        }
    }
    let asked = address
        .replicas
        .iter()
        .map(async |at| connect_replica(at, &format!("the replica {at}"), address).await);
    for (at, session) in address.replicas.iter().zip(join_all(asked).await) {
        let found = match session? {
            Some(session) => session.identity,
            None => silent(opened, at)?,
        };
        let copies = |opened: &&mut Opened| {
            let primary = &opened.primary.identity;
            primary.system == found.system && primary.database == found.database
        };
        let Some((opened, name)) = opened.iter_mut().zip(names).find(|(opened, _)| copies(opened))
        else {
            return Err(OpenError::node(
                &at.to_string(),
                "it is a replica of none of the shards: look at REPLICA_URLS and SHARD_URLS",
            ));
        };
        let replica = format!("{name}-replica{}", opened.replicas.len() + 1);
        opened.replicas.push(node(&replica, at, address, &found));
    }
    Ok(())
}

/// Whose replica it is that does not answer.
fn silent(opened: &[Opened], at: &NodeAddress) -> Result<Identity, OpenError> {
    let called_so = |opened: &&Opened| opened.primary.identity.database == at.database;
    let mut primaries = opened.iter().filter(called_so).map(|opened| &opened.primary.identity);
    match (primaries.next(), primaries.next()) {
        (Some(primary), None) => Ok(primary.clone()),
        (None, _) | (Some(_), Some(_)) => Err(OpenError::node(
            &at.to_string(),
            "this replica does not answer, so nobody can tell which shard's it is: start it, or name it with its \
             shard in tessera.toml ([[shard]] replicas)",
        )),
    }
}

/// Starts the lanes, the readers and the watchers.
fn assemble(
    runtime: Runtime,
    opened: Vec<Opened>,
    registry: Registry,
    found: Cluster,
    catalog: Node,
) -> Result<Manager, OpenError> {
    let entered = runtime.enter();
    let homes = Homes::new(runtime.handle().clone());
    let mut shards = Vec::with_capacity(opened.len());
    let mut followed = Vec::with_capacity(opened.len());
    for (index, opened) in found.map.topology().indices().zip(opened) {
        let name = found.map.topology().name(index);
        let Opened { primary, replicas, position } = opened;
        let history = history(&primary.identity);
        let progress = Progress::new(history, position, replicas.len()).asked();
        let progress = Arc::new(progress);
        progress.schema_changed(position);
        let writer = PgWriter::new(name, primary.clone(), &progress);
        let lane = Lane::spawn(name, writer, homes.another());
        let readers = NodeReaders::start(&primary, topology::Role::Primary, name, &homes);
        let log = Arc::new(PrimaryLog::new(primary.clone()));
        let numbered = replicas.into_iter().enumerate();
        let replicas = numbered.map(|(index, replica)| {
            let followed = (index, &progress);
            let watched =
                StreamingReplica::start(replica, Arc::clone(&log), followed, (name, &homes));
            Replica::Postgres(watched)
        });
        let replicas = replicas.collect();
        let readers = Readers::Postgres(Arc::new(readers));
        shards.push(Shard::new(name, Arc::clone(&progress), lane, readers, replicas));
        followed.push((primary, progress));
    }
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

/// The timelines of a shard. Only the current one is known: what was seen on an older one may be lost.
fn history(identity: &Identity) -> History {
    let mut timeline = [0; 12];
    timeline[..8].copy_from_slice(&identity.system.to_be_bytes());
    timeline[8..].copy_from_slice(&identity.timeline.to_be_bytes());
    // Two of one cluster that differ are told apart but for one chance in four billions.
    let timeline = xxhash_rust::xxh3::xxh3_64(&timeline) as u32;
    History::new(vec![(timeline, 0)]).unwrap_or_else(|| unreachable!("one timeline is in order"))
}
