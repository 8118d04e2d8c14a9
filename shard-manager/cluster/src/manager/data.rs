//! Data: the face of a manager for rows, with the rights of the caller who reads or writes them.
//!
//! **Invariant:** a success means durable on the primary that the receipt names.
//! **Not here:** bulk writes (`bulk`), reads (`reads`), the cache (`cached`), session tokens
//! (`sessions`, `session_epoch`).

mod binding;
mod bulk;
mod cached;
mod permission;
mod reads;
mod session_epoch;

use std::sync::Arc;

use access::rights::Rights;
use model::error::{Error, Failure, Outcome};
use model::keyspace::ShardKey;
use model::row_change::{Fields, Operation, RowWrite, WriteRequest};
use model::shard_map::{KeyLocation, ShardMap};
use model::table::Table;

use super::{Manager, Receipt, RequestOptions, Schema, WriteReceipt};
use crate::lane::LaneFailure;

pub use binding::ResumeError;
pub use bulk::{BulkDone, BulkPart, BulkRow, BulkRowDone};

/// Face of a [`Manager`] for rows.
#[derive(Clone, Copy)]
pub struct Data<'m> {
    pub(super) manager: &'m Manager,
    pub(super) rights: &'m Rights,
}

/// A read in progress: the cluster that is read, and the options of the request.
#[derive(Clone, Copy)]
struct RowReader<'r> {
    data: Data<'r>,
    options: &'r RequestOptions,
}

impl<'m> Data<'m> {
    /// Returns the face for tables, with the same rights.
    fn schema(self) -> Schema<'m> {
        Schema { manager: self.manager, rights: self.rights }
    }

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

    /// Applies one change. After `Ok` it is durable on as many nodes as the level requires. The row
    /// of the receipt has the columns that the caller may read, or is empty.
    ///
    /// # Errors
    /// [`Failure`], with the cause, the slot and shard, and the outcome, which may be unknown. A
    /// change that the caller's rights do not allow is sent nowhere and has no slot and shard.
    pub async fn write(
        self,
        place: KeyLocation,
        mut row: RowWrite,
        options: &RequestOptions,
    ) -> Result<WriteReceipt, Failure> {
        let readable = self.permit(&mut row).map_err(|error| Failure::rejected(error, None))?;
        let shard = &self.manager.shards[place.shard.index()];
        let failed = |error, outcome, seen| Failure { error, place: Some(place), outcome, seen };
        let mut pending = self.pending_keys(std::iter::once((place, &row)));
        let request = WriteRequest { share: self.rights.share(), ..vec![row].into() };
        let done = shard.write(request, options.level, options.deadline).await;
        if let Err(LaneFailure { outcome: Outcome::Rejected, .. }) = &done {
            pending.forget();
        }
        drop(pending);
        let done = done.map_err(|failure| failed(failure.error, failure.outcome, None))?;
        let position = done.seen();
        let seen = Some(position);
        let times = done.applied.times;
        let mut row = done.applied.rows.into_iter().next();
        if let Some(row) = &mut row {
            readable.cut(row.as_mut());
        }
        match (row, done.shortfall) {
            (Some(Ok(row)), None) => {
                Ok(WriteReceipt { row, receipt: Receipt { place, position, times } })
            }
            (Some(Ok(_)), Some(shortfall)) => Err(failed(shortfall, Outcome::Committed, seen)),
            (Some(Err(error)), _) => Err(failed(error, Outcome::Rejected, seen)),
            (None, _) => Err(failed(Error::Internal, Outcome::Unknown, None)),
        }
    }
}
