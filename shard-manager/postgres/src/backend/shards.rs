//! Shards: opens a shard that joins an open cluster, and releases one that has retired.
//!
//! **Invariant:** the follower of the catalog knows a shard before a map names it.
//! **Not here:** the check of a new database (`new_shard_check`), the steps of a join (`cluster`).

use std::sync::{Arc, PoisonError};

use engine::catalog_rows::MapChangeError;
use engine::index_catalog::IndexCatalog as _;
use engine::index_record::changes_of_new_shard;
use engine::new_shard::{NewShard, NewShardRefusal};
use engine::open_error::OpenError;
use engine::{OpenedShard, SchemaChange};
use model::error::Error;
use model::map_change::{MapChange, MapChangeRefusal};
use model::shard_map::ShardMap;
use model::slot_set::SlotSet;
use model::table::{Registry, TableDifference};
use model::topology::{ShardNumber, ShardState};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::Servers;
use crate::catalog::{self, StoredMap};
use crate::catalog_follower::read_arrivals;
use crate::discovery::{self, OpenedSessions, ask_all, best};
use crate::new_shard_check::{self, JoinedCluster};
use crate::node::Node;
use crate::node_address::{ClusterAddress, NodeAddress};
use crate::primary_tracker::PrimaryTracker;
use crate::shard_addresses;
use crate::shard_database::{Claim, Found};
use crate::shard_opening::{ClaimedShard, PreparedShard, ServerShard, check_engine};

/// Shard as the catalog lists it.
struct ListedShard {
    name: String,
    is_joining: bool,
    location: NodeAddress,
}

impl ListedShard {
    /// Returns a shard that has not retired.
    fn find(stored: &StoredMap, number: ShardNumber) -> Result<Self, NewShardRefusal> {
        let unsuitable = |place: String, cause: &str| {
            let cause = cause.to_owned();
            NewShardRefusal::Unsuitable { place, cause }
        };
        let mut members = stored.map.topology().members();
        let member = members.find(|(member, _)| *member == number).map(|(_, member)| member);
        let member = member.ok_or_else(|| {
            unsuitable(format!("the shard number {}", number.0), "the catalog does not list it")
        })?;
        let address = stored.shards.get(number.index()).and_then(|row| row.address.as_ref());
        let location = address.and_then(|address| NodeAddress::parse_location(address).ok());
        let location = location.ok_or_else(|| {
            unsuitable(member.name.clone(), "the catalog has no address of its servers")
        })?;
        let is_joining = member.state == ShardState::Joining;
        Ok(Self { name: member.name.clone(), is_joining, location })
    }

    fn unsuitable(&self, cause: impl std::fmt::Display) -> NewShardRefusal {
        let (place, cause) = (self.location.to_string(), cause.to_string());
        NewShardRefusal::Unsuitable { place, cause }
    }
}

impl Servers {
    pub(super) async fn check_joining(
        &self,
        shard: &NewShard,
    ) -> Result<Option<String>, NewShardRefusal> {
        if self.distributes_itself() {
            return Err(NewShardRefusal::Unsupported);
        }
        let location = new_shard_check::location(shard)?;
        let stored = self.stored_map().await?;
        let followed = self.follower.shards.load_full();
        let replicas = followed.values().map(|(leader, _)| leader.members().len() - 1).min();
        let cluster = JoinedCluster {
            settings: &self.settings,
            cluster_id: &self.cluster_id,
            stored: &stored,
            replicas: replicas.unwrap_or(0),
        };
        new_shard_check::check(&shard.name, &location, &cluster).await.map(Some)
    }

    pub(super) async fn open_listed(
        &self,
        number: ShardNumber,
        tables: &Registry,
    ) -> Result<OpenedShard, NewShardRefusal> {
        if self.distributes_itself() {
            return Err(NewShardRefusal::Unsupported);
        }
        let stored = self.stored_map().await?;
        let shard = ListedShard::find(&stored, number)?;
        let cluster = shard_addresses::cluster_of((&shard.name, &shard.location), &self.settings);
        let cluster = cluster.ok_or_else(|| {
            let host = shard.location.hosts[0].to_string();
            NewShardRefusal::NoCredentials { host }
        })?;
        check_answers(&cluster, &shard).await?;
        let indexes = match shard.is_joining {
            true => self.moves.list_indexes().await.map_err(NewShardRefusal::Failed)?,
            false => Vec::new(),
        };
        let indexes = changes_of_new_shard(&indexes, tables);
        let prepared = self.prepare((&shard, stored.map), cluster, (tables, indexes)).await?;
        let started = self.start(number, &shard.name, prepared)?;
        // The shard may have accepted slots after the position was read at which it was opened.
        if !shard.is_joining
            && let Err(cause) = read_arrivals(&self.follower).await
        {
            self.release_listed(number);
            return Err(NewShardRefusal::Failed(catalog::unavailable(&cause)));
        }
        Ok(started)
    }

    /// Prepares the database of a shard on the runtime of this engine, because migrations block
    /// their thread. The work ends when this future is dropped.
    async fn prepare(
        &self,
        (shard, map): (&ListedShard, ShardMap),
        cluster: ClusterAddress,
        (tables, indexes): (&Registry, Vec<SchemaChange>),
    ) -> Result<PreparedShard, NewShardRefusal> {
        let (cluster_id, name, tables) =
            (self.cluster_id.clone(), shard.name.clone(), tables.clone());
        let is_joining = shard.is_joining;
        let preparation = async move {
            let (cluster_id, shard, groups) = (&*cluster_id, &*name, map.groups());
            let (slots, new_slots, is_new) = (&[], &SlotSet::empty(), is_joining);
            let claim = Claim { cluster_id, shard, slots, new_slots, groups, is_new };
            prepare(&claim, &cluster, (&tables, indexes)).await
        };
        let mut task = JoinSet::new();
        task.spawn_on(preparation, &self.runtime(&shard.name)?);
        match task.join_next().await {
            Some(Ok(prepared)) => prepared.map_err(|error| shard.unsuitable(error)),
            Some(Err(_)) | None => Err(NewShardRefusal::Failed(Error::Internal)),
        }
    }

    /// Starts the readers and watchers of a shard on the runtime of this engine, and follows its
    /// tables.
    fn start(
        &self,
        number: ShardNumber,
        name: &str,
        prepared: PreparedShard,
    ) -> Result<OpenedShard, NewShardRefusal> {
        let runtime = self.runtime(name)?;
        let _entered = runtime.enter();
        let started = prepared.start(name, self.settings.disk_bytes, &self.runtimes);
        let ServerShard { opened, leader, .. } = started;
        // An earlier attempt may have opened the shard and failed later.
        self.release_listed(number);
        self.follower.add_shard(number, (leader, Arc::clone(&opened.replication)));
        Ok(opened)
    }

    /// Returns the runtime of this engine. Fails after the cluster was closed.
    fn runtime(&self, shard: &str) -> Result<Handle, NewShardRefusal> {
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        let closed =
            || NewShardRefusal::Failed(Error::ShardUnavailable { shard: shard.to_owned() });
        runtime.as_ref().map(|runtime| runtime.handle().clone()).ok_or_else(closed)
    }

    pub(super) fn release_listed(&self, number: ShardNumber) {
        self.follower.release_shards(|released| released == number);
    }

    /// Refuses to retire the shard whose database holds the catalog.
    pub(super) fn check_change(&self, change: &MapChange) -> Result<(), MapChangeError> {
        if self.distributes_itself() {
            return Err(MapChangeError::Unsupported);
        }
        let MapChange::State { shard, state: ShardState::Retired } = change else { return Ok(()) };
        if self.has_catalog(*shard) {
            let shard = self.follower.map.shard_name(*shard).to_owned();
            return Err(MapChangeRefusal::HoldsCatalog { shard }.into());
        }
        Ok(())
    }

    /// Returns true if the catalog is in the database of a shard.
    pub(super) fn has_catalog(&self, shard: ShardNumber) -> bool {
        let followed = self.follower.shards.load();
        let leader = followed.get(&shard).map(|(leader, _)| leader);
        leader.is_some_and(|leader| are_same(leader, &self.follower.catalog))
    }

    /// Returns true if the engine of the cluster distributes the rows itself.
    pub(super) fn distributes_itself(&self) -> bool {
        self.follower.shards.load().values().any(|(leader, _)| leader.citus().is_some())
    }

    async fn stored_map(&self) -> Result<StoredMap, NewShardRefusal> {
        let failed =
            |cause: &dyn std::fmt::Display| NewShardRefusal::Failed(catalog::unavailable(cause));
        let (catalog, term) =
            self.follower.connect("shards").await.map_err(|error| failed(&error))?;
        tokio::select! {
            stored = catalog.map_tables().stored_map() => stored.map_err(|error| failed(&error)),
            () = self.follower.catalog.terms().ended(term) => {
                Err(failed(&"another node is its primary now"))
            }
        }
    }
}

/// Claims the database of a joining shard, and creates its tables with these indexes. The database
/// of a serving shard must have the tables.
async fn prepare(
    claim: &Claim<'_>,
    cluster: &ClusterAddress,
    (tables, indexes): (&Registry, Vec<SchemaChange>),
) -> Result<PreparedShard, OpenError> {
    let (names, opened) = ([claim.shard.to_owned()], OpenedSessions::default());
    let mut found = discovery::find(cluster, &names, &opened).await?;
    let members = found.remove(0);
    check_engine(&members.session, claim.shard, cluster.engine).await?;
    let (claimed, Found { tables: known, .. }) =
        ClaimedShard::claim(members, claim, cluster.engine).await?;
    let mut lacking = lacking(&known, tables)?;
    if let Some(change) = lacking.first().filter(|_| !claim.is_new) {
        let cause = format!("it lacks the table {}", change.table().name());
        return Err(OpenError::Conflict(cause));
    }
    lacking.extend(indexes);
    claimed.settle(&lacking).await
}

/// Returns true if both trackers follow the same database.
fn are_same(one: &PrimaryTracker, other: &PrimaryTracker) -> bool {
    let place = |Node { identity, .. }: &Node| (identity.system, identity.database.clone());
    place(&one.members()[0]) == place(&other.members()[0])
}

/// Checks that a primary answers at the address of a shard.
async fn check_answers(
    cluster: &ClusterAddress,
    shard: &ListedShard,
) -> Result<(), NewShardRefusal> {
    let listed = cluster.shards.iter().map(|shard| &shard.primary).chain(&cluster.replicas);
    let attempts = ask_all(listed, cluster).await;
    if best(&attempts).is_some() {
        return Ok(());
    }
    let failed = attempts.iter().find_map(|attempt| {
        attempt.found.as_ref().err().map(|error| new_shard_check::unreachable(&attempt.at, error))
    });
    Err(failed.unwrap_or_else(|| shard.unsuitable("none of its servers accepts writes")))
}

/// Returns the changes that create the tables that a shard does not have yet.
///
/// # Errors
/// [`OpenError::Conflict`] if the shard has a table with another declaration.
fn lacking(known: &Registry, tables: &Registry) -> Result<Vec<SchemaChange>, OpenError> {
    let mut changes = Vec::new();
    for table in tables.tables() {
        match known.find(table.name()) {
            Some(same) if same == table => {}
            Some(other) => {
                let difference =
                    TableDifference::between(other, table).map(|found| found.to_string());
                let cause = format!(
                    "its table {} is another one: {}",
                    table.name(),
                    difference.unwrap_or_default()
                );
                return Err(OpenError::Conflict(cause));
            }
            None => changes.push(SchemaChange::Make(Arc::clone(table))),
        }
    }
    Ok(changes)
}
