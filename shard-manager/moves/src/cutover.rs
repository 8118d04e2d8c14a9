//! Cutover: fence and commit on the source, activation on the target.
//!
//! **Invariant:** the commit is the point at which the slots change hands. It looks at changes,
//! never at a clock: the fence only bounds the time that writers wait.

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

/// Commit on the source, the point of no return of a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotCommit {
    /// State that the target had, confirmed by a majority of its nodes.
    pub applied: AppliedRows,
    /// Position that the target had confirmed.
    pub signpost_min_position: Position,
    /// Stream in which the target's changes will flow back.
    pub way_back: Feed,
}

/// Activation of the target, which a commit has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotActivation {
    /// The move.
    pub id: MoveId,
    /// Leg of the commit.
    pub leg: MoveLeg,
    /// Position at which the source's row was created. It must be that of the feed of the target's
    /// rows: a move that has ended may begin again with the same leg.
    pub begun: Position,
    /// Version counter of the source at the commit.
    pub version: u64,
    /// Position of the commit.
    pub signpost_min_position: Position,
}

impl SlotActivation {
    /// Returns the activation that follows from the row of a source after its commit, which is
    /// confirmed at `signpost_min_position`.
    pub fn of(source: &MoveRow, signpost_min_position: Position) -> Self {
        let MoveRow { id, leg, begun, version, .. } = *source;
        Self { id, leg, begun, version, signpost_min_position }
    }
}

/// Fences the slots, or renews the fence of the same move.
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
    // With these mutations no fence precedes the commit: there is none, or one statement fences and
    // commits.
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

/// Gives the slots away, if the target has every change of them.
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
    // From now on the rows here equal those that the target has at its activation.
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

/// Makes the target the owner of the slots. Their changes are recorded from now on, for a rollback.
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
