//! Move answers: the conclusions that a mover draws from the responses of shards to its requests.
//!
//! **Invariant:** a mover draws the same conclusions from a response as the simulated mover in the
//! tests of `moves`, and none from a lost response: the next look at the shards shows the outcome.
//! **Not here:** sending the requests (`move_steps`), the reasons for a refusal (`moves::refusal`).

use std::time::Instant;

use engine::slot_move::MoveChangeError;
use moves::identity::MoveSide;
use moves::observation::MoveProgress;
use moves::refusal::MoveRefusal;
use moves::request::MoveRequest;

use super::fence_clock::FenceClock;
use super::move_reports::MoveReports;
use super::move_run::{BUSY_WAIT, REST, RunContinuation};

/// Records the time for which writes waited, if the response to a request ends a fence.
pub(super) fn note_hold(
    reports: &mut MoveReports<'_>,
    fences: &mut FenceClock,
    request: &MoveRequest,
    answer: &Result<(), MoveChangeError>,
) {
    let is_done = answer.is_ok();
    match request {
        MoveRequest::Activate(_) if is_done => {
            reports.note_hold(fences.end(false, Instant::now()));
        }
        MoveRequest::Lift(_) if is_done => reports.note_hold(fences.end(true, Instant::now())),
        MoveRequest::Fence(_) if is_rejected(answer) => {
            if fences.withdraw(Instant::now()) {
                reports.note_hold(None);
            }
        }
        MoveRequest::Prepare(_)
        | MoveRequest::Trace(_)
        | MoveRequest::Raise { .. }
        | MoveRequest::Store(..)
        | MoveRequest::CopyAgain(_)
        | MoveRequest::Trim(..)
        | MoveRequest::Fence(_)
        | MoveRequest::Commit(..)
        | MoveRequest::Activate(_)
        | MoveRequest::Reverse(_)
        | MoveRequest::Lift(_)
        | MoveRequest::Discard(_)
        | MoveRequest::BeginCleaning(_)
        | MoveRequest::Clean(_)
        | MoveRequest::Forget(_) => {}
    }
}

/// Returns the continuation of a run after a shard has refused its request.
pub(super) fn after_refusal(shard: &str, refusal: MoveRefusal) -> RunContinuation {
    match refusal {
        MoveRefusal::Superseded { .. } => RunContinuation::Superseded,
        MoveRefusal::SlotTaken => {
            let reason = format!("{shard} still has a part of an earlier move of these slots");
            RunContinuation::After(REST, Some(reason))
        }
        MoveRefusal::UnknownMove
        | MoveRefusal::TermNotRaised { .. }
        | MoveRefusal::OtherLeg { .. }
        | MoveRefusal::WrongState
        | MoveRefusal::OutOfBounds
        | MoveRefusal::OtherRound
        | MoveRefusal::OlderTimeline
        | MoveRefusal::OtherFeed
        | MoveRefusal::MissingChanges
        | MoveRefusal::Incomplete => {
            RunContinuation::After(BUSY_WAIT, Some(format!("{shard} refused a step: {refusal}")))
        }
    }
}

/// Returns true if a request is known to have changed nothing.
pub(super) fn is_rejected(answer: &Result<(), MoveChangeError>) -> bool {
    matches!(answer, Err(MoveChangeError::Refused(_) | MoveChangeError::Busy { .. }))
}

/// Records the conclusions from a response for later decisions of the mover.
pub(super) fn learn(
    progress: &mut MoveProgress,
    side: MoveSide,
    request: &MoveRequest,
    answer: &Result<(), MoveChangeError>,
) {
    let is_done = answer.is_ok();
    let is_refused = matches!(answer, Err(MoveChangeError::Refused(_)));
    match request {
        MoveRequest::Raise { .. } if is_done => progress.raised[side.index()] = true,
        MoveRequest::Fence(_) => progress.is_fenced = is_done,
        MoveRequest::Commit(..) if is_refused => progress.note_fence_end(),
        MoveRequest::Lift(_) if is_done => progress.note_fence_end(),
        // If a lock was not free, the request is repeated only after a further round.
        MoveRequest::Trim(_, applied) => progress.trimmed = Some(applied.round),
        MoveRequest::Prepare(_)
        | MoveRequest::Trace(_)
        | MoveRequest::Raise { .. }
        | MoveRequest::Store(..)
        | MoveRequest::CopyAgain(_)
        | MoveRequest::Commit(..)
        | MoveRequest::Activate(_)
        | MoveRequest::Reverse(_)
        | MoveRequest::Lift(_)
        | MoveRequest::Discard(_)
        | MoveRequest::BeginCleaning(_)
        | MoveRequest::Clean(_)
        | MoveRequest::Forget(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use model::position::Position;
    use moves::applied::{AppliedRows, Feed};
    use moves::cutover::SlotCommit;
    use moves::identity::{MoveId, MoveLeg, MoveTerm, MoveTicket};

    use super::*;

    fn fenced() -> MoveProgress {
        let verified = Some((Feed::default(), 0));
        MoveProgress { short_rounds: 3, verified, is_fenced: true, ..MoveProgress::default() }
    }

    fn ticket() -> MoveTicket {
        let term = MoveTerm { number: 1, mover: 0 };
        MoveTicket { id: MoveId(7), leg: MoveLeg::FIRST, term }
    }

    fn commit() -> MoveRequest {
        let commit = SlotCommit {
            applied: AppliedRows::default(),
            signpost_min_position: Position { timeline: 1, sequence: 1 },
            way_back: Feed::default(),
        };
        MoveRequest::Commit(ticket(), commit)
    }

    #[test]
    fn the_copy_is_compared_again_after_a_refused_commit() {
        let mut progress = fenced();
        let refused = Err(MoveChangeError::Refused(MoveRefusal::MissingChanges));
        learn(&mut progress, MoveSide::Origin, &commit(), &refused);
        assert_eq!(progress, MoveProgress::default());
    }

    #[test]
    fn a_move_whose_slots_an_earlier_move_still_has_rests_with_a_reason() {
        let taken = after_refusal("shard2", MoveRefusal::SlotTaken);
        let RunContinuation::After(rest, Some(reason)) = taken else { panic!("no rest") };
        assert_eq!(rest, REST);
        assert_eq!(reason, "shard2 still has a part of an earlier move of these slots");
    }

    #[test]
    fn a_fence_that_was_lifted_does_not_count_for_the_next_recording() {
        let mut progress = fenced();
        let busy = Err(MoveChangeError::Busy { holder: "a write".to_owned() });
        learn(&mut progress, MoveSide::Origin, &MoveRequest::Lift(ticket()), &busy);
        assert_eq!(progress, fenced());
        learn(&mut progress, MoveSide::Origin, &MoveRequest::Lift(ticket()), &Ok(()));
        assert_eq!(progress, MoveProgress::default());
    }

    #[test]
    fn a_commit_for_which_a_lock_was_not_free_is_sent_again_beneath_the_same_fence() {
        let mut progress = fenced();
        let busy = Err(MoveChangeError::Busy { holder: "a write".to_owned() });
        learn(&mut progress, MoveSide::Origin, &commit(), &busy);
        assert_eq!(progress, fenced());
    }
}
