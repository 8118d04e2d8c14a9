//! Tests of the rows of listed moves.

use std::time::Duration;

use chrono::{DateTime, Utc};
use model::keyspace::{SLOT_COUNT, Slot};
use model::topology::ShardNumber;
use moves::identity::MoveId;
use moves::observation::MoveGoal;
use proptest::prelude::*;

use super::{ListedMoveRow, MovingSlotRow, check_new_move, check_open_moves, listed_records};
use crate::catalog_rows::GROUP;
use crate::move_catalog::{MoveListError, OPEN_MOVES_MAX};
use crate::move_record::{MoveLag, MovePhase, MoveProgressReport, MoveRecord, NewMove};
use crate::rebalance_record::RebalanceId;

fn time() -> impl Strategy<Value = DateTime<Utc>> {
    // Years 1970 to 2500, in microseconds.
    (0_i64..16_725_225_600_000_000)
        .prop_map(|time| DateTime::from_timestamp_micros(time).expect("a time"))
}

fn new_move() -> impl Strategy<Value = NewMove> {
    let slots = prop::collection::btree_set(0..SLOT_COUNT, 1..65);
    let (rate, keep_us) = (prop::option::of(1_u32..), 0_u64..86_400_000_001);
    (slots, any::<(u16, u16)>(), rate, keep_us).prop_map(|(slots, (source, target), rate, keep)| {
        let slots = slots.into_iter().filter_map(Slot::new).collect();
        let (source, target) = (ShardNumber(source), ShardNumber(target));
        NewMove { slots, source, target, rate, keep: Duration::from_micros(keep) }
    })
}

fn progress() -> impl Strategy<Value = MoveProgressReport> {
    let reason = prop::option::of(".*");
    let lag = (any::<u64>(), prop::option::of(time()));
    let lag = prop::option::of(lag.prop_map(|(changes, since)| MoveLag { changes, since }));
    let numbers = any::<(u64, u64, u64)>();
    let estimates = any::<(Option<u64>, Option<u64>)>();
    let phase_us =
        prop::collection::btree_map(prop::sample::select(&MovePhase::ALL[..]), any::<u64>(), 0..5);
    let times = (prop::option::of(time()), phase_us);
    (numbers, reason, lag, estimates, times).prop_map(
        |((rows, bytes, hold_us), reason, lag, estimates, (held_since, phase_us))| {
            let (deleted_batches, (rows_expected, seconds_left)) = (rows / 7, estimates);
            MoveProgressReport {
                rows,
                bytes,
                deleted_batches,
                hold_us,
                held_since,
                phase_us,
                reason,
                lag,
                rows_expected,
                seconds_left,
            }
        },
    )
}

fn record() -> impl Strategy<Value = MoveRecord> {
    let goals = [MoveGoal::Forward, MoveGoal::Back, MoveGoal::Settle];
    let state = (
        prop::sample::select(&MovePhase::ALL[..]),
        prop::sample::select(goals.to_vec()),
        any::<bool>(),
        0..i64::MAX as u64,
    );
    let times = (time(), time(), prop::option::of(time()), prop::option::of(time()));
    (any::<u128>(), new_move(), state, times, progress()).prop_map(
        |(id, new, (phase, goal, is_paused, term), times, progress)| {
            let (began_at, changed_at, owned_at, ended_at) = times;
            let id = MoveId(id);
            MoveRecord {
                id,
                rebalance: Some(RebalanceId(id.0.rotate_left(9)))
                    .filter(|_| id.0.is_multiple_of(2)),
                new,
                phase,
                goal,
                is_paused,
                term,
                began_at,
                changed_at,
                owned_at,
                ended_at,
                progress,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_record_that_is_stored_and_read_again_is_the_same_record(record in record()) {
        prop_assert_eq!(ListedMoveRow::of(&record).record(), Ok(record));
    }

    #[test]
    fn a_new_move_is_stored_with_times_that_a_catalog_can_store(new in new_move()) {
        let record = MoveRecord::begin(new, Utc::now());
        prop_assert_eq!(ListedMoveRow::of(&record).record(), Ok(record));
    }

    #[test]
    fn records_are_listed_the_latest_first(records in prop::collection::vec(record(), 0..5)) {
        let listed = listed_records(records.iter().map(ListedMoveRow::of)).expect("good rows");
        prop_assert_eq!(listed.len(), records.len());
        prop_assert!(listed.is_sorted_by(|a, b| a.began_at >= b.began_at));
    }

    #[test]
    fn a_move_that_is_read_twice_is_listed_once(records in prop::collection::vec(record(), 0..5)) {
        let rows: Vec<ListedMoveRow> = records.iter().map(ListedMoveRow::of).collect();
        let once = listed_records(rows.clone()).expect("good rows");
        let twice = listed_records(rows.iter().chain(&rows).cloned()).expect("good rows");
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn a_move_begins_if_and_only_if_none_of_its_slots_moves(one in record(), other in record()) {
        let moving = MovingSlotRow::of(&other);
        let is_free = one.new.slots.is_disjoint(&other.new.slots);
        prop_assert_eq!(check_new_move(&one, (7, 7), &moving).is_ok(), is_free);
        let own = check_new_move(&other, (7, 7), &moving);
        let (slots, move_name) = (other.new.slots.clone(), other.name());
        prop_assert_eq!(own, Err(MoveListError::SlotsMove { slots, move_name }));
        let stale = MoveListError::Stale { expected: 7, epoch: 8 };
        prop_assert_eq!(check_new_move(&one, (7, 8), &[]), Err(stale));
    }

    #[test]
    fn a_damaged_row_is_reported_with_the_move(record in record(), column in 0..8) {
        let mut row = ListedMoveRow::of(&record);
        match column {
            0 => row.phase = "unknown".to_owned(),
            1 => row.goal = String::new(),
            2 => row.slots = "65536".to_owned(),
            3 => row.source = 65_536,
            4 => row.term = -1,
            5 => row.began_at = "yesterday".to_owned(),
            6 => row.ended_at = Some(String::new()),
            _ => row.progress = "{}".to_owned(),
        }
        let damage = row.record().expect_err("it is damaged");
        prop_assert!(damage.contains(&record.name()), "{}", damage);
    }
}

#[test]
fn progress_that_an_earlier_version_has_stored_has_no_estimates() {
    let slots = Slot::new(1).into_iter().collect();
    let (source, target) = (ShardNumber(0), ShardNumber(1));
    let new = NewMove { slots, source, target, rate: None, keep: Duration::ZERO };
    let mut row = ListedMoveRow::of(&MoveRecord::begin(new, Utc::now()));
    row.progress = r#"{"rows":7,"bytes":9,"hold_us":0,"reason":null}"#.to_owned();
    let progress = MoveProgressReport { rows: 7, bytes: 9, ..MoveProgressReport::default() };
    assert_eq!(row.record().map(|record| record.progress), Ok(progress));
}

#[test]
fn the_time_of_a_phase_that_only_another_version_knows_is_left_out() {
    let slots = Slot::new(1).into_iter().collect();
    let (source, target) = (ShardNumber(0), ShardNumber(1));
    let new = NewMove { slots, source, target, rate: None, keep: Duration::ZERO };
    let mut row = ListedMoveRow::of(&MoveRecord::begin(new, Utc::now()));
    let times = r#""phase_us":{"copying":5,"resting":3}"#;
    row.progress = format!(r#"{{"rows":7,"bytes":9,"hold_us":0,{times},"reason":null}}"#);
    let phase_us = [(MovePhase::Copying, 5)].into();
    assert_eq!(row.record().map(|record| record.progress.phase_us), Ok(phase_us));
}

#[test]
fn one_more_move_than_may_be_open_is_refused_with_the_number_and_the_remedies() {
    let most = OPEN_MOVES_MAX as i64;
    assert_eq!((check_open_moves(0), check_open_moves(most - 1)), (Ok(()), Ok(())));
    let refused = check_open_moves(most).expect_err("it is one too many");
    assert_eq!(refused, MoveListError::TooMany);
    let sentence = refused.to_string();
    assert!(["256 moves", "settle", "cancel"].iter().all(|part| sentence.contains(part)));
}

#[test]
fn slots_of_another_group_of_tables_do_not_count() {
    let slots = Slot::new(1).into_iter().collect();
    let (source, target) = (ShardNumber(0), ShardNumber(1));
    let new = NewMove { slots, source, target, rate: None, keep: Duration::ZERO };
    let record = MoveRecord::begin(new, Utc::now());
    let mut moving = MovingSlotRow::of(&record);
    assert_eq!(moving[0].group_name, GROUP);
    moving[0].group_name = "another".to_owned();
    assert_eq!(check_new_move(&record, (1, 1), &moving), Ok(()));
}
