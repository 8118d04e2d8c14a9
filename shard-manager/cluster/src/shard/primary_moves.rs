//! Primary moves: the interface through which a mover, the task that carries out a move of slots,
//! reads and changes a shard's primary.
//!
//! **Not here:** the statements (the engines), the rules of a change (crate `moves`).

use std::sync::Arc;
use std::time::Instant;

use engine::PrimaryReader;
use engine::slot_move::{MoveChange, MoveChangeError, MoveReader, RoundBudget, ShardMoves};
use model::error::Error;
use model::stats::{LaneStats, MoverConnections};
use moves::request_context::MoveEffect;

use crate::lane::Lanes;

/// Interface of a [`Primary`](super::Primary) for a mover.
#[derive(Clone, Copy)]
pub struct PrimaryMoves<'p> {
    pub(super) lanes: &'p Lanes,
    pub(super) moves: &'p ShardMoves,
    pub(super) node: &'p dyn PrimaryReader,
}

impl<'p> PrimaryMoves<'p> {
    /// Returns the reader with which a mover reads the primary.
    pub fn reader(self) -> &'p Arc<dyn MoveReader> {
        &self.moves.reader
    }

    /// Returns the load of the lanes, in which clients' writes wait.
    pub fn lane_stats(self) -> LaneStats {
        self.lanes.stats()
    }

    /// Returns true if changes for moves are carried out by the lanes, between the writes of
    /// clients.
    pub fn waits_for_lanes(self) -> bool {
        self.moves.writer.is_none()
    }

    /// Returns the limits of a chunk that is copied while clients write.
    pub fn chunk_beside_writes(self) -> RoundBudget {
        if self.waits_for_lanes() {
            RoundBudget::BETWEEN_WRITES
        } else {
            RoundBudget::BESIDE_WRITES
        }
    }

    /// Returns the free bytes of the disk on which the primary stores rows; `None` if they are not
    /// known.
    ///
    /// # Errors
    /// Those of [`Reads::read_key`](super::Reads::read_key).
    pub(crate) async fn free_bytes(self, deadline: Instant) -> Result<Option<u64>, Error> {
        self.node.free_bytes(deadline).await
    }

    /// Returns the number of connections to the primary's server that movers need, and the number
    /// of free ones; `None` if the engine has no server.
    ///
    /// # Errors
    /// Those of [`Reads::read_key`](super::Reads::read_key).
    pub(crate) async fn connections(
        self,
        deadline: Instant,
    ) -> Result<Option<MoverConnections>, Error> {
        self.node.mover_connections(deadline).await
    }

    /// Carries out a change in one durable transaction.
    ///
    /// # Errors
    /// [`MoveChangeError`].
    pub async fn change(
        self,
        change: MoveChange,
        deadline: Instant,
    ) -> Result<MoveEffect, MoveChangeError> {
        match &self.moves.writer {
            Some(writer) => writer.change(change, deadline).await,
            None => self.lanes.solo().change_move(change, deadline).await,
        }
    }
}
