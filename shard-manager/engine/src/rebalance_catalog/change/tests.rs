//! Tests of the changes of listed rebalances.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use model::keyspace::Slot;
use model::slot_plan::{PlanGoal, PlanStep, SlotPlan};
use model::topology::ShardNumber;

use super::*;
use crate::rebalance_catalog::RebalanceEnd;
use crate::rebalance_record::StepStatus;

fn began() -> DateTime<Utc> {
    DateTime::parse_from_rfc3339("2026-11-24T12:00:00Z").expect("a time").to_utc()
}

fn after(seconds: i64) -> DateTime<Utc> {
    began() + TimeDelta::seconds(seconds)
}

fn record() -> RebalanceRecord {
    let step = |slot| PlanStep {
        from: ShardNumber(0),
        to: ShardNumber(1),
        slots: Slot::new(slot).into_iter().collect(),
        rows: None,
        bytes: None,
    };
    let plan = SlotPlan {
        steps: vec![step(3), step(4)],
        skew_before: 2.0,
        skew_planned: 1.0,
        needed: 2,
        shards: Vec::new(),
        note: None,
    };
    RebalanceRecord::begin((PlanGoal::Slots, &plan), (None, Duration::ZERO), began())
}

fn report(steps: &[(usize, StepState)], ends: bool) -> RebalanceChange {
    let status = |state| StepStatus { state, ..StepStatus::PLANNED };
    RebalanceChange::Report(RebalanceReport {
        steps: steps.iter().map(|(index, state)| (*index, status(*state))).collect(),
        reason: None,
        end: ends.then_some(RebalanceEnd { skew: Some(1.01), has_failed: false }),
    })
}

#[test]
fn a_step_that_has_ended_keeps_its_state() {
    let mut record = record();
    let moved = report(&[(0, StepState::Moved), (9, StepState::Moved)], false);
    assert_eq!(moved.apply(&mut record, after(1)), Ok(()));
    assert_eq!(record.changed_at, after(1));
    let late = report(&[(0, StepState::Moving)], false);
    assert_eq!(late.apply(&mut record, after(2)), Ok(()));
    assert_eq!(record.steps[0].status.state, StepState::Moved);
    assert_eq!(record.changed_at, after(1), "no progress");
}

#[test]
fn a_rebalance_ends_after_all_of_its_steps_and_once() {
    let mut record = record();
    let early = report(&[(0, StepState::Moved)], true);
    assert_eq!(early.apply(&mut record, after(1)), Ok(()));
    assert_eq!((record.state, record.ended_at), (RebalanceState::Running, None));
    let last = report(&[(1, StepState::Moved)], true);
    assert_eq!(last.apply(&mut record, after(2)), Ok(()));
    assert_eq!((record.state, record.ended_at), (RebalanceState::Done, Some(after(2))));
    assert_eq!(record.skew_measured, Some(1.01));
    let before = record.clone();
    let ended = Err(RebalanceOrderFault::Ended(RebalanceState::Done).into());
    assert_eq!(last.apply(&mut record, after(3)), ended);
    for order in RebalanceOrder::ALL {
        assert_eq!(RebalanceChange::Order(order).apply(&mut record, after(3)), ended);
    }
    assert_eq!(record, before);
}

#[test]
fn moves_of_a_rebalance_that_ends_while_it_is_paused_continue() {
    for (order, expected) in
        [(RebalanceOrder::Pause, Some(MoveOrder::Resume)), (RebalanceOrder::Resume, None)]
    {
        let mut record = record();
        let ordered = RebalanceChange::Order(order);
        assert_eq!(ordered.apply(&mut record, after(1)), Ok(()));
        let running = RebalanceState::Running;
        assert_eq!(ordered.order_of_moves(running, &record), Some(order.of_moves()));
        for (step, of_moves) in [(0, None), (1, expected)] {
            let before = record.state;
            let moved = report(&[(step, StepState::Moved)], true);
            assert_eq!(moved.apply(&mut record, after(2)), Ok(()));
            assert_eq!(moved.order_of_moves(before, &record), of_moves, "{order:?} {step}");
        }
    }
}

#[test]
fn the_end_of_a_rebalance_is_cancelled_or_failed() {
    for (orders, step, state) in [
        (&[][..], StepState::Failed, RebalanceState::Failed),
        (&[], StepState::Skipped, RebalanceState::Failed),
        (&[RebalanceOrder::Cancel], StepState::Failed, RebalanceState::Cancelled),
        (&[RebalanceOrder::Cancel], StepState::Moved, RebalanceState::Cancelled),
    ] {
        let mut record = record();
        for order in orders {
            assert_eq!(RebalanceChange::Order(*order).apply(&mut record, after(1)), Ok(()));
        }
        let ended = report(&[(0, StepState::Moved), (1, step)], true);
        assert_eq!(ended.apply(&mut record, after(1)), Ok(()));
        assert_eq!(record.state, state, "{orders:?} {step:?}");
    }
}
