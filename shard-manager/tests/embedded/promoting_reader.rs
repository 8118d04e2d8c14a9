//! Test harness: a reader of a primary during whose reads another node of the shard is promoted.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::future::BoxFuture;
use shard_manager::engine::{
    EngineFuture, KeyRead, NodeReader, NodeRows, PrimaryReader, ReadIndex, ScanRead, TableRows,
    TableSize, WorkerNode,
};
use shard_manager::error::Error;
use shard_manager::position::Position;
use shard_manager::reason::Reason;
use shard_manager::replication::ReplicationState;
use shard_manager::stats::{MoverConnections, PoolStats, SizeEstimate};
use tokio::sync::OwnedSemaphorePermit;

/// A promotion that happens during the next read of a primary.
#[derive(Default)]
pub(crate) struct NextPromotion(Mutex<Option<Arc<ReplicationState>>>);

impl NextPromotion {
    /// Schedules the promotion of a node of this shard that has everything up to the committed
    /// position.
    pub(crate) fn schedule(&self, shard: &Arc<ReplicationState>) {
        *self.0.lock().expect("not poisoned") = Some(Arc::clone(shard));
    }

    fn happen(&self) {
        let shard = self.0.lock().expect("not poisoned").take();
        if let Some(shard) = shard {
            let Position { timeline, sequence } = committed(&shard);
            let history = shard.timeline().history();
            let history = history.followed_by(timeline.wrapping_add(1), sequence);
            shard.follow(history, sequence, usize::MAX);
        }
    }
}

/// Returns the committed position of a shard.
pub(crate) fn committed(shard: &ReplicationState) -> Position {
    shard.timeline().position(shard.primary().committed())
}

/// Reader of a primary that carries out a scheduled promotion before it reads rows.
pub(crate) struct PromotingReader {
    pub(crate) files: Arc<dyn PrimaryReader>,
    pub(crate) promotion: Arc<NextPromotion>,
}

impl NodeReader for PromotingReader {
    fn read_key<'a>(&'a self, read: KeyRead<'a>) -> EngineFuture<'a, NodeRows> {
        self.promotion.happen();
        self.files.read_key(read)
    }

    fn scan(&self, read: ScanRead) -> EngineFuture<'_, NodeRows> {
        self.promotion.happen();
        self.files.scan(read)
    }

    fn probe(&self, deadline: Instant) -> EngineFuture<'_, ()> {
        self.files.probe(deadline)
    }

    fn pool_stats(&self) -> PoolStats {
        self.files.pool_stats()
    }
}

impl PrimaryReader for PromotingReader {
    fn read_index(&self, deadline: Instant) -> EngineFuture<'_, ReadIndex> {
        self.files.read_index(deadline)
    }

    fn visible_position(&self) -> u64 {
        self.files.visible_position()
    }

    fn is_ahead(&self, timeline: u32) -> bool {
        self.files.is_ahead(timeline)
    }

    fn find_primary(&self) -> BoxFuture<'_, ()> {
        self.files.find_primary()
    }

    fn check_writable(&self) -> Result<(), Error> {
        self.files.check_writable()
    }

    fn loss(&self) -> Option<Reason> {
        self.files.loss()
    }

    fn table_sizes(
        &self,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> EngineFuture<'_, Vec<TableSize>> {
        self.files.table_sizes(permit, deadline)
    }

    fn row_counts(&self, deadline: Instant) -> EngineFuture<'_, Vec<TableRows>> {
        self.files.row_counts(deadline)
    }

    fn size_estimate(&self, deadline: Instant) -> EngineFuture<'_, SizeEstimate> {
        self.files.size_estimate(deadline)
    }

    fn free_bytes(&self, deadline: Instant) -> EngineFuture<'_, Option<u64>> {
        self.files.free_bytes(deadline)
    }

    fn mover_connections(&self, deadline: Instant) -> EngineFuture<'_, Option<MoverConnections>> {
        self.files.mover_connections(deadline)
    }

    fn worker_nodes(&self, deadline: Instant) -> EngineFuture<'_, Vec<WorkerNode>> {
        self.files.worker_nodes(deadline)
    }
}
