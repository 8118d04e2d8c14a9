//! Copy steps: the rounds of a move, one after the other, and the comparison of both sides.
//!
//! ```text
//!   look ──▶ round ──▶ round ──▶ … ──▶ look      a copy without other writes
//!   look ──▶ round ──▶ rest ──▶ look             otherwise
//! ```
//! **Invariant:** the receiver stores a round only if it still has the state for which the round
//! was read, so a mover that acts on an outdated look changes nothing.
//! **Not here:** reading and comparing (`move_round`), the pace (`copy_pace`), the other steps
//! (`move_steps`).

use std::pin::pin;
use std::time::{Duration, Instant};

use engine::slot_move::{MoveChange, RoundQuery, RoundRead, SlotDigest};
use model::sabotage::{StopTime, reach};
use moves::applied::AppliedRows;
use moves::identity::{MoveSide, MoveTicket};
use moves::move_row::{CopyCursor, MoveRow};
use moves::request::MoveRequest;

use super::copy_difference::CopyDifference;
use super::copy_pace::RoundTime;
use super::move_reports::MoveReports;
use super::move_round::{self, RoundAhead, RoundFailure, TimedRound};
use super::move_run::{MoveRun, RETRY, RunContinuation, end_flow_back};
use super::move_sides::{MoveSides, SeenMove};
use super::move_steps::flow_back_interval;

/// Interval at which changes flow back to a source that is kept.
pub(super) const FLOW_BACK: Duration = Duration::from_millis(200);
/// Longest time for which rounds are copied before the run looks at both shards again, reports its
/// progress and follows new orders of the operator.
const LOOK_AFTER: Duration = Duration::from_millis(250);
/// Interval between two reports of the move during a comparison.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// Copies rounds of a move until the run must look at both shards again.
pub(super) async fn copy(
    run: &mut MoveRun<'_>,
    sides: &MoveSides,
    seen: &SeenMove,
    from: MoveSide,
) -> RunContinuation {
    let Some(mut receiver) = seen.shard(from.other()).row.clone() else {
        return RunContinuation::AtOnce;
    };
    let looked_at = Instant::now();
    loop {
        let continuation = run.round(sides, seen, (from, &mut receiver), false).await;
        let rest = match &continuation {
            RunContinuation::AtOnce => Duration::ZERO,
            // After the commit, pauses are long, and orders may arrive meanwhile, so the run takes
            // them.
            RunContinuation::After(rest, None) if !seen.is_committed() => *rest,
            RunContinuation::After(..) | RunContinuation::Ended | RunContinuation::Superseded => {
                return continuation;
            }
        };
        // If the next round was read ahead, it continues the one that was stored, and no look is
        // needed: the receiver refuses it if anything has changed meanwhile.
        if !run.ahead.has_round() || looked_at.elapsed() + rest >= LOOK_AFTER {
            return continuation;
        }
        tokio::time::sleep(rest).await;
    }
}

impl MoveRun<'_> {
    /// Copies a round to the receiver, and compares both sides afterwards if `verifies` is true.
    pub(super) async fn round(
        &mut self,
        sides: &MoveSides,
        seen: &SeenMove,
        (from, receiver): (MoveSide, &mut MoveRow),
        verifies: bool,
    ) -> RunContinuation {
        let (to, begun) = (from.other(), Instant::now());
        let others = sides.other_writes();
        let budget = self.copy_pace.budget(others, begun);
        let query = move_round::query(&self.plan, receiver, budget);
        let query = RoundQuery { wants_digests: verifies, ..query };
        let (read, early) = match read_round(self, sides, from, &query).await {
            Ok(read) => read,
            Err(continuation) => return continuation,
        };
        let TimedRound { read, begun_at } = match read {
            Ok(read) => read,
            Err(RoundFailure::LostChanges) if seen.is_committed() => {
                end_flow_back(self).await;
                return RunContinuation::AtOnce;
            }
            Err(RoundFailure::LostChanges) => {
                self.must_copy_again = true;
                return RunContinuation::AtOnce;
            }
            Err(RoundFailure::Impossible(reason)) => return self.fail(reason).await,
            Err(RoundFailure::Transient(reason)) => {
                self.progress.note_outage();
                return RunContinuation::After(RETRY, Some(reason));
            }
        };
        let RoundRead { round, rows, changes, has_all, digests } = read;
        let ticket = MoveTicket { id: receiver.id, leg: receiver.leg, term: self.term };
        let (cursor, next) = (round.cursor.clone(), round.next.clone());
        let (counted, bytes) = (rows.row_count(), rows.bytes());
        let query = move_round::query_after(&query, &round, has_all);
        let change = MoveChange { request: MoveRequest::Store(ticket, round), rows };
        let mut ahead = RoundAhead::default();
        let sent = self.send((sides.shard(to), to), change);
        let (sent, ()) = tokio::join!(sent, ahead.read(sides, from, query));
        if let Err(continuation) = sent {
            return continuation;
        }
        self.ahead = ahead;
        (receiver.applied, receiver.cursor) = (next.clone(), cursor.clone());
        self.reports.count(counted, bytes);
        self.lag.note_round(changes, has_all, begun_at);
        self.reports.lag = Some(self.lag.report());
        let took = begun.elapsed();
        let time = RoundTime::between(others, sides.other_writes(), took);
        let is_short = self.pace.is_short(&cursor, (changes, has_all, took), Instant::now());
        self.progress.short_rounds =
            if is_short { self.progress.short_rounds.saturating_add(1) } else { 0 };
        if seen.is_committed() {
            let rest = self.copy_pace.rest_beside_writes(time, Instant::now());
            let (interval, parts) = flow_back_interval(self);
            return self.keep(seen, if has_all { interval } else { rest * parts });
        }
        if verifies {
            let Some(expected) = digests else {
                // Too much has changed meanwhile: the target must first catch up.
                self.progress.short_rounds = 0;
                return RunContinuation::AtOnce;
            };
            let early = early.filter(|_| changes == 0);
            return self.compare(sides, (to, &expected, early), &next).await;
        }
        let wait = self.copy_pace.rest(bytes, time, Instant::now());
        if cursor == CopyCursor::Whole || wait.is_zero() {
            return RunContinuation::AtOnce;
        }
        RunContinuation::After(wait, None)
    }

    /// Compares the side that has received a round with the digests of the other side. `found`
    /// contains the receiver's own digests if they are known already; `applied` is the state of its
    /// rows.
    async fn compare(
        &mut self,
        sides: &MoveSides,
        (side, expected, found): (MoveSide, &[SlotDigest], Option<Vec<SlotDigest>>),
        applied: &AppliedRows,
    ) -> RunContinuation {
        reach(StopTime::Before, "verify");
        let found = match found {
            Some(found) => Ok(found),
            None => {
                let digests = move_round::digests(sides, &self.plan, side);
                match reported_meanwhile(&mut self.reports, digests).await {
                    Ok(found) => found,
                    Err(continuation) => return continuation,
                }
            }
        };
        let compared = found.map(|found| CopyDifference::between(expected, &found));
        reach(StopTime::After, "verify");
        match compared {
            Ok(None) => {
                self.progress.verified = Some((applied.feed, applied.pass));
                // Clients may have written during the comparison, so the copy has to catch up
                // again.
                self.progress.short_rounds = 0;
                RunContinuation::AtOnce
            }
            Ok(Some(difference)) => {
                let reason = difference.describe(sides, &self.plan, (side, applied)).await;
                self.fail(reason).await
            }
            Err(reason) => RunContinuation::After(RETRY, Some(reason)),
        }
    }
}

/// Result of reading a round, and the digests of the receiver if they were computed at the same
/// time.
type ReadRound = (Result<TimedRound, RoundFailure>, Option<Vec<SlotDigest>>);

/// Reads a round unless it was read ahead. If both sides are to be compared, and the copy lacked no
/// changes at the last look, computes the digests of the receiver at the same time. They are valid
/// only if the round has no changes either.
///
/// # Errors
/// The continuation of the run if the comparison was interrupted.
async fn read_round(
    run: &mut MoveRun<'_>,
    sides: &MoveSides,
    from: MoveSide,
    query: &RoundQuery,
) -> Result<ReadRound, RunContinuation> {
    if let Some(read) = run.ahead.take(from, query) {
        return Ok((Ok(read), None));
    }
    let read = TimedRound::read(sides, from, query);
    if !query.wants_digests {
        return Ok((read.await, None));
    }
    let is_current = run.lag.is_zero();
    let digests = async {
        let digests = move_round::digests(sides, &run.plan, from.other());
        Ok(if is_current { digests.await.ok() } else { None })
    };
    let both = async { tokio::try_join!(read, digests) };
    let both = reported_meanwhile(&mut run.reports, both).await?;
    Ok(both.map_or_else(|failure| (Err(failure), None), |(read, digests)| (Ok(read), digests)))
}

/// Awaits a part of a comparison, which may take minutes, and meanwhile reports the move to the
/// catalog.
///
/// # Errors
/// The continuation of the run if the operator has given another order, or another mover has taken
/// the move over. The part of the comparison is then abandoned.
async fn reported_meanwhile<T>(
    reports: &mut MoveReports<'_>,
    part: impl Future<Output = T>,
) -> Result<T, RunContinuation> {
    let mut part = pin!(part);
    // The move is busy now, so a reason to wait that was reported earlier no longer holds.
    reports.explain(None);
    let orders = |reports: &MoveReports<'_>| (reports.record().goal, reports.record().is_paused);
    let before = orders(reports);
    loop {
        if let Ok(done) = tokio::time::timeout(REPORT_AFTER, part.as_mut()).await {
            return Ok(done);
        }
        if reports.keep_current(false).await.is_err() {
            return Err(RunContinuation::Superseded);
        }
        if orders(reports) != before {
            return Err(RunContinuation::AtOnce);
        }
    }
}
