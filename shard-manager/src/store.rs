//! Store: the seam between the domain and the engines that keep rows.
//!
//! The domain has chosen the shard and the node before it comes here; an engine knows rows, not
//! replicas. Verbs have no default bodies: each engine decides for itself.
//!
//! **Not here:** queues and batching (`lane`), which shard (`manager`).

pub mod cluster;
mod declared;
mod forgetting;
mod image;
pub mod intent;
pub mod open_error;
pub mod postgres;
pub mod readers;
pub mod replica;
mod schema;
pub mod sqlite;

use std::sync::Arc;

use crate::error::{Error, Outcome};
use crate::keyspace::Slot;
use crate::position::Position;
use crate::result_rows::Rows;
use crate::row_change::{RowDone, RowWrite};
use crate::table::Table;

/// The writing half of one node, where it holds the thread that it is called on until it is done.
pub trait Writer: Send + 'static {
    /// Applies changes in one durable transaction and says what became of each.
    ///
    /// A change that cannot be (no such row, a constraint) is answered in its place and does not hurt
    /// its neighbours, unless they are one whole: then none of these is applied. When this returns `Ok`,
    /// everything that succeeded is durable.
    ///
    /// # Errors
    /// [`BatchFailure`] if the transaction as a whole failed; then no change was applied unless its
    /// outcome is [`Outcome::Unknown`].
    fn apply(&mut self, units: &[Unit<'_>]) -> Result<BatchDone, BatchFailure>;

    /// Makes or drops a table in one durable transaction, and tells the shard's position after it. What is so
    /// already stays as it is.
    ///
    /// # Errors
    /// [`BatchFailure`]; nothing was changed then unless its outcome is [`Outcome::Unknown`].
    fn change_schema(&mut self, change: &SchemaChange) -> Result<u64, BatchFailure>;

    /// Called after a batch was answered: a sabotaged writer may have left it open. Others have nothing to do.
    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self) {}

    /// Called once, after the last batch: leave the files tidy.
    fn close(&mut self);
}

/// The writing half of one node, where it waits for a server. Its verbs are those of [`Writer`].
///
/// Cancel safety: a dropped future may have stored everything or nothing.
pub trait AsyncWriter: Send + 'static {
    /// Whether there is a node to write to now. What waits is left waiting meanwhile.
    fn ready(&mut self) -> impl Future<Output = bool> + Send;

    /// As [`Writer::apply`].
    ///
    /// # Errors
    /// As there.
    fn apply(
        &mut self,
        units: &[Unit<'_>],
    ) -> impl Future<Output = Result<BatchDone, BatchFailure>> + Send;

    /// As [`Writer::change_schema`].
    ///
    /// # Errors
    /// As there.
    fn change_schema(
        &mut self,
        change: &SchemaChange,
    ) -> impl Future<Output = Result<u64, BatchFailure>> + Send;

    /// As [`Writer::commit_owed`].
    #[cfg(feature = "sabotage")]
    fn commit_owed(&mut self) {}

    /// Gives up what belongs to the runtime that this runs on. What is applied later begins anew.
    fn close(&mut self) -> impl Future<Output = ()> + Send;
}

/// A change of the tables that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaChange {
    /// The table is there afterwards, as declared.
    Make(Arc<Table>),
    /// The table is gone afterwards. It must be empty.
    Drop(Arc<Table>),
}

impl SchemaChange {
    /// The table that it is about.
    pub fn table(&self) -> &Arc<Table> {
        match self {
            Self::Make(table) | Self::Drop(table) => table,
        }
    }
}

/// Changes that came together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Unit<'u> {
    /// In the order in which they are applied.
    pub rows: &'u [RowWrite],
    /// The place in the request of each of them, if they are applied all or not at all.
    pub whole: Option<&'u [usize]>,
}

/// A transaction that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchDone {
    /// What became of each change, in order.
    pub rows: Vec<Result<RowDone, Error>>,
    /// The shard's position, which holds them.
    pub position: Position,
}

/// A transaction that failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchFailure {
    /// Why.
    pub error: Error,
    /// What became of its changes.
    pub outcome: Outcome,
    /// Whether one of its changes may be the culprit: then smaller batches may succeed.
    pub divisible: bool,
}

/// Rows, and up to where the read may have seen the shard's changes.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRows {
    /// The rows.
    pub rows: Rows,
    /// The position.
    pub position: Position,
}

/// One row scope of a read: all rows, or those of one shard key.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'k> {
    /// The rows of one key.
    Key(Slot, &'k str),
    /// All rows of the shard.
    Shard,
}

impl Scope<'_> {
    /// Whether it is that of one key.
    pub(crate) fn is_keyed(self) -> bool {
        matches!(self, Self::Key(..))
    }
}

/// A node of a Citus cluster, as its coordinator tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CitusNode {
    /// `coordinator`, or `worker` and its group.
    pub node: String,
    /// The group of nodes that it belongs to; 0 is the coordinator's.
    pub group: i64,
    /// `primary`, `secondary` or `unavailable`.
    pub role: String,
    /// Whether Citus sends queries there.
    pub active: bool,
    /// Citus' own shards on it, of all tables of Tessera.
    pub shards: i64,
    /// Their bytes.
    pub bytes: i64,
}

/// Rows and bytes of one table on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSize {
    /// The table.
    pub table: String,
    /// Rows, exact.
    pub rows: i64,
    /// Bytes of the pages in use, those of its indexes included.
    pub bytes: i64,
}
