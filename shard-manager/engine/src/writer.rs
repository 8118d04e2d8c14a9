//! Writer: the traits through which a lane writes, and the values that they exchange.
//!
//! A lane is a queue of writes to the primary of a shard, with the thread or task that serves it.
//! It combines the operations that wait into one transaction, a batch, which its writer runs.
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

/// Maximum number of writers of one shard. Each writer is a connection to the shard's primary.
pub const WRITERS_MAX: usize = 8;

/// Writer of one lane.
pub enum WriterKind {
    /// The writer blocks: its lane is a thread.
    Thread(Box<dyn Writer>),
    /// The writer waits asynchronously for a server: its lane is a task on the runtime of this
    /// handle.
    Task(Box<dyn AsyncWriter>, RuntimeHandle),
}

/// Writer that blocks its thread until its work is done.
pub trait Writer: Send + 'static {
    /// Applies the changes in one durable transaction, and returns the result of each.
    ///
    /// If a change cannot be made (the row does not exist, or a constraint is violated), the result
    /// at its index is the error, and the other changes are still applied. In an atomic group,
    /// however, one such error undoes all changes of the group. When this returns `Ok`, everything
    /// that succeeded is durable.
    ///
    /// # Errors
    /// [`BatchFailure`] if the transaction as a whole failed. No change was applied then, unless
    /// the outcome of the failure is [`Outcome::Unknown`].
    fn apply(&mut self, groups: &[WriteGroup<'_>]) -> Result<BatchDone, BatchFailure>;

    /// Creates or drops a table or an index in one durable transaction, and returns the shard's
    /// position after it. Does nothing if the table or index is already in the requested state.
    ///
    /// # Errors
    /// [`BatchFailure`]; nothing was changed then unless its outcome is [`Outcome::Unknown`]. Its
    /// error is [`Error::IndexPauseExceeded`] if the build exceeded the time limit of
    /// [`IndexChange::MakeWithin`].
    fn change_schema(&mut self, change: &SchemaChange) -> Result<u64, BatchFailure>;

    /// Changes the slots that the shard owns in one durable transaction, and returns the shard's
    /// position after it.
    ///
    /// # Errors
    /// [`SlotChangeError`].
    fn change_slots(&mut self, change: &SlotChange) -> Result<u64, SlotChangeError>;

    /// Carries out one change of a move on this shard in one durable transaction. An engine that
    /// has a [`MoveWriter`](super::slot_move::MoveWriter) makes such changes through it, and
    /// returns [`MoveChangeError::Unsupported`] here.
    ///
    /// # Errors
    /// [`MoveChangeError`].
    fn change_move(&mut self, change: &MoveChange) -> Result<MoveEffect, MoveChangeError>;

    /// Commits a batch that a sabotaged writer (one with a deliberate fault, for tests) left
    /// uncommitted. Called after the operations of each batch were acknowledged.
    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self);

    /// Closes the files cleanly. Called once, after the last batch.
    fn close(&mut self);
}

/// Asynchronous writer, which waits for a server. It has the methods of [`Writer`] and, in
/// addition, [`AsyncWriter::ready`].
///
/// Cancel safety: if a future is dropped, its transaction may or may not have been committed.
pub trait AsyncWriter: Send + 'static {
    /// Returns true if some node of the shard accepts writes now. While no node does, queued writes
    /// wait.
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

    /// Carries out one change of a move on this shard, like [`Writer::change_move`].
    ///
    /// # Errors
    /// [`MoveChangeError`].
    fn change_move<'a>(
        &'a mut self,
        change: &'a MoveChange,
    ) -> BoxFuture<'a, Result<MoveEffect, MoveChangeError>>;

    /// Commits a batch that a sabotaged writer (one with a deliberate fault, for tests) left
    /// uncommitted. Called after the operations of each batch were acknowledged.
    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self);

    /// Closes the connection, which is bound to the runtime of the task that calls this. The next
    /// batch opens a new connection.
    fn close(&mut self) -> BoxFuture<'_, ()>;
}

/// Rule by which an engine divides the changes of a shard among its lanes.
pub trait WritePartitioner: Send + Sync {
    /// Returns the index of the lane for changes of this key; `lanes` is the number of lanes.
    fn lane_of(&self, key: &str, lanes: usize) -> usize;
}

/// Controls that stop the lanes of a shard between two batches.
#[derive(Clone, Debug, Default)]
pub struct LaneControls {
    /// Fault injector, for tests and for teaching.
    pub fault_injector: Arc<FaultInjector>,
    /// Barrier that stops the lanes while a backup reads the positions of all shards' files. A lane
    /// that is a task writes to a server, not to a file, and ignores the barrier.
    pub pause_barrier: Arc<PauseBarrier>,
}

/// Change of the tables of a shard, or of the indexes of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaChange {
    /// Creates the table as declared.
    Make(Arc<Table>),
    /// Drops the table, which must be empty.
    Drop(Arc<Table>),
    /// Changes an index.
    Index(IndexChange),
}

/// Change of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexChange {
    /// Builds the index, without a limit on the time for which writes wait for it.
    Make(Arc<TableIndex>),
    /// Builds the index, but only if writes wait for it no longer than this time: after it, the
    /// build is stopped and leaves nothing behind. An engine that builds indexes without blocking
    /// writes ignores the limit.
    MakeWithin(Arc<TableIndex>, Duration),
    /// Drops the index.
    Drop(Arc<TableIndex>),
}

impl SchemaChange {
    /// Returns the table that is created or dropped, or to which the index belongs.
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
    /// Index of each change within its request, if the group is atomic: all of its changes are
    /// applied, or none.
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
    /// Outcome of the transaction's changes.
    pub outcome: Outcome,
    /// True if a single change may have caused the failure, so that smaller batches may succeed.
    pub retry_split: bool,
}
