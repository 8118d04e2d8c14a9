//! Backend: the resources that all shards of a PostgreSQL cluster share, which are the catalog and
//! the runtimes of the connections.
//!
//! **Not here:** opening the cluster (`open`), following the catalog (`catalog_follower`).

mod access;
mod listed_indexes;
mod listed_moves;
mod node_failures;
mod nodes;
mod shards;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::access_store::AccessStore;
use engine::backup_maker::BackupMaker;
use engine::catalog_rows::MapChangeError;
use engine::index_catalog::IndexCatalog;
use engine::move_catalog::MoveCatalog;
use engine::new_shard::{NewShard, NewShardRefusal};
use engine::node_distributor::NodeDistributor;
use engine::operator_queue::OperatorCommand;
use engine::rebalance_catalog::RebalanceCatalog;
use engine::runtime_pool::RuntimePool;
use engine::schema_intent::Intent;
use engine::{ClusterBackend, EngineFuture, OpenedShard, ReplicaIsolation, SchemaLock};
use futures_util::future::BoxFuture;
use model::error::Error;
use model::map_change::MapChange;
use model::shard_map::ShardMap;
use model::table::{Registry, Table};
use model::topology::ShardNumber;
use tokio::runtime::Runtime;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::mpsc::Receiver;

use super::backup::live::ServerBackups;
use super::catalog::{self, Catalog};
use super::catalog_follower::{CatalogFollower, known_on, read_arrivals, record_arrivals};
use super::node_address::ClusterAddress;
use super::primary_tracker::PrimaryTracker;
use super::term::Term;
use listed_moves::ServerMoves;
use nodes::CitusNodes;

/// Time limit for one operation on the catalog.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Resources that the connections to a cluster of servers share.
pub(super) struct Servers {
    follower: Arc<CatalogFollower>,
    moves: ServerMoves,
    /// Nodes of the cluster, if the engine distributes the rows over them itself.
    nodes: Option<CitusNodes>,
    /// Addresses in the settings of this router, with users and passwords.
    settings: ClusterAddress,
    /// Id of the cluster.
    cluster_id: String,
    /// Drives the connections of long reads and of watchers.
    runtime: Mutex<Option<Runtime>>,
    /// Runtimes of lanes and short reads.
    runtimes: RuntimePool,
}

impl Servers {
    /// Takes over the resources of a cluster that was opened.
    pub(super) fn new(
        follower: Arc<CatalogFollower>,
        (runtime, runtimes): (Runtime, RuntimePool),
        (settings, cluster_id): (ClusterAddress, String),
    ) -> Self {
        let moves = ServerMoves::new(&follower);
        let leaders = follower.shards.load_full();
        let leaders = leaders.values().map(|(leader, _)| leader);
        let coordinator = leaders.into_iter().find(|leader| leader.citus().is_some());
        let nodes =
            coordinator.map(|leader| CitusNodes::new(Arc::clone(leader), runtime.handle().clone()));
        let runtime = Mutex::new(Some(runtime));
        Self { follower, moves, nodes, settings, cluster_id, runtime, runtimes }
    }

    /// Locks the catalog against all other routers, and reads the changes that they made before.
    async fn lock_catalog(
        &self,
        local: OwnedMutexGuard<()>,
        deadline: Instant,
    ) -> Result<Box<dyn SchemaLock>, Error> {
        let failed = |error: String| catalog::unavailable(&error);
        let turn = async {
            loop {
                let (catalog, term) = self.follower.connect("tables").await.map_err(failed)?;
                let turned = async {
                    let catalog = catalog.lock_to_change().await?;
                    let refreshed = self.follower.refresh_from(&catalog, term.timeline);
                    refreshed.await.map_err(failed)?;
                    Ok::<_, Error>(catalog)
                };
                tokio::select! {
                    turned = turned => break Ok((turned?, term)),
                    // Nothing was changed yet: the lock is taken again, on the new primary of the
                    // catalog.
                    () = self.follower.catalog.terms().ended(term) => {}
                }
            }
        };
        let turn = tokio::time::timeout_at(deadline.into(), turn).await;
        let (catalog, term) = turn.unwrap_or(Err(Error::DeadlinePassed))?;
        let leader = Arc::clone(&self.follower.catalog);
        Ok(Box::new(CatalogLock { catalog, leader, term, _local: local }))
    }

    /// Changes the map of the catalog and puts the new map in force.
    async fn change_in_catalog(
        &self,
        change: MapChange,
        expected_epoch: u64,
    ) -> Result<Arc<ShardMap>, MapChangeError> {
        self.check_change(&change)?;
        let known = self.follower.map.backlog().newest_or(self.follower.map.load_full()).epoch();
        let mut has_begun = false;
        let changed = self.moves.with_session(async |catalog, term| {
            has_begun = true;
            let tables = catalog.map_tables();
            // The stored owners decide whether a shard may retire, not those that are known here.
            let is_checked_whole = change.retired().is_some();
            let base = known_on(&self.follower, term.timeline).filter(|_| !is_checked_whole);
            let changed = tables.change_map((&change, expected_epoch), base.as_deref()).await;
            // An error of the change does not make the session unusable for other requests.
            Ok::<_, Error>((changed, term.timeline))
        });
        let changed = changed.await;
        let (next, timeline) = match changed {
            Ok((changed, timeline)) => (changed?, timeline),
            Err(error) if has_begun => return Err(MapChangeError::Unknown(error)),
            Err(error) => return Err(MapChangeError::Failed(error)),
        };
        if let MapChange::Owners { to, floor: Some(floor), .. } = &change {
            record_arrivals(&self.follower.shards.load(), &[(*to, *floor)]);
        }
        // Other routers may have changed the map as well. Without their arrivals it is not put in
        // force here: the follower of the catalog reads both soon.
        if next.epoch() == known + 1 || read_arrivals(&self.follower).await.is_ok() {
            self.follower.adopt(next.clone(), timeline).await;
        }
        Ok(Arc::new(next))
    }

    fn close(&self) {
        self.follower.closed.store(true, Ordering::Release);
        self.moves.close();
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

/// Waits until a shard has been checked or opened, but not beyond the deadline.
async fn in_time<T>(
    work: impl Future<Output = Result<T, NewShardRefusal>>,
    deadline: Instant,
) -> Result<T, NewShardRefusal> {
    let done = tokio::time::timeout_at(deadline.into(), work).await;
    done.unwrap_or(Err(NewShardRefusal::Failed(Error::DeadlinePassed)))
}

/// Schema lock among all routers, held by the session with the catalog.
struct CatalogLock {
    catalog: Catalog,
    leader: Arc<PrimaryTracker>,
    term: Term,
    _local: OwnedMutexGuard<()>,
}

impl CatalogLock {
    /// Waits for a catalog operation. Fails if the catalog's primary changes meanwhile, or does not
    /// answer in time.
    async fn asked<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::select! {
            biased;
            asked = tokio::time::timeout(ANSWER_MAX, asked) => {
                asked.unwrap_or_else(|_elapsed| Err(catalog::unavailable(&"it does not answer")))
            }
            () = self.leader.terms().ended(self.term) => {
                Err(catalog::unavailable(&"another node is its primary now"))
            }
        }
    }
}

impl ClusterBackend for Servers {
    fn lock_schema(
        &self,
        local: OwnedMutexGuard<()>,
        deadline: Instant,
    ) -> EngineFuture<'_, Box<dyn SchemaLock>> {
        Box::pin(self.lock_catalog(local, deadline))
    }

    fn change_map(
        &self,
        change: MapChange,
        expected_epoch: u64,
    ) -> BoxFuture<'_, Result<Arc<ShardMap>, MapChangeError>> {
        Box::pin(self.change_in_catalog(change, expected_epoch))
    }

    fn update_map(&self, epoch: u64, deadline: Instant) -> EngineFuture<'_, ()> {
        Box::pin(async move {
            let updated = self.follower.update_map(epoch);
            let updated = tokio::time::timeout_at(deadline.into(), updated).await;
            updated.unwrap_or(Err(Error::DeadlinePassed))
        })
    }

    fn check_new_shard<'a>(
        &'a self,
        shard: &'a NewShard,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Option<String>, NewShardRefusal>> {
        Box::pin(in_time(self.check_joining(shard), deadline))
    }

    fn open_shard<'a>(
        &'a self,
        number: ShardNumber,
        tables: &'a Registry,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<OpenedShard, NewShardRefusal>> {
        Box::pin(in_time(self.open_listed(number, tables), deadline))
    }

    fn release_shard(&self, number: ShardNumber) {
        self.release_listed(number);
    }

    fn access_store(&self) -> &dyn AccessStore {
        self
    }

    fn move_catalog(&self) -> Option<&dyn MoveCatalog> {
        (!self.distributes_itself()).then_some(&self.moves as &dyn MoveCatalog)
    }

    fn rebalance_catalog(&self) -> Option<&dyn RebalanceCatalog> {
        (!self.distributes_itself()).then_some(&self.moves as &dyn RebalanceCatalog)
    }

    fn index_catalog(&self) -> Option<&dyn IndexCatalog> {
        (!self.distributes_itself()).then_some(&self.moves as &dyn IndexCatalog)
    }

    fn node_distributor(&self) -> Option<&dyn NodeDistributor> {
        self.nodes.as_ref().map(|nodes| nodes as &dyn NodeDistributor)
    }

    fn holds_catalog(&self, number: ShardNumber) -> bool {
        self.has_catalog(number)
    }

    fn backup_maker(&self) -> Option<Arc<dyn BackupMaker>> {
        let maker = || Arc::new(ServerBackups::new(&self.settings)) as Arc<dyn BackupMaker>;
        (!self.distributes_itself()).then(maker)
    }

    fn operator_commands(&self) -> Option<Receiver<OperatorCommand>> {
        // Commands change the servers directly.
        None
    }

    fn runtime_pool(&self) -> Option<&RuntimePool> {
        Some(&self.runtimes)
    }

    fn isolation(&self) -> ReplicaIsolation {
        ReplicaIsolation::OwnServers
    }

    fn is_unclean(&self) -> bool {
        false
    }

    fn unlogged_tables(&self) -> Vec<String> {
        let followed = self.follower.shards.load();
        followed.iter().fold(Vec::new(), |mut all, (number, (leader, _))| {
            let hazards = leader.hazards().current();
            let unlogged = hazards.found().filter(|found| found.is_unlogged());
            let shard = self.follower.map.shard_name(*number);
            all.extend(unlogged.map(|found| format!("{shard}: {found}")));
            all
        })
    }

    fn stop_background(&self) {
        self.follower.closed.store(true, Ordering::Release);
    }

    fn release(&self) {
        self.close();
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.close();
    }
}

impl SchemaLock for CatalogLock {
    fn pending(&self) -> EngineFuture<'_, Vec<Intent>> {
        Box::pin(self.asked(self.catalog.intents().load()))
    }

    fn record_create<'a>(&'a self, table: &'a Table) -> EngineFuture<'a, ()> {
        Box::pin(self.asked(self.catalog.intents().record_create(table)))
    }

    fn record_undo<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()> {
        Box::pin(self.asked(self.catalog.intents().record_undo(name)))
    }

    fn remove<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()> {
        Box::pin(self.asked(self.catalog.intents().remove(name)))
    }
}
