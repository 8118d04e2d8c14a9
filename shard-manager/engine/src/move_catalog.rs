//! Move catalog: the trait through which a cluster lists its moves, and decides which process
//! carries them out.
//!
//! **Invariant:** a slot is in at most one move that has not ended.
//! **Not here:** the rows of the shards, which decide about a move (`slot_move`), the owners of
//! slots ([`super::ClusterBackend::change_map`]).

pub mod change;

use futures_util::future::BoxFuture;
use model::error::Error;
use model::slot_set::SlotSet;
use moves::identity::MoveId;

use super::EngineFuture;
use super::move_record::{MoveOrder, MoveOrderFault, MovePhase, MoveProgressReport, MoveRecord};

/// Highest number of moves that have ended and are still listed.
pub const ENDED_LISTED_MAX: usize = 100;

/// Highest number of moves that have not ended, without those of rebalances, which begin only a few
/// at once. It suffices to move all slots of a group in moves of the largest size.
pub const OPEN_MOVES_MAX: usize = 256;

/// Moves of a catalog.
pub trait MoveCatalog: Send + Sync {
    /// Acquires the right to carry moves out, unless another process has it, and returns true if
    /// this process has it. The right is lost with the connection to the catalog, so callers call
    /// this repeatedly.
    ///
    /// # Errors
    /// The error of the catalog.
    fn lead(&self) -> EngineFuture<'_, bool>;

    /// Returns the number of connected routers that are too old to take part in a move: their reads
    /// need not check the owners of slots.
    ///
    /// # Errors
    /// The error of the catalog.
    fn older_routers(&self) -> EngineFuture<'_, u64>;

    /// Returns all moves that have not ended, and the last [`ENDED_LISTED_MAX`] that have, the
    /// latest first. Moves of the rebalance in progress that have ended with the slots on their
    /// source are always listed: the rebalance begins no other move of these slots.
    ///
    /// # Errors
    /// The error of the catalog.
    fn list(&self) -> EngineFuture<'_, Vec<MoveRecord>>;

    /// Returns a move; `None` if it is not stored. One that has ended is stored longer than it is
    /// listed.
    ///
    /// # Errors
    /// The error of the catalog.
    fn get(&self, id: MoveId) -> EngineFuture<'_, Option<MoveRecord>>;

    /// Lists a new move if the shard map still has this epoch and none of the move's slots is in
    /// another move. Unless it is a part of a rebalance, fewer than [`OPEN_MOVES_MAX`] such moves
    /// may be open. A move that is already listed is left unchanged, so that the call can be
    /// repeated.
    ///
    /// # Errors
    /// [`MoveListError`].
    fn begin<'a>(
        &'a self,
        record: &'a MoveRecord,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), MoveListError>>;

    /// Stores an order of an operator, and returns the move as it is listed then.
    ///
    /// # Errors
    /// [`MoveListError`].
    fn order(
        &self,
        id: MoveId,
        order: MoveOrder,
    ) -> BoxFuture<'_, Result<MoveRecord, MoveListError>>;

    /// Begins a new term of a mover and returns its number, which is greater than all earlier
    /// numbers and than `known`. Fails with [`MoveListError::Superseded`] if the move has ended.
    ///
    /// # Errors
    /// [`MoveListError`].
    fn take_over(&self, id: MoveId, known: u64) -> BoxFuture<'_, Result<u64, MoveListError>>;

    /// Stores the report of the mover of this term, and returns the move as it is listed then. The
    /// first report with phase [`MovePhase::Keeping`] also stores the time at which the target
    /// began to own the slots.
    ///
    /// # Errors
    /// [`MoveListError`].
    fn report<'a>(
        &'a self,
        id: MoveId,
        term: u64,
        report: &'a MoveReport,
    ) -> BoxFuture<'a, Result<MoveRecord, MoveListError>>;
}

/// Report of a mover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveReport {
    /// Phase. One that [has ended](MovePhase::has_ended) ends the move and frees its slots.
    pub phase: MovePhase,
    /// Progress.
    pub progress: MoveProgressReport,
}

/// Returns the reason why a move of a rebalance waits for the move of this name, which has some of
/// its slots. Only an order for a single move can leave them out.
pub fn wait_for_slots(slots: &SlotSet, move_name: &str) -> String {
    format!(
        "the slots {slots} move already ({move_name}): wait for that move, or settle it: \
         shard-manager move settle {move_name}"
    )
}

/// Reason why a move was not listed or not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveListError {
    /// The catalog lists no such move.
    #[error("there is no such move")]
    NoMove,
    /// Other moves have some of the slots.
    #[error("the slots {slots} move already ({move_name}): wait for that move, or leave them out")]
    SlotsMove {
        /// Slots that the error is about.
        slots: SlotSet,
        /// Identity of one of the moves.
        move_name: String,
    },
    /// The shard map has changed.
    #[error("the shard map has changed: its epoch is {epoch}, not {expected}")]
    Stale {
        /// Expected epoch.
        expected: u64,
        /// Present epoch.
        epoch: u64,
    },
    /// The list has the highest number of open moves.
    #[error(
        "{OPEN_MOVES_MAX} moves have not ended, the most that may be open beside those of \
         rebalances: wait for the end of one, settle one that is kept, or cancel one"
    )]
    TooMany,
    /// The rebalance that the new move belongs to is not running.
    #[error("the rebalance of the move does not go on")]
    RebalanceNotRunning,
    /// Another mover has a higher term, or the move has ended.
    #[error("another process carries the move out")]
    Superseded,
    /// The order does not fit the state of the move.
    #[error(transparent)]
    Order(#[from] MoveOrderFault),
    /// The catalog cannot be read. Nothing was changed.
    #[error(transparent)]
    Unread(Error),
    /// The catalog cannot be used. The change may have been stored.
    #[error(transparent)]
    Failed(#[from] Error),
}
