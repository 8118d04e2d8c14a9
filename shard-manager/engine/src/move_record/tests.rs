//! Tests of orders, and of the names in a record.

use super::*;

fn record() -> MoveRecord {
    let slots = [Slot::new(3).expect("a slot")].into_iter().collect();
    let (source, target) = (ShardNumber(0), ShardNumber(1));
    let keep = Duration::from_secs(60);
    MoveRecord::begin(NewMove { slots, source, target, rate: None, keep }, Utc::now())
}

#[test]
fn names_of_phases_goals_and_moves_are_read_as_they_were_written() {
    for phase in MovePhase::ALL {
        assert_eq!(MovePhase::parse(phase.name()), Some(phase));
    }
    for goal in [MoveGoal::Forward, MoveGoal::Back, MoveGoal::Settle] {
        assert_eq!(parse_goal(goal_name(goal)), Some(goal));
    }
    let record = record();
    assert_eq!(parse_move_name(&record.name()), Some(record.id));
}

#[test]
fn a_move_is_cancelled_before_the_target_owns_its_slots_and_rolled_back_afterwards() {
    let mut early = record();
    assert_eq!(early.order(MoveOrder::Rollback), Err(MoveOrderFault::NotYetMoved));
    assert_eq!(early.order(MoveOrder::Cancel), Ok(()));
    assert_eq!(early.goal, MoveGoal::Back);

    let mut late = record();
    late.owned_at = Some(Utc::now());
    assert_eq!(late.order(MoveOrder::Cancel), Err(MoveOrderFault::AlreadyMoved));
    assert_eq!(late.order(MoveOrder::Settle), Ok(()));
    assert_eq!(late.order(MoveOrder::Rollback), Err(MoveOrderFault::Cleaning));
}

#[test]
fn the_end_of_a_move_cannot_be_paused() {
    let mut moving = record();
    assert_eq!(moving.order(MoveOrder::Pause), Ok(()));
    assert_eq!(moving.order(MoveOrder::Cancel), Ok(()));
    assert_eq!(moving.order(MoveOrder::Pause), Err(MoveOrderFault::Ending), "cancelled");
    let mut kept = record();
    kept.owned_at = Some(Utc::now());
    assert_eq!(kept.order(MoveOrder::Pause), Ok(()));
    assert_eq!(kept.order(MoveOrder::Settle), Ok(()));
    assert_eq!(kept.order(MoveOrder::Pause), Err(MoveOrderFault::Ending), "settled");
    let (phase, owned_at) = (MovePhase::Cleaning, Some(Utc::now()));
    let mut cleaned = MoveRecord { phase, owned_at, ..record() };
    assert_eq!(cleaned.order(MoveOrder::Pause), Err(MoveOrderFault::Ending), "cleaned");
    assert!(!cleaned.is_paused && !moving.is_paused && !kept.is_paused);
}

#[test]
fn a_move_that_has_ended_takes_no_orders() {
    let mut ended = record();
    ended.phase = MovePhase::Cancelled;
    assert_eq!(ended.order(MoveOrder::Pause), Err(MoveOrderFault::Ended(MovePhase::Cancelled)));
}

#[test]
fn a_move_that_was_paused_just_before_it_arrived_continues_with_its_rebalance() {
    for order in [MoveOrder::Resume, MoveOrder::Cancel] {
        let mut late = record();
        assert!(late.order_with_rebalance(MoveOrder::Pause) && late.is_paused);
        late.owned_at = Some(Utc::now());
        assert!(late.order_with_rebalance(order));
        assert_eq!((late.is_paused, late.goal), (false, MoveGoal::Forward));
        assert!(!late.order_with_rebalance(MoveOrder::Pause) && !late.is_paused);
    }
}

#[test]
fn a_move_out_of_bounds_is_refused() {
    let NewMove { slots, source, target, .. } = record().new;
    let new = |rate, keep| NewMove { slots: slots.clone(), source, target, rate, keep };
    assert_eq!(new(Some(5), KEEP_MAX).check(), Ok(()));
    assert_eq!(new(Some(0), KEEP_MAX).check(), Err(NewMoveFault::Rate(0)));
    assert_eq!(new(None, KEEP_MAX * 2).check(), Err(NewMoveFault::Keep));
    let same = NewMove { target: source, ..new(None, KEEP_MAX) };
    assert_eq!(same.check(), Err(NewMoveFault::SameShard));
    let all = NewMove { slots: SlotSet::full(), ..new(None, KEEP_MAX) };
    assert_eq!(all.check(), Err(NewMoveFault::SlotCount(16_384)));
    let none = NewMoveFault::SlotCount(0).to_string();
    assert_eq!(none, "a move has 1 to 64 slots, not 0: name some");
}
