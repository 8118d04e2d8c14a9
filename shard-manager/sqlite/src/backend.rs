//! Backend: the resources that all shards of a data directory share, which are its lock, its
//! catalog and background work.
//!
//! **Invariant:** background work ends before the lock of the directory is released.
//! **Not here:** opening the directory (`open`).

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use engine::access_store::AccessStore;
use engine::backup_maker::BackupMaker;
use engine::catalog_rows::MapChangeError;
use engine::index_catalog::IndexCatalog;
use engine::move_catalog::MoveCatalog;
use engine::new_shard::{NewShard, NewShardRefusal};
use engine::node_distributor::NodeDistributor;
use engine::operator_queue::{OperatorCommand, OperatorQueue};
use engine::published_map::PublishedMap;
use engine::rebalance_catalog::RebalanceCatalog;
use engine::runtime_pool::RuntimePool;
use engine::{ClusterBackend, EngineFuture, OpenedShard, ReplicaIsolation, SchemaLock};
use futures_util::future::{BoxFuture, ready};
use model::error::Error;
use model::map_change::MapChange;
use model::shard_map::ShardMap;
use model::table::{Registry, Table};
use model::topology::ShardNumber;
use tokio::sync::mpsc::Receiver;
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::access_store::FileAccess;
use super::backup::BackupSource;
use super::catalog;
use super::catalog_failure::not_opened;
use super::connection::open;
use super::control::ControlSocket;
use super::data_dir::DataDir;
use super::file_watch::FileWatch;
use super::intents::{self, Intent, IntentTable};
use super::listed_moves::FileMoves;
use super::shard_files::ShardFiles;

/// The files of an embedded cluster, and the background work on them.
pub(super) struct Files {
    /// Socket for commands to the running cluster.
    control_socket: ControlSocket,
    shard_files: Arc<ShardFiles>,
    /// Dropped before the lock is released.
    file_watch: FileWatch,
    /// Held as long as anything may write.
    data_dir: DataDir,
    access: FileAccess,
    moves: FileMoves,
    /// Locked from a change of the map until the changed map is in force.
    map_turn: Arc<Mutex<()>>,
    operator_queue: Arc<OperatorQueue>,
    backup_source: Arc<BackupSource>,
}

impl Files {
    /// Takes over the files of a data directory, and accepts commands from now on.
    pub(super) fn new(
        backup_source: &Arc<BackupSource>,
        data_dir: DataDir,
        file_watch: FileWatch,
        shard_files: ShardFiles,
    ) -> Self {
        let (file_checks, closed) = (file_watch.file_checks(), shard_files.closed());
        let access = FileAccess::new(data_dir.catalog(), file_checks, closed);
        let moves = FileMoves::new(data_dir.catalog(), file_checks, closed);
        let (map_turn, operator_queue) = (Arc::default(), Arc::default());
        let map = shard_files.map();
        let control_socket = ControlSocket::open(backup_source, &access, &operator_queue, map);
        let shard_files = Arc::new(shard_files);
        Self {
            control_socket,
            shard_files,
            file_watch,
            data_dir,
            access,
            moves,
            map_turn,
            operator_queue,
            backup_source: Arc::clone(backup_source),
        }
    }

    /// Returns the directory.
    pub(super) fn data_dir(&self) -> &DataDir {
        &self.data_dir
    }

    /// Returns the signal that ends background work.
    pub(super) fn closed(&self) -> &Arc<AtomicBool> {
        self.shard_files.closed()
    }
}

impl ClusterBackend for Files {
    fn lock_schema(
        &self,
        local: OwnedMutexGuard<()>,
        _: Instant,
    ) -> EngineFuture<'_, Box<dyn SchemaLock>> {
        let locked = self.file_watch.check().map(|()| {
            let (catalog, closed) = (self.data_dir.catalog(), Arc::clone(self.closed()));
            Box::new(FileLock { catalog, closed, local: Arc::new(local) }) as Box<dyn SchemaLock>
        });
        Box::pin(ready(locked))
    }

    fn change_map(
        &self,
        change: MapChange,
        expected_epoch: u64,
    ) -> BoxFuture<'_, Result<Arc<ShardMap>, MapChangeError>> {
        if let Err(error) = self.file_watch.check() {
            return Box::pin(ready(Err(MapChangeError::Failed(error))));
        }
        let (catalog, closed) = (self.data_dir.catalog(), Arc::clone(self.closed()));
        let (map, turn) = (Arc::clone(self.shard_files.map()), Arc::clone(&self.map_turn));
        let work = move || {
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            if closed.load(Ordering::Acquire) {
                // Another process may own the catalog by now.
                return Err(MapChangeError::Failed(intents::ending()));
            }
            let opened = open(&catalog, "").map_err(|error| not_opened(&catalog, error));
            let mut connection = opened.map_err(MapChangeError::Failed)?;
            let next = catalog::change_map(&mut connection, (&change, expected_epoch))?;
            Ok(publish(&map, next))
        };
        Box::pin(async move {
            let changed = tokio::task::spawn_blocking(work).await;
            changed.unwrap_or(Err(MapChangeError::Unknown(Error::Internal)))
        })
    }

    fn update_map(&self, _epoch: u64, _deadline: Instant) -> EngineFuture<'_, ()> {
        // No other process changes the catalog.
        Box::pin(ready(Ok(())))
    }

    fn check_new_shard<'a>(
        &'a self,
        shard: &'a NewShard,
        _deadline: Instant,
    ) -> BoxFuture<'a, Result<Option<String>, NewShardRefusal>> {
        if let Err(error) = self.file_watch.check() {
            return Box::pin(ready(Err(NewShardRefusal::Failed(error))));
        }
        let (shard_files, shard) = (Arc::clone(&self.shard_files), shard.clone());
        Box::pin(async move {
            let checked = tokio::task::spawn_blocking(move || shard_files.check(&shard)).await;
            checked.unwrap_or(Err(NewShardRefusal::Failed(Error::Internal))).map(|()| None)
        })
    }

    fn open_shard<'a>(
        &'a self,
        number: ShardNumber,
        tables: &'a Registry,
        _deadline: Instant,
    ) -> BoxFuture<'a, Result<OpenedShard, NewShardRefusal>> {
        let (shard_files, tables) = (Arc::clone(&self.shard_files), tables.clone());
        let (opened, done) = oneshot::channel();
        Box::pin(async move {
            tokio::task::spawn_blocking(move || shard_files.open(number, &tables, opened));
            let failed = NewShardRefusal::Failed(Error::Internal);
            let shard = done.await.unwrap_or_else(|_panicked| Err(failed.clone()))?;
            shard.take().ok_or(failed)
        })
    }

    fn release_shard(&self, number: ShardNumber) {
        self.shard_files.release(number);
    }

    fn access_store(&self) -> &dyn AccessStore {
        &self.access
    }

    fn move_catalog(&self) -> Option<&dyn MoveCatalog> {
        Some(&self.moves)
    }

    fn rebalance_catalog(&self) -> Option<&dyn RebalanceCatalog> {
        Some(&self.moves)
    }

    fn index_catalog(&self) -> Option<&dyn IndexCatalog> {
        Some(&self.moves)
    }

    fn node_distributor(&self) -> Option<&dyn NodeDistributor> {
        None
    }

    fn holds_catalog(&self, _number: ShardNumber) -> bool {
        // The catalog is a file of its own.
        false
    }

    fn backup_maker(&self) -> Option<Arc<dyn BackupMaker>> {
        Some(Arc::clone(&self.backup_source) as Arc<dyn BackupMaker>)
    }

    fn operator_commands(&self) -> Option<Receiver<OperatorCommand>> {
        self.operator_queue.open()
    }

    fn runtime_pool(&self) -> Option<&RuntimePool> {
        None
    }

    fn isolation(&self) -> ReplicaIsolation {
        ReplicaIsolation::SameMachine
    }

    fn is_unclean(&self) -> bool {
        self.data_dir.is_unclean()
    }

    fn unlogged_tables(&self) -> Vec<String> {
        Vec::new()
    }

    fn stop_background(&self) {
        self.closed().store(true, Ordering::Release);
        self.control_socket.close();
        self.shard_files.close();
    }

    fn release(&self) {
        self.data_dir.close();
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.shard_files.close();
    }
}

/// Puts the next map in force, with those shards that are open.
fn publish(map: &PublishedMap, next: ShardMap) -> Arc<ShardMap> {
    if let Err(error) = map.publish_open(next.clone()) {
        tracing::error!(%error, "the shard map in force stays until its shards are open");
    }
    Arc::new(next)
}

/// Lock on the tables of an embedded cluster. Only this process writes, so the local lock is
/// enough.
struct FileLock {
    catalog: PathBuf,
    closed: Arc<AtomicBool>,
    local: Arc<OwnedMutexGuard<()>>,
}

impl FileLock {
    /// Works on the table of intents in the catalog, on a thread that may block.
    fn with_intents<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut IntentTable) -> Result<T, Error> + Send + 'static,
    ) -> EngineFuture<'_, T> {
        let (catalog, closed) = (self.catalog.clone(), Arc::clone(&self.closed));
        // The next change waits for this work even if the future is dropped.
        let local = Arc::clone(&self.local);
        Box::pin(async move {
            let task = tokio::task::spawn_blocking(move || {
                let _local = local;
                if closed.load(Ordering::Acquire) {
                    // Another process may own the catalog by now.
                    return Err(intents::ending());
                }
                let opened = IntentTable::open(&catalog);
                work(&mut opened.map_err(|error| not_opened(&catalog, error))?)
            });
            task.await.unwrap_or(Err(Error::Internal))
        })
    }
}

impl SchemaLock for FileLock {
    fn pending(&self) -> EngineFuture<'_, Vec<Intent>> {
        self.with_intents(IntentTable::list)
    }

    fn record_create<'a>(&'a self, table: &'a Table) -> EngineFuture<'a, ()> {
        let table = table.clone();
        self.with_intents(move |intents| intents.note(&table))
    }

    fn record_undo<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()> {
        let name = name.to_owned();
        self.with_intents(move |intents| intents.turn_to_undo(&name))
    }

    fn remove<'a>(&'a self, name: &'a str) -> EngineFuture<'a, ()> {
        let name = name.to_owned();
        self.with_intents(move |intents| intents.remove(&name))
    }
}
