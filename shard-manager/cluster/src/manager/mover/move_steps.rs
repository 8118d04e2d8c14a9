//! Move steps: carries out the steps of a move, and remembers what a mover must know of them.
//!
//! **Invariant:** a mover draws the same conclusions from a response as its simulation (`moves`),
//! and none from a lost response: the next look at the shards shows what has happened.
//! **Not here:** the loop (`move_run`), the decision (`moves::next_step`), rounds (`copy_steps`).

use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use engine::move_record::{MoveOrder, MovePhase};
use engine::slot_move::{MoveChange, MoveChangeError};
use model::sabotage::{Mutation, StopTime, is_on, reach};
use moves::identity::MoveSide;
use moves::limits::FENCE_HOLD;
use moves::move_row::CopyCursor;
use moves::observation::{MoveGoal, MoveProgress};
use moves::refusal::MoveRefusal;
use moves::request::MoveRequest;
use moves::step::{MoveStep, WaitReason};

use super::copy_steps::{FLOW_BACK, copy};
use super::fence_clock::FenceClock;
use super::move_reports::MoveReports;
use super::move_run::{MoveFailure, MoveRun, RETRY, RunContinuation};
use super::move_sides::{CALL_MAX, MoveSides, SeenMove};
use super::publication::publish;

/// Wait after a lock was not free, or a request was refused.
const BUSY_WAIT: Duration = Duration::from_millis(25);
/// Number of batches of a cleaning that are deleted before both shards are looked at again.
const BATCHES_OF_A_LOOK: usize = 10;
/// Longest interval at which changes flow back, as a multiple of [`FLOW_BACK`]: it grows with the
/// number of sources that are kept.
const FLOW_BACK_PARTS: usize = 10;
/// Interval at which a move that waits for something else is looked at.
const REST: Duration = Duration::from_secs(1);
/// Time limit of a request that deletes all rows of the slots, in batches.
const EMPTY_MAX: Duration = Duration::from_secs(30);

impl MoveRun<'_> {
    /// Carries out a step.
    pub(super) async fn act(
        &mut self,
        sides: &MoveSides,
        seen: &SeenMove,
        step: MoveStep,
    ) -> RunContinuation {
        match step {
            MoveStep::Send(side, request) => self.request(sides, side, *request).await,
            MoveStep::CopyRound { from } => copy(self, sides, seen, from).await,
            MoveStep::Verify { from } => match seen.shard(from.other()).row.clone() {
                Some(mut receiver) => self.round(sides, seen, (from, &mut receiver), true).await,
                None => RunContinuation::AtOnce,
            },
            MoveStep::AwaitConfirmation(_) => RunContinuation::AtOnce,
            MoveStep::NextTerm => match self.take_over().await {
                Ok(()) => RunContinuation::AtOnce,
                Err(_superseded) => RunContinuation::Superseded,
            },
            MoveStep::Publish(side) => {
                let floor = sides.token_position(side, seen.shard(side).position);
                reach(StopTime::Before, "publish");
                let published = match floor {
                    Ok(floor) => publish(self.manager, &self.plan, (side, floor)).await,
                    Err(reason) => Err(reason),
                };
                match published {
                    Ok(()) => {
                        reach(StopTime::After, "publish");
                        RunContinuation::AtOnce
                    }
                    Err(reason) => RunContinuation::After(RETRY, Some(reason)),
                }
            }
            MoveStep::Rest(WaitReason::Keeping) => {
                let (interval, _) = flow_back_interval(self);
                self.keep(seen, REST.max(interval)).await
            }
            MoveStep::Rest(WaitReason::Superseded) => RunContinuation::Superseded,
            MoveStep::Rest(WaitReason::Paused) => {
                RunContinuation::After(REST, Some("it is paused".to_owned()))
            }
            MoveStep::Rest(WaitReason::NoMajority) => {
                let reason = "it waits until a majority of each shard's nodes follows its primary";
                RunContinuation::After(REST, Some(reason.to_owned()))
            }
            MoveStep::Rest(WaitReason::OutOfDate) => {
                let reason = "the shards disagree: one of the primaries was replaced";
                RunContinuation::After(RETRY, Some(reason.to_owned()))
            }
            MoveStep::End(owner) => self.end(owner).await,
        }
    }

    /// Sends a request without rows.
    async fn request(
        &mut self,
        sides: &MoveSides,
        side: MoveSide,
        request: MoveRequest,
    ) -> RunContinuation {
        let is_fence = matches!(request, MoveRequest::Fence(_));
        if is_fence && let Some(wait) = self.await_fence(side) {
            return wait;
        }
        let deletes = matches!(
            request,
            MoveRequest::BeginCleaning(_) | MoveRequest::Clean(_) | MoveRequest::Discard(_)
        );
        if let MoveRequest::Clean(_) = request {
            // A look at the shard costs more than a batch, because it passes over all deleted rows.
            for _ in 1..BATCHES_OF_A_LOOK {
                match delete(self, sides, side, request.clone()).await {
                    Ok(rest) => tokio::time::sleep(rest).await,
                    Err(continuation) => return continuation,
                }
            }
        }
        if deletes {
            let deleted = delete(self, sides, side, request).await;
            return match deleted {
                Ok(rest) => RunContinuation::After(rest, None),
                Err(continuation) => continuation,
            };
        }
        match self.send(sides, side, request.into()).await {
            Ok(()) => RunContinuation::AtOnce,
            Err(continuation) => continuation,
        }
    }

    /// Returns the wait before a fence, `None` if it can begin.
    fn await_fence(&mut self, side: MoveSide) -> Option<RunContinuation> {
        let (shard, now) = (self.plan.shards[side.index()], Instant::now());
        let wait = self.fences.wait(shard, now);
        let is_catalog_unreachable = self.reports.is_catalog_unreachable();
        if wait.is_zero() && !is_catalog_unreachable {
            self.fences.begin(shard, now);
            return None;
        }
        // Changes that come meanwhile are copied before the fence.
        self.progress.short_rounds = 0;
        let reason = is_catalog_unreachable
            .then(|| "the catalog does not answer: no fence is begun".to_owned());
        Some(RunContinuation::After(wait.clamp(BUSY_WAIT, RETRY), reason))
    }

    /// Sends a change, and evaluates the response. The error is the continuation of the run.
    pub(super) async fn send(
        &mut self,
        sides: &MoveSides,
        side: MoveSide,
        change: MoveChange,
    ) -> Result<(), RunContinuation> {
        let request = change.request.clone();
        if is_on(Mutation::CommitByClock) && matches!(request, MoveRequest::Commit(..)) {
            // Its fence ends meanwhile.
            tokio::time::sleep(FENCE_HOLD + RETRY).await;
        }
        self.progress.note_sending(&request);
        if matches!(request, MoveRequest::CopyAgain(_)) {
            self.must_copy_again = false;
            self.reports.begin_copy();
        }
        let shard = sides.shard(side);
        let begun = Instant::now();
        let deadline = begun + time_of(&request);
        reach(StopTime::Before, request.name());
        let answer = match shard.primary().moves() {
            Some(moves) => moves.change(change, deadline).await,
            None => Err(MoveChangeError::Unsupported),
        };
        let (name, ms) = (request.name(), begun.elapsed().as_millis());
        tracing::debug!(request = name, shard = shard.name(), ms, "a request of a move ended");
        let answer = match answer {
            Ok(_) => {
                reach(StopTime::After, request.name());
                Ok(())
            }
            Err(error) => Err(error),
        };
        note_hold(&mut self.reports, &mut self.fences, &request, &answer);
        if answer.is_ok() || is_rejected(&answer) {
            learn(&mut self.progress, side, &request, &answer);
        }
        let Err(error) = answer else {
            // Writes of this process need not wait for an announcement.
            shard.slot_waits.wake();
            return Ok(());
        };
        let name = shard.name();
        Err(match error {
            MoveChangeError::Refused(MoveRefusal::Superseded { .. }) => RunContinuation::Superseded,
            MoveChangeError::Refused(refusal) => {
                RunContinuation::After(BUSY_WAIT, Some(format!("{name} refused a step: {refusal}")))
            }
            MoveChangeError::Busy { holder } => {
                RunContinuation::After(BUSY_WAIT, Some(format!("{holder} of {name} holds a lock")))
            }
            MoveChangeError::NoTable { .. } => {
                RunContinuation::After(RETRY, Some(format!("{name}: {error}")))
            }
            MoveChangeError::Unsupported => self.fail(format!("{name}: {error}")).await,
            MoveChangeError::Failed { error, .. } => {
                let reason = format!("{name} did not carry out a step: {error}");
                RunContinuation::After(RETRY, Some(reason))
            }
        })
    }

    /// Waits until the time of keeping is over; `pause` is the time until the next look.
    pub(super) async fn keep(&mut self, seen: &SeenMove, pause: Duration) -> RunContinuation {
        let record = self.reports.record();
        if record.goal == MoveGoal::Back && seen.leg.target() == MoveSide::Origin {
            // The slots are back, and the copy of the destination is no longer needed.
            self.deletes_other_copy = true;
            return RunContinuation::AtOnce;
        }
        let Some(owned_at) = record.owned_at else {
            // The catalog stores the time with the report of this phase.
            return RunContinuation::After(BUSY_WAIT, None);
        };
        let keep = TimeDelta::from_std(record.new.keep).unwrap_or(TimeDelta::MAX);
        let left = owned_at.checked_add_signed(keep).map(|end| end - Utc::now());
        let left = left.map_or(Duration::MAX, |left| left.to_std().unwrap_or(Duration::ZERO));
        if left.is_zero() {
            self.reports.order(MoveOrder::Settle).await;
            return RunContinuation::After(BUSY_WAIT, None);
        }
        if pause.is_zero() {
            return RunContinuation::AtOnce;
        }
        RunContinuation::After(left.min(pause), None)
    }

    /// Gives the move up: the slots stay where they are.
    pub(super) async fn fail(&mut self, reason: String) -> RunContinuation {
        let id = self.reports.record().name();
        tracing::error!(id, reason, "a move cannot be carried out");
        let goal = match self.reports.record().goal {
            MoveGoal::Back if self.reports.record().owned_at.is_some() => MoveGoal::Forward,
            MoveGoal::Back | MoveGoal::Forward | MoveGoal::Settle => MoveGoal::Back,
        };
        if goal == MoveGoal::Back {
            // Stored, so that a mover that takes over does not try again.
            self.reports.order(MoveOrder::Cancel).await;
        }
        self.failure = Some(MoveFailure { reason: reason.clone(), goal });
        RunContinuation::After(Duration::ZERO, Some(reason))
    }

    /// Reports the end of the move.
    async fn end(&mut self, owner: Option<MoveSide>) -> RunContinuation {
        let is_moved = self.reports.record().owned_at.is_some();
        let failure = self.failure.as_ref().map(|failure| failure.reason.clone());
        let (phase, reason) = match (failure, owner) {
            (Some(reason), _) => (MovePhase::Failed, Some(reason)),
            (None, Some(MoveSide::Destination)) => (MovePhase::Done, None),
            (None, Some(MoveSide::Origin)) if is_moved => (MovePhase::RolledBack, None),
            (None, Some(MoveSide::Origin)) => (MovePhase::Cancelled, None),
            (None, None) => {
                let reason = "none of its shards owns the slots".to_owned();
                (MovePhase::Failed, Some(reason))
            }
        };
        reach(StopTime::Before, "end");
        match self.reports.end(phase, reason).await {
            Ok(true) => {
                reach(StopTime::After, "end");
                let id = self.reports.record().name();
                tracing::info!(id, phase = phase.name(), "a move has ended");
                RunContinuation::Ended
            }
            Ok(false) => RunContinuation::After(RETRY, None),
            Err(_superseded) => RunContinuation::Superseded,
        }
    }
}

/// Returns the interval at which changes flow back to a source that has all of them, and the factor
/// by which the rest after a round grows that left some.
///
/// Both grow with the number of kept sources, so that many of them together cause no more work than
/// a few.
pub(super) fn flow_back_interval(run: &mut MoveRun<'_>) -> (Duration, u32) {
    let announcements = &run.manager.move_announcements;
    run.kept.get_or_insert_with(|| announcements.count_kept());
    let parts = announcements.kept().clamp(1, FLOW_BACK_PARTS) as u32;
    (FLOW_BACK * parts, parts)
}

/// Sends a request that deletes a batch of rows, and returns the rest after it, in which other
/// writes of the shard are carried out.
async fn delete(
    run: &mut MoveRun<'_>,
    sides: &MoveSides,
    side: MoveSide,
    request: MoveRequest,
) -> Result<Duration, RunContinuation> {
    let begun = Instant::now();
    run.send(sides, side, request.into()).await?;
    run.reports.count_batch();
    let now = Instant::now();
    Ok(run.copy_pace.rest_of_deletion(sides.other_writes(), now - begun, now))
}

/// Records the time for which writes waited, if the response to a request ends a fence.
fn note_hold(
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
        MoveRequest::Fence(_) if is_rejected(answer) => fences.withdraw(Instant::now()),
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

/// Returns the time limit of a request.
fn time_of(request: &MoveRequest) -> Duration {
    let empties = match request {
        MoveRequest::Discard(_) => true,
        MoveRequest::Store(_, round) => round.base_cursor == CopyCursor::Empty,
        MoveRequest::Prepare(_)
        | MoveRequest::Trace(_)
        | MoveRequest::Raise { .. }
        | MoveRequest::CopyAgain(_)
        | MoveRequest::Trim(..)
        | MoveRequest::Fence(_)
        | MoveRequest::Commit(..)
        | MoveRequest::Activate(_)
        | MoveRequest::Reverse(_)
        | MoveRequest::Lift(_)
        | MoveRequest::BeginCleaning(_)
        | MoveRequest::Clean(_)
        | MoveRequest::Forget(_) => false,
    };
    if empties { EMPTY_MAX } else { CALL_MAX }
}

/// Returns true if a request is known to have changed nothing.
fn is_rejected(answer: &Result<(), MoveChangeError>) -> bool {
    matches!(answer, Err(MoveChangeError::Refused(_) | MoveChangeError::Busy { .. }))
}

/// Records the conclusions from a response for later decisions of the mover.
fn learn(
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

    fn commit() -> MoveRequest {
        let term = MoveTerm { number: 1, mover: 0 };
        let ticket = MoveTicket { id: MoveId(7), leg: MoveLeg::FIRST, term };
        let commit = SlotCommit {
            applied: AppliedRows::default(),
            signpost_min_position: Position { timeline: 1, sequence: 1 },
            way_back: Feed::default(),
        };
        MoveRequest::Commit(ticket, commit)
    }

    #[test]
    fn the_copy_is_compared_again_after_a_refused_commit() {
        let mut progress = fenced();
        let refused = Err(MoveChangeError::Refused(MoveRefusal::MissingChanges));
        learn(&mut progress, MoveSide::Origin, &commit(), &refused);
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
