//! Move request: a conditional transaction that a mover or a router sends to one shard.
//!
//! The engine locks the row of the move, takes the shard's fence lock exclusively if writes could
//! interfere with the request, and only then reads the state. Each request checks move, leg, term,
//! state and timeline, as far as they matter to it, and may be repeated, because it may arrive
//! late, twice or from a mover that was replaced.
//!
//! **Invariant:** a refused request changes nothing.

use crate::applied::AppliedRows;
use crate::beginning::NewMoveRow;
use crate::cutover::{SlotActivation, SlotCommit};
use crate::identity::{MoveId, MoveTerm, MoveTicket};
use crate::refusal::MoveRefusal;
use crate::request_context::{MoveEffect, RequestContext};
use crate::round::CopyRound;
use crate::shard_metadata::ShardMetadata;
use crate::{beginning, cleaning, cutover, direction, ending, round};

/// Conditional transaction of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveRequest {
    /// Target: its left-over rows are deleted and the slots imported from now on.
    Prepare(NewMoveRow),
    /// Source: changes of the slots are recorded from now on.
    Trace(NewMoveRow),
    /// Both: a mover takes over.
    Raise {
        /// The move.
        id: MoveId,
        /// Term of the mover.
        term: MoveTerm,
    },
    /// Target, and source on the way back: rows of a round are stored.
    Store(MoveTicket, CopyRound),
    /// Target: everything copied is deleted, and the copy begins again.
    CopyAgain(MoveTicket),
    /// Source: recorded changes that the target has are deleted.
    Trim(MoveTicket, AppliedRows),
    /// Source: writes of the slots wait, at most for [`crate::limits::FENCE_HOLD`].
    Fence(MoveTicket),
    /// Source: the slots belong to the target from now on.
    Commit(MoveTicket, SlotCommit),
    /// Target: it owns the slots from now on. Any router may send it, without a term: the commit
    /// has decided, and nothing else can happen in this leg.
    Activate(SlotActivation),
    /// Both, first the new target: the direction changes, from this leg to the next.
    Reverse(MoveTicket),
    /// Source before the commit: the leg is cancelled, and writes are accepted again.
    Lift(MoveTicket),
    /// Target after `Lift`: everything copied is deleted.
    Discard(MoveTicket),
    /// Source after the activation: its rows no longer count.
    BeginCleaning(MoveTicket),
    /// Source: some of its rows are deleted.
    Clean(MoveTicket),
    /// Both, first the target: the row of the move is deleted, the states of slots stay.
    Forget(MoveTicket),
}

impl MoveRequest {
    /// Returns the move of the request.
    pub fn move_id(&self) -> MoveId {
        match self {
            Self::Prepare(new) | Self::Trace(new) => new.ticket.id,
            Self::Raise { id, .. } => *id,
            Self::Activate(activation) => activation.id,
            Self::Store(ticket, _)
            | Self::CopyAgain(ticket)
            | Self::Trim(ticket, _)
            | Self::Fence(ticket)
            | Self::Commit(ticket, _)
            | Self::Reverse(ticket)
            | Self::Lift(ticket)
            | Self::Discard(ticket)
            | Self::BeginCleaning(ticket)
            | Self::Clean(ticket)
            | Self::Forget(ticket) => ticket.id,
        }
    }

    /// Returns the name of the step.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Prepare(_) => "prepare",
            Self::Trace(_) => "trace",
            Self::Raise { .. } => "raise",
            Self::Store(..) => "store",
            Self::CopyAgain(_) => "copy_again",
            Self::Trim(..) => "trim",
            Self::Fence(_) => "fence",
            Self::Commit(..) => "commit",
            Self::Activate(_) => "activate",
            Self::Reverse(_) => "reverse",
            Self::Lift(_) => "lift",
            Self::Discard(_) => "discard",
            Self::BeginCleaning(_) => "begin_cleaning",
            Self::Clean(_) => "clean",
            Self::Forget(_) => "forget",
        }
    }

    /// Returns true if the request takes the fence lock of a shard, which every write holds in
    /// shared mode: it waits for the writes that were accepted before it, and later ones see its
    /// effect.
    pub fn takes_fence_lock(&self) -> bool {
        match self {
            Self::Trace(_)
            | Self::Fence(_)
            | Self::Commit(..)
            | Self::Activate(_)
            | Self::Lift(_)
            // `Forget` ends the recording of changes while clients write.
            | Self::Forget(_) => true,
            Self::Prepare(_)
            | Self::Raise { .. }
            | Self::Store(..)
            | Self::CopyAgain(_)
            | Self::Trim(..)
            | Self::Reverse(_)
            | Self::Discard(_)
            | Self::BeginCleaning(_)
            | Self::Clean(_) => false,
        }
    }

    /// Carries out the request on the metadata of a shard.
    ///
    /// # Errors
    /// [`MoveRefusal`]: nothing has changed.
    pub fn apply(
        &self,
        shard: &mut ShardMetadata,
        context: &RequestContext<'_>,
    ) -> Result<MoveEffect, MoveRefusal> {
        match self {
            Self::Prepare(new) => beginning::prepare(shard, new, context),
            Self::Trace(new) => beginning::trace(shard, new, context),
            Self::Raise { id, term } => beginning::raise(shard, *id, *term),
            Self::Store(ticket, round) => round::store(shard, ticket, round, context),
            Self::CopyAgain(ticket) => round::copy_again(shard, ticket, context),
            Self::Trim(ticket, applied) => round::trim(shard, ticket, applied, context),
            Self::Fence(ticket) => cutover::fence(shard, ticket, context),
            Self::Commit(ticket, commit) => cutover::commit(shard, ticket, commit, context),
            Self::Activate(activation) => cutover::activate(shard, activation, context),
            Self::Reverse(ticket) => direction::reverse(shard, ticket, context),
            Self::Lift(ticket) => ending::lift(shard, ticket, context),
            Self::Discard(ticket) => ending::discard(shard, ticket),
            Self::BeginCleaning(ticket) => cleaning::begin(shard, ticket, context),
            Self::Clean(ticket) => cleaning::clean(shard, ticket, context),
            Self::Forget(ticket) => cleaning::forget(shard, ticket, context),
        }
    }
}
