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
use engine::OpenedCluster;
use engine::ReplicaNode as _;
use engine::access_store::AccessFeed;
use engine::cluster_spec::{ClusterSpec, warn_of_differences};
use engine::group_rows::misplaced_tables;
use engine::index_record::changes_of_new_shard;
use engine::open_error::OpenError;
use engine::published_map::PublishedMap;
use engine::replication::ReplicaState;
use engine::runtime_pool::RuntimePool;
use engine::schema_agreement::{Agreement, Declared, agree};
use model::map_change::MapChange;
use model::shard_map::{ShardMap, without_joining};
use model::table::Registry;
use model::topology::{ShardNumber, ShardSpec, ShardState};
use tokio::runtime::Runtime;
use tokio::sync::Mutex;

use super::backend::Servers;
use super::catalog::{Catalog, Cluster, IndexTables};
use super::catalog_follower::{CatalogFollower, FollowedShards};
use super::catalog_watch;
use super::discovery::{self, Members};
use super::node::Node;
use super::node_address::{ClusterAddress, NodeAddress, ServerEngine, ShardAddress};
use super::primary_tracker::PrimaryTracker;
use super::shard_addresses::{self, JoiningShards, ShardAddresses};
use super::shard_database::{Claim, Found, signature};
use super::shard_opening::{ClaimedShard, PreparedShard, ServerShard, check_engine};

/// Addresses and settings of a cluster of PostgreSQL nodes.
#[derive(Clone, Debug)]
pub struct ConnectedCluster {
    /// Addresses of the nodes.
    pub address: ClusterAddress,
    /// Settings that the operator has specified.
    pub wanted: ClusterSpec,
}

/// Maximum time that a start waits for the state of each replica: busy servers respond late.
const REPLICAS_WAIT: Duration = Duration::from_secs(10);

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
    Ok(assemble(runtime, prepared, cluster.address.clone()))
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
    shards: Vec<PreparedShard>,
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
    shards: Vec<Members>,
}

/// Maximum number of attempts to lock a cluster that other routers change meanwhile.
const LOOKS_MAX: usize = 5;

/// Finds all nodes, locks the catalog and reads it, or creates it for a new cluster.
async fn lock(
    cluster: &ConnectedCluster,
    joining: &mut JoiningShards,
) -> Result<LockedCluster, OpenError> {
    for _ in 0..LOOKS_MAX {
        if let Some(locked) = try_lock(cluster, joining).await? {
            return Ok(locked);
        }
    }
    let cause = "the cluster has changed each time while it was opened: start the router again";
    Err(OpenError::node("the catalog", cause))
}

/// Attempts to lock the catalog; returns `None` if another router has changed the shards after they
/// were found.
async fn try_lock(
    ConnectedCluster { address, wanted }: &ConnectedCluster,
    joining: &mut JoiningShards,
) -> Result<Option<LockedCluster>, OpenError> {
    let ShardAddresses { cluster: address, is_made, catalog_shard, differences, opened, .. } =
        &shard_addresses::find(address, joining).await?;
    if address.engine == ServerEngine::Citus && !wanted.groups.is_empty() {
        let cause = "Citus distributes the rows itself: table groups are not supported with it";
        return Err(OpenError::Conflict(cause.to_owned()));
    }
    let names: Vec<String> = address.shards.iter().enumerate().map(name).collect();
    let shards = discovery::find(address, &names, opened).await?;
    check_distinct(&shards, &names)?;
    for (shard, name) in shards.iter().zip(&names) {
        check_engine(&shard.session, name, address.engine).await?;
    }
    let at = address.catalog.as_ref().unwrap_or(&shards[*catalog_shard].nodes[0].address);
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
        check_unsigned(&shards, &names).await?;
    }
    let catalog = catalog.migrate().await?;
    let mut found = catalog.cluster(&wanted_of(wanted, address, *is_made), &names).await?;
    if joining.are_left_out {
        found.map = without_joining(&found.map);
    }
    let topology = found.map.topology();
    if !topology.members().map(|(_, shard)| &shard.name).eq(&names) {
        return Ok(None);
    }
    let weights = weight_differences(&found, address);
    let all = differences.iter().chain(&found.differences).chain(&weights);
    warn_of_differences(&all.cloned().collect::<Vec<_>>());
    Ok(Some(LockedCluster { catalog, nodes, found, names, shards }))
}

/// Returns the settings to compare with the catalog. The addresses of a new cluster determine its
/// shards; those of an existing cluster are compared separately.
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
            "the weight of {name} is {own}, not {weight}: `shard-manager shard weight {name} {weight}` changes it"
        ))
    });
    other.collect()
}

/// Checks every node, and brings all shards to the same schema. A shard whose join was interrupted
/// completes its join, or is left out if that fails.
async fn prepare(cluster: &ConnectedCluster) -> Result<PreparedCluster, OpenError> {
    let mut joining = JoiningShards::default();
    let error = match prepare_shards(cluster, &mut joining).await {
        Err(error) if !joining.names.is_empty() => error,
        prepared => return prepared,
    };
    joining.are_left_out = true;
    let prepared = prepare_shards(cluster, &mut joining).await?;
    tracing::warn!(
        shards = joining.names.join(", "),
        %error,
        "the join of a shard was cut off and cannot be finished now: the router starts without the shard"
    );
    Ok(prepared)
}

async fn prepare_shards(
    cluster: &ConnectedCluster,
    joining: &mut JoiningShards,
) -> Result<PreparedCluster, OpenError> {
    let failed = |error| OpenError::node("catalog", error);
    let LockedCluster { catalog, nodes, mut found, names, shards } = lock(cluster, joining).await?;
    let pending = catalog.intents().load().await.map_err(|error| failed(error.to_string()))?;
    let (mut claimed, mut tables) = (Vec::new(), Vec::new());
    for ((number, spec), members) in found.map.topology().members().zip(shards) {
        let slots: Vec<u16> = found.map.slots_of(number).collect();
        let is_new = !found.ready || spec.state == ShardState::Joining;
        let (cluster_id, shard) = (&*found.cluster_id, &*spec.name);
        let groups = found.map.groups();
        let new_slots = &groups.slots_of(number, &found.unready_groups);
        let claim = Claim { cluster_id, shard, slots: &slots, new_slots, groups, is_new };
        let claimed_shard = ClaimedShard::claim(members, &claim, cluster.address.engine).await?;
        claimed.push(claimed_shard.0);
        tables.push(claimed_shard.1);
    }
    let declared: Vec<Declared<'_>> = tables
        .into_iter()
        .zip(&names)
        .map(|(Found { tables, made, .. }, shard)| Declared { shard, tables, made })
        .collect();
    let Agreement { registry, changes } = agree(&declared, &pending)?;
    warn_of_differences(&misplaced_tables(&found.map, &registry));
    let indexes =
        IndexTables::of(&catalog).list().await.map_err(|error| failed(error.to_string()))?;
    let indexes = changes_of_new_shard(&indexes, &registry);
    let mut shards = Vec::with_capacity(claimed.len());
    let states = found.map.topology().members().map(|(_, shard)| shard.state);
    for ((shard, mut changes), state) in claimed.into_iter().zip(changes).zip(states) {
        if state == ShardState::Joining {
            changes.extend(indexes.iter().cloned());
        }
        shards.push(shard.settle(&changes).await?);
    }
    catalog.set_ready().await?;
    let numbers = found.map.topology().numbers().map(|number| i64::from(number.0));
    let located: Vec<_> = numbers.zip(shards.iter().map(PreparedShard::location)).collect();
    let kept = catalog.map_tables().keep_addresses(&located).await;
    kept.map_err(|error| failed(error.to_string()))?;
    for intent in &pending {
        let removed = catalog.intents().remove(intent.table.name()).await;
        removed.map_err(|error| failed(error.to_string()))?;
    }
    found.map = finish_joins(&catalog, found.map).await?;
    catalog.unlock().await?;
    Ok(PreparedCluster { shards, registry, found, catalog: nodes })
}

/// Lets the shards whose join was interrupted serve, and returns the map after that.
async fn finish_joins(catalog: &Catalog, mut map: ShardMap) -> Result<ShardMap, OpenError> {
    let is_joining = |(_, shard): &(ShardNumber, &ShardSpec)| shard.state == ShardState::Joining;
    let joining =
        |map: &ShardMap| map.topology().members().find(is_joining).map(|(number, _)| number);
    while let Some(shard) = joining(&map) {
        let change = MapChange::State { shard, state: ShardState::Serving };
        let changed = catalog.map_tables().change_map((&change, map.epoch()), None).await;
        map = changed.map_err(|error| OpenError::node("catalog", error))?;
        let name = map.topology().name(shard);
        tracing::info!(shard = name, "the join of a shard that was cut off is finished");
    }
    Ok(map)
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
    let ShardAddresses { cluster: address, is_made, catalog_shard, differences, opened, .. } =
        shard_addresses::find(address, &mut JoiningShards::default()).await?;
    let names: Vec<String> = address.shards.iter().enumerate().map(name).collect();
    check_distinct(&discovery::find(&address, &names, &opened).await?, &names)?;
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
fn check_distinct(shards: &[Members], names: &[String]) -> Result<(), OpenError> {
    let place = |shard: &Members| {
        let identity = &shard.session.identity;
        (identity.system, identity.database.clone())
    };
    for (index, shard) in shards.iter().enumerate() {
        let before = shards[..index].iter().position(|other| place(other) == place(shard));
        if let Some(before) = before {
            return Err(OpenError::Conflict(format!(
                "{} and {} are the same database: give each shard its own",
                names[before], names[index]
            )));
        }
    }
    Ok(())
}

/// Refuses databases that belong to a cluster already. Called when the catalog is empty, so that
/// the cluster is a new one.
async fn check_unsigned(shards: &[Members], names: &[String]) -> Result<(), OpenError> {
    for (shard, name) in shards.iter().zip(names) {
        let node = format!("{name}-primary");
        let signed = signature(&shard.session.connection).await;
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

/// Starts the readers and the watchers of all shards, and follows the catalog.
fn assemble(
    runtime: Runtime,
    prepared: PreparedCluster,
    settings: ClusterAddress,
) -> OpenedCluster {
    let PreparedCluster { shards: opened, registry, found, catalog } = prepared;
    let entered = runtime.enter();
    let runtimes = RuntimePool::new(runtime.handle().clone());
    let topology = found.map.topology();
    let shards: Vec<ServerShard> = topology
        .numbers()
        .zip(opened)
        .map(|(number, shard)| shard.start(topology.name(number), settings.disk_bytes, &runtimes))
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
        backend: Box::new(Servers::new(
            follower,
            (runtime, runtimes),
            (settings, found.cluster_id),
        )),
    }
}
