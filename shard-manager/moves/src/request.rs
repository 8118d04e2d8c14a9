//! Move request: a conditional transaction that a mover or a router sends to one shard.
//!
//! The engine locks the row of the move, takes the shard's fence lock exclusively if writes could
//! interfere with the request, and only then reads the state. Each request checks those of move,
//! leg, term, state and timeline that matter to it. Each may be repeated safely, because it may
//! arrive late, twice or from a mover that has been replaced.
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

/// Conditional transaction of a shard. *Source* and *target* are the roles of the shard in the
/// present leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveRequest {
    /// The target creates its record, deletes left-over rows of the slots and begins to import the
    /// slots.
    Prepare(NewMoveRow),
    /// The source creates its record and begins to record the changes of the slots.
    Trace(NewMoveRow),
    /// The source or the target accepts the term of a mover that takes over, and refuses requests
    /// of earlier terms from then on.
    Raise {
        /// The move.
        id: MoveId,
        /// Term of the mover.
        term: MoveTerm,
    },
    /// The target stores the rows of a round. After the commit the kept source does, for the
    /// changes that flow back.
    Store(MoveTicket, CopyRound),
    /// The target deletes everything that was copied, and the copy begins again.
    CopyAgain(MoveTicket),
    /// The shard that records changes deletes those that the other shard has. It is the source
    /// before the commit, and the target while changes flow back.
    Trim(MoveTicket, AppliedRows),
    /// The source makes writes of the slots wait, for at most [`crate::limits::FENCE_HOLD`].
    Fence(MoveTicket),
    /// The source gives up the slots, which belong to the target from then on.
    Commit(MoveTicket, SlotCommit),
    /// The target becomes the owner of the slots. Any router may send this request, which contains
    /// no term: after the commit, nothing else can happen in this leg.
    Activate(SlotActivation),
    /// The direction changes: the shard takes the other role, for the next leg. The new target does
    /// so first.
    Reverse(MoveTicket),
    /// The source cancels the leg before the commit, and accepts writes again.
    Lift(MoveTicket),
    /// The target deletes everything that was copied, and its record. The mover sends this after
    /// `Lift`.
    Discard(MoveTicket),
    /// The source marks its rows as incomplete, after the activation of the target.
    BeginCleaning(MoveTicket),
    /// The source deletes some of its rows.
    Clean(MoveTicket),
    /// The shard deletes its record of the move, and keeps the states of the slots. The target does
    /// so first.
    Forget(MoveTicket),
}

impl MoveRequest {
    /// Returns the ID of the move to which the request belongs.
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

    /// Returns the name of the request.
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

    /// Returns true if the request takes the fence lock of the shard exclusively. Every write holds
    /// this lock in shared mode, so the request waits for the writes that were accepted before it,
    /// and later writes see its effect.
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
    /// [`MoveRefusal`] names the reason. Nothing has changed then.
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
