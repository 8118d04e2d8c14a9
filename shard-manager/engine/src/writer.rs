//! Writer: the traits through which a lane writes, and the values that they exchange.
//!
//! **Not here:** queues and batches (`lane`), SQL (the engines).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use model::error::{Error, Outcome};
use model::position::Position;
use model::row_change::{RowDone, RowWrite};
use model::table::Table;
use model::table_index::TableIndex;

use super::fault_injector::FaultInjector;
use super::pause_barrier::PauseBarrier;
use super::runtime_pool::RuntimeHandle;
use moves::request_context::MoveEffect;

use super::slot_change::{SlotChange, SlotChangeError};
use super::slot_move::{MoveChange, MoveChangeError};

/// Maximum number of writers of one shard: each is a connection to its primary.
pub const WRITERS_MAX: usize = 8;

/// Writer of one lane.
pub enum WriterKind {
    /// The writer blocks: its lane is a thread.
    Thread(Box<dyn Writer>),
    /// The writer waits for a server: its lane is a task on the runtime of this handle.
    Task(Box<dyn AsyncWriter>, RuntimeHandle),
}

/// Writer that blocks its thread until its work is done.
pub trait Writer: Send + 'static {
    /// Applies the changes in one durable transaction, and returns the result of each.
    ///
    /// A change that cannot be made (no such row, a constraint) has its error at its index and does
    /// not affect the others, unless they are one atomic group: then none of them is applied. When
    /// this returns `Ok`, everything that succeeded is durable.
    ///
    /// # Errors
    /// [`BatchFailure`] if the transaction as a whole failed; then no change was applied unless its
    /// outcome is [`Outcome::Unknown`].
    fn apply(&mut self, groups: &[WriteGroup<'_>]) -> Result<BatchDone, BatchFailure>;

    /// Creates or drops a table or an index in one durable transaction, and returns the shard's
    /// position after it. Does nothing if it is in the target state already.
    ///
    /// # Errors
    /// [`BatchFailure`]; nothing was changed then unless its outcome is [`Outcome::Unknown`]. Its
    /// error is [`Error::IndexPauseExceeded`] after the limit of [`IndexChange::MakeWithin`].
    fn change_schema(&mut self, change: &SchemaChange) -> Result<u64, BatchFailure>;

    /// Changes the slots that the shard owns in one durable transaction, and returns the shard's
    /// position after it.
    ///
    /// # Errors
    /// [`SlotChangeError`].
    fn change_slots(&mut self, change: &SlotChange) -> Result<u64, SlotChangeError>;

    /// Carries out the change of a move in one durable transaction. An engine with a
    /// [`MoveWriter`](super::slot_move::MoveWriter) returns [`MoveChangeError::Unsupported`].
    ///
    /// # Errors
    /// [`MoveChangeError`].
    fn change_move(&mut self, change: &MoveChange) -> Result<MoveEffect, MoveChangeError>;

    /// Commits a batch that a sabotaged writer left open. Called after the operations of each batch
    /// were acknowledged.
    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self);

    /// Closes the files cleanly. Called once, after the last batch.
    fn close(&mut self);
}

/// Writer that waits for a server. Its methods are those of [`Writer`], and [`AsyncWriter::ready`].
///
/// Cancel safety: a dropped future may have stored everything or nothing.
pub trait AsyncWriter: Send + 'static {
    /// Returns true if a node accepts writes now. Queued writes wait as long as none does.
    fn ready(&mut self) -> BoxFuture<'_, bool>;

    /// Applies the changes in one durable transaction, like [`Writer::apply`].
    ///
    /// # Errors
    /// [`BatchFailure`] if the transaction as a whole failed.
    fn apply<'a>(
        &'a mut self,
        groups: &'a [WriteGroup<'a>],
    ) -> BoxFuture<'a, Result<BatchDone, BatchFailure>>;

    /// Creates or drops a table or an index in one durable transaction, like
    /// [`Writer::change_schema`].
    ///
    /// # Errors
    /// [`BatchFailure`]; nothing was changed then unless its outcome is [`Outcome::Unknown`].
    fn change_schema<'a>(
        &'a mut self,
        change: &'a SchemaChange,
    ) -> BoxFuture<'a, Result<u64, BatchFailure>>;

    /// Changes the slots that the shard owns, like [`Writer::change_slots`].
    ///
    /// # Errors
    /// [`SlotChangeError`].
    fn change_slots<'a>(
        &'a mut self,
        change: &'a SlotChange,
    ) -> BoxFuture<'a, Result<u64, SlotChangeError>>;

    /// Carries out the change of a move, like [`Writer::change_move`].
    ///
    /// # Errors
    /// [`MoveChangeError`].
    fn change_move<'a>(
        &'a mut self,
        change: &'a MoveChange,
    ) -> BoxFuture<'a, Result<MoveEffect, MoveChangeError>>;

    /// Commits a batch that a sabotaged writer left open. Called after the operations of each batch
    /// were acknowledged.
    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self);

    /// Closes the connection, which belongs to the runtime of the caller. The next batch connects
    /// again.
    fn close(&mut self) -> BoxFuture<'_, ()>;
}

/// Rule by which an engine divides the changes of a shard among its lanes.
pub trait WritePartitioner: Send + Sync {
    /// Returns the index of the lane for changes of this key; `lanes` is their number.
    fn lane_of(&self, key: &str, lanes: usize) -> usize;
}

/// Controls that stop the lanes of a shard between two batches.
#[derive(Clone, Debug, Default)]
pub struct LaneControls {
    /// Fault injector, for tests and for teaching.
    pub fault_injector: Arc<FaultInjector>,
    /// Barrier that stops the lanes while a backup reads the positions of all shards' files. A lane
    /// that is a task has no file, and ignores it.
    pub pause_barrier: Arc<PauseBarrier>,
}

/// Change of the set of tables, or of the indexes of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaChange {
    /// Creates the table as declared.
    Make(Arc<Table>),
    /// Drops the table. It must be empty.
    Drop(Arc<Table>),
    /// Changes an index.
    Index(IndexChange),
}

/// Change of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexChange {
    /// Builds the index, however long writes wait for it.
    Make(Arc<TableIndex>),
    /// Builds the index, unless writes would wait for it longer than this: then the build is
    /// stopped, and leaves nothing. An engine that builds indexes while rows are written ignores
    /// the limit.
    MakeWithin(Arc<TableIndex>, Duration),
    /// Drops the index.
    Drop(Arc<TableIndex>),
}

impl SchemaChange {
    /// Returns the table that is created or dropped, or that of the index.
    pub fn table(&self) -> &Arc<Table> {
        match self {
            Self::Make(table) | Self::Drop(table) => table,
            Self::Index(change) => change.index().table(),
        }
    }
}

impl IndexChange {
    /// Returns the index.
    pub fn index(&self) -> &Arc<TableIndex> {
        match self {
            Self::Make(index) | Self::MakeWithin(index, _) | Self::Drop(index) => index,
        }
    }
}

/// Changes of one operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WriteGroup<'u> {
    /// The changes, in the order in which they are applied.
    pub rows: &'u [RowWrite],
    /// Index in the request of each change, if they are applied all or not at all.
    pub atomic_rows: Option<&'u [usize]>,
}

/// Result of a durable transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchDone {
    /// Result of each change, in order.
    pub rows: Vec<Result<RowDone, Error>>,
    /// Position of the shard after the transaction.
    pub position: Position,
}

/// Error of a transaction that failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchFailure {
    /// Cause.
    pub error: Error,
    /// Outcome for its changes.
    pub outcome: Outcome,
    /// True if one of its changes may be the cause: smaller batches may then succeed.
    pub retry_split: bool,
}
