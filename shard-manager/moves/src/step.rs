//! Step: the next action of a mover.
//!
//! **Not here:** the decision (`next_step`).

use crate::identity::MoveSide;
use crate::request::MoveRequest;

/// Next action of a mover. Afterwards the mover reads the state of both shards again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveStep {
    /// The mover sends the request to the shard on this side.
    Send(MoveSide, Box<MoveRequest>),
    /// A round is read from one side and stored on the other. It contains the changes since the
    /// last round and, until the copy is complete, the next chunk of rows. If the feed has changed,
    /// all rows are compared.
    CopyRound {
        /// Side from which rows are read.
        from: MoveSide,
    },
    /// A round is copied, and then the rows of both sides are compared as of the position of this
    /// round.
    Verify {
        /// Side from which rows are read.
        from: MoveSide,
    },
    /// The mover waits until a majority of the nodes on this side has flushed the facts that the
    /// mover has read.
    AwaitConfirmation(MoveSide),
    /// The mover takes its next term, as if it took the move over from itself.
    NextTerm,
    /// The mover makes the catalog name this side as owner of the slots, in the next epoch of the
    /// shard map.
    Publish(MoveSide),
    /// The mover waits, for this reason.
    Rest(WaitReason),
    /// The move has ended, no shard has a record of it, and this side owns the slots. The catalog
    /// stores the end only if the mover has the highest term that the catalog has assigned, and the
    /// catalog has not failed over since it assigned this term. Otherwise an earlier mover, which
    /// may have read the shards before the move began, could end the move. After a failover of the
    /// catalog, movers check again each move that the catalog shows as ended, because the failover
    /// may have lost that the move began again.
    End(Option<MoveSide>),
}

/// Reason why a move waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitReason {
    /// The operator has paused the move.
    Paused,
    /// Another mover has taken over.
    Superseded,
    /// Too few nodes of a shard follow its primary to form a majority.
    NoMajority,
    /// The facts of the two shards contradict each other, because one of them was read from a
    /// deposed primary. The mover waits until it finds the new primary.
    OutOfDate,
    /// The slots have reached their target, and the source keeps its rows for a rollback.
    Keeping,
}
