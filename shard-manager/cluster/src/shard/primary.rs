//! Primary: the lanes and readers of a shard's primary, and the requests that it refuses.
//!
//! Some rows of the primary may be known to be wrong while replicas have the right ones. Requests
//! that would return wrong rows, or build on them and so spread them to the replicas, are refused
//! then; writes of whole rows are accepted, and repair the rows that they replace.
//!
//! **Invariant:** a row that is known to be wrong is neither shown nor built on.
//! **Not here:** how wrong rows are found, and the node that is the primary (the engines).

use std::sync::Arc;
use std::time::Instant;

use cache::FreshnessBound;
use engine::copy_faults::CopyFaults;
use engine::fault_injector::NodeMode;
use engine::index_builder::IndexBuilder;
use engine::replication::ReplicationState;
use engine::slot_move::ShardMoves;
use engine::{PrimaryReader, ReadIndex, TableRows, TableSize, WorkerNode};
use model::error::Error;
use model::position::Position;
use model::reason::{Findings, Reason, Reasons};
use model::row_change::WriteRequest;
use model::stats::SizeEstimate;
use tokio::sync::Semaphore;

use super::primary_moves::PrimaryMoves;
use crate::lane::Lanes;

/// The primary of a shard, whichever node that is.
pub struct Primary {
    /// Name of the shard.
    pub(super) shard: String,
    pub(super) lanes: Lanes,
    pub(super) replication: Arc<ReplicationState>,
    pub(super) reader: Arc<dyn PrimaryReader>,
    /// Held while the tables are measured.
    pub(super) sizing: Arc<Semaphore>,
    /// Reasons that were found about the primary and still hold.
    pub(super) findings: Arc<Findings>,
    /// Rows that are known to be wrong.
    pub(super) copy_faults: Arc<CopyFaults>,
    /// Reads and changes of the shard for moves; `None` if its engine has no moves.
    pub(super) moves: Option<ShardMoves>,
    /// Builder of its indexes; `None` if the lane builds them.
    pub(super) indexes: Option<Arc<dyn IndexBuilder>>,
}

impl Primary {
    /// Returns the interface for movers; `None` if the engine distributes rows by itself.
    pub fn moves(&self) -> Option<PrimaryMoves<'_>> {
        Some(PrimaryMoves { lanes: &self.lanes, moves: self.moves.as_ref()?, node: &*self.reader })
    }

    /// Returns rows and bytes of each table. It reads every page, so only one call runs at a time;
    /// others wait.
    ///
    /// # Errors
    /// Those of [`Reads::read_key`](super::Reads::read_key).
    pub async fn sizes(&self, deadline: Instant) -> Result<Vec<TableSize>, Error> {
        let turn = Arc::clone(&self.sizing).acquire_owned();
        let turn = tokio::time::timeout_at(deadline.into(), turn).await;
        let Ok(Ok(turn)) = turn else { return Err(Error::DeadlinePassed) };
        self.reader.table_sizes(turn, deadline).await
    }

    /// Returns the nodes over which the engine itself distributes the shard's rows; none if it does
    /// not.
    ///
    /// # Errors
    /// Those of [`Reads::read_key`](super::Reads::read_key).
    pub async fn worker_nodes(&self, deadline: Instant) -> Result<Vec<WorkerNode>, Error> {
        self.reader.worker_nodes(deadline).await
    }

    /// Returns the number of rows of each table.
    ///
    /// # Errors
    /// Those of [`Reads::read_key`](super::Reads::read_key).
    pub async fn row_counts(&self, deadline: Instant) -> Result<Vec<TableRows>, Error> {
        self.reader.row_counts(deadline).await
    }

    /// Returns the approximate size of the shard.
    ///
    /// # Errors
    /// Those of [`Reads::read_key`](super::Reads::read_key).
    pub async fn size_estimate(&self, deadline: Instant) -> Result<SizeEstimate, Error> {
        self.reader.size_estimate(deadline).await
    }

    /// Returns a position at or after every change that was committed before this was called.
    pub(crate) async fn position(&self, deadline: Instant) -> Result<Position, Error> {
        match self.reader.read_index(deadline).await? {
            ReadIndex::Confirmed(sequence) => Ok(self.replication.timeline().position(sequence)),
            ReadIndex::AwaitQuorum(position) => Ok(position),
        }
    }

    /// Returns a lower bound of how new the rows of a later read are.
    pub(super) fn freshness(&self) -> FreshnessBound {
        let (timeline, as_of) = (self.replication.timeline().id(), Instant::now());
        FreshnessBound { timeline, min_position: self.reader.visible_position(), as_of }
    }

    /// Refuses requests while an injected fault cuts off the primary.
    pub(super) fn check_reachable(&self) -> Result<(), Error> {
        if self.lanes.fault_injector().fault().mode == NodeMode::Cut {
            return Err(Error::ShardUnavailable { shard: self.shard.clone() });
        }
        Ok(())
    }

    /// Refuses a read of the primary while its rows are wrong.
    pub(super) fn check_readable(&self) -> Result<(), Error> {
        if self.copy_faults.is_primary_wrong() {
            return Err(Error::WrongRows { shard: self.shard.clone() });
        }
        self.check_reachable()
    }

    /// Refuses changes that build on rows of the primary while these are wrong.
    pub(super) fn check_writable(&self, request: &WriteRequest) -> Result<(), Error> {
        if self.copy_faults.is_primary_wrong()
            && request.rows.iter().any(|row| row.builds_on_stored())
        {
            return Err(Error::WrongRows { shard: self.shard.clone() });
        }
        self.check_reachable()?;
        self.reader.check_writable()
    }

    /// Returns the reasons why the primary is believed to accept no writes. Reads may succeed where
    /// writes do not, because the lane has a connection of its own.
    pub(super) fn reasons(&self) -> Reasons {
        let is_cut = self.check_reachable().is_err() || self.replication.timeline().is_silent();
        let found = Reasons::of(is_cut.then_some(Reason::NoAnswer));
        let lost = Reasons::of(self.reader.loss());
        found.union(self.lanes.standstill()).union(self.findings.now()).union(lost)
    }
}
