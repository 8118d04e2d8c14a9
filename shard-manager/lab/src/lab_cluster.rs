//! Lab cluster: a temporary cluster of an experiment, and functions that send requests to it.
//!
//! Requests go through the cluster manager, as those of a router do, but without HTTP.
//!
//! **Invariant:** the cluster is closed before its folder is removed.
//! **Not here:** the folder (`work_folder`).

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::rights::Rights;
use assembly::{ConnectedCluster, EmbeddedCluster};
use cache::CacheSettings;
use cluster::manager::{BulkRow, Manager, ReadDone, RequestOptions, WriteReceipt, place_row};
use engine::cluster_spec::ClusterSpec;
use futures_util::future::{Either, select};
use model::error::{Error, Failure};
use model::keyspace::ShardKey;
use model::query::ReadQuery;
use model::row_change::{Operation, RowWrite};
use model::shard_map::KeyLocation;
use model::table::Table;
use model::value::Value;

use crate::lab_error::LabError;

/// Time limit of a request. It is generous, so that slow responses are measured and do not fail.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Row of a table, as pairs of a column name and a value.
pub type LabRow = Vec<(&'static str, Value)>;

/// Cluster of an experiment. It is closed when the value is dropped.
pub struct LabCluster {
    manager: Manager,
}

impl LabCluster {
    /// Opens the cluster of SQLite files in this folder. Creates it first if it does not exist.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub fn embedded(data_dir: PathBuf, shards: usize, replicas: usize) -> Result<Self, LabError> {
        let (shards, replicas) = (Some(shards), Some(replicas));
        let wanted = ClusterSpec { shards, replicas, ..ClusterSpec::default() };
        let manager = assembly::open(&EmbeddedCluster { data_dir, wanted });
        Ok(Self { manager: manager.map_err(LabError::failed)? })
    }

    /// Opens or creates the cluster of SQLite files in this folder, without replicas. Reads may be
    /// answered from a cache with these settings.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub fn cached(
        data_dir: PathBuf,
        shards: usize,
        settings: CacheSettings,
    ) -> Result<Self, LabError> {
        let (shards, replicas) = (Some(shards), Some(0));
        let wanted = ClusterSpec { shards, replicas, ..ClusterSpec::default() };
        let manager = assembly::open(&EmbeddedCluster { data_dir, wanted });
        Ok(Self { manager: manager.map_err(LabError::failed)?.with_cache(settings) })
    }

    /// Opens a cluster of database servers.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub fn connected(cluster: &ConnectedCluster) -> Result<Self, LabError> {
        Ok(Self { manager: assembly::connect(cluster).map_err(LabError::failed)? })
    }

    /// Opens a cluster of database servers. Reads may be answered from a cache with these settings.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub fn connected_and_cached(
        cluster: &ConnectedCluster,
        settings: CacheSettings,
    ) -> Result<Self, LabError> {
        let manager = assembly::connect(cluster).map_err(LabError::failed)?;
        Ok(Self { manager: manager.with_cache(settings) })
    }

    /// Returns the manager of the cluster.
    pub fn manager(&self) -> &Manager {
        &self.manager
    }

    /// Runs the future `work` concurrently with the maintenance task, which opens shards, carries
    /// out moves and builds indexes.
    ///
    /// # Errors
    /// Errors of `work`; [`LabError::Failed`] if the maintenance task ends first.
    pub fn beside_upkeep<T>(
        &self,
        work: impl Future<Output = Result<T, LabError>>,
    ) -> Result<T, LabError> {
        block_on(async {
            match select(pin!(self.manager.shards().keep_up()), pin!(work)).await {
                Either::Left(_) => Err(LabError::failed("the task that moves slots has ended")),
                Either::Right((done, _)) => done,
            }
        })
    }

    /// Returns the names of the shards, in the order of their numbers.
    pub fn names(&self) -> Vec<String> {
        let map = self.manager.map();
        map.topology().members().map(|(_, shard)| shard.name.clone()).collect()
    }

    /// Returns the table with this name.
    ///
    /// # Errors
    /// [`LabError::Failed`] if there is no table with this name.
    pub fn table(&self, name: &str) -> Result<Arc<Table>, LabError> {
        self.manager.schema(Rights::ALL).table(name).map_err(LabError::failed)
    }

    /// Checks a write of a row against the table, and finds the slot and the shard of its key.
    ///
    /// # Errors
    /// [`Error`] if the row does not fit the table.
    pub fn place(
        &self,
        table: &Arc<Table>,
        operation: Operation,
        key: &str,
        row: LabRow,
    ) -> Result<(KeyLocation, RowWrite), Error> {
        let column = |name: &str| {
            table.find(name).ok_or_else(|| Error::NoSuchTable {
                table: format!("{} with a column {name}", table.name()),
                suggestion: None,
            })
        };
        let values = row.into_iter().map(|(name, value)| Ok((column(name)?, value)));
        let values: Result<Vec<_>, Error> = values.collect();
        place_row(&self.manager.map(), table, operation, ShardKey::parse(key)?, values?)
    }

    /// Writes one row that [`LabCluster::place`] has returned.
    ///
    /// # Errors
    /// [`Failure`] of the shard.
    pub async fn write(
        &self,
        (place, row): (KeyLocation, RowWrite),
        options: &RequestOptions,
    ) -> Result<WriteReceipt, Failure> {
        self.manager.data(Rights::ALL).write(place, row, options).await
    }

    /// Writes many rows in one bulk write, and returns the number of rows that were stored.
    pub async fn write_bulk(&self, rows: Vec<(KeyLocation, RowWrite)>) -> usize {
        let rows = rows.into_iter().enumerate();
        let rows = rows.map(|(index, (place, row))| BulkRow { index, place, row }).collect();
        let done = self.manager.data(Rights::ALL).write_bulk(rows, &options()).await;
        done.rows.iter().filter(|row| row.outcome.is_ok()).count()
    }

    /// Reads rows of one shard key, or of all shards if `key` is `None`.
    ///
    /// # Errors
    /// [`Failure`] of a shard.
    pub async fn read(
        &self,
        query: ReadQuery,
        key: Option<&str>,
        options: &RequestOptions,
    ) -> Result<ReadDone, Failure> {
        let key = key.map(ShardKey::parse).transpose();
        let key = key.map_err(|error| Failure::rejected(error.into(), None))?;
        self.manager.data(Rights::ALL).read(query, key, options).await
    }

    /// Counts the rows of a table on all shards.
    ///
    /// # Errors
    /// [`LabError::Failed`].
    pub async fn count(&self, table: &Arc<Table>) -> Result<u64, LabError> {
        let query = ReadQuery { limit: 0, counts: true, ..ReadQuery::all(table) };
        let read = self.read(query, None, &options()).await.map_err(failure)?;
        Ok(read.rows.total.unwrap_or(0))
    }
}

impl Drop for LabCluster {
    fn drop(&mut self) {
        self.manager.close();
    }
}

/// Returns the options of a request at consistency level `one` with the usual time limit.
pub fn options() -> RequestOptions {
    RequestOptions::by(Instant::now() + PATIENCE)
}

/// Converts the failure of a request to the error of an experiment.
pub(crate) fn failure(failure: Failure) -> LabError {
    LabError::failed(failure.error)
}

/// Runs a future to completion on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime without threads needs nothing").block_on(future)
}
