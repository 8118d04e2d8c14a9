//! Readers: the connections to one node that execute reads.
//!
//! **Invariant:** a node sees at most [`Readers::CONNECTIONS`] connections for reads, and a Citus
//! coordinator at most 7, however many clients there are.
//! **Not here:** executing reads (`key_reads`, `scan`), the choice of a node (`shard`).

use std::sync::Arc;
use std::time::Instant;

use engine::replication::ReplicationState;
use engine::runtime_pool::RuntimePool;
use engine::{
    EngineFuture, KeyRead, NodeReader, NodeRows, PrimaryReader, ReadIndex, ScanRead, TableRows,
    TableSize, WorkerNode,
};
use futures_util::future::BoxFuture;
use model::error::Error;
use model::reason::Reason;
use model::stats::{MoverConnections, PoolStats, SizeEstimate};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::key_reads::{KeyReadQueue, QueuedKeyRead};
use super::primary_tracker::PrimaryTracker;
use super::proof::Proof;
use super::scan::Scans;
use super::target::Target;

/// Maximum number of rows of a read by key that shares a statement with other reads: a larger one
/// would delay the others too long.
const POINT_ROWS_MAX: u32 = 100;
/// Number of connections to a replica for reads by key. A primary is read seldom, so it has fewer.
const POINTS: usize = 2;
const POINTS_OF_PRIMARY: usize = 1;
/// Number of connections to a Citus coordinator for reads by key: it answers all reads, each with a
/// statement of its own.
const POINTS_OF_COORDINATOR: usize = 4;

/// Connections to one node.
pub struct Readers {
    shard: String,
    target: Target,
    key_reads: KeyReadQueue,
    scans: Scans,
    /// Proof that the node is the primary; `None` for a replica.
    proof: Option<Proof>,
    /// Bytes that the shard's database may take on the node's disk; `None` if they are not set.
    disk_bytes: Option<u64>,
}

impl Readers {
    /// Number of connections to one node, for short reads and for long ones.
    pub const CONNECTIONS: usize = POINTS + 2;

    /// Starts the readers of a node. Long reads run on the current runtime.
    pub fn start(
        target: &Target,
        shard: &str,
        replication: &Arc<ReplicationState>,
        runtimes: &RuntimePool,
    ) -> Self {
        let (connections, proof) = match target {
            Target::Primary(tracker) => {
                let coordinates = tracker.citus().is_some();
                let connections =
                    if coordinates { POINTS_OF_COORDINATOR } else { POINTS_OF_PRIMARY };
                (connections, Some(Proof::start(tracker, shard)))
            }
            Target::Replica(..) => (POINTS, None),
        };
        Self {
            shard: shard.to_owned(),
            target: target.clone(),
            key_reads: KeyReadQueue::start(target, (shard, replication), connections, runtimes),
            scans: Scans::new(target, shard, replication),
            proof,
            disk_bytes: None,
        }
    }

    /// Sets the bytes that the shard's database may take on the node's disk.
    pub fn with_disk_bytes(self, disk_bytes: Option<u64>) -> Self {
        Self { disk_bytes, ..self }
    }

    /// Returns the bytes by which the shard's database may still grow, if they are known.
    async fn free_database_bytes(&self, deadline: Instant) -> Result<Option<u64>, Error> {
        let Some(disk_bytes) = self.disk_bytes else { return Ok(None) };
        let used = self.scans.database_bytes(deadline).await?;
        Ok(Some(disk_bytes.saturating_sub(used)))
    }

    async fn read_rows_of_key(&self, read: KeyRead<'_>) -> Result<NodeRows, Error> {
        let KeyRead { query, slot, key, min_position: floor, deadline, share } = read;
        let is_point = query.is_point_read()
            && query.after.is_none()
            && (1..=POINT_ROWS_MAX).contains(&query.limit);
        if !is_point {
            let key = Some((slot, key.to_owned()));
            let query = Arc::new(query.clone());
            return self.scans.read(query, key, (floor, deadline), share).await;
        }
        let (reply, answer) = oneshot::channel();
        let (query, key) = (query.clone(), key.to_owned());
        if !self.key_reads.send(QueuedKeyRead { query, slot, key, deadline, floor, share, reply }) {
            return Err(Error::PoolExhausted { shard: self.shard.clone() });
        }
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(_gone)) => Err(Error::ShardUnavailable { shard: self.shard.clone() }),
            Err(_elapsed) => Err(Error::DeadlinePassed),
        }
    }

    fn tracker(&self) -> &PrimaryTracker {
        let (Target::Primary(tracker) | Target::Replica(tracker, _)) = &self.target;
        tracker
    }
}

impl NodeReader for Readers {
    fn read_key<'a>(&'a self, read: KeyRead<'a>) -> EngineFuture<'a, NodeRows> {
        Box::pin(self.read_rows_of_key(read))
    }

    fn scan(&self, read: ScanRead) -> EngineFuture<'_, NodeRows> {
        let ScanRead { query, min_position, deadline, share } = read;
        Box::pin(self.scans.read(query, None, (min_position, deadline), share))
    }

    fn probe(&self, deadline: Instant) -> EngineFuture<'_, ()> {
        Box::pin(self.scans.probe(deadline))
    }

    fn pool_stats(&self) -> PoolStats {
        self.key_reads.stats().with(&self.scans.stats())
    }
}

impl PrimaryReader for Readers {
    fn read_index(&self, deadline: Instant) -> EngineFuture<'_, ReadIndex> {
        Box::pin(async move {
            let gone = || Error::ShardUnavailable { shard: self.shard.clone() };
            let proof = self.proof.as_ref().ok_or_else(gone)?;
            match tokio::time::timeout_at(deadline.into(), proof.mark()).await {
                Ok(marked) => marked.map(ReadIndex::AwaitQuorum).ok_or_else(gone),
                Err(_elapsed) => Err(Error::DeadlinePassed),
            }
        })
    }

    fn visible_position(&self) -> u64 {
        0
    }

    fn is_ahead(&self, timeline: u32) -> bool {
        self.tracker().terms().is_ahead(timeline)
    }

    fn find_primary(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.tracker().look())
    }

    fn check_writable(&self) -> Result<(), Error> {
        Ok(())
    }

    fn loss(&self) -> Option<Reason> {
        None
    }

    fn table_sizes(
        &self,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> EngineFuture<'_, Vec<TableSize>> {
        Box::pin(self.scans.sizes(permit, deadline))
    }

    fn row_counts(&self, deadline: Instant) -> EngineFuture<'_, Vec<TableRows>> {
        Box::pin(async move {
            let sizes = self.scans.sizes((), deadline).await?.into_iter();
            Ok(sizes.map(|size| TableRows { table: size.table, rows: size.rows }).collect())
        })
    }

    fn size_estimate(&self, deadline: Instant) -> EngineFuture<'_, SizeEstimate> {
        Box::pin(self.scans.size_estimate(deadline))
    }

    fn free_bytes(&self, deadline: Instant) -> EngineFuture<'_, Option<u64>> {
        Box::pin(self.free_database_bytes(deadline))
    }

    fn mover_connections(&self, deadline: Instant) -> EngineFuture<'_, Option<MoverConnections>> {
        Box::pin(async move { self.scans.mover_connections(deadline).await.map(Some) })
    }

    fn worker_nodes(&self, deadline: Instant) -> EngineFuture<'_, Vec<WorkerNode>> {
        Box::pin(self.scans.citus_nodes(deadline))
    }
}
