//! Data: the face of a manager for rows, with the rights of the caller who reads or writes them.
//!
//! **Invariant:** a success means durable on the primary that the receipt names.
//! **Not here:** bulk writes (`bulk`), reads (`reads`), the cache (`cached`), session tokens
//! (`sessions`).

mod bulk;
mod cached;
mod reads;

use std::sync::Arc;

use access::rights::Rights;
use model::error::{Error, Failure, Outcome};
use model::keyspace::ShardKey;
use model::row_change::{Fields, Operation, RowWrite};
use model::shard_map::{KeyLocation, ShardMap};
use model::table::Table;

use super::{Manager, Receipt, RequestOptions, WriteReceipt};
use crate::lane::LaneFailure;

pub use bulk::{BulkDone, BulkPart, BulkRow, BulkRowDone};

/// Face of a [`Manager`] for rows.
#[derive(Clone, Copy)]
pub struct Data<'m> {
    pub(super) manager: &'m Manager,
    #[expect(dead_code, reason = "no operation on rows is bound yet")]
    pub(super) rights: &'m Rights,
}

/// A read in progress: the cluster that is read, and the options of the request.
#[derive(Clone, Copy)]
struct RowReader<'r> {
    data: Data<'r>,
    options: &'r RequestOptions,
}

impl Data<'_> {
    /// Checks one change and routes it by a snapshot of the map. All changes of a request use the
    /// same snapshot.
    ///
    /// # Errors
    /// [`Error::Row`], which names the member and its fault.
    pub fn prepare(
        map: &ShardMap,
        table: &Arc<Table>,
        operation: Operation,
        key: ShardKey<'_>,
        fields: &Fields<'_>,
    ) -> Result<(KeyLocation, RowWrite), Error> {
        let place = map.place(key)?;
        let row = RowWrite::parse(table, operation, (key, place.slot), fields)?;
        Ok((place, row))
    }

    /// Applies one change. After `Ok` it is durable on as many nodes as the level requires.
    ///
    /// # Errors
    /// [`Failure`], with the cause, the slot and shard, and the outcome, which may be unknown.
    pub async fn write(
        self,
        place: KeyLocation,
        row: RowWrite,
        options: &RequestOptions,
    ) -> Result<WriteReceipt, Failure> {
        let shard = &self.manager.shards[place.shard.index()];
        let failed = |error, outcome, seen| Failure { error, place: Some(place), outcome, seen };
        let mut pending = self.pending_keys(std::iter::once((place, &row)));
        let done = shard.write(vec![row], options.level, options.deadline).await;
        if let Err(LaneFailure { outcome: Outcome::Rejected, .. }) = &done {
            pending.forget();
        }
        drop(pending);
        let done = done.map_err(|failure| failed(failure.error, failure.outcome, None))?;
        let position = done.seen();
        let seen = Some(position);
        let times = done.applied.times;
        match (done.applied.rows.into_iter().next(), done.shortfall) {
            (Some(Ok(row)), None) => {
                Ok(WriteReceipt { row, receipt: Receipt { place, position, times } })
            }
            (Some(Ok(_)), Some(shortfall)) => Err(failed(shortfall, Outcome::Committed, seen)),
            (Some(Err(error)), _) => Err(failed(error, Outcome::Rejected, seen)),
            (None, _) => Err(failed(Error::Internal, Outcome::Unknown, None)),
        }
    }
}
