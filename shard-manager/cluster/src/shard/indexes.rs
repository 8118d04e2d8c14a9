//! Shard indexes: changes of the indexes of one shard.
//!
//! An engine with an [`IndexBuilder`](engine::index_builder::IndexBuilder) builds an index while
//! rows are written. Otherwise the change is queued in the lane like a change of the tables, and
//! later writes wait until it is done.
//!
//! **Not here:** the other shards (`manager`), SQL (the engines).

use std::time::{Duration, Instant};

use engine::index_builder::IndexSession;
use engine::{IndexChange, SchemaChange};
use model::error::Error;

use super::Shard;

/// Time limit for a change of an index in the lane, including the wait in the queue.
const CHANGE_MAX: Duration = Duration::from_secs(3_600);
/// Number of rows per second that a build of an index on a file is assumed to process. Measured on
/// two busy cores: 1,000,000 rows of `orders` in one file take 3.0 to 3.5 s for one or two columns
/// of numbers or strings in random order, and 1.7 s for a unique index, which follows the order of
/// the rows. A third of that rate is assumed, for slower disks and busier machines. 333,333 rows
/// with 100 different values in the column take 0.34 s.
const ROWS_PER_SECOND: u64 = 100_000;
/// Time that a change of an index on an empty table takes: its commit, and the batch before it.
const COMMIT: Duration = Duration::from_millis(20);

/// Interface of a [`Shard`] for its indexes.
#[derive(Clone, Copy)]
pub struct ShardIndexes<'s>(pub(super) &'s Shard);

/// Right to change the indexes of a shard.
pub struct LockedIndexes<'s> {
    shard: &'s Shard,
    session: Option<Box<dyn IndexSession>>,
}

impl<'s> ShardIndexes<'s> {
    /// Waits until no other process changes the indexes of the shard.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`], or the error of the shard.
    pub async fn lock(self, deadline: Instant) -> Result<LockedIndexes<'s>, Error> {
        let session = match &self.0.primary.indexes {
            Some(builder) => Some(builder.lock(deadline).await?),
            None => None,
        };
        Ok(LockedIndexes { shard: self.0, session })
    }

    /// Estimates for how long writes would wait while an index of a table is built. Returns the
    /// number of rows of the table and that time; `None` if writes do not wait.
    ///
    /// # Errors
    /// The error of the primary, if it does not return the number of rows.
    pub async fn estimate_pause(
        self,
        table: &str,
        deadline: Instant,
    ) -> Result<Option<(u64, Duration)>, Error> {
        if self.0.primary.indexes.is_some() {
            return Ok(None);
        }
        let counts = self.0.primary.row_counts(deadline).await?;
        let rows = counts.iter().find(|count| count.table == table).map_or(0, |count| count.rows);
        let rows = rows.max(0).cast_unsigned();
        Ok(Some((rows, COMMIT + Duration::from_millis(rows * 1_000 / ROWS_PER_SECOND))))
    }
}

impl LockedIndexes<'_> {
    /// Builds or drops an index, unless that is done already. Returns the time for which writes
    /// have waited; `None` if they did not have to wait. The change is cancelled once `unwanted` is
    /// ready, if the engine can do that; otherwise it is completed.
    ///
    /// # Errors
    /// The error of the shard, also after a cancellation. [`Error::IndexPauseExceeded`] if the
    /// build took as long as writes may wait.
    pub async fn change(
        &self,
        change: &IndexChange,
        unwanted: impl Future<Output = ()>,
    ) -> Result<Option<Duration>, Error> {
        if let Some(session) = &self.session {
            let mut changed = session.change(change);
            tokio::select! {
                changed = &mut changed => return changed.map(|()| None),
                () = unwanted => {}
            }
            session.cancel().await;
            return changed.await.map(|()| None);
        }
        let began = Instant::now();
        let change = SchemaChange::Index(change.clone());
        let changed = self.shard.change_schema(change, began + CHANGE_MAX).await;
        changed.map_err(|failure| failure.error)?;
        Ok(Some(began.elapsed()))
    }
}
