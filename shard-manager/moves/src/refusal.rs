//! Move refusal: the reason why a shard did not carry out a request of a move.
//!
//! **Invariant:** a refused request has changed nothing. The mover reads the state of both shards
//! again.

use crate::identity::{MoveLeg, MoveTerm};

/// Reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveRefusal {
    /// The shard has no row of the move: it has not begun there, or it has ended.
    #[error("the shard takes no part in the move")]
    UnknownMove,
    /// Another mover has taken over.
    #[error("the move is carried on in term {}", term.number)]
    Superseded {
        /// Term of that mover.
        term: MoveTerm,
    },
    /// The row has a lower term: a failover has lost the higher one, which must be raised again.
    #[error("the shard knows only term {}", term.number)]
    TermNotRaised {
        /// Term of the row.
        term: MoveTerm,
    },
    /// The request belongs to another leg.
    #[error("the shard is in leg {} of the move", leg.0)]
    OtherLeg {
        /// Leg of the row.
        leg: MoveLeg,
    },
    /// The slots or the row are in a state that does not allow the request.
    #[error("the state of the slots does not allow the request")]
    WrongState,
    /// Another move has one of the slots.
    #[error("another move has some of the slots")]
    SlotTaken,
    /// The move has no slots, or more than [`crate::limits::SLOTS_MAX`].
    #[error("the request is out of bounds")]
    OutOfBounds,
    /// A round does not begin where the last one ended.
    #[error("the round does not follow the last one")]
    OtherRound,
    /// A round was read from an older timeline than the last one.
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
