//! Cutover: fence and commit on the source, activation on the target.
//!
//! The fence makes writes to the slots wait, and expires by itself. The commit gives up the slots
//! on the source; afterwards the source refers requests to the target (a signpost). The activation
//! makes the target their owner. A move may change direction until its copies are deleted: each
//! direction is a leg with a commit of its own.
//!
//! **Invariant:** the commit is the point at which the slots change hands. It is permitted if the
//! target has every recorded change, however much time has passed: the fence bounds only how long
//! writes wait.

use model::position::Position;
use model::sabotage::{Mutation, is_on};

use crate::applied::{AppliedRows, Feed};
use crate::identity::{MoveId, MoveLeg, MoveRole, MoveTicket};
use crate::limits::FENCE_HOLD;
use crate::move_row::{CopyCursor, MoveRow};
use crate::refusal::MoveRefusal;
use crate::request_context::{MoveEffect, RequestContext, RowWork};
use crate::rules::MoveRule;
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

/// Commit on the source. Afterwards this leg of the move can no longer be cancelled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotCommit {
    /// Changes that the target has applied, confirmed by a majority of its nodes.
    pub applied: AppliedRows,
    /// Position in the log of the target at which a majority of its nodes has these changes: the
    /// lowest one at which the signpost lets a client read the target.
    pub signpost_min_position: Position,
    /// Stream of the changes that the target records after its activation, for the way back.
    pub way_back: Feed,
}

/// Activation of the target, which must follow a commit on the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotActivation {
    /// The move.
    pub id: MoveId,
    /// Leg of the move that the commit has ended.
    pub leg: MoveLeg,
    /// Position of the source when it began to record changes for this move. The target's copy must
    /// belong to the same recording: a move that has ended may begin again with the same leg.
    pub begun: Position,
    /// Counter of the source at the commit, from which it numbered the versions of rows.
    pub version: u64,
    /// Position of the commit in the log of the source.
    pub signpost_min_position: Position,
}

impl SlotActivation {
    /// Returns the activation that must follow a commit. `source` is the source's record of the
    /// move after the commit, which is in its log at `signpost_min_position`, and is confirmed.
    pub fn of(source: &MoveRow, signpost_min_position: Position) -> Self {
        let MoveRow { id, leg, begun, version, .. } = *source;
        Self { id, leg, begun, version, signpost_min_position }
    }
}

/// Makes writes to the slots wait until the fence expires; extends the fence of the same move.
pub(crate) fn fence(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let row = source(shard, ticket)?;
    let slots = row.slots.clone();
    if !shard.all(&slots, SlotState::is_owned) {
        return Err(MoveRefusal::WrongState);
    }
    // With these deliberate faults, the commit finds no fence that an earlier transaction has set:
    // there is none, or the statement of the commit sets it as well.
    let hold = match is_on(Mutation::NoFence) || is_on(Mutation::OneStatementFence) {
        true => 0,
        false => u64::try_from(FENCE_HOLD.as_millis()).unwrap_or(u64::MAX),
    };
    let until = context.now.saturating_add(hold);
    for slot in slots.iter() {
        shard.slots.insert(*slot, SlotState::Fenced { until });
    }
    Ok(MoveEffect::Changed(RowWork::None))
}

/// Gives up the slots, if the target has every change to their rows; else refuses.
pub(crate) fn commit(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    commit: &SlotCommit,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let row = source(shard, ticket)?;
    let (slots, to) = (row.slots.clone(), row.other);
    if shard.all(&slots, |state| matches!(state, SlotState::Moved { .. })) {
        return Ok(MoveEffect::Repeated);
    }
    if !shard.all(&slots, |state| matches!(state, SlotState::Fenced { .. })) {
        return Err(MoveRefusal::WrongState);
    }
    check_applied(row, &commit.applied, context)?;
    let version = shard.version;
    shard.change_states(&slots, |_| Some(SlotState::Moved { to }));
    let row = shard.row_mut(ticket.id)?;
    row.version = version;
    row.signpost_min_position = Some(commit.signpost_min_position);
    // The rows on the source no longer change: the target begins with the same rows.
    row.cursor = CopyCursor::Whole;
    row.applied = AppliedRows { feed: commit.way_back, ..AppliedRows::begin(1) };
    row.is_traced = false;
    Ok(MoveEffect::Changed(RowWork::EndTraces))
}

fn check_applied(
    row: &MoveRow,
    applied: &AppliedRows,
    context: &RequestContext<'_>,
) -> Result<(), MoveRefusal> {
    let is_own = applied.feed == row.feed(context.position.timeline);
    if !is_own && context.rules.demand(MoveRule::OwnFeed) {
        return Err(MoveRefusal::OtherFeed);
    }
    let lacks = (context.has_change_beyond)(&row.slots, &applied.mark);
    let trusts_fence = is_on(Mutation::NoFence) || is_on(Mutation::CommitByClock);
    if lacks && context.rules.demand(MoveRule::ChangesDecide) && !trusts_fence {
        return Err(MoveRefusal::MissingChanges);
    }
    Ok(())
}

/// Makes the target the owner of the slots. From now on it records changes to their rows, so that
/// the move can be rolled back.
pub(crate) fn activate(
    shard: &mut ShardMetadata,
    activation: &SlotActivation,
    context: &RequestContext<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let SlotActivation { id, leg, begun, version, signpost_min_position } = *activation;
    let row = shard.row(id).ok_or(MoveRefusal::UnknownMove)?;
    if row.leg != leg && context.rules.demand(MoveRule::ActivationNamesLeg) {
        return Err(MoveRefusal::OtherLeg { leg: row.leg });
    }
    let slots = row.slots.clone();
    let is_importing = shard.all(&slots, |state| matches!(state, SlotState::Importing { .. }));
    if row.role != MoveRole::Target || !is_importing {
        return if shard.all(&slots, SlotState::is_owned) {
            Ok(MoveEffect::Repeated)
        } else {
            Err(MoveRefusal::WrongState)
        };
    }
    if row.applied.feed.begun != begun && context.rules.demand(MoveRule::ActivationNamesBeginning) {
        return Err(MoveRefusal::OtherFeed);
    }
    shard.change_states(&slots, |_| Some(SlotState::Owned));
    if !is_on(Mutation::VersionNotRaised) {
        shard.version = shard.version.max(version);
    }
    let row = shard.row_mut(id)?;
    row.signpost_min_position = Some(signpost_min_position);
    row.is_traced = true;
    Ok(MoveEffect::Changed(RowWork::BeginTraces))
}

fn source<'s>(shard: &'s ShardMetadata, ticket: &MoveTicket) -> Result<&'s MoveRow, MoveRefusal> {
    let row = shard.row(ticket.id).ok_or(MoveRefusal::UnknownMove)?;
    row.check(ticket)?;
    if row.role == MoveRole::Source { Ok(row) } else { Err(MoveRefusal::WrongState) }
}
