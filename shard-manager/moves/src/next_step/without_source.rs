//! Steps while the source has no record of the move, because the move has not begun there or has
//! already ended there.

use super::Pair;
use crate::identity::MoveSide;
use crate::observation::{MoveGoal, SlotsState};
use crate::request::MoveRequest;
use crate::rules::MoveRule;
use crate::step::{MoveStep, WaitReason};

pub(super) fn next(pair: &Pair<'_>) -> MoveStep {
    if pair.target.row.is_none() {
        return without_rows(pair);
    }
    match pair.target.slots {
        SlotsState::Importing => importing(pair),
        SlotsState::Owned | SlotsState::Fenced => pair.to_target(MoveRequest::Forget),
        SlotsState::Moved | SlotsState::Other => MoveStep::Rest(WaitReason::OutOfDate),
    }
}

/// Begins the move on the source, or discards the copy. Before the target deletes its copy, it must
/// be confirmed that the source has no record: a deposed primary may lack the record although the
/// commit was carried out on its successor.
fn importing(pair: &Pair<'_>) -> MoveStep {
    let can_begin = matches!(pair.source.slots, SlotsState::Owned | SlotsState::Fenced);
    if pair.is_wanted() && pair.seen.goal != MoveGoal::Settle && can_begin {
        if pair.seen.is_paused {
            return MoveStep::Rest(WaitReason::Paused);
        }
        let new = pair.new_row(pair.leg.source());
        return MoveStep::Send(pair.leg.source(), Box::new(MoveRequest::Trace(new)));
    }
    if !pair.source.is_confirmed {
        return MoveStep::AwaitConfirmation(pair.leg.source());
    }
    pair.to_target(MoveRequest::Discard)
}

/// Returns the next step if no shard has a record, because the move has not begun, was cancelled or
/// has ended.
fn without_rows(pair: &Pair<'_>) -> MoveStep {
    let seen = pair.seen;
    let is_owner =
        |side: &MoveSide| matches!(seen.shard(*side).slots, SlotsState::Owned | SlotsState::Fenced);
    let owner = [MoveSide::Origin, MoveSide::Destination].into_iter().find(is_owner);
    if owner == Some(MoveSide::Origin) && seen.goal == MoveGoal::Forward {
        if seen.is_paused {
            return MoveStep::Rest(WaitReason::Paused);
        }
        if seen.progress.forgets && seen.rules.demand(MoveRule::NextTerm) {
            return MoveStep::NextTerm;
        }
        let new = pair.new_row(MoveSide::Destination);
        return MoveStep::Send(MoveSide::Destination, Box::new(MoveRequest::Prepare(new)));
    }
    let is_demanded = seen.rules.demand(MoveRule::EndConfirmed);
    let doubt = [MoveSide::Origin, MoveSide::Destination]
        .into_iter()
        .find(|side| is_demanded && !seen.shard(*side).is_confirmed);
    if let Some(side) = doubt {
        return MoveStep::AwaitConfirmation(side);
    }
    match owner {
        Some(owner) if owner != seen.published => MoveStep::Publish(owner),
        owner => MoveStep::End(owner),
    }
}
