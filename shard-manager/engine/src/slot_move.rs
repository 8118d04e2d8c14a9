//! Slot move: the traits through which a mover reads and changes one shard that takes part in a
//! move, and the values that they exchange.
//!
//! The mover is the task that carries out a move. It copies rows in rounds: a round is read from
//! one shard in one snapshot, and stored on the other shard in one transaction. Each of the two
//! shards keeps a record of the move, a [`MoveRow`]. A [`Feed`] is the stream of changes that a
//! shard records for a move; a promotion ends it.
//!
//! The crate `moves` contains the rules. An engine reads the metadata of its shard into
//! [`moves::shard_metadata::ShardMetadata`], calls [`MoveRequest::apply`] to decide, and stores the
//! resulting metadata together with the changed rows in one transaction.
//!
//! **Invariant:** both sides of a move are shards of one engine, so rows travel in the format of
//! that engine.
//! **Not here:** the next step of a move (`moves::next_step`), the steps of a mover (`cluster`),
//! the moves that the catalog lists (`move_catalog`).

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use model::error::{Error, Outcome};
use model::idempotency;
use model::keyspace::Slot;
use model::position::Position;
use model::row_change::{ROW_BYTES_MAX, UNREAD_BYTES_MAX};
use model::table::Table;
use moves::applied::{AppliedRows, Feed};
use moves::identity::MoveId;
use moves::move_row::{CopyCursor, MoveRow};
use moves::observation::SlotsState;
use moves::refusal::MoveRefusal;
use moves::request::MoveRequest;
use moves::request_context::MoveEffect;
use moves::round::CopyRound;

use super::EngineFuture;
use super::row_hashes::{RowHashQuery, RowHashes};

/// Maximum size in bytes of the rows of one round, except for a record of an idempotency key. A
/// mover holds at most two rounds in memory.
pub const ROUND_BYTES_MAX: usize = 4 << 20;

// The largest row that partial changes can produce still fits into a round.
const _: () = assert!(ROW_BYTES_MAX + UNREAD_BYTES_MAX <= ROUND_BYTES_MAX);

/// Returns the maximum size in bytes that a row of this table may have in a move.
///
/// The record of an idempotency key contains the JSON of a row as a string within JSON. The
/// quotation marks and backslashes of that row, also those of escaped control characters, are
/// escaped a second time, so the record may be several times as large as the row.
pub fn row_bytes_max(table: &Table) -> usize {
    let is_record = table.name() == idempotency::TABLE.name();
    if is_record { 4 * ROUND_BYTES_MAX } else { ROUND_BYTES_MAX }
}

/// Interfaces through which a shard takes part in moves.
#[derive(Clone)]
pub struct ShardMoves {
    /// Reads the shard for a mover.
    pub reader: Arc<dyn MoveReader>,
    /// Makes the changes of moves in separate database sessions, if the engine supports that. If it
    /// is `None`, the changes are queued in the lane of the shard ([`super::Writer::change_move`]).
    pub writer: Option<Arc<dyn MoveWriter>>,
}

/// Reads a shard for a mover, on its primary.
pub trait MoveReader: Send + Sync {
    /// Reads the shard's facts about a move in one snapshot, and then the position of the node.
    ///
    /// # Errors
    /// The error of the primary.
    fn facts<'a>(&'a self, query: &'a FactsQuery, deadline: Instant)
    -> EngineFuture<'a, MoveFacts>;

    /// Reads the next round in one snapshot. The round consists of the current rows of the keys
    /// before the cursor that were changed since the last round, and of the next chunk of rows
    /// after the cursor.
    ///
    /// # Errors
    /// [`RoundError`].
    fn read_round<'a>(
        &'a self,
        query: &'a RoundQuery,
        deadline: Instant,
    ) -> BoxFuture<'a, Result<RoundRead, RoundError>>;

    /// Computes the digests of all rows of some slots in one snapshot.
    ///
    /// # Errors
    /// The error of the primary.
    fn digests<'a>(
        &'a self,
        slots: &'a Arc<[Slot]>,
        deadline: Instant,
    ) -> EngineFuture<'a, Vec<SlotDigest>>;

    /// Reads a page of the keys and hashes of the rows of one slot, in one snapshot, to find the
    /// rows in which a copy differs.
    ///
    /// # Errors
    /// The error of the primary.
    fn row_hashes<'a>(
        &'a self,
        query: &'a RowHashQuery,
        deadline: Instant,
    ) -> EngineFuture<'a, RowHashes>;

    /// Returns true if at least `limit` changes of these slots are recorded: more than a shard
    /// keeps for a move. The default returns false, for engines whose change log has a size limit
    /// of its own.
    ///
    /// # Errors
    /// The error of the primary.
    fn has_too_many_changes<'a>(
        &'a self,
        _slots: &'a Arc<[Slot]>,
        _limit: u64,
        _deadline: Instant,
    ) -> EngineFuture<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    /// Returns all records of moves that the shard keeps.
    ///
    /// # Errors
    /// The error of the primary.
    fn rows(&self, deadline: Instant) -> EngineFuture<'_, Vec<MoveRow>>;

    /// Converts the timeline of a [`Feed`] to the number that the replication state and session
    /// tokens use for it; `None` if they use a single timeline for as long as the shard is open.
    fn position_timeline(&self, timeline: u32) -> Option<u32>;
}

/// Changes a shard for a mover, on its primary.
pub trait MoveWriter: Send + Sync {
    /// Carries out a change in one durable transaction.
    ///
    /// Cancel safety: if the future is dropped, the transaction may or may not have been committed.
    ///
    /// # Errors
    /// [`MoveChangeError`].
    fn change(
        &self,
        change: MoveChange,
        deadline: Instant,
    ) -> BoxFuture<'_, Result<MoveEffect, MoveChangeError>>;
}

/// Query for the facts of a shard about one move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactsQuery {
    /// The move.
    pub id: MoveId,
    /// Slots of the move.
    pub slots: Arc<[Slot]>,
    /// State of the copy on the other shard, if it was copied from this shard.
    pub copied: Option<AppliedRows>,
}

/// Facts of a shard about a move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveFacts {
    /// Timeline and insert position of the node, read after the other facts. The timeline is
    /// numbered as in [`Feed`].
    pub position: Position,
    /// The shard's record of the move, if it has one.
    pub row: Option<MoveRow>,
    /// Common state of the move's slots on this shard.
    pub slots: SlotsState,
    /// True if the shard has any rows in these slots.
    pub has_rows: bool,
    /// True if the shard has recorded a change that the copy of [`FactsQuery::copied`] lacks.
    pub is_ahead: bool,
    /// True if the copy can no longer be brought up to date: [`FactsQuery::copied`] belongs to
    /// another feed than the present one, or the log no longer has all changes that the copy lacks.
    pub lost_changes: bool,
}

/// State of the copy that a round continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoundQuery {
    /// The move.
    pub id: MoveId,
    /// Slots of the move.
    pub slots: Arc<[Slot]>,
    /// State of the copy on the other shard.
    pub base: AppliedRows,
    /// Last row up to which the other shard has a copy.
    pub base_cursor: CopyCursor,
    /// True to compute the digests of the source in the snapshot of the round as well. They are
    /// omitted if there are too many changes for one round.
    pub wants_digests: bool,
    /// Limits of the chunk.
    pub budget: RoundBudget,
}

/// Limits of the chunk of a round: the chunk ends when it reaches either of them.
///
/// Each round costs a durable transaction, so large rounds copy faster. Writes to the target may
/// have to wait while a round is stored, so small rounds delay them less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundBudget {
    /// Maximum number of rows, at least 1.
    pub rows: usize,
    /// Maximum number of bytes, at least 1. The last row of a chunk may exceed this limit.
    pub bytes: usize,
}

impl RoundBudget {
    /// Limits while clients write, if their writes wait until the round is stored. Storing it takes
    /// two or three milliseconds.
    pub const BETWEEN_WRITES: Self = Self { rows: 100, bytes: 64 << 10 };
    /// Limits while clients write, if their writes continue while the round is stored.
    pub const BESIDE_WRITES: Self = Self { rows: 500, bytes: 256 << 10 };
    /// Limits while no clients write to the shards.
    pub const ALONE: Self = Self { rows: 20_000, bytes: 2 << 20 };

    /// Returns the limits that remain for the chunk of a round that already has this number of rows
    /// and bytes. At least a quarter of each limit always remains, so that the copy makes progress
    /// even if each round is full of changes.
    #[must_use]
    pub fn without(self, rows: usize, bytes: usize) -> Self {
        let left = |budget: usize, used| budget.saturating_sub(used).max(budget / 4).max(1);
        Self { rows: left(self.rows, rows), bytes: left(self.bytes, bytes) }
    }
}

/// Round that was read.
#[derive(Clone, Debug)]
pub struct RoundRead {
    /// The round, for [`MoveRequest::Store`].
    pub round: CopyRound,
    /// Rows of the round.
    pub rows: RoundRows,
    /// Number of changed keys in the round.
    pub changes: usize,
    /// True if the round contains every change that the snapshot shows; false if there are too many
    /// for one round.
    pub has_all: bool,
    /// Digests of the source, if they were requested and the round has every change of the
    /// snapshot.
    pub digests: Option<Vec<SlotDigest>>,
}

/// Rows of a round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundRows {
    /// Tables with changes or new rows.
    pub tables: Vec<RoundTable>,
}

impl RoundRows {
    /// Returns the number of rows.
    pub fn row_count(&self) -> u64 {
        self.tables.iter().map(|table| table.row_count).sum()
    }

    /// Returns the size in bytes.
    pub fn bytes(&self) -> u64 {
        let bytes = |table: &RoundTable| table.removed.len() + table.rows.len();
        self.tables.iter().map(|table| bytes(table) as u64).sum()
    }
}

/// Rows of a round in one table, in the format of the engine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoundTable {
    /// Name of the table.
    pub table: String,
    /// Keys whose rows are removed before `rows` are stored.
    pub removed: Vec<u8>,
    /// Rows to store.
    pub rows: Vec<u8>,
    /// Number of rows to store.
    pub row_count: u64,
    /// Names of the columns of each unique index that the shard had when the rows were read. The
    /// list is empty if there are no rows to store.
    pub unique_indexes: Vec<Vec<String>>,
}

impl RoundTable {
    /// Returns true if the sending shard had a unique index on these columns when the rows were
    /// read. If another row on the receiving shard has the same values, that row no longer has them
    /// on the sending shard. Its change is part of this round or of a later one, so the row may be
    /// displaced.
    pub fn is_unique(&self, table: &Table, columns: &[usize]) -> bool {
        let places = Table::PLACE.iter().chain(columns);
        let is_among = |name: &String| places.clone().any(|at| table.column(*at).name == *name);
        self.unique_indexes.iter().any(|index| index.iter().all(is_among))
    }
}

/// Number and digest of the rows of one table in one slot. Sets of rows with equal contents have
/// equal digests on all shards of a cluster, whatever the order of the rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotDigest {
    /// Name of the table.
    pub table: String,
    /// Number of the slot.
    pub slot: u16,
    /// Number of rows, at least 1.
    pub rows: u64,
    /// Sum of the hashes of the rows.
    pub sum: String,
}

/// Conditional transaction of a move on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveChange {
    /// The request.
    pub request: MoveRequest,
    /// Rows of [`MoveRequest::Store`].
    pub rows: RoundRows,
}

impl From<MoveRequest> for MoveChange {
    fn from(request: MoveRequest) -> Self {
        Self { request, rows: RoundRows::default() }
    }
}

/// Failure of a round.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoundError {
    /// The changes since the last round are not available, so the copy begins again: the shard
    /// records no changes of the slots, or records them in another feed than that of the last
    /// round, or the log no longer has them.
    #[error("the changes since the last round are not recorded")]
    LostChanges,
    /// A row is larger than [`row_bytes_max`] permits.
    #[error("a row of {table} is too large for a move")]
    RowTooLarge {
        /// Name of the table.
        table: String,
    },
    /// The primary cannot be read.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Failure of a change. Nothing was changed, unless the outcome of [`Self::Failed`] is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveChangeError {
    /// The state of the shard forbids it.
    #[error(transparent)]
    Refused(#[from] MoveRefusal),
    /// The fence lock, or the lock of a table, was not free in time.
    #[error("{holder} holds a lock: the change is tried again")]
    Busy {
        /// Session or kind of work that holds the lock.
        holder: String,
    },
    /// A table of the round does not exist on the shard yet, because it is still being created.
    #[error("the table {table} does not exist on the shard yet")]
    NoTable {
        /// Name of the table.
        table: String,
    },
    /// The engine distributes rows by itself.
    #[error("the shard distributes its rows itself")]
    Unsupported,
    /// The transaction failed.
    #[error("{error}")]
    Failed {
        /// Cause.
        error: Error,
        /// Outcome: rejected or unknown.
        outcome: Outcome,
    },
}

/// Returns the feed of the changes that a shard records for a move, on this timeline; `None` if the
/// shard's record of the move shows that it records no changes.
pub fn recorded_feed(row: &MoveRow, timeline: u32) -> Option<Feed> {
    row.is_traced.then(|| row.feed(timeline))
}

#[cfg(test)]
mod tests {
    use model::row_change::{Change, Operation, RowDone, RowWrite};
    use model::value::Value;

    use super::*;

    #[test]
    fn the_record_of_a_deletion_can_be_moved_whatever_the_row_was() {
        let change = RowWrite {
            table: Arc::clone(&idempotency::TABLE),
            operation: Operation::Delete,
            slot: Slot::new(1).expect("a slot"),
            key: "ada".to_owned(),
            id: vec![Value::Text("ada".to_owned())],
            set: Vec::new(),
            precondition: None,
            idempotency_key: Some("once".to_owned()),
            wants_row: false,
        };
        // The largest row of quotation marks, and a CSV row of control characters.
        let texts = ["\\\"".repeat(ROUND_BYTES_MAX / 2), "\\u0001".repeat(2 << 20)];
        for text in texts {
            let json = format!("{{\"text\":\"{text}\"}}").into_bytes();
            let done = RowDone { change: Change::Removed, version: 1, json, replayed: false };
            let record = idempotency::record(&change, &Ok(done)).expect("it is stored");
            let [_, (_, Value::Text(answer))] = &record.set[..] else { panic!("two columns") };
            let names_and_key = 64 << 10;
            assert!(answer.len() > ROUND_BYTES_MAX, "larger than other rows");
            assert!(answer.len() + names_and_key <= row_bytes_max(&record.table));
        }
    }
}
