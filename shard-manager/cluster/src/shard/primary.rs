//! Primary: the lanes and readers of a shard's primary, and the requests that it refuses.
//!
//! A comparison of the copies of a shard may find that rows of the primary are wrong while replicas
//! have the right ones. Reads of the primary are then refused, and so are changes that are computed
//! from stored rows, which would spread the fault to the replicas. Writes of whole rows are
//! accepted, and repair the rows that they replace.
//!
//! **Invariant:** while rows of the primary are known to be wrong, its rows are not returned, and
//! no change is computed from them.
//! **Not here:** finding wrong rows, choosing the node that is the primary (the engines).

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
    /// Permit that is held while the sizes of the tables are measured.
    pub(super) sizing: Arc<Semaphore>,
    /// Reasons, found by checks and still valid, why the primary does not fulfil its role.
    pub(super) findings: Arc<Findings>,
    /// Faults that comparisons of the shard's copies have found.
    pub(super) copy_faults: Arc<CopyFaults>,
    /// Traits through which movers read and change the shard; `None` if its engine has no moves.
    pub(super) moves: Option<ShardMoves>,
    /// Builder of the shard's indexes; `None` if the lane builds them.
    pub(super) indexes: Option<Arc<dyn IndexBuilder>>,
}

impl Primary {
    /// Returns the interface for movers; `None` if the engine distributes rows by itself.
    pub fn moves(&self) -> Option<PrimaryMoves<'_>> {
        Some(PrimaryMoves { lanes: &self.lanes, moves: self.moves.as_ref()?, node: &*self.reader })
    }

    /// Returns the number of rows and bytes of each table. This reads every page, so only one call
    /// runs at a time; others wait.
    ///
    /// # Errors
    /// Those of [`Reads::read_key`](super::Reads::read_key).
    pub async fn sizes(&self, deadline: Instant) -> Result<Vec<TableSize>, Error> {
        let turn = Arc::clone(&self.sizing).acquire_owned();
        let turn = tokio::time::timeout_at(deadline.into(), turn).await;
        let Ok(Ok(turn)) = turn else { return Err(Error::DeadlinePassed) };
        self.reader.table_sizes(turn, deadline).await
    }

    /// Returns the nodes over which the engine itself distributes the shard's rows; an empty list
    /// if the engine does not distribute them.
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

    /// Returns a lower bound of the freshness of the rows that a later read returns.
    pub(super) fn freshness(&self) -> FreshnessBound {
        let (timeline, as_of) = (self.replication.timeline().id(), Instant::now());
        FreshnessBound { timeline, min_position: self.reader.visible_position(), as_of }
    }

    /// Refuses requests while an injected fault cuts off the primary.
    pub(crate) fn check_reachable(&self) -> Result<(), Error> {
        if self.lanes.fault_injector().fault().mode == NodeMode::Cut {
            return Err(Error::ShardUnavailable { shard: self.shard.clone() });
        }
        Ok(())
    }

    /// Refuses a read of the primary while some of its rows are wrong, or while it is cut off.
    pub(super) fn check_readable(&self) -> Result<(), Error> {
        if self.copy_faults.is_primary_wrong() {
            return Err(Error::WrongRows { shard: self.shard.clone() });
        }
        self.check_reachable()
    }

    /// Refuses changes that are computed from stored rows while rows of the primary are wrong.
    /// Refuses all changes while the primary is cut off or has lost its files.
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
