//! File reader: implements the engine-independent read interface of a node for one file, on threads
//! that may block.
//!
//! **Not here:** executing reads (`reader`), the threads of reads (`threads`), maintaining a
//! replica (`replica`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{
    EngineFuture, KeyRead, NodeReader, NodeRows, PrimaryReader, ReadIndex, ScanRead, Scope,
    TableRows, TableSize, WorkerNode,
};
use futures_util::future::{BoxFuture, ready};
use model::error::Error;
use model::reason::Reason;
use model::stats::{MoverConnections, PoolStats, SizeEstimate};
use tokio::sync::OwnedSemaphorePermit;

use super::data_dir::free_bytes;
use super::reader::ReaderPool;
use super::threads;

/// Readers of one file, shared with the threads on which reads run.
pub struct FileReader(Arc<ReaderPool>);

impl FileReader {
    /// Wraps the readers of one file.
    pub fn new(readers: ReaderPool) -> Self {
        Self(Arc::new(readers))
    }

    /// Returns the readers. As long as a clone of the `Arc` exists, the file may be open.
    pub(super) fn readers(&self) -> &Arc<ReaderPool> {
        &self.0
    }

    /// Executes blocking work on a thread that may block.
    fn blocking<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&ReaderPool, Duration) -> Result<T, Error> + Send + 'static,
    ) -> EngineFuture<'_, T> {
        let readers = Arc::clone(&self.0);
        Box::pin(threads::blocking(deadline, move |wait| work(&readers, wait)))
    }
}

impl NodeReader for FileReader {
    fn read_key<'a>(&'a self, read: KeyRead<'a>) -> EngineFuture<'a, NodeRows> {
        Box::pin(threads::read_key(&self.0, read))
    }

    fn scan(&self, read: ScanRead) -> EngineFuture<'_, NodeRows> {
        let ScanRead { query, deadline, share, min_position: _ } = read;
        Box::pin(async move {
            let place = self.0.enter((&query, Scope::Shard), share, deadline).await?;
            let readers = Arc::clone(&self.0);
            let read = move |wait| {
                let _place = place;
                readers.read(&query, Scope::Shard, (wait, deadline))
            };
            threads::blocking(deadline, read).await
        })
    }

    fn probe(&self, deadline: Instant) -> EngineFuture<'_, ()> {
        self.blocking(deadline, ReaderPool::probe)
    }

    fn pool_stats(&self) -> PoolStats {
        self.0.stats()
    }
}

impl PrimaryReader for FileReader {
    fn read_index(&self, _: Instant) -> EngineFuture<'_, ReadIndex> {
        // No confirmation by other nodes is needed: the file has only one writer, in this process,
        // which records every position that it acknowledges.
        Box::pin(ready(Ok(ReadIndex::Confirmed(
            self.0.replication().primary().strong_min_position(),
        ))))
    }

    fn visible_position(&self) -> u64 {
        self.0.replication().primary().committed()
    }

    fn is_ahead(&self, _: u32) -> bool {
        // No other process can promote a replica's file to primary.
        false
    }

    fn find_primary(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }

    fn check_writable(&self) -> Result<(), Error> {
        self.0.file_check().map_or(Ok(()), |file_check| file_check.check_writable())
    }

    fn loss(&self) -> Option<Reason> {
        self.0.file_check().and_then(|file_check| file_check.reason())
    }

    fn table_sizes(
        &self,
        permit: OwnedSemaphorePermit,
        deadline: Instant,
    ) -> EngineFuture<'_, Vec<TableSize>> {
        self.blocking(deadline, move |readers, wait| {
            let _permit = permit;
            readers.sizes(wait)
        })
    }

    fn row_counts(&self, deadline: Instant) -> EngineFuture<'_, Vec<TableRows>> {
        self.blocking(deadline, |readers, wait| {
            let counts = readers.counts(wait)?.into_iter();
            Ok(counts.map(|(table, rows)| TableRows { table, rows }).collect())
        })
    }

    fn size_estimate(&self, deadline: Instant) -> EngineFuture<'_, SizeEstimate> {
        self.blocking(deadline, ReaderPool::size_estimate)
    }

    fn free_bytes(&self, _: Instant) -> EngineFuture<'_, Option<u64>> {
        let folder = self.0.file_check().and_then(|file_check| file_check.folder());
        Box::pin(ready(Ok(folder.and_then(free_bytes))))
    }

    fn mover_connections(&self, _: Instant) -> EngineFuture<'_, Option<MoverConnections>> {
        Box::pin(ready(Ok(None)))
    }

    fn worker_nodes(&self, _: Instant) -> EngineFuture<'_, Vec<WorkerNode>> {
        Box::pin(ready(Ok(Vec::new())))
    }
}
