//! Move run: carries out one move, step after step, until it ends or another mover takes over.
//!
//! ```text
//!   take over ──▶ look at both shards ──▶ decide ──▶ act ──▶ report ──┐
//!                        ▲                                            │
//!                        └────────────────────────────────────────────┘
//! ```
//! **Invariant:** the state that a run keeps in memory only saves work: a new run makes the same
//! decisions from the state that both shards have stored.
//! **Not here:** the decision (`moves::next_step`), sending requests (`move_steps`), copying rounds
//! (`copy_steps`).

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use engine::move_catalog::{MoveCatalog, MoveListError};
use engine::move_record::{MoveOrder, MovePhase, MoveRecord};
use moves::identity::{MoveLeg, MoveSide, MoveTerm};
use moves::next_step::next;
use moves::observation::{MoveGoal, MoveObservation, MovePlan, MoveProgress, SlotsState};
use moves::rules::MoveRules;
use moves::step::MoveStep;

use super::copy_lag::CopyLag;
use super::copy_pace::CopyPace;
use super::fence_clock::{FenceClock, FenceTimes};
use super::lone_side;
use super::move_reports::{MoveReports, Superseded};
use super::move_round::{RoundAhead, RoundPace};
use super::move_sides::{CALL_MAX, MoveSides, SeenMove, look_at};
use super::phases::phase_of;
use super::publication::published;
use super::recorded_changes::RecordedChanges;
use super::trim_waits::TrimWaits;
use crate::manager::Manager;
use crate::manager::move_announcements::{KeptRun, MoveWatch};
use crate::shard::Shard;

/// Wait before the next attempt, after a lock was not free or a request was refused.
pub(super) const BUSY_WAIT: Duration = Duration::from_millis(25);
/// Interval at which a run looks at the shards of a move that waits.
pub(super) const REST: Duration = Duration::from_secs(1);
/// Wait before a failed request is repeated.
pub(super) const RETRY: Duration = Duration::from_millis(200);
/// Wait before a run tries again to read a shard that cannot be reached.
const REOPEN: Duration = Duration::from_millis(500);
/// Longest wait for replicas to confirm a position, before the run looks at both shards again.
pub(super) const CONFIRM_MAX: Duration = Duration::from_millis(500);
/// Maximum age that is assumed for a fence which an earlier mover left without a report. A longer
/// fence would have been reported, and another mover takes over within seconds.
const UNREPORTED_MAX: Duration = Duration::from_secs(10);
/// Maximum number of confirmations that a run waits for before it looks at both shards again.
const CONFIRMATIONS: usize = 4;

/// Continuation of a run after a step.
pub(super) enum RunContinuation {
    /// The run looks at both shards again at once.
    AtOnce,
    /// The run looks at both shards again after this time; the reason is reported to the operator.
    After(Duration, Option<String>),
    /// The run ends, because the move has ended.
    Ended,
    /// The run ends, because another mover has taken over.
    Superseded,
}

/// Reason why a move is given up.
pub(super) struct MoveFailure {
    pub(super) reason: String,
    /// Goal that leaves the slots where they are.
    pub(super) goal: MoveGoal,
}

/// Run of one move.
pub(super) struct MoveRun<'m> {
    pub(super) manager: &'m Manager,
    catalog: &'m dyn MoveCatalog,
    pub(super) plan: MovePlan,
    pub(super) term: MoveTerm,
    pub(super) progress: MoveProgress,
    pub(super) reports: MoveReports<'m>,
    pub(super) fences: FenceClock,
    pub(super) copy_pace: CopyPace,
    pub(super) lag: CopyLag,
    pub(super) ahead: RoundAhead,
    pub(super) pace: RoundPace,
    watch: MoveWatch,
    /// Guard that counts this run among those that keep their source; `None` before that.
    pub(super) kept: Option<KeptRun>,
    /// Leg that the last look at the shards has found.
    pub(super) leg: MoveLeg,
    /// True if a round found that the source no longer records some changes that the copy lacks.
    pub(super) must_copy_again: bool,
    /// False if changes no longer flow back to the kept source. The time of keeping then ends.
    pub(super) follows_back: bool,
    pub(super) failure: Option<MoveFailure>,
    /// True if the slots are back at the origin, so that the destination's copy can be deleted.
    pub(super) deletes_other_copy: bool,
    /// True if the next step may wait for replicas.
    awaits_replicas: bool,
    trims: TrimWaits,
    pub(super) recorded: RecordedChanges,
    /// Time at which the origin alone was first read, after both shards had last been read
    /// together.
    pub(super) destination_lost_at: Option<Instant>,
}

impl<'m> MoveRun<'m> {
    /// Creates the run of a move from its record in the catalog.
    pub(super) fn new(
        manager: &'m Manager,
        catalog: &'m dyn MoveCatalog,
        record: MoveRecord,
        fences: Arc<FenceTimes>,
    ) -> Self {
        Self {
            manager,
            catalog,
            plan: record.plan(),
            term: MoveTerm { number: record.term, mover: random_mover() },
            progress: MoveProgress::default(),
            fences: FenceClock::new(fences, age_of_fence(&record)),
            copy_pace: CopyPace::new(record.new.rate),
            lag: CopyLag::of(&record),
            ahead: RoundAhead::default(),
            pace: RoundPace::default(),
            reports: MoveReports::new((catalog, &manager.move_status), record),
            watch: manager.move_announcements.watch_orders(),
            kept: None,
            leg: MoveLeg::FIRST,
            must_copy_again: false,
            follows_back: true,
            failure: None,
            deletes_other_copy: false,
            awaits_replicas: false,
            trims: TrimWaits::default(),
            recorded: RecordedChanges::default(),
            destination_lost_at: None,
        }
    }

    /// Carries out the move. Returns true when it has ended, false if another mover has taken over.
    pub(super) async fn carry_out(mut self) -> bool {
        let record = self.reports.record();
        let (id, phase) = (record.name(), record.phase.name());
        tracing::info!(id, phase, "a move is carried on");
        if self.take_over().await.is_err() {
            return false;
        }
        loop {
            let is_urgent = match self.advance().await {
                RunContinuation::AtOnce => {
                    self.reports.explain(self.recorded.repetition());
                    false
                }
                RunContinuation::After(time, reason) => {
                    self.reports.explain(reason.or_else(|| self.recorded.repetition()));
                    self.watch.rest(time).await
                }
                RunContinuation::Ended => return true,
                RunContinuation::Superseded => return false,
            };
            let had_arrived = self.reports.record().has_arrived();
            if self.reports.keep_current(is_urgent).await.is_err() {
                return false;
            }
            if !had_arrived && self.reports.record().has_arrived() {
                // Another move may begin in place of this one.
                self.manager.move_announcements.announce();
            }
        }
    }

    /// Takes a new term, higher than every term that the catalog and the readable shards know.
    pub(super) async fn take_over(&mut self) -> Result<(), Superseded> {
        loop {
            match known_term(self.manager, &self.plan, self.leg).await {
                Ok(known) => {
                    let taken = self.catalog.take_over(self.plan.id, known.max(self.term.number));
                    match tokio::time::timeout(CALL_MAX, taken).await {
                        Ok(Ok(number)) => {
                            self.term = MoveTerm { number, ..self.term };
                            self.progress = MoveProgress::default();
                            self.reports.begin_term(number);
                            return Ok(());
                        }
                        Ok(Err(MoveListError::Superseded | MoveListError::NoMove)) => {
                            return Err(Superseded);
                        }
                        Ok(Err(error)) => tracing::debug!(%error, "a move has no new term yet"),
                        Err(_elapsed) => tracing::debug!("a move has no new term in time"),
                    }
                }
                Err(reason) => {
                    tracing::debug!(reason, "a move has no new term yet");
                    self.reports.begin();
                    self.reports.explain(Some(reason));
                    self.reports.keep_current(false).await?;
                }
            }
            self.watch.rest(REOPEN).await;
        }
    }

    /// Looks at both shards and takes the next step.
    async fn advance(&mut self) -> RunContinuation {
        let sides = match MoveSides::find(self.manager, &self.plan) {
            Ok(sides) => sides,
            Err(reason) => return lone_side::carry_on(self, reason, REOPEN).await,
        };
        // Replicas of SQLite files sync to disk only on request.
        let both = [MoveSide::Origin, MoveSide::Destination];
        let _confirmations = self
            .awaits_replicas
            .then(|| both.map(|side| sides.majority(side).request_confirmations()));
        let (looked_at, begun) = (Utc::now(), Instant::now());
        let mut seen = match sides.look(&self.plan, self.leg).await {
            Ok(seen) => seen,
            Err(reason) => {
                self.progress.note_outage();
                return lone_side::carry_on(self, reason, RETRY).await;
            }
        };
        self.destination_lost_at = None;
        tracing::debug!(ms = begun.elapsed().as_millis(), "a mover looked at both shards");
        self.note(&seen);
        self.reports.lag = self.lag.look(&seen, looked_at, self.follows_back);
        self.trims.await_confirmation(&sides, &mut seen, &mut self.progress).await;
        limit_recording(self, &sides, &seen).await;
        for _ in 0..CONFIRMATIONS {
            let step = self.decide(&seen);
            let MoveStep::AwaitConfirmation(side) = step else {
                return self.act(&sides, &seen, step).await;
            };
            // The state that was read belongs to this position, even if the shard is at a later one
            // by now.
            let (position, begun) = (seen.shard(side).position, Instant::now());
            let is_confirmed =
                sides.majority(side).await_confirmation(position, begun + CONFIRM_MAX).await;
            let (shard, ms) = (sides.shard(side).name(), begun.elapsed().as_millis());
            tracing::debug!(shard, is_confirmed, ms, "a mover waited for replicas");
            if !is_confirmed {
                let reason = format!("it waits until a majority of {shard} has its changes");
                return RunContinuation::After(Duration::ZERO, Some(reason));
            }
            seen.shards[side.index()].is_confirmed = true;
        }
        RunContinuation::AtOnce
    }

    /// Records the results of a look at both shards.
    fn note(&mut self, seen: &SeenMove) {
        if self.leg != seen.leg {
            self.leg = seen.leg;
            self.progress.short_rounds = 0;
            self.progress.verified = None;
            self.progress.has_too_many_changes = false;
        }
        if seen.is_committed() || self.progress.short_rounds > 0 {
            self.recorded.note_closeness();
        }
        let now = Instant::now();
        let (source, target) = (seen.leg.source(), seen.shard(seen.leg.target()));
        let has_arrived = matches!(target.slots, SlotsState::Owned | SlotsState::Fenced);
        let waits = match seen.shard(source).slots {
            SlotsState::Fenced => true,
            SlotsState::Moved => !has_arrived,
            SlotsState::Owned | SlotsState::Importing | SlotsState::Other => false,
        };
        inherit_fence(self, source, waits);
        if seen.is_committed() {
            if has_arrived {
                self.reports.note_hold(self.fences.end(false, now));
            }
            return;
        }
        note_fence_that_ran_out(self, now);
        if let Some(copy) = target.row.as_ref().filter(|_| self.progress.is_fenced) {
            // Deleting recorded changes now would only prolong the fence. All of them are deleted
            // after the commit.
            self.progress.trimmed = Some(copy.applied.round);
        }
    }

    /// Returns the next step.
    fn decide(&mut self, seen: &SeenMove) -> MoveStep {
        let goal = goal_of(self);
        let published = published(self.manager, &self.plan, seen);
        let [origin, destination] = &seen.shards;
        let step = next(&MoveObservation {
            plan: &self.plan,
            goal,
            is_paused: self.reports.record().is_paused,
            term: self.term,
            shards: [origin, destination],
            is_behind: seen.is_behind && (self.follows_back || !seen.is_committed()),
            must_copy_again: self.must_copy_again || seen.has_lost_changes,
            published,
            progress: &self.progress,
            rules: MoveRules::in_force(),
        });
        let phase = phase_of(seen, &step, (goal, self.progress.is_fenced, published));
        self.reports.enter(phase);
        if phase == MovePhase::Cleaning {
            // The copy is no longer needed.
            self.reports.lag = None;
        }
        let follows = phase == MovePhase::Following && self.progress.short_rounds > 0;
        self.awaits_replicas =
            follows || matches!(phase, MovePhase::Fencing | MovePhase::Activating);
        step
    }
}

/// Returns the goal that the run follows.
pub(super) fn goal_of(run: &MoveRun<'_>) -> MoveGoal {
    if run.deletes_other_copy {
        return MoveGoal::Settle;
    }
    let failed = run.failure.as_ref().map(|failure| failure.goal);
    failed.unwrap_or_else(|| run.reports.record().goal)
}

/// Records, at the first look at the source, that writes wait because of a fence of an earlier
/// mover, if `waits` is true.
pub(super) fn inherit_fence(run: &mut MoveRun<'_>, source: MoveSide, waits: bool) {
    let shard = run.plan.shards[source.index()];
    if let Some(age) = run.fences.inherit(shard, waits) {
        run.reports.begin_hold(age);
    }
}

/// Returns the age of the fence that an earlier mover may have left. Most fences are so short that
/// they are never reported. If the last report does not say since when writes have been waiting,
/// the fence began after the record in the catalog last changed. That may be long ago, so at most
/// [`UNREPORTED_MAX`] is assumed.
fn age_of_fence(record: &MoveRecord) -> Duration {
    let reported = record.progress.held_since;
    let age = (Utc::now() - reported.unwrap_or(record.changed_at)).to_std().unwrap_or_default();
    if reported.is_some() { age } else { age.min(UNREPORTED_MAX) }
}

/// Records that a fence has run out, if it has, while its shard still owns the slots.
pub(super) fn note_fence_that_ran_out(run: &mut MoveRun<'_>, now: Instant) {
    if run.fences.has_run_out(now) {
        run.reports.note_hold(run.fences.end(true, now));
        run.progress.note_fence_end();
    }
}

/// Returns a number that distinguishes a mover from others with the same term number.
pub(super) fn random_mover() -> u64 {
    // The highest bit is 0, because catalogs and shards store a signed number.
    RandomState::new().build_hasher().finish() >> 1
}

/// Returns the highest term that the shards know. If one side cannot be read, the other is enough:
/// if the missing side knows a higher term, it stops the run later.
async fn known_term(manager: &Manager, plan: &MovePlan, leg: MoveLeg) -> Result<u64, String> {
    let looked = match MoveSides::find(manager, plan) {
        Ok(sides) => sides.look(plan, leg).await,
        Err(reason) => Err(reason),
    };
    let shards = match looked {
        Ok(seen) => Vec::from(seen.shards),
        Err(reason) => {
            let mut found = Vec::new();
            for number in plan.shards {
                if let Some(shard) = manager.shards().find(number)
                    && let Ok(seen) = look_at(&shard, plan).await
                {
                    found.push(seen);
                }
            }
            if found.is_empty() {
                return Err(reason);
            }
            found
        }
    };
    let rows = shards.iter().filter_map(|shard| shard.row.as_ref());
    Ok(rows.map(|row| row.term.number).max().unwrap_or_default())
}

/// Before the commit, checks whether the source has recorded too many changes, if a check is due
/// and no fence is in force; the recording then ends. After the commit, calls [`limit_keeping`].
async fn limit_recording(run: &mut MoveRun<'_>, sides: &MoveSides, seen: &SeenMove) {
    let (source, target) = (seen.leg.source(), seen.leg.target());
    if seen.is_committed() {
        limit_keeping(run, (sides.shard(target), target)).await;
    } else if seen.shard(source).row.is_some()
        && !run.progress.is_fenced
        && run.recorded.note_too_many(sides.shard(source), &run.plan.slots).await
    {
        run.progress.has_too_many_changes = true;
        run.progress.short_rounds = 0;
    }
}

/// Ends the time of keeping if it has elapsed, or if the owner, which is this side, has recorded
/// too many changes. A paused move keeps its source even after that time, but not after too many
/// changes. A move whose slots are to return keeps its source in either case.
pub(super) async fn limit_keeping(run: &mut MoveRun<'_>, (owner, side): (&Shard, MoveSide)) {
    let record = run.reports.record();
    let left = record.keep_left(Utc::now()).filter(|_| record.goal == MoveGoal::Forward);
    let Some(left) = left else { return };
    let may_end = !record.is_paused && side == MoveSide::Destination;
    let is_over = left.is_zero() || !run.follows_back;
    if is_over && may_end && goal_of(run) == MoveGoal::Forward {
        run.reports.order(MoveOrder::Settle).await;
    } else if run.recorded.has_too_many(owner, &run.plan.slots).await {
        end_flow_back(run).await;
    }
}

/// Ends the flow of changes back to a kept source, and with it the time of keeping. A rollback
/// would now have to copy all rows again, as an ordinary move back does, so it is pointless for the
/// owner to record changes and for the source to keep its rows.
pub(super) async fn end_flow_back(run: &mut MoveRun<'_>) {
    let id = run.reports.record().name();
    tracing::warn!(id, "changes no longer flow back to the source of a move: it is kept no longer");
    run.follows_back = false;
    if run.reports.record().goal == MoveGoal::Forward {
        // If the catalog cannot store the order now, the next look at the owner repeats it.
        run.reports.order(MoveOrder::Settle).await;
    }
}
