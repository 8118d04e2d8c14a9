//! Cluster backend: the trait through which the cluster uses what its shards share: the catalog,
//! and the resources that are held as long as the cluster is open.
//!
//! **Invariant:** table definitions are changed only while a [`SchemaLock`] is held, and only one
//! such lock exists at a time.
//! **Not here:** the steps of a change (`manager/schema`).

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use model::map_change::MapChange;
use model::shard_map::ShardMap;
use model::table::{Registry, Table};
use model::topology::ShardNumber;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::mpsc::Receiver;

use super::EngineFuture;
use super::access_store::AccessStore;
use super::backup_maker::BackupMaker;
use super::catalog_rows::MapChangeError;
use super::index_catalog::IndexCatalog;
use super::move_catalog::MoveCatalog;
use super::new_shard::{NewShard, NewShardRefusal};
use super::node_distributor::NodeDistributor;
use super::opened_shard::OpenedShard;
use super::operator_queue::OperatorCommand;
use super::rebalance_catalog::RebalanceCatalog;
use super::runtime_pool::RuntimePool;
use super::schema_intent::Intent;

/// Degree to which the replicas of a shard fail independently of its primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIsolation {
    /// All nodes are files on one machine, and fail together with that machine.
    SameMachine,
    /// Each node is a server of its own.
    OwnServers,
}

/// Catalog and shared resources of an open cluster.
pub trait ClusterBackend: Send + Sync {
    /// Takes the lock that is required for changes of table definitions. The guard `local` keeps
    /// out other tasks of this process, and a lock in the catalog keeps out other processes.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`](model::error::Error::DeadlinePassed), or the error of the catalog.
    fn lock_schema(
        &self,
        local: OwnedMutexGuard<()>,
        deadline: Instant,
    ) -> EngineFuture<'_, Box<dyn SchemaLock>>;

    /// Changes the shard map in the catalog, if its epoch is still `expected_epoch`, and returns
    /// the new map. This process uses the new map for routing from then on.
    ///
    /// # Errors
    /// [`MapChangeError`].
    fn change_map(
        &self,
        change: MapChange,
        expected_epoch: u64,
    ) -> BoxFuture<'_, Result<Arc<ShardMap>, MapChangeError>>;

    /// Reads the shard map from the catalog, unless this process already has a map of this epoch or
    /// a later one. Concurrent calls share one read. If the catalog has lost maps in a failover
    /// that this process knows, the catalog's epoch is first raised above the epochs of those maps.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`](model::error::Error::DeadlinePassed), or the error of the catalog.
    /// It is also an error if the map in the catalog is older than `epoch`.
    fn update_map(&self, epoch: u64, deadline: Instant) -> EngineFuture<'_, ()>;

    /// Checks that a shard can join, and returns the address of its servers for the catalog,
    /// without user and password; `None` for files. Changes nothing. If a shard of this name is
    /// already joining or serving and the URL is its own, the check succeeds, so that a join can be
    /// repeated.
    ///
    /// # Errors
    /// [`NewShardRefusal`].
    fn check_new_shard<'a>(
        &'a self,
        shard: &'a NewShard,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<Option<String>, NewShardRefusal>>;

    /// Opens a shard that the catalog lists but this process has not opened yet. If the shard is
    /// joining and its database or files are missing, they are created with these tables and
    /// without slots. The call may be repeated.
    ///
    /// # Errors
    /// [`NewShardRefusal`]. The shard is not open then.
    fn open_shard<'a>(
        &'a self,
        number: ShardNumber,
        tables: &'a Registry,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<OpenedShard, NewShardRefusal>>;

    /// Releases the engine's resources for a retired shard. Called after the shard was closed.
    fn release_shard(&self, number: ShardNumber);

    /// Returns the store of the API keys, roles and denials in the catalog.
    fn access_store(&self) -> &dyn AccessStore;

    /// Returns the moves of the catalog; `None` if the engine distributes rows by itself.
    fn move_catalog(&self) -> Option<&dyn MoveCatalog>;

    /// Returns the rebalances of the catalog; `None` if the engine distributes rows by itself.
    fn rebalance_catalog(&self) -> Option<&dyn RebalanceCatalog>;

    /// Returns the indexes of the catalog; `None` if the engine has none.
    fn index_catalog(&self) -> Option<&dyn IndexCatalog>;

    /// Returns the interface to an engine that distributes rows over nodes itself; `None` if the
    /// shard map places the rows.
    fn node_distributor(&self) -> Option<&dyn NodeDistributor>;

    /// Returns true if the database of a shard holds the catalog, so that the shard cannot retire.
    fn holds_catalog(&self, number: ShardNumber) -> bool;

    /// Returns the maker of backups; `None` if the engine distributes rows over nodes that this
    /// process does not read.
    fn backup_maker(&self) -> Option<Arc<dyn BackupMaker>>;

    /// Returns the receiver of an operator's commands; `None` if it was taken before, or if this
    /// process receives none.
    fn operator_commands(&self) -> Option<Receiver<OperatorCommand>>;

    /// Returns the runtimes of the tasks that talk to servers; `None` if there are no servers.
    fn runtime_pool(&self) -> Option<&RuntimePool>;

    /// Returns the degree to which the nodes of a shard fail independently.
    fn isolation(&self) -> ReplicaIsolation;

    /// Returns true if the previous process did not shut down cleanly, and no check has found all
    /// files intact since then.
    fn is_unclean(&self) -> bool;

    /// Returns one sentence for each unlogged table. Such a table accepts no writes, because its
    /// server would empty it after a crash. The sentence names the shard and the statement that
    /// repairs the table. No query is sent.
    fn unlogged_tables(&self) -> Vec<String>;

    /// Ends background work. Called before the shards are closed.
    fn stop_background(&self);

    /// Releases all resources. Called after the shards were closed.
    fn release(&self);
}

/// Lock that is required for changes of table definitions, with access to the intents: the
/// catalog's records of changes that are not finished. Dropping the value releases the lock.
pub trait SchemaLock: Send + Sync {
    /// Returns the intents of changes that are not finished.
    ///
    /// # Errors
    /// The error of the catalog.
    fn pending(&self) -> EngineFuture<'_, Vec<Intent>>;

    /// Records durably that a table is being created.
    ///
    /// # Errors
    /// The error of the catalog. Only [`Error::StorageFull`](model::error::Error::StorageFull)
    /// proves that nothing was recorded.
    fn record_create<'a>(&'a self, table: &'a Table) -> EngineFuture<'a, ()>;

    /// Records durably that the creation of a table is abandoned, so that it will exist on no
    /// shard.
    ///
    /// # Errors
    /// Errors of [`SchemaLock::record_create`].
    fn record_undo<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()>;

    /// Removes an intent that was carried out.
    ///
    /// # Errors
    /// Errors of [`SchemaLock::record_create`].
    fn remove<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()>;
}
