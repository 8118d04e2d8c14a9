//! Phases: derives the phase of a move, which reports show, from the state of both shards and the
//! mover's next step.
//!
//! **Not here:** the decision about a step (`moves::next_step`), which does not depend on the
//! phase.

use engine::move_record::MovePhase;
use moves::identity::MoveSide;
use moves::move_row::CopyCursor;
use moves::observation::{MoveGoal, SlotsState};
use moves::request::MoveRequest;
use moves::step::{MoveStep, WaitReason};

use super::move_sides::SeenMove;

/// Returns the phase of a move, given its state and its next step.
pub(super) fn phase_of(
    seen: &SeenMove,
    step: &MoveStep,
    (goal, is_fenced, published): (MoveGoal, bool, MoveSide),
) -> MovePhase {
    let (source, target) = (seen.shard(seen.leg.source()), seen.shard(seen.leg.target()));
    // A lift in a leg that the operator still wants only ends a recording of changes, and another
    // recording begins.
    let begins_again = is_lift(step) && goal.agrees_with(seen.leg);
    if (cleans(step) && !begins_again) || goal == MoveGoal::Settle {
        return MovePhase::Cleaning;
    }
    if seen.is_committed() {
        let is_owned = matches!(target.slots, SlotsState::Owned | SlotsState::Fenced);
        let is_known = is_owned && published == seen.leg.target();
        let is_kept = is_known && (target.is_confirmed || *step == keeping());
        return if is_kept { MovePhase::Keeping } else { MovePhase::Activating };
    }
    if !goal.agrees_with(seen.leg) {
        return MovePhase::Cleaning;
    }
    let (Some(_), Some(copy)) = (&source.row, &target.row) else { return MovePhase::Preparing };
    if copy.cursor != CopyCursor::Whole {
        return MovePhase::Copying;
    }
    if is_fenced || is_fence(step) {
        return MovePhase::Fencing;
    }
    if matches!(step, MoveStep::Verify { .. }) {
        MovePhase::Verifying
    } else {
        MovePhase::Following
    }
}

fn keeping() -> MoveStep {
    MoveStep::Rest(WaitReason::Keeping)
}

fn is_fence(step: &MoveStep) -> bool {
    matches!(step, MoveStep::Send(_, request) if matches!(**request, MoveRequest::Fence(_)))
}

fn is_lift(step: &MoveStep) -> bool {
    matches!(step, MoveStep::Send(_, request) if matches!(**request, MoveRequest::Lift(_)))
}

fn cleans(step: &MoveStep) -> bool {
    let MoveStep::Send(_, request) = step else { return matches!(step, MoveStep::End(_)) };
    matches!(
        **request,
        MoveRequest::Lift(_)
            | MoveRequest::Discard(_)
            | MoveRequest::BeginCleaning(_)
            | MoveRequest::Clean(_)
            | MoveRequest::Forget(_)
    )
}
