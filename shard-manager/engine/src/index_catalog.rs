//! Index catalog: the trait through which a cluster stores the list of its indexes.
//!
//! **Invariant:** a change of a record is durable before it is reported, and is made only if the
//! record is still in the expected state.
//! **Not here:** building the indexes (`cluster`), the choice of the leading process
//! (`move_catalog`).

use super::EngineFuture;
use super::index_record::{IndexRecord, IndexState};

/// Indexes of a catalog.
pub trait IndexCatalog: Send + Sync {
    /// Returns all indexes, by table and name.
    ///
    /// # Errors
    /// The error of the catalog.
    fn list_indexes(&self) -> EngineFuture<'_, Vec<IndexRecord>>;

    /// Lists an index that is to be built. Replaces a record of the same name that has failed.
    /// Called while the lock for changes of table definitions is held.
    ///
    /// # Errors
    /// The error of the catalog. The index may be listed nevertheless.
    fn add_index<'a>(&'a self, record: &'a IndexRecord) -> EngineFuture<'a, ()>;

    /// Stores a record, if the index is still listed in the state `expected`. Returns true if the
    /// record was stored.
    ///
    /// # Errors
    /// The error of the catalog. The record may be stored nevertheless.
    fn change_index<'a>(
        &'a self,
        record: &'a IndexRecord,
        expected: IndexState,
    ) -> EngineFuture<'a, bool>;

    /// Removes an index that no shard has any more.
    ///
    /// # Errors
    /// The error of the catalog.
    fn remove_index<'a>(&'a self, record: &'a IndexRecord) -> EngineFuture<'a, ()>;
}
