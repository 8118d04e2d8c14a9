//! Data: the interface of a manager for rows, with the rights of the caller who reads or writes
//! them.
//!
//! **Invariant:** a success means durable on the primary that the receipt names.
//! **Not here:** bulk writes (`bulk`), writes that a shard refuses (`waiting_rows`), reads
//! (`reads`), the cache (`cached`), session tokens (`sessions`, `session_epoch`).

mod bulk;
mod bulk_rows;
mod cached;
mod coverage;
mod moved_slots;
mod read_rights;
mod reads;
mod refused_row;
mod scatter;
mod session_epoch;
mod shard_parts;
mod shards_of_read;
mod waiting_rows;
mod write_rights;

use std::borrow::Cow;
use std::sync::Arc;

use access::rights::Rights;
use model::error::{Error, Failure, Outcome};
use model::keyspace::ShardKey;
use model::position::Position;
use model::row_change::{Fields, Operation, RowDone, RowWrite, WriteRequest};
use model::shard_map::partitions::{partition_column, partition_of};
use model::shard_map::{KeyLocation, ShardMap};
use model::slot_refusal::SlotRefusal;
use model::table::Table;
use model::value::Value;

use self::bulk::RowSender;
use self::cached::KeysBeingWritten;
use self::refused_row::RefusedRow;
use super::{Manager, Receipt, RequestOptions, Schema, WriteReceipt};
use crate::lane::{Applied, LaneFailure, LaneTimes};
use crate::shard::WriteDone;

pub use bulk_rows::{BulkDone, BulkPart, BulkRow, BulkRowDone};
pub(super) use coverage::KnownCoverage;
pub use read_rights::ResumeError;

/// Interface of a [`Manager`] for rows.
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
    /// Returns the interface for tables, with the same rights.
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
        place_row(map, table, operation, key, RowWrite::values(table, fields)?)
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
        let place = self.manager.router.redirected(place);
        let mut pending = KeysBeingWritten::new(self.manager, std::iter::once((place, &row)));
        let written = match self.manager.shards().find(place.shard) {
            Some(shard) => {
                let request = WriteRequest { share: self.rights.share(), ..vec![row].into() };
                let done = shard.write(request, options.level, options.deadline).await;
                if let Err(LaneFailure { outcome: Outcome::Rejected, .. }) = &done {
                    pending.forget();
                }
                RowWritten::of(place, done)
            }
            // A shard that has retired owns no slots.
            None => Err(Box::new(RefusedRow::new(
                BulkRow { index: 0, place, row },
                SlotRefusal::absent(place.slot),
            ))),
        };
        let written = match written {
            Ok(written) => written,
            Err(refused) => RowWritten::of_refused(refused, RowSender::new(self, options)).await,
        };
        drop(pending);
        let RowWritten { place, mut outcome, seen, times } = written;
        readable.cut(outcome.as_mut().map_err(|(error, _)| error));
        match outcome {
            Ok(row) => {
                let position = seen.unwrap_or_default();
                Ok(WriteReceipt { row, receipt: Receipt { place, position, times } })
            }
            Err((error, outcome)) => Err(Failure { error, place: Some(place), outcome, seen }),
        }
    }
}

/// Checks one change like [`Data::prepare`], from the numbers and values of the table's own
/// columns, in any order.
///
/// # Errors
/// [`Error::Row`], which names the column and its fault.
pub fn place_row(
    map: &ShardMap,
    table: &Arc<Table>,
    operation: Operation,
    key: ShardKey<'_>,
    values: Vec<(usize, Value)>,
) -> Result<(KeyLocation, RowWrite), Error> {
    let partition = partition_of(map, table, &values).map(Cow::into_owned);
    place_row_in(map, (table, operation), (key, partition.as_deref()), values)
}

/// Checks one change of a row like [`place_row`], with a partition that is not among its values.
///
/// # Errors
/// [`Error::Row`], which names the column and its fault.
pub fn place_row_in(
    map: &ShardMap,
    (table, operation): (&Arc<Table>, Operation),
    (key, partition): (ShardKey<'_>, Option<&str>),
    mut values: Vec<(usize, Value)>,
) -> Result<(KeyLocation, RowWrite), Error> {
    let place = map.locate(table, key, partition)?;
    if operation == Operation::Delete {
        // The partition column has determined the location of the row; a delete needs it for
        // nothing else.
        let partition = partition_column(map, table).filter(|column| !table.id().contains(column));
        values.retain(|(column, _)| Some(*column) != partition);
    }
    let row = RowWrite::of_values(table, operation, (key, place.slot), values)?;
    Ok((place, row))
}

/// Result of the write of one row.
struct RowWritten {
    place: KeyLocation,
    outcome: Result<RowDone, (Error, Outcome)>,
    /// Position that the client has learnt.
    seen: Option<Position>,
    times: LaneTimes,
}

impl RowWritten {
    /// Returns the result of a write, or the row as an error if the shard does not accept its slot.
    fn of(
        place: KeyLocation,
        done: Result<WriteDone, LaneFailure>,
    ) -> Result<Self, Box<RefusedRow>> {
        let done = match done {
            Ok(done) => done,
            Err(LaneFailure { error, outcome }) => {
                return Ok(Self { outcome: Err((error, outcome)), ..Self::unknown(place) });
            }
        };
        let seen = Some(done.seen());
        let WriteDone { applied: Applied { rows, times, refused, .. }, shortfall } = done;
        let outcome = match (rows.into_iter().next(), shortfall) {
            (Some(Ok(row)), None) => Ok(row),
            (Some(Ok(_)), Some(shortfall)) => Err((shortfall, Outcome::Committed)),
            (Some(Err(error)), _) => {
                if let Error::SlotRefused(refusal) = &error
                    && let Some(row) = refused.and_then(|request| request.rows.into_iter().next())
                {
                    return Err(Box::new(RefusedRow::new(
                        BulkRow { index: 0, place, row },
                        *refusal,
                    )));
                }
                Err((error, Outcome::Rejected))
            }
            (None, _) => return Ok(Self::unknown(place)),
        };
        Ok(Self { place, outcome, seen, times })
    }

    /// Writes a row that a shard has refused to the shard that accepts its slot.
    async fn of_refused(refused: Box<RefusedRow>, sender: RowSender<'_>) -> Self {
        let place = refused.row.place;
        // On the heap: every write reserves space for this wait, and few need it.
        let settled = Box::pin(sender.settle_row(refused)).await;
        let row = settled.and_then(|(_, BulkPart { rows, seen, times, .. })| {
            let BulkRowDone { place, outcome, .. } = rows.into_iter().next()?;
            Some(Self { place, outcome, seen, times })
        });
        row.unwrap_or_else(|| Self::unknown(place))
    }

    fn unknown(place: KeyLocation) -> Self {
        let outcome = Err((Error::Internal, Outcome::Unknown));
        Self { place, outcome, seen: None, times: LaneTimes::default() }
    }
}
