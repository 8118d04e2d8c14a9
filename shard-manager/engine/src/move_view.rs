//! Move view: a move as responses and commands show it, with shards by name and times as text.
//!
//! **Invariant:** a view names exactly the orders that the move accepts at the time of the view.
//! **Not here:** the rules of orders (`move_record`).

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use model::topology::ShardNumber;
use moves::observation::MoveGoal;
use serde::{Deserialize, Serialize};

use super::move_record::{MoveLag, MoveOrder, MovePhase, MoveRecord, goal_name};
use super::rebalance_id::RebalanceId;

/// Name of the order that begins a new move with the description of one that has ended.
pub const RETRY: &str = "retry";

/// A move, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MoveView {
    /// Identity, a UUID.
    pub id: String,
    /// Identity of the rebalance that the move is a part of, if any.
    #[serde(default)]
    pub rebalance: Option<String>,
    /// Slots, as ranges.
    pub slots: String,
    /// Number of slots.
    pub slot_count: usize,
    /// Name of the shard that owned the slots at first.
    pub from: String,
    /// Name of the shard that is to own the slots.
    pub to: String,
    /// Name of the [`MovePhase`].
    pub phase: String,
    /// Name of the [`MoveGoal`].
    pub goal: String,
    /// True if an operator has paused the move.
    pub paused: bool,
    /// True if nothing has changed for some time although work is left.
    pub stalled: bool,
    /// Maximum rate of the copy in MiB/s.
    pub rate: Option<u32>,
    /// Time in seconds for which the source is kept for a rollback.
    pub keep: u64,
    /// Number of rows that were copied; a row that was copied again counts again.
    pub rows: u64,
    /// Size of these rows in bytes.
    pub bytes: u64,
    /// Estimate, from before the move began, of the number of rows to copy; `None` if it is not
    /// known, or if the copy has begun again.
    #[serde(default)]
    pub rows_expected: Option<u64>,
    /// Estimated time in seconds until all rows are copied, as last reported; `None` if it is not
    /// known, or if no rows are being copied.
    #[serde(default)]
    pub seconds_left: Option<u64>,
    /// Longest time in milliseconds for which writes to the slots waited.
    pub longest_hold_ms: f64,
    /// Time in milliseconds that the move has spent in each phase that it has left, by the name of
    /// the phase.
    #[serde(default)]
    pub phase_ms: BTreeMap<String, f64>,
    /// Number of changed rows that the receiving side lacked when the other side was last read. The
    /// receiving side is the target, or, after the target owns the slots, the source while it is
    /// kept. `None` if no copy is kept current.
    #[serde(default)]
    pub changes_behind: Option<u64>,
    /// Upper bound for the age in milliseconds of the oldest missing change; 0 if no change is
    /// missing.
    #[serde(default)]
    pub lag_ms: Option<f64>,
    /// Reason why the move waits or has ended.
    pub reason: Option<String>,
    /// Time at which the move was ordered.
    pub began_at: String,
    /// Time at which the phase, the amount of work done or the operator's orders last changed.
    pub changed_at: String,
    /// Time at which the target began to own the slots.
    pub owned_at: Option<String>,
    /// Time at which the move ended.
    pub ended_at: Option<String>,
    /// Names of the orders that the move accepts now.
    pub actions: Vec<String>,
}

impl MoveView {
    /// Creates the view of a move at a time.
    pub fn of(
        record: &MoveRecord,
        name_of: impl Fn(ShardNumber) -> String,
        now: DateTime<Utc>,
    ) -> Self {
        let new = &record.new;
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
        Self {
            id: record.name(),
            rebalance: record.rebalance.map(RebalanceId::name),
            slots: new.slots.to_string(),
            slot_count: new.slots.len(),
            from: name_of(new.source),
            to: name_of(new.target),
            phase: record.phase.name().to_owned(),
            goal: goal_name(record.goal).to_owned(),
            paused: record.is_paused,
            stalled: record.is_stalled(now),
            rate: new.rate,
            keep: new.keep.as_secs(),
            rows: record.progress.rows,
            bytes: record.progress.bytes,
            rows_expected: record.progress.rows_expected,
            seconds_left: record.progress.seconds_left.filter(|_| is_copying(record)),
            longest_hold_ms: record.progress.hold_us as f64 / 1_000.0,
            phase_ms: phase_ms(record),
            changes_behind: record.progress.lag.map(|lag| lag.changes),
            lag_ms: record.progress.lag.map(|lag| lag_ms(lag, now)),
            reason: record.progress.reason.clone(),
            began_at: time(record.began_at),
            changed_at: time(record.changed_at),
            owned_at: record.owned_at.map(time),
            ended_at: record.ended_at.map(time),
            actions: actions(record),
        }
    }

    /// Returns true if the move has ended.
    pub fn has_ended(&self) -> bool {
        MovePhase::parse(&self.phase).is_none_or(MovePhase::has_ended)
    }

    /// Returns true if the target owns the slots and they are not about to return: the move is
    /// done, or its source is only kept for a possible rollback.
    pub fn has_arrived(&self) -> bool {
        match MovePhase::parse(&self.phase) {
            Some(MovePhase::Keeping) => self.goal != goal_name(MoveGoal::Back),
            Some(phase) => phase == MovePhase::Done,
            None => false,
        }
    }
}

fn phase_ms(record: &MoveRecord) -> BTreeMap<String, f64> {
    let times = record.progress.phase_us.iter();
    times.map(|(phase, us)| (phase.name().to_owned(), *us as f64 / 1_000.0)).collect()
}

fn is_copying(record: &MoveRecord) -> bool {
    record.phase == MovePhase::Copying && record.goal == MoveGoal::Forward && !record.is_paused
}

fn lag_ms(lag: MoveLag, now: DateTime<Utc>) -> f64 {
    // The clock of the process that carries out the move may be ahead.
    let age = lag.since.and_then(|since| (now - since).to_std().ok()).unwrap_or_default();
    age.as_micros() as f64 / 1_000.0
}

/// Returns the names of the orders that a move accepts and that would change it, and [`RETRY`] if a
/// new move with its description may begin.
fn actions(record: &MoveRecord) -> Vec<String> {
    let takes = |order: &MoveOrder| {
        let mut ordered = record.clone();
        ordered.order(*order).is_ok() && ordered != *record
    };
    let orders = MoveOrder::ALL.into_iter().filter(takes).map(MoveOrder::name);
    orders.chain(record.may_retry().then_some(RETRY)).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::keyspace::Slot;
    use moves::limits::{COMPARISON_MAX, STALL};

    use super::super::move_record::NewMove;
    use super::*;

    fn record() -> MoveRecord {
        let slots = (3..6).filter_map(Slot::new).collect();
        let (source, target) = (ShardNumber(0), ShardNumber(1));
        let keep = Duration::from_secs(60);
        MoveRecord::begin(NewMove { slots, source, target, rate: None, keep }, Utc::now())
    }

    fn view(record: &MoveRecord, later: Duration) -> MoveView {
        MoveView::of(record, |shard| format!("shard{}", shard.0 + 1), record.changed_at + later)
    }

    #[test]
    fn a_view_names_the_orders_that_the_move_takes() {
        let mut record = record();
        let orders = |record: &MoveRecord| view(record, Duration::ZERO).actions.join(" ");
        assert_eq!(orders(&record), "pause cancel");
        record.is_paused = true;
        assert_eq!(orders(&record), "resume cancel");
        record.order(MoveOrder::Cancel).expect("it may be cancelled");
        assert_eq!(orders(&record), "", "its end cannot be paused");
        (record.goal, record.owned_at) = (MoveGoal::Forward, Some(record.began_at));
        assert_eq!(orders(&record), "pause rollback settle");
        for (phase, taken) in [
            (MovePhase::Done, ""),
            (MovePhase::Failed, "retry"),
            (MovePhase::Cancelled, "retry"),
            (MovePhase::RolledBack, "retry"),
        ] {
            record.phase = phase;
            assert_eq!(orders(&record), taken);
        }
    }

    #[test]
    fn a_move_without_a_change_is_stalled_unless_it_rests() {
        let mut record = record();
        let is_stalled = |record: &MoveRecord, later| view(record, later).stalled;
        assert!(!is_stalled(&record, STALL));
        assert!(is_stalled(&record, STALL + Duration::from_millis(1)));
        for phase in [MovePhase::Keeping, MovePhase::Done] {
            record.phase = phase;
            assert!(!is_stalled(&record, STALL * 2), "{phase:?}");
        }
        (record.phase, record.goal) = (MovePhase::Keeping, MoveGoal::Back);
        assert!(is_stalled(&record, STALL * 2), "it should return");
        (record.phase, record.is_paused) = (MovePhase::Copying, true);
        assert!(!is_stalled(&record, STALL * 2));
        (record.phase, record.is_paused, record.goal) =
            (MovePhase::Verifying, false, MoveGoal::Forward);
        assert!(!is_stalled(&record, COMPARISON_MAX), "a comparison takes minutes");
        assert!(is_stalled(&record, COMPARISON_MAX * 2));
        record.progress.reason = Some("shard1 cannot be read".to_owned());
        assert!(is_stalled(&record, STALL * 2), "it does not compare");
        record.phase = MovePhase::Planned;
        record.progress.reason = Some("it waits for another move".to_owned());
        assert!(!is_stalled(&record, STALL * 2));
    }

    #[test]
    fn a_view_has_the_lag_of_a_copy_and_none_without_one() {
        let mut record = record();
        let shown = |record: &MoveRecord| {
            let view = view(record, Duration::from_secs(3));
            (view.changes_behind, view.lag_ms)
        };
        assert_eq!(shown(&record), (None, None));
        record.progress.lag = Some(MoveLag { changes: 7, since: Some(record.changed_at) });
        assert_eq!(shown(&record), (Some(7), Some(3_000.0)));
        record.progress.lag = Some(MoveLag::default());
        assert_eq!(shown(&record), (Some(0), Some(0.0)));
    }

    #[test]
    fn a_view_has_the_time_that_is_left_only_while_rows_are_copied() {
        let mut record = record();
        let shown = |record: &MoveRecord| {
            let view = view(record, Duration::ZERO);
            (view.rows_expected, view.seconds_left)
        };
        assert_eq!(shown(&record), (None, None));
        record.progress.rows_expected = Some(900);
        record.progress.seconds_left = Some(4);
        assert_eq!(shown(&record), (Some(900), None), "no rows are copied yet");
        record.phase = MovePhase::Copying;
        assert_eq!(shown(&record), (Some(900), Some(4)));
        record.is_paused = true;
        assert_eq!(shown(&record), (Some(900), None));
        record.order(MoveOrder::Cancel).expect("it may be cancelled");
        assert_eq!(shown(&record), (Some(900), None));
    }

    #[test]
    fn a_move_that_returns_has_not_arrived() {
        let mut record = record();
        let has_arrived = |record: &MoveRecord| view(record, Duration::ZERO).has_arrived();
        assert!(!has_arrived(&record));
        record.phase = MovePhase::Keeping;
        assert!(has_arrived(&record));
        record.goal = MoveGoal::Back;
        assert!(!has_arrived(&record));
    }
}
