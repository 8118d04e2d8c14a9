//! Index builder: the trait through which the cluster builds an index on a shard while clients
//! write.
//!
//! **Invariant:** one process at a time changes the indexes of a shard.
//! **Not here:** the list of indexes (`index_catalog`), the order of the shards (`cluster`).

use std::time::Instant;

use futures_util::future::BoxFuture;

use super::{EngineFuture, IndexChange};

/// Index builder of a shard.
pub trait IndexBuilder: Send + Sync {
    /// Waits until no other process changes the indexes of the shard, and no server still carries
    /// out such a change for a process that has ended.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`](model::error::Error::DeadlinePassed), or the error of the shard.
    fn lock(&self, deadline: Instant) -> EngineFuture<'_, Box<dyn IndexSession>>;
}

/// Exclusive right to change the indexes of a shard, released when it is dropped.
pub trait IndexSession: Send + Sync {
    /// Builds or drops an index. Does nothing if the change has already been made. Remains of an
    /// earlier attempt are removed first.
    ///
    /// # Errors
    /// The error of the shard: [`Error::NotUnique`](model::error::Error::NotUnique),
    /// [`Error::IndexEntryTooLong`](model::error::Error::IndexEntryTooLong) and
    /// [`Error::Constraint`](model::error::Error::Constraint) mean that the existing rows do not
    /// permit the index.
    fn change<'a>(
        &'a self,
        change: &'a IndexChange,
    ) -> BoxFuture<'a, Result<(), model::error::Error>>;

    /// Cancels the build that [`IndexSession::change`] carries out now. The build then fails and
    /// leaves nothing behind. A build that can no longer be cancelled is completed.
    fn cancel(&self) -> BoxFuture<'_, ()>;
}
