//! Manager: the façade. One call for each thing a client can ask, answered with a receipt.
//!
//! Each request takes one snapshot of the shard map and of the registry, and never looks twice.
//!
//! **Invariant:** a success means durable on the primary that the receipt names.
//! **Not here:** HTTP, metrics (the caller records the receipt), SQL.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::error::{Error, Failure, Outcome};
use crate::keyspace::ShardKey;
use crate::lane::LaneTimes;
use crate::query::ReadQuery;
use crate::row::{Fields, Operation, RowWrite};
use crate::rows::Rows;
use crate::shard::{NodeHealth, Shard};
use crate::shard_map::{Place, ShardMap};
use crate::store::sqlite::catalog::{Catalog, Wanted};
use crate::store::sqlite::data_dir::DataDir;
use crate::store::sqlite::reader::Housekeeping;
use crate::store::sqlite::shard_file::{self, Identity};
use crate::store::sqlite::{OpenError, check_version};
use crate::store::{RowDone, TableSize};
use crate::table::{Registry, Table};
use crate::topology::ShardIndex;

/// Where an embedded cluster is and what it must be.
#[derive(Clone, Debug)]
pub struct EmbeddedCluster {
    /// The data directory; made if it is not there.
    pub data_dir: PathBuf,
    /// What the operator asks for.
    pub wanted: Wanted,
}

/// The cluster, as a router uses it.
pub struct Manager {
    map: ArcSwap<ShardMap>,
    registry: ArcSwap<Registry>,
    shards: Vec<Shard>,
    /// Held as long as anything may write.
    _data_dir: DataDir,
}

/// Where a request's work was done, and where its time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Slot, shard and epoch.
    pub place: Place,
    /// Time in the queue, and in the database.
    pub times: LaneTimes,
}

/// A write that is durable.
#[derive(Clone, Debug)]
pub struct Written {
    /// What became of the row.
    pub row: RowDone,
    /// Where.
    pub receipt: Receipt,
}

/// The rows of a read.
#[derive(Clone, Debug)]
pub struct ReadDone {
    /// The rows.
    pub rows: Rows,
    /// The shards that were asked, in order.
    pub shards: Vec<ShardIndex>,
    /// Where, if the read had a key.
    pub place: Option<Place>,
    /// Version of the map.
    pub epoch: u64,
    /// Time in the databases (the slowest counts), and merging.
    pub database: Duration,
    /// Time spent merging.
    pub merge: Duration,
}

/// One row of a bulk write, checked and routed.
#[derive(Clone, Debug)]
pub struct BulkRow {
    /// Its place in the request.
    pub index: usize,
    /// Where it goes.
    pub place: Place,
    /// The change.
    pub row: RowWrite,
}

/// What became of one row of a bulk write.
#[derive(Clone, Debug)]
pub struct BulkRowDone {
    /// Its place in the request.
    pub index: usize,
    /// Where it went.
    pub place: Place,
    /// What became of it.
    pub outcome: Result<RowDone, (Error, Outcome)>,
}

/// A shard's sizes and health, for people and for balancing.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Which shard.
    pub shard: ShardIndex,
    /// Its nodes.
    pub nodes: Vec<NodeHealth>,
    /// Its tables; `None` if it could not be asked.
    pub tables: Option<Vec<TableSize>>,
}

impl Manager {
    /// Rows of a bulk write that go to a lane as one operation.
    const CHUNK_ROWS_MAX: usize = 1_000;
    /// Bytes of such a chunk.
    const CHUNK_BYTES_MAX: usize = 1 << 20;

    /// Opens an embedded cluster, making what is new and migrating what is old. Blocks.
    ///
    /// # Errors
    /// [`OpenError`], with a sentence that tells the operator what to do.
    pub fn open(cluster: &EmbeddedCluster) -> Result<Self, OpenError> {
        check_version()?;
        let data_dir = DataDir::open(&cluster.data_dir)?;
        let mut catalog = Catalog::open(&data_dir.catalog(), &cluster.wanted)?;
        let map = catalog.map.clone();
        let housekeeping = Housekeeping::start();
        let mut registry: Option<Registry> = None;
        let mut shards = Vec::with_capacity(map.topology().len());
        for index in map.topology().indices() {
            let name = map.topology().name(index);
            let path = data_dir.primary(name);
            let slots: Vec<u16> = map.slots_of(index).collect();
            let identity = Identity { cluster_id: &catalog.cluster_id, shard: name, slots: &slots };
            let tables = shard_file::prepare(&path, &identity, !catalog.ready)?;
            match &registry {
                Some(known) if *known != tables => {
                    return Err(OpenError::Conflict(format!(
                        "the tables of {name} are not those of {}",
                        map.topology().name(ShardIndex(0))
                    )));
                }
                Some(_) => {}
                None => registry = Some(tables),
            }
            shards.push(Shard::open(name, &path, &housekeeping)?);
        }
        if !catalog.ready {
            catalog.set_ready(&data_dir.catalog())?;
        }
        Ok(Self {
            map: ArcSwap::from_pointee(map),
            registry: ArcSwap::from_pointee(registry.unwrap_or_default()),
            shards,
            _data_dir: data_dir,
        })
    }

    /// The map in force.
    pub fn map(&self) -> Arc<ShardMap> {
        self.map.load_full()
    }

    /// The name of a shard that this manager told.
    pub fn shard_name(&self, shard: ShardIndex) -> &str {
        self.shards[shard.index()].name()
    }

    /// The table of this name.
    ///
    /// # Errors
    /// [`Error::NoSuchTable`], with the name that may have been meant.
    pub fn table(&self, name: &str) -> Result<Arc<Table>, Error> {
        let registry = self.registry.load();
        registry.find(name).cloned().ok_or_else(|| Error::NoSuchTable {
            table: name.chars().take(80).collect(),
            suggestion: registry.suggest(name),
        })
    }

    /// Checks one change and routes it by a snapshot of the map: one for all changes of a request.
    ///
    /// # Errors
    /// [`Error::Row`] names the member and what is wrong with it.
    pub fn prepare(
        map: &ShardMap,
        table: &Arc<Table>,
        operation: Operation,
        key: ShardKey<'_>,
        fields: &Fields<'_>,
    ) -> Result<(Place, RowWrite), Error> {
        let place = map.place(key)?;
        let row = RowWrite::parse(table, operation, (key, place.slot), fields)?;
        Ok((place, row))
    }

    /// Applies one change; when this returns `Ok`, it is durable.
    ///
    /// # Errors
    /// [`Failure`] says why, where, and whether it may have been stored.
    pub async fn write(
        &self,
        place: Place,
        row: RowWrite,
        deadline: Instant,
    ) -> Result<Written, Failure> {
        let lane = &self.shards[place.shard.index()].lane;
        let failed = |error, outcome| Failure { error, place: Some(place), outcome };
        let applied = lane.apply(vec![row], deadline).await;
        let applied = applied.map_err(|failure| failed(failure.error, failure.outcome))?;
        match applied.rows.into_iter().next() {
            Some(Ok(row)) => Ok(Written { row, receipt: Receipt { place, times: applied.times } }),
            Some(Err(error)) => Err(failed(error, Outcome::Rejected)),
            None => Err(failed(Error::Internal, Outcome::Unknown)),
        }
    }

    /// Applies many changes, each on its own: shards in parallel, each shard's in the order given.
    /// Answers are in the order of the shards, not of the request.
    pub async fn write_bulk(&self, rows: Vec<BulkRow>, deadline: Instant) -> Vec<BulkRowDone> {
        let mut by_shard: Vec<Vec<BulkRow>> = self.shards.iter().map(|_| Vec::new()).collect();
        for row in rows {
            by_shard[row.place.shard.index()].push(row);
        }
        let lanes = self.shards.iter().zip(by_shard);
        let parts = lanes.map(|(shard, rows)| write_chunks(shard, rows, deadline));
        futures_util::future::join_all(parts).await.into_iter().flatten().collect()
    }

    /// Reads rows of one key, or of all shards.
    ///
    /// # Errors
    /// [`Failure`] of the shard, or of the first of all shards that could not answer.
    pub async fn read(
        &self,
        query: ReadQuery,
        key: Option<ShardKey<'_>>,
        deadline: Instant,
    ) -> Result<ReadDone, Failure> {
        let map = self.map.load();
        let began = Instant::now();
        let Some(key) = key else { return self.scatter(query, map.epoch(), deadline).await };
        let place = map.place(key);
        drop(map);
        let place = place.map_err(|error| Failure::rejected(error.into(), None))?;
        let shard = &self.shards[place.shard.index()];
        let read = shard.read_key(query, (place.slot, key.as_str()), deadline).await;
        let rows = read.map_err(|error| Failure::rejected(error, Some(place)))?;
        Ok(ReadDone {
            rows,
            shards: vec![place.shard],
            place: Some(place),
            epoch: place.epoch,
            database: began.elapsed(),
            merge: Duration::ZERO,
        })
    }

    /// Every shard sorts and limits, the merge limits again.
    async fn scatter(
        &self,
        query: ReadQuery,
        epoch: u64,
        deadline: Instant,
    ) -> Result<ReadDone, Failure> {
        let began = Instant::now();
        let order = query.sort_keys();
        let limit = query.limit as usize;
        let reads = self.shards.iter().map(|shard| shard.read_all(query.clone(), deadline));
        let answers = futures_util::future::join_all(reads).await;
        let parts: Result<Vec<Rows>, Error> = answers.into_iter().collect();
        let parts = parts.map_err(|error| Failure::rejected(error, None))?;
        let database = began.elapsed();
        let rows = Rows::merge(&parts, &order, limit);
        if rows.is_too_large() {
            return Err(Failure::rejected(Error::AnswerTooLarge, None));
        }
        let shards = (0..self.shards.len() as u16).map(ShardIndex).collect();
        let merge = began.elapsed() - database;
        Ok(ReadDone { rows, shards, place: None, epoch, database, merge })
    }

    /// Asks every node how it is.
    pub async fn health(&self, deadline: Instant) -> Vec<ShardReport> {
        let probes = self.shards.iter().map(|shard| shard.probe(deadline));
        let nodes = futures_util::future::join_all(probes).await;
        let numbered = (0..).map(ShardIndex).zip(nodes);
        numbered
            .map(|(shard, node)| ShardReport { shard, nodes: vec![node], tables: None })
            .collect()
    }

    /// Health and sizes of the given shards. Visits every page of their files: ask seldom.
    pub async fn report(&self, shards: &[ShardIndex], deadline: Instant) -> Vec<ShardReport> {
        let reports = shards.iter().map(async |&index| {
            let shard = &self.shards[index.index()];
            let node = shard.probe(deadline).await;
            let tables = shard.sizes(deadline).await.ok();
            ShardReport { shard: index, nodes: vec![node], tables }
        });
        futures_util::future::join_all(reports).await
    }

    /// Finishes what is queued and closes the files. Blocks.
    pub fn close(&self) {
        for shard in &self.shards {
            shard.lane.stop();
        }
    }
}

/// One shard's part of a bulk write, a chunk after the other: so rows of one key keep their order, and one
/// bulk write cannot fill the lane.
async fn write_chunks(shard: &Shard, rows: Vec<BulkRow>, deadline: Instant) -> Vec<BulkRowDone> {
    let mut done = Vec::with_capacity(rows.len());
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let (mut chunk, mut places, mut bytes) = (Vec::new(), Vec::new(), 0);
        while chunk.len() < Manager::CHUNK_ROWS_MAX && bytes < Manager::CHUNK_BYTES_MAX {
            let Some(next) = rows.next() else { break };
            bytes += next.row.bytes();
            places.push((next.index, next.place));
            chunk.push(next.row);
        }
        let outcomes = match shard.lane.apply(chunk, deadline).await {
            Ok(applied) => applied
                .rows
                .into_iter()
                .map(|row| row.map_err(|error| (error, Outcome::Rejected)))
                .collect(),
            Err(failure) => vec![Err((failure.error, failure.outcome)); places.len()],
        };
        let rows = places.into_iter().zip(outcomes);
        done.extend(rows.map(|((index, place), outcome)| BulkRowDone { index, place, outcome }));
    }
    done
}
