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
use crate::rules::MoveRule;
use crate::scene::{MoveEffect, RowWork, Scene};
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

/// Commit on the source, the point of no return of a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotCommit {
    /// State that the target had, confirmed by a majority of its nodes.
    pub applied: AppliedRows,
    /// Position that the target had confirmed.
    pub home: Position,
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
    /// Position at which the source's row was made. The rows on the target come from that row's
    /// feed: a move that has ended may begin again with the same leg.
    pub begun: Position,
    /// Version counter of the source at the commit.
    pub version: u64,
    /// Position of the commit.
    pub home: Position,
}

impl SlotActivation {
    /// Returns the activation that the row of a source demands after its commit, which is confirmed
    /// at a position.
    pub fn of(source: &MoveRow, home: Position) -> Self {
        let MoveRow { id, leg, begun, version, .. } = *source;
        Self { id, leg, begun, version, home }
    }
}

/// Fences the slots, or renews the fence of the same move.
pub(crate) fn fence(
    shard: &mut ShardMetadata,
    ticket: &MoveTicket,
    scene: &Scene<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let row = source(shard, ticket)?;
    let slots = row.slots.clone();
    if !shard.all(&slots, SlotState::is_owned) {
        return Err(MoveRefusal::WrongState);
    }
    // A single statement fences and commits at once, so no fence lasts before it.
    let hold = match is_on(Mutation::NoFence) || is_on(Mutation::OneStatementFence) {
        true => 0,
        false => u64::try_from(FENCE_HOLD.as_millis()).unwrap_or(u64::MAX),
    };
    let until = scene.now.saturating_add(hold);
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
    scene: &Scene<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let row = source(shard, ticket)?;
    let (slots, to) = (row.slots.clone(), row.other);
    if shard.all(&slots, |state| matches!(state, SlotState::Moved { .. })) {
        return Ok(MoveEffect::Repeated);
    }
    if !shard.all(&slots, |state| matches!(state, SlotState::Fenced { .. })) {
        return Err(MoveRefusal::WrongState);
    }
    check_applied(row, &commit.applied, scene)?;
    let version = shard.version;
    shard.change_states(&slots, |_| Some(SlotState::Moved { to }));
    let row = shard.row_mut(ticket.id)?;
    row.version = version;
    row.home = Some(commit.home);
    // From here on the rows are those of the target as of its activation.
    row.cursor = CopyCursor::Whole;
    row.applied = AppliedRows { feed: commit.way_back, ..AppliedRows::begin(1) };
    row.is_traced = false;
    Ok(MoveEffect::Changed(RowWork::EndTraces))
}

fn check_applied(
    row: &MoveRow,
    applied: &AppliedRows,
    scene: &Scene<'_>,
) -> Result<(), MoveRefusal> {
    let is_own = applied.feed == row.feed(scene.position.timeline);
    if !is_own && scene.rules.demand(MoveRule::OwnFeed) {
        return Err(MoveRefusal::OtherFeed);
    }
    let lacks = (scene.has_change_beyond)(&row.slots, &applied.mark);
    let trusts_fence = is_on(Mutation::NoFence) || is_on(Mutation::CommitByClock);
    if lacks && scene.rules.demand(MoveRule::ChangesDecide) && !trusts_fence {
        return Err(MoveRefusal::MissingChanges);
    }
    Ok(())
}

/// Takes the slots. Changes of them are recorded from now on, for the way back.
pub(crate) fn activate(
    shard: &mut ShardMetadata,
    activation: &SlotActivation,
    scene: &Scene<'_>,
) -> Result<MoveEffect, MoveRefusal> {
    let SlotActivation { id, leg, begun, version, home } = *activation;
    let row = shard.row(id).ok_or(MoveRefusal::UnknownMove)?;
    if row.leg != leg && scene.rules.demand(MoveRule::ActivationNamesLeg) {
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
    if row.applied.feed.begun != begun && scene.rules.demand(MoveRule::ActivationNamesBeginning) {
        return Err(MoveRefusal::OtherFeed);
    }
    shard.change_states(&slots, |_| Some(SlotState::Owned));
    if !is_on(Mutation::VersionNotRaised) {
        shard.version = shard.version.max(version);
    }
    let row = shard.row_mut(id)?;
    row.home = Some(home);
    row.is_traced = true;
    Ok(MoveEffect::Changed(RowWork::BeginTraces))
}

fn source<'s>(shard: &'s ShardMetadata, ticket: &MoveTicket) -> Result<&'s MoveRow, MoveRefusal> {
    let row = shard.row(ticket.id).ok_or(MoveRefusal::UnknownMove)?;
    row.check(ticket)?;
    if row.role == MoveRole::Source { Ok(row) } else { Err(MoveRefusal::WrongState) }
}
