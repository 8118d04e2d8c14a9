//! Phases: derives the phase of a move, which reports show, from the state of both shards and the
//! mover's next step.
//!
//! **Not here:** the decision about a step (`moves::next_step`), which does not depend on the
//! phase.

use engine::move_record::MovePhase;
use moves::identity::MoveSide;
use moves::move_row::CopyCursor;
use moves::observation::{MoveGoal, ShardObservation, SlotsState};
use moves::request::MoveRequest;
use moves::step::MoveStep;

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
        return phase_after_commit((source, target), published == seen.leg.target());
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

/// Returns the phase of a committed leg. The owner is published only after its activation was
/// confirmed, so replicas that are behind later, as they always are while clients write, do not
/// change the phase of a kept move: it must not count as a move that is under way.
fn phase_after_commit(
    (source, target): (&ShardObservation, &ShardObservation),
    is_published: bool,
) -> MovePhase {
    let is_owned = matches!(target.slots, SlotsState::Owned | SlotsState::Fenced);
    let is_emptied = source.row.as_ref().is_some_and(|row| row.cursor == CopyCursor::Empty);
    if target.row.is_none() || is_emptied {
        MovePhase::Cleaning
    } else if is_owned && is_published {
        MovePhase::Keeping
    } else {
        MovePhase::Activating
    }
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

#[cfg(test)]
mod tests {
    use model::position::Position;
    use model::topology::ShardNumber;
    use moves::applied::AppliedRows;
    use moves::identity::{MoveId, MoveLeg, MoveRole, MoveTerm};
    use moves::move_row::MoveRow;
    use moves::step::WaitReason;

    use super::*;

    fn observation(role: MoveRole, slots: SlotsState, is_confirmed: bool) -> ShardObservation {
        let position = Position { timeline: 1, sequence: 1 };
        let row = MoveRow {
            id: MoveId(7),
            role,
            other: ShardNumber(1),
            slots: [].into(),
            leg: MoveLeg::FIRST,
            term: MoveTerm { number: 1, mover: 0 },
            applied: AppliedRows::begin(1),
            cursor: CopyCursor::Whole,
            is_traced: false,
            begun: position,
            version: 0,
            signpost_min_position: None,
        };
        let has_majority = true;
        ShardObservation {
            position,
            row: Some(row),
            slots,
            is_confirmed,
            has_majority,
            has_rows: true,
        }
    }

    /// Returns a move whose slots the target owns.
    fn committed(is_confirmed: bool) -> SeenMove {
        let source = observation(MoveRole::Source, SlotsState::Moved, true);
        let target = observation(MoveRole::Target, SlotsState::Owned, is_confirmed);
        let shards = [source, target];
        SeenMove { shards, leg: MoveLeg::FIRST, is_behind: true, has_lost_changes: false }
    }

    /// Returns the phase of a move that the operator still wants; `published` is the published
    /// owner.
    fn phase(seen: &SeenMove, step: &MoveStep, published: MoveSide) -> MovePhase {
        phase_of(seen, step, (MoveGoal::Forward, false, published))
    }

    #[test]
    fn a_kept_move_whose_replicas_are_behind_or_that_copies_changes_back_stays_in_its_phase() {
        let target = MoveLeg::FIRST.target();
        let copying = MoveStep::CopyRound { from: target };
        for step in [copying, MoveStep::Rest(WaitReason::Paused)] {
            assert_eq!(phase(&committed(false), &step, target), MovePhase::Keeping);
        }
    }

    #[test]
    fn a_committed_move_is_activated_until_its_owner_is_published_and_cleaned_once_it_is_emptied() {
        let (source, target) = (MoveLeg::FIRST.source(), MoveLeg::FIRST.target());
        let waiting = MoveStep::AwaitConfirmation(target);
        let mut seen = committed(false);
        assert_eq!(phase(&seen, &waiting, source), MovePhase::Activating);
        let row = seen.shards[source.index()].row.as_mut().expect("a record");
        row.cursor = CopyCursor::Empty;
        assert_eq!(phase(&seen, &waiting, target), MovePhase::Cleaning);
    }
}
