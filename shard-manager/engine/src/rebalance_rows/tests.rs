//! Tests of the rows of listed rebalances.

use std::time::Duration;

use chrono::{DateTime, Utc};
use model::keyspace::{GROUPS_MAX, SLOT_COUNT, Slot};
use moves::identity::MoveId;
use proptest::prelude::*;

use super::*;

fn time() -> impl Strategy<Value = DateTime<Utc>> {
    (0_i64..16_725_225_600_000_000)
        .prop_map(|time| DateTime::from_timestamp_micros(time).expect("a time"))
}

fn goal() -> impl Strategy<Value = PlanGoal> {
    let placement = |text: &str| PlanGoal::Placement(text.parse().expect("a placement"));
    prop::sample::select(vec![
        PlanGoal::Slots,
        PlanGoal::Balance(BalanceBy::Size),
        PlanGoal::Balance(BalanceBy::Load),
        placement("ring:160"),
        placement("even"),
        placement("manual:0-9=shard1,10-16383=shard2"),
        PlanGoal::Drain(ShardNumber(7)),
    ])
}

fn step() -> impl Strategy<Value = ListedStep> {
    let slots = prop::collection::btree_set(0..SLOT_COUNT, 1..65);
    let size = prop::option::of(0..u64::MAX);
    let state = prop::sample::select(&StepState::ALL[..]);
    let moved = (prop::option::of(any::<u128>()), any::<(u64, u64)>(), prop::option::of(".*"));
    (slots, any::<(u16, u16)>(), (size.clone(), size), state, moved).prop_map(
        |(slots, (from, to), (rows, bytes), state, (id, (moved_rows, moved_bytes), reason))| {
            let slots = slots.into_iter().filter_map(Slot::new).collect();
            let (from, to) = (ShardNumber(from), ShardNumber(to));
            ListedStep {
                plan: PlanStep { from, to, slots, rows, bytes },
                status: StepStatus {
                    state,
                    move_id: id.map(MoveId),
                    rows: moved_rows,
                    bytes: moved_bytes,
                    reason,
                },
            }
        },
    )
}

fn record() -> impl Strategy<Value = RebalanceRecord> {
    let state = prop::sample::select(&RebalanceState::ALL[..]);
    let group = prop::option::of((0..GROUPS_MAX).prop_filter_map("a group", GroupNumber::new));
    let bounds = (prop::option::of(1_u32..), 0_u64..86_400_000_001, any::<u64>());
    let skews = (0.0..9.0, 0.0..9.0, prop::option::of(0.0..9.0));
    let times = (time(), time(), prop::option::of(time()), prop::option::of(".*"));
    let steps = prop::collection::vec(step(), 0..5);
    (any::<u128>(), (goal(), group), state, steps, bounds, skews, times).prop_map(
        |(id, (goal, group), state, steps, (rate, keep, needed), skews, times)| {
            let (skew_before, skew_planned, skew_measured) = skews;
            let (began_at, changed_at, ended_at, reason) = times;
            RebalanceRecord {
                id: RebalanceId(id),
                goal,
                group,
                state,
                steps,
                needed,
                rate,
                keep: Duration::from_micros(keep),
                skew_before,
                skew_planned,
                skew_measured,
                reason,
                began_at,
                changed_at,
                ended_at,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_record_that_is_stored_and_read_again_is_the_same_record(record in record()) {
        let row = RebalanceRow::of(&record);
        prop_assert_eq!(row.clone().record(), Ok(record));
        for damage in [
            RebalanceRow { plan: "{}".to_owned(), ..row.clone() },
            RebalanceRow { state: "odd".to_owned(), ..row.clone() },
            RebalanceRow { id: "7".to_owned(), ..row.clone() },
            RebalanceRow { began_at: "now".to_owned(), ..row.clone() },
        ] {
            prop_assert!(damage.record().is_err());
        }
    }
}

#[test]
fn one_rebalance_goes_on_and_begins_at_the_expected_epoch() {
    let runs = RebalanceListError::AlreadyRunning("it".to_owned());
    assert_eq!(check_new_rebalance((1, 2), Some("it".to_owned())), Err(runs));
    let stale = RebalanceListError::Stale { expected: 1, epoch: 2 };
    assert_eq!(check_new_rebalance((1, 2), None), Err(stale));
    assert_eq!(check_new_rebalance((2, 2), None), Ok(()));
}
