//! Move reports: reports the progress of a move to the catalog, and receives the operator's orders
//! in the responses.
//!
//! **Invariant:** while the catalog does not answer, the last known orders are in force, and only
//! new fences wait for the catalog. While writes of the slots wait, no report is sent within a few
//! seconds of the last one.
//! **Not here:** storing reports (the catalogs), the phase of a move (`phases`).

use std::time::{Duration, Instant};

use chrono::Utc;
use engine::move_catalog::{MoveCatalog, MoveListError, MoveReport};
use engine::move_record::{
    MoveLag, MoveOrder, MovePhase, MoveProgressReport, MoveRecord, goal_name, stall_limit,
};
use moves::observation::MoveGoal;

use super::copy_forecast::{CopyForecast, rows_of_copy};
use crate::manager::move_status::MoveStatus;

/// Interval between two reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time since the last report during which no further one is sent while writes wait.
const BRIEF_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a response of the catalog.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Error of a mover whose move has ended or was taken over by another mover.
#[derive(Debug)]
pub(super) struct Superseded;

/// Reports of one mover.
pub(super) struct MoveReports<'m> {
    catalog: &'m dyn MoveCatalog,
    status: &'m MoveStatus,
    /// The move, as the catalog has last returned it.
    record: MoveRecord,
    term: u64,
    clock: PhaseClock,
    progress: MoveProgressReport,
    /// Changes that the receiving side lacks; `None` if no copy is kept current.
    pub(super) lag: Option<MoveLag>,
    forecast: CopyForecast,
    /// Last report that the catalog has stored.
    sent: Option<MoveReport>,
    /// Time at which the catalog last answered a report or a query for orders, or let it time out.
    asked: Option<Instant>,
    /// True if the last report or query for orders failed or timed out, or a later order of the
    /// mover timed out.
    pub(super) is_catalog_unreachable: bool,
    stall: Stall,
}

/// Phase of a move, and the time up to which its duration was counted.
struct PhaseClock {
    phase: MovePhase,
    since: Instant,
}

impl PhaseClock {
    /// Adds the time that the move has spent in the phase since the last call to the progress.
    fn count(&mut self, progress: &mut MoveProgressReport) {
        let now = Instant::now();
        let time = now - std::mem::replace(&mut self.since, now);
        let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let sum = progress.phase_us.entry(self.phase).or_default();
        *sum = sum.saturating_add(time);
    }
}

/// Detector of a move without progress: the progress that was last seen, and the time since when it
/// has not changed.
struct Stall {
    seen: (MovePhase, MoveGoal, u64, u64),
    since: Instant,
    has_warned: bool,
}

impl<'m> MoveReports<'m> {
    /// Creates the reports of a move from its record in the catalog.
    pub(super) fn new(
        (catalog, status): (&'m dyn MoveCatalog, &'m MoveStatus),
        record: MoveRecord,
    ) -> Self {
        let (phase, term, now) = (record.phase, record.term, Instant::now());
        let since = now.checked_sub(time_in_phase(&record)).unwrap_or(now);
        let progress =
            MoveProgressReport { reason: None, held_since: None, ..record.progress.clone() };
        let seen = (phase, record.goal, 0, 0);
        let stall = Stall { seen, since: now, has_warned: false };
        let (lag, sent, asked) = (progress.lag, None, None);
        Self {
            catalog,
            status,
            record,
            term,
            clock: PhaseClock { phase, since },
            progress,
            lag,
            forecast: CopyForecast::default(),
            sent,
            asked,
            is_catalog_unreachable: false,
            stall,
        }
    }

    /// Returns the move, as the catalog has last returned it.
    pub(super) fn record(&self) -> &MoveRecord {
        &self.record
    }

    /// Begins a term. Later reports are sent with this term.
    pub(super) fn begin_term(&mut self, term: u64) {
        (self.term, self.sent) = (term, None);
    }

    /// Adds the rows of a round, and their size in bytes, to the progress.
    pub(super) fn count(&mut self, rows: u64, bytes: u64) {
        self.progress.rows += rows;
        self.progress.bytes += bytes;
        self.status.count(rows, bytes);
    }

    /// Records that the copy of all rows begins, for the first time or again.
    pub(super) fn begin_copy(&mut self) {
        self.progress.rows_expected = rows_of_copy(&self.progress);
    }

    /// Counts a batch of rows that was deleted.
    pub(super) fn count_batch(&mut self) {
        self.progress.deleted_batches += 1;
    }

    /// Records the time for which writes waited, if there was a fence.
    pub(super) fn note_hold(&mut self, hold: Option<Duration>) {
        self.progress.held_since = None;
        let hold = hold.unwrap_or_default();
        let hold = u64::try_from(hold.as_micros()).unwrap_or(u64::MAX);
        self.progress.hold_us = self.progress.hold_us.max(hold);
        self.status.note_hold(hold);
    }

    /// Records that writes have been waiting for this long, unless a wait is already recorded.
    pub(super) fn begin_hold(&mut self, age: Duration) {
        self.progress.held_since.get_or_insert_with(|| Utc::now() - age);
    }

    /// Enters the first phase of a move that was only planned: it no longer waits for other moves.
    pub(super) fn begin(&mut self) {
        if self.clock.phase == MovePhase::Planned {
            self.enter(MovePhase::Preparing);
        }
    }

    /// Records that the move is in this phase now.
    pub(super) fn enter(&mut self, phase: MovePhase) {
        if self.clock.phase != phase {
            self.clock.count(&mut self.progress);
            self.clock.phase = phase;
        }
    }

    /// Records the reason why the move waits; `None` if it does not wait.
    pub(super) fn explain(&mut self, reason: Option<String>) {
        self.progress.reason = reason;
    }

    /// Sends a report if one is due or `is_urgent` is true, and receives the operator's orders in
    /// the response. `is_urgent` is true if there may be a new order.
    ///
    /// # Errors
    /// [`Superseded`].
    pub(super) async fn keep_current(&mut self, is_urgent: bool) -> Result<(), Superseded> {
        let phase = self.clock.phase;
        self.stall.note(&self.record, phase, &self.progress);
        let is_brief = matches!(phase, MovePhase::Fencing | MovePhase::Activating);
        let is_recent = self.asked.is_some_and(|asked| asked.elapsed() < BRIEF_MAX);
        if is_brief && (is_recent || self.is_catalog_unreachable) {
            return Ok(());
        }
        let is_news = self.sent.as_ref().is_none_or(|report| report.phase != phase);
        let is_due = self.asked.is_none_or(|asked| asked.elapsed() >= INTERVAL);
        let is_due = is_due || is_news && !self.is_catalog_unreachable;
        if is_due || is_urgent { self.send(phase).await } else { Ok(()) }
    }

    /// Reports the end of the move, and returns false if the catalog does not answer.
    ///
    /// # Errors
    /// [`Superseded`].
    pub(super) async fn end(
        &mut self,
        phase: MovePhase,
        reason: Option<String>,
    ) -> Result<bool, Superseded> {
        (self.progress.reason, self.lag) = (reason, None);
        self.clock.count(&mut self.progress);
        self.send(phase).await?;
        let has_ended = self.record.phase.has_ended();
        if has_ended {
            self.status.count_end(phase);
        }
        Ok(has_ended)
    }

    /// Stores an order of the mover itself in the catalog, because the time of keeping is over or
    /// the move cannot be carried out.
    pub(super) async fn order(&mut self, order: MoveOrder) {
        let ordered = self.catalog.order(self.record.id, order);
        match tokio::time::timeout(ANSWER_MAX, ordered).await {
            Ok(Ok(record)) => self.record = record,
            Ok(Err(error)) => {
                tracing::debug!(order = order.name(), %error, "an order was not stored");
            }
            Err(_elapsed) => self.is_catalog_unreachable = true,
        }
    }

    async fn send(&mut self, phase: MovePhase) -> Result<(), Superseded> {
        let is_copying = phase == MovePhase::Copying && !self.record.is_paused;
        let seconds_left = self.forecast.seconds_left(is_copying, &self.progress, Instant::now());
        let progress = MoveProgressReport { lag: self.lag, seconds_left, ..self.progress.clone() };
        let report = MoveReport { phase, progress };
        let is_known = self.sent.as_ref() == Some(&report);
        let answer = async {
            if is_known {
                let record = self.catalog.get(self.record.id).await?;
                let record = record.ok_or(MoveListError::NoMove)?;
                let is_own = record.term == self.term && !record.phase.has_ended();
                return if is_own { Ok(record) } else { Err(MoveListError::Superseded) };
            }
            self.catalog.report(self.record.id, self.term, &report).await
        };
        let answer = tokio::time::timeout(ANSWER_MAX, answer).await;
        self.asked = Some(Instant::now());
        self.is_catalog_unreachable = !matches!(answer, Ok(Ok(_)));
        match answer {
            Ok(Ok(record)) => {
                if self.record.goal != record.goal {
                    let (id, goal) = (record.name(), goal_name(record.goal));
                    tracing::info!(id, goal, "a move has another goal");
                }
                (self.record, self.sent) = (record, Some(report));
            }
            Ok(Err(MoveListError::Superseded | MoveListError::NoMove)) => return Err(Superseded),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the catalog did not take the report of a move");
            }
            Err(_elapsed) => tracing::debug!("the catalog did not answer the report of a move"),
        }
        Ok(())
    }
}

/// Returns the time that a move has spent in the phase that was last reported: the time since the
/// move was requested, minus the time that was counted for its phases. It includes the time in
/// which no mover carried the move out.
fn time_in_phase(record: &MoveRecord) -> Duration {
    let age = (Utc::now() - record.began_at).to_std().unwrap_or_default();
    let before = record.progress.phase_us.values().copied().fold(0, u64::saturating_add);
    age.saturating_sub(Duration::from_micros(before))
}

impl Stall {
    /// Records the state of a move, and warns once if it makes no progress.
    fn note(&mut self, record: &MoveRecord, phase: MovePhase, progress: &MoveProgressReport) {
        let seen = (phase, record.goal, progress.rows, progress.deleted_batches);
        let is_kept = phase == MovePhase::Keeping && record.goal == MoveGoal::Forward;
        let is_idle = is_kept || record.is_paused;
        if self.seen != seen || is_idle {
            *self = Self { seen, since: Instant::now(), has_warned: false };
        } else if !self.has_warned
            && self.since.elapsed() >= stall_limit(phase, progress.reason.is_some())
        {
            self.has_warned = true;
            let (id, phase) = (record.name(), phase.name());
            let reason = progress.reason.as_deref().unwrap_or("it is busy");
            tracing::warn!(id, phase, reason, "a move makes no progress");
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::move_record::NewMove;
    use model::slot_set::SlotSet;
    use model::topology::ShardNumber;

    use super::*;

    #[test]
    fn a_mover_that_takes_over_counts_the_time_of_the_interrupted_phase_before_it() {
        let new = NewMove {
            slots: SlotSet::empty(),
            source: ShardNumber(0),
            target: ShardNumber(1),
            rate: None,
            keep: Duration::ZERO,
        };
        let mut record = MoveRecord::begin(new, Utc::now() - Duration::from_secs(9_000));
        assert!(time_in_phase(&record) >= Duration::from_secs(9_000), "it has waited until now");
        record.phase = MovePhase::Following;
        record.progress.phase_us =
            [(MovePhase::Planned, 1_000_000_000), (MovePhase::Copying, 5_000_000_000)].into();
        let time = time_in_phase(&record).as_secs();
        assert!((3_000..4_000).contains(&time), "{time}");
        record.progress.phase_us.insert(MovePhase::Verifying, u64::MAX);
        assert_eq!(time_in_phase(&record), Duration::ZERO, "the clock was set back");
    }
}
