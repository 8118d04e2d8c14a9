//! Tests of the changes of listed moves.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use model::keyspace::Slot;
use model::topology::ShardNumber;

use super::ListedMoveChange;
use crate::move_catalog::{MoveListError, MoveReport};
use crate::move_record::{
    MoveOrder, MoveOrderFault, MovePhase, MoveProgressReport, MoveRecord, NewMove,
};

fn began() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-11-24T12:00:00Z").expect("a time").to_utc()
}

fn after(seconds: i64) -> DateTime<Utc> {
    began() + TimeDelta::seconds(seconds)
}

fn record() -> MoveRecord {
    let slots = [3, 4].into_iter().filter_map(Slot::new).collect();
    let (source, target) = (ShardNumber(0), ShardNumber(1));
    let keep = Duration::from_secs(60);
    MoveRecord::begin(NewMove { slots, source, target, rate: None, keep }, began())
}

fn report(term: u64, phase: MovePhase, rows: u64) -> ListedMoveChange {
    let progress = MoveProgressReport { rows, bytes: rows * 100, ..MoveProgressReport::default() };
    ListedMoveChange::Report { term, report: MoveReport { phase, progress } }
}

#[test]
fn a_term_is_above_all_that_were_given_and_all_that_are_known() {
    let mut record = record();
    for (known, term) in [(0, 1), (0, 2), (7, 8), (3, 9)] {
        assert_eq!(ListedMoveChange::TakeOver { known }.apply(&mut record, began()), Ok(()));
        assert_eq!(record.term, term);
    }
    assert_eq!(record.changed_at, began(), "a new mover does not count as progress");
}

#[test]
fn only_the_mover_of_the_last_term_reports() {
    let mut record = record();
    record.term = 2;
    for term in [0, 1, 3] {
        let before = record.clone();
        let reported = report(term, MovePhase::Copying, 5).apply(&mut record, after(1));
        assert_eq!((reported, &record), (Err(MoveListError::Superseded), &before));
    }
    assert_eq!(report(2, MovePhase::Copying, 5).apply(&mut record, after(1)), Ok(()));
    assert_eq!((record.phase, record.progress.rows), (MovePhase::Copying, 5));
}

#[test]
fn the_time_of_progress_is_that_of_the_last_change_of_phase_work_or_command() {
    let mut record = record();
    for (second, phase, rows, changed) in [
        (1, MovePhase::Planned, 0, 0),
        (2, MovePhase::Copying, 0, 2),
        (3, MovePhase::Copying, 0, 2),
        (4, MovePhase::Copying, 1, 4),
    ] {
        assert_eq!(report(0, phase, rows).apply(&mut record, after(second)), Ok(()));
        assert_eq!(record.changed_at, after(changed));
    }
    let waiting = MoveProgressReport {
        hold_us: 9,
        reason: Some("no majority".to_owned()),
        ..record.progress.clone()
    };
    let report = MoveReport { phase: MovePhase::Copying, progress: waiting.clone() };
    let waits = ListedMoveChange::Report { term: 0, report };
    assert_eq!(waits.apply(&mut record, after(9)), Ok(()));
    assert_eq!((record.progress.clone(), record.changed_at), (waiting, after(4)));
    let deleted = MoveProgressReport { deleted_batches: 1, ..record.progress.clone() };
    let report = MoveReport { phase: MovePhase::Copying, progress: deleted };
    let deletes = ListedMoveChange::Report { term: 0, report };
    assert_eq!(deletes.apply(&mut record, after(10)), Ok(()));
    assert_eq!(record.changed_at, after(10));
    for second in [11, 12] {
        let pause = ListedMoveChange::Order(MoveOrder::Pause);
        assert_eq!(pause.apply(&mut record, after(second)), Ok(()));
        assert_eq!((record.is_paused, record.changed_at), (true, after(11)));
    }
}

#[test]
fn the_target_owns_the_slots_since_the_first_report_of_keeping() {
    let mut record = record();
    assert_eq!(report(0, MovePhase::Activating, 1).apply(&mut record, after(1)), Ok(()));
    assert_eq!(record.owned_at, None);
    assert_eq!(report(0, MovePhase::Keeping, 1).apply(&mut record, after(2)), Ok(()));
    assert_eq!(report(0, MovePhase::Keeping, 2).apply(&mut record, after(3)), Ok(()));
    assert_eq!(report(0, MovePhase::Cleaning, 2).apply(&mut record, after(4)), Ok(()));
    assert_eq!(record.owned_at, Some(after(2)));
}

#[test]
fn a_move_that_has_ended_never_changes() {
    for phase in MovePhase::ALL.into_iter().filter(|phase| phase.has_ended()) {
        let mut record = record();
        assert_eq!(report(0, phase, 1).apply(&mut record, after(1)), Ok(()));
        assert_eq!(record.ended_at, Some(after(1)));
        let before = record.clone();
        for (change, refusal) in [
            (report(0, MovePhase::Copying, 2), MoveListError::Superseded),
            (report(0, phase, 1), MoveListError::Superseded),
            (ListedMoveChange::TakeOver { known: 9 }, MoveListError::Superseded),
            (
                ListedMoveChange::Order(MoveOrder::Resume),
                MoveListError::Order(MoveOrderFault::Ended(phase)),
            ),
        ] {
            assert_eq!(change.apply(&mut record, after(2)), Err(refusal));
            assert_eq!(record, before);
        }
    }
}
