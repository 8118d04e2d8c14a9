//! Listed indexes: the indexes in the catalog of a cluster of servers.
//!
//! **Not here:** the statements (`catalog`), building the indexes (`shard_indexes`).

use engine::EngineFuture;
use engine::index_catalog::IndexCatalog;
use engine::index_record::{IndexRecord, IndexState};

use super::listed_moves::ServerMoves;
use crate::catalog::IndexTables;

impl IndexCatalog for ServerMoves {
    fn list_indexes(&self) -> EngineFuture<'_, Vec<IndexRecord>> {
        Box::pin(self.with_catalog(async |catalog| IndexTables::of(catalog).list().await))
    }

    fn add_index<'a>(&'a self, record: &'a IndexRecord) -> EngineFuture<'a, ()> {
        Box::pin(self.with_catalog(async move |catalog| IndexTables::of(catalog).add(record).await))
    }

    fn change_index<'a>(
        &'a self,
        record: &'a IndexRecord,
        expected: IndexState,
    ) -> EngineFuture<'a, bool> {
        Box::pin(self.with_catalog(async move |catalog| {
            IndexTables::of(catalog).change(record, expected).await
        }))
    }

    fn remove_index<'a>(&'a self, record: &'a IndexRecord) -> EngineFuture<'a, ()> {
        Box::pin(
            self.with_catalog(async move |catalog| IndexTables::of(catalog).remove(record).await),
        )
    }
}
