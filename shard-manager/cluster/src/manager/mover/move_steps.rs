//! Move steps: carries out the steps on which a move's run has decided.
//!
//! **Not here:** the loop (`move_run`), the decision (`moves::next_step`), rounds (`copy_steps`),
//! the conclusions from a response (`move_answers`).

use std::time::{Duration, Instant};

use chrono::Utc;
use engine::move_record::{MoveOrder, MovePhase};
use engine::slot_move::{MoveChange, MoveChangeError, ROUND_BYTES_MAX};
use model::error::Error;
use model::sabotage::{Mutation, StopTime, is_on, reach};
use moves::identity::MoveSide;
use moves::limits::FENCE_HOLD;
use moves::move_row::CopyCursor;
use moves::observation::MoveGoal;
use moves::request::MoveRequest;
use moves::step::{MoveStep, WaitReason};

use super::copy_steps::{FLOW_BACK, copy};
use super::move_answers::{after_refusal, is_rejected, learn, note_hold};
use super::move_run::{BUSY_WAIT, MoveFailure, MoveRun, REST, RETRY, RunContinuation, goal_of};
use super::move_sides::{CALL_MAX, MoveSides, SeenMove};
use super::publication::publish;
use crate::shard::Shard;

/// Maximum number of batches that the cleaning of a source deletes before the run looks at both
/// shards again.
const BATCHES_OF_A_LOOK: usize = 10;
/// Longest interval at which changes flow back to a kept source, as a multiple of [`FLOW_BACK`].
/// The interval grows with the number of kept sources.
const FLOW_BACK_PARTS: usize = 10;
/// Time limit of a request that deletes all rows of the slots, in batches, or stores very many
/// rows.
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
                self.keep(seen, REST.max(interval))
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
            MoveStep::End(owner) => self.end(owner, None).await,
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
            // A look at the shard costs more than a batch, because it has to skip all deleted rows.
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
        match self.send((sides.shard(side), side), request.into()).await {
            Ok(()) => RunContinuation::AtOnce,
            Err(continuation) => continuation,
        }
    }

    /// Returns the wait before a fence. If the fence can begin at once, records its beginning and
    /// returns `None`.
    fn await_fence(&mut self, side: MoveSide) -> Option<RunContinuation> {
        let (shard, now) = (self.plan.shards[side.index()], Instant::now());
        let wait = self.fences.wait(shard, now);
        let is_catalog_unreachable = self.reports.is_catalog_unreachable;
        if wait.is_zero() && !is_catalog_unreachable {
            self.fences.begin(shard, now);
            self.reports.begin_hold(Duration::ZERO);
            return None;
        }
        // Changes that clients make during the wait are copied before the fence begins.
        self.progress.short_rounds = 0;
        let reason = is_catalog_unreachable
            .then(|| "the catalog does not answer: no fence is begun".to_owned());
        Some(RunContinuation::After(wait.clamp(BUSY_WAIT, RETRY), reason))
    }

    /// Sends a request with its rows, and evaluates the response. The error is the continuation of
    /// the run.
    pub(super) async fn send(
        &mut self,
        (shard, side): (&Shard, MoveSide),
        change: MoveChange,
    ) -> Result<(), RunContinuation> {
        let request = change.request.clone();
        if is_on(Mutation::CommitByClock) && matches!(request, MoveRequest::Commit(..)) {
            // The fence of the commit ends during this sleep.
            tokio::time::sleep(FENCE_HOLD + RETRY).await;
        }
        self.progress.note_sending(&request);
        if matches!(request, MoveRequest::CopyAgain(_)) {
            self.must_copy_again = false;
            self.reports.begin_copy();
        }
        let begun = Instant::now();
        let deadline = begun + time_of_change(&change);
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
            // Waiting writes of this process are woken now, so they need not wait for the shard's
            // announcement.
            shard.slot_waits.wake();
            return Ok(());
        };
        let name = shard.name();
        Err(match error {
            MoveChangeError::Refused(refusal) => after_refusal(name, refusal),
            MoveChangeError::Busy { holder } => {
                RunContinuation::After(BUSY_WAIT, Some(format!("{holder} of {name} holds a lock")))
            }
            MoveChangeError::NoTable { .. } => {
                RunContinuation::After(RETRY, Some(format!("{name}: {error}")))
            }
            MoveChangeError::Unsupported => self.fail(format!("{name}: {error}")).await,
            MoveChangeError::Failed { error: Error::NotUnique { index }, .. } => {
                // The refusal may last for long. The fence runs out, and the copy is compared again
                // before the next fence.
                self.progress.note_fence_end();
                let reason = format!(
                    "the unique index {index} of {name} rejects a row; the other shard does not \
                     have that index, or is still building or dropping it: the move continues once \
                     both shards have it, or neither does"
                );
                RunContinuation::After(RETRY, Some(reason))
            }
            MoveChangeError::Failed { error, .. } => {
                let reason = format!("{name} did not carry out a step: {error}");
                RunContinuation::After(RETRY, Some(reason))
            }
        })
    }

    /// Returns the pause until the run looks at a kept source again: at most `pause`, and not
    /// longer than the rest of the time of keeping, which ends at such a look
    /// (`move_run::limit_keeping`).
    pub(super) fn keep(&mut self, seen: &SeenMove, pause: Duration) -> RunContinuation {
        if goal_of(self) == MoveGoal::Back && seen.leg.target() == MoveSide::Origin {
            // The slots are back, and the copy of the destination is no longer needed.
            self.deletes_other_copy = true;
            return RunContinuation::AtOnce;
        }
        let Some(left) = self.reports.record().keep_left(Utc::now()) else {
            // The time of keeping begins when the catalog has stored the report of this phase.
            return RunContinuation::After(BUSY_WAIT, None);
        };
        if left.is_zero() || !self.follows_back {
            return RunContinuation::After(BUSY_WAIT, None);
        }
        if pause.is_zero() {
            return RunContinuation::AtOnce;
        }
        RunContinuation::After(left.min(pause), None)
    }

    /// Gives the move up for this reason: the slots stay where they are.
    pub(super) async fn fail(&mut self, reason: String) -> RunContinuation {
        let id = self.reports.record().name();
        tracing::error!(id, reason, "a move cannot be carried out");
        let goal = match self.reports.record().goal {
            MoveGoal::Back if self.reports.record().owned_at.is_some() => MoveGoal::Forward,
            MoveGoal::Back | MoveGoal::Forward | MoveGoal::Settle => MoveGoal::Back,
        };
        if goal == MoveGoal::Back {
            // The order is stored, so that a mover that takes over does not try again.
            self.reports.order(MoveOrder::Cancel).await;
        }
        self.failure = Some(MoveFailure { reason: reason.clone(), goal });
        RunContinuation::After(Duration::ZERO, Some(reason))
    }

    /// Reports the end of the move. `note` is shown to the operator if the move was cancelled.
    pub(super) async fn end(
        &mut self,
        owner: Option<MoveSide>,
        note: Option<String>,
    ) -> RunContinuation {
        let is_moved = self.reports.record().owned_at.is_some();
        let failure = self.failure.as_ref().map(|failure| failure.reason.clone());
        let (phase, reason) = match (failure, owner) {
            (Some(reason), _) => (MovePhase::Failed, Some(reason)),
            (None, Some(MoveSide::Destination)) => (MovePhase::Done, None),
            (None, Some(MoveSide::Origin)) if is_moved => (MovePhase::RolledBack, None),
            (None, Some(MoveSide::Origin)) => (MovePhase::Cancelled, note),
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

/// Returns the interval at which changes flow back to a kept source that has all of them so far,
/// and the factor by which the pause grows after a round that did not have all changes.
///
/// Both grow with the number of kept sources, up to [`FLOW_BACK_PARTS`]. Up to that number, all
/// kept sources together cause about as much work as one.
pub(super) fn flow_back_interval(run: &mut MoveRun<'_>) -> (Duration, u32) {
    let announcements = &run.manager.move_announcements;
    run.kept.get_or_insert_with(|| announcements.count_kept());
    let parts = announcements.kept().clamp(1, FLOW_BACK_PARTS) as u32;
    (FLOW_BACK * parts, parts)
}

/// Sends a request that deletes a batch of rows. Returns the pause after it, during which the shard
/// carries out other writes.
async fn delete(
    run: &mut MoveRun<'_>,
    sides: &MoveSides,
    side: MoveSide,
    request: MoveRequest,
) -> Result<Duration, RunContinuation> {
    let begun = Instant::now();
    run.send((sides.shard(side), side), request.into()).await?;
    run.reports.count_batch();
    let now = Instant::now();
    Ok(run.copy_pace.rest_of_deletion(sides.other_writes(), now - begun, now))
}

/// Returns the time limit of a change. A round with the changes of one large transaction has more
/// rows than other rounds, and takes longer to store.
fn time_of_change(change: &MoveChange) -> Duration {
    let is_large = change.rows.bytes() > 2 * ROUND_BYTES_MAX as u64;
    if is_large { EMPTY_MAX } else { time_of(&change.request) }
}

/// Returns the time limit of a request.
pub(super) fn time_of(request: &MoveRequest) -> Duration {
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

#[cfg(test)]
mod tests {
    use engine::slot_move::RoundTable;
    use moves::applied::AppliedRows;
    use moves::identity::{MoveId, MoveLeg, MoveTerm, MoveTicket};
    use moves::round::CopyRound;

    use super::*;

    #[test]
    fn a_round_of_one_large_transaction_has_more_time_to_be_stored_than_others() {
        let term = MoveTerm { number: 1, mover: 0 };
        let ticket = MoveTicket { id: MoveId(7), leg: MoveLeg::FIRST, term };
        let (base, next) = (AppliedRows::begin(1), AppliedRows::begin(1));
        let (base_cursor, cursor) = (CopyCursor::Whole, CopyCursor::Whole);
        let round = CopyRound { base, base_cursor, next, cursor, is_comparison: false };
        let mut change = MoveChange::from(MoveRequest::Store(ticket, round));
        let rows = vec![0; 2 * ROUND_BYTES_MAX];
        change.rows.tables.push(RoundTable { rows, ..RoundTable::default() });
        assert_eq!(time_of_change(&change), CALL_MAX);
        change.rows.tables.push(RoundTable { removed: vec![0], ..RoundTable::default() });
        assert_eq!(time_of_change(&change), EMPTY_MAX);
    }
}
