//! Bulk rows: the rows of a bulk write, and their outcomes.
//!
//! **Not here:** sending the rows (`bulk`).

use model::error::{Error, Outcome};
use model::position::Position;
use model::row_change::{RowDone, RowWrite};
use model::shard_map::KeyLocation;
use model::token::SessionToken;

use crate::lane::LaneTimes;

/// One row of a bulk write, checked and routed.
#[derive(Clone, Debug)]
pub struct BulkRow {
    /// Index of the row in the request.
    pub index: usize,
    /// Slot and shard of the row.
    pub place: KeyLocation,
    /// The change.
    pub row: RowWrite,
}

/// Outcome of one row of a bulk write.
#[derive(Clone, Debug)]
pub struct BulkRowDone {
    /// Index of the row in the request.
    pub index: usize,
    /// Slot and shard of the row.
    pub place: KeyLocation,
    /// Outcome of the row.
    pub outcome: Result<RowDone, (Error, Outcome)>,
}

/// Result of a bulk write.
#[derive(Clone, Debug)]
pub struct BulkDone {
    /// Outcomes of the rows that were sent or rejected, in the order of the shards.
    pub rows: Vec<BulkRowDone>,
    /// Indices of the rows that were not sent, because the client may no longer continue.
    pub unsent: Vec<usize>,
    /// Session of the client, with the positions of this write.
    pub session: SessionToken,
    /// Times of the slowest shard.
    pub times: LaneTimes,
}

/// Outcomes of the rows of one shard.
#[derive(Clone, Debug, Default)]
pub struct BulkPart {
    /// Outcomes of the rows that were sent or rejected.
    pub rows: Vec<BulkRowDone>,
    /// Indices of the rows that were not sent.
    pub unsent: Vec<usize>,
    /// Position of the shard after the last of these rows.
    pub seen: Option<Position>,
    /// Times that the rows spent in the queue and in the database.
    pub times: LaneTimes,
}
