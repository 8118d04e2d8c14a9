//! Refused row: a row of a write that a shard has refused, because it does not accept the row's
//! slot.
//!
//! **Not here:** the wait of such rows, and the shard that they are sent to next (`waiting_rows`).

use std::time::Instant;

use model::error::{Error, Outcome};
use model::slot_refusal::{RefusedState, SlotRefusal};

use super::bulk_rows::{BulkRow, BulkRowDone};

/// Row that a shard has refused.
#[derive(Clone, Debug)]
pub(super) struct RefusedRow {
    /// The row, with the shard that has refused it.
    pub(super) row: BulkRow,
    /// The refusal. If another row of the transaction was refused, and this one only for that
    /// reason, it contains the slot of the other row.
    pub(super) refusal: SlotRefusal,
    /// Index in the request of that other row; `None` if the shard has refused this row itself.
    pub(super) undone_by: Option<usize>,
    /// Time at which the fence of the slot ends by itself, if the shard has reported a fence.
    pub(super) until: Option<Instant>,
}

impl RefusedRow {
    /// Creates a refused row from a refusal that was received just now.
    pub(super) fn new(row: BulkRow, refusal: SlotRefusal) -> Self {
        let until = match refusal.state {
            RefusedState::Fenced { left } if !left.is_zero() => Some(Instant::now() + left),
            RefusedState::Fenced { .. }
            | RefusedState::Moved { .. }
            | RefusedState::Importing
            | RefusedState::Absent => None,
        };
        Self { row, refusal, undone_by: None, until }
    }

    /// Marks the row as refused only because another row of its transaction was refused.
    pub(super) fn undone_by(self, row: usize) -> Self {
        Self { undone_by: Some(row), ..self }
    }

    /// Returns the outcome of a row that was not accepted in time.
    pub(super) fn into_done(self) -> BulkRowDone {
        let BulkRow { index, place, .. } = self.row;
        let cause = Error::SlotRefused(self.refusal);
        let error = match self.undone_by {
            Some(row) => Error::Undone { row, cause: Box::new(cause) },
            None => cause,
        };
        BulkRowDone { index, place, outcome: Err((error, Outcome::Rejected)) }
    }
}
