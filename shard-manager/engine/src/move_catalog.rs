//! Move catalog: the trait through which a cluster stores the list of its moves, and decides which
//! process carries them out.
//!
//! **Invariant:** a slot is in at most one move that has not ended.
//! **Not here:** the records on the shards, which determine the state of a move (`slot_move`), the
//! owners of slots ([`super::ClusterBackend::change_map`]).

pub mod change;

use futures_util::future::BoxFuture;
use model::error::Error;
use model::slot_set::SlotSet;
use moves::identity::MoveId;

use super::EngineFuture;
use super::move_record::{MoveOrder, MoveOrderFault, MovePhase, MoveProgressReport, MoveRecord};

/// Maximum number of moves that have ended and are still listed.
pub const ENDED_LISTED_MAX: usize = 100;

/// Maximum number of moves that have not ended. Moves of rebalances do not count, because a
/// rebalance begins only a few at once. This number suffices to move all slots of a group in moves
/// of the largest size.
pub const OPEN_MOVES_MAX: usize = 256;

/// Moves that a catalog lists.
pub trait MoveCatalog: Send + Sync {
    /// Acquires the right to carry out moves, unless another process has it, and returns true if
    /// this process now has it. The right is lost with the connection to the catalog, so this must
    /// be called repeatedly.
    ///
    /// # Errors
    /// The error of the catalog.
    fn lead(&self) -> EngineFuture<'_, bool>;

    /// Returns the number of connected routers whose version is too old for moves: their reads may
    /// not check which shard owns a slot.
    ///
    /// # Errors
    /// The error of the catalog.
    fn older_routers(&self) -> EngineFuture<'_, u64>;

    /// Returns all moves that have not ended, and the last [`ENDED_LISTED_MAX`] moves that have
    /// ended, the latest first. If a move of the rebalance in progress has ended with the slots
    /// still on their source, it is always listed, because the rebalance begins no other move of
    /// these slots.
    ///
    /// # Errors
    /// The error of the catalog.
    fn list(&self) -> EngineFuture<'_, Vec<MoveRecord>>;

    /// Returns a move; `None` if it is not stored. A move that has ended stays stored after it is
    /// no longer listed.
    ///
    /// # Errors
    /// The error of the catalog.
    fn get(&self, id: MoveId) -> EngineFuture<'_, Option<MoveRecord>>;

    /// Lists a new move if the shard map still has this epoch and none of the move's slots is in
    /// another move. If the move is not a part of a rebalance, fewer than [`OPEN_MOVES_MAX`] such
    /// moves may be open. A move that is already listed is left unchanged, so that the call can be
    /// repeated.
    ///
    /// # Errors
    /// [`MoveListError`].
    fn begin<'a>(
        &'a self,
        record: &'a MoveRecord,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), MoveListError>>;

    /// Stores an order of an operator, and returns the updated move.
    ///
    /// # Errors
    /// [`MoveListError`].
    fn order(
        &self,
        id: MoveId,
        order: MoveOrder,
    ) -> BoxFuture<'_, Result<MoveRecord, MoveListError>>;

    /// Begins a new term of the move, and returns its number. A term is the period in which one
    /// mover carries out the move; its number is greater than those of all earlier terms, and than
    /// `known`. Fails with [`MoveListError::Superseded`] if the move has ended.
    ///
    /// # Errors
    /// [`MoveListError`].
    fn take_over(&self, id: MoveId, known: u64) -> BoxFuture<'_, Result<u64, MoveListError>>;

    /// Stores the report of the mover that has this term, and returns the updated move. The first
    /// report with phase [`MovePhase::Keeping`] also stores the time at which the target began to
    /// own the slots.
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
    /// Phase. A phase for which [`has_ended`](MovePhase::has_ended) is true ends the move and frees
    /// its slots.
    pub phase: MovePhase,
    /// Progress.
    pub progress: MoveProgressReport,
}

/// Returns the reason why a move of a rebalance waits: the move of this name already has some of
/// its slots. The text does not suggest leaving these slots out, which is possible only for a
/// single move.
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
    /// Other moves already have some of the slots.
    #[error("the slots {slots} move already ({move_name}): wait for that move, or leave them out")]
    SlotsMove {
        /// Slots that other moves have.
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
    /// The maximum number of moves are open.
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
