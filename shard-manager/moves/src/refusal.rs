//! Move refusal: the reason why a shard did not carry out a request of a move.
//!
//! **Invariant:** a refused request has changed nothing. The mover reads the state of both shards
//! again.

use crate::identity::{MoveLeg, MoveTerm};

/// Reason why a shard has refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveRefusal {
    /// The shard has no record of the move, because the move has not begun or has already ended on
    /// this shard.
    #[error("the shard takes no part in the move")]
    UnknownMove,
    /// A mover with a higher term has taken over.
    #[error("the move is carried on in term {}", term.number)]
    Superseded {
        /// Term of that mover.
        term: MoveTerm,
    },
    /// The record has a lower term than the request, for example because a failover has lost the
    /// higher one. The mover must first store its term on the shard again.
    #[error("the shard knows only term {}", term.number)]
    TermNotRaised {
        /// Term of the record.
        term: MoveTerm,
    },
    /// The request belongs to another leg than the record.
    #[error("the shard is in leg {} of the move", leg.0)]
    OtherLeg {
        /// Leg of the record.
        leg: MoveLeg,
    },
    /// The state of the slots or of the record does not allow the request.
    #[error("the state of the slots does not allow the request")]
    WrongState,
    /// One of the slots belongs to the record of another move.
    #[error("another move has some of the slots")]
    SlotTaken,
    /// The move has no slots, or more than [`crate::limits::SLOTS_MAX`].
    #[error("the request is out of bounds")]
    OutOfBounds,
    /// The round does not begin where the last stored round ended.
    #[error("the round does not follow the last one")]
    OtherRound,
    /// The round was read from an older timeline than the last stored round.
    #[error("the round was read from an older timeline")]
    OlderTimeline,
    /// The rows on the target come from another timeline of the source or from another recording of
    /// its changes, so they must be compared first.
    #[error("the rows on the target belong to another history of the source")]
    OtherFeed,
    /// The target lacks a change of the slots.
    #[error("the target lacks changes of the slots")]
    MissingChanges,
    /// The rows of the slots are incomplete.
    #[error("the rows of the slots are incomplete")]
    Incomplete,
}
