//! Step: the next action of a mover.
//!
//! **Not here:** the decision (`next_step`).

use crate::identity::MoveSide;
use crate::request::MoveRequest;

/// Next action of a mover. Afterwards the mover reads the state of both shards again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveStep {
    /// The request is sent to a shard.
    Send(MoveSide, Box<MoveRequest>),
    /// A round is read from one side and stored on the other: the next chunk, if the copy is not
    /// whole, and changes since the last round. All rows are compared if the feed has changed.
    CopyRound {
        /// Side from which rows are read.
        from: MoveSide,
    },
    /// A round is copied, and then the rows of both sides are compared at its position.
    Verify {
        /// Side from which rows are read.
        from: MoveSide,
    },
    /// The mover waits until the facts of a side are confirmed.
    AwaitConfirmation(MoveSide),
    /// The mover takes its next term, as if it took over from itself.
    NextTerm,
    /// The catalog names this side as owner, in the next epoch.
    Publish(MoveSide),
    /// The move waits, for this reason.
    Rest(WaitReason),
    /// The move has ended, and left nothing behind. This side owns the slots. The catalog stores
    /// the end only for the mover to which it has given its highest term, without a failover since:
    /// an earlier mover may have read the shards before the move began. After a failover of the
    /// catalog, movers check the moves that it shows as ended once more: they may have begun again
    /// since then.
    End(Option<MoveSide>),
}

/// Reason why a move waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// The operator has paused it.
    Paused,
    /// Another mover has taken over.
    Superseded,
    /// Too few nodes of a shard follow for a majority.
    NoMajority,
    /// The facts do not fit together: one of the nodes is deposed. The mover finds its successor.
    OutOfDate,
    /// The slots have reached their target, and the source is kept for a rollback.
    Keeping,
}
