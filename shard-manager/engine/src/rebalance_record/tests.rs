//! Tests of the names and orders of rebalances.

use model::slot_plan::SlotPlan;

use super::*;

fn record() -> RebalanceRecord {
    let plan = SlotPlan::default();
    RebalanceRecord::begin((PlanGoal::Slots, &plan), (None, Duration::ZERO), Utc::now())
}

#[test]
fn names_are_read_as_they_were_written() {
    for state in RebalanceState::ALL {
        assert_eq!(RebalanceState::parse(state.name()), Some(state));
    }
    for state in StepState::ALL {
        assert_eq!(StepState::parse(state.name()), Some(state));
    }
    for order in RebalanceOrder::ALL {
        assert_eq!(RebalanceOrder::parse(order.name()), Some(order));
    }
    let id = record().id;
    assert_eq!(RebalanceId::parse(&id.name()), Some(id));
    assert_eq!(RebalanceId::parse("shard1"), None);
}

#[test]
fn a_rebalance_rests_and_goes_on_until_it_is_cancelled() {
    let mut record = record();
    for (order, state) in [
        (RebalanceOrder::Resume, RebalanceState::Running),
        (RebalanceOrder::Pause, RebalanceState::Paused),
        (RebalanceOrder::Pause, RebalanceState::Paused),
        (RebalanceOrder::Resume, RebalanceState::Running),
        (RebalanceOrder::Cancel, RebalanceState::Cancelling),
        (RebalanceOrder::Cancel, RebalanceState::Cancelling),
    ] {
        assert_eq!(record.order(order), Ok(()));
        assert_eq!(record.state, state);
    }
    for order in [RebalanceOrder::Pause, RebalanceOrder::Resume] {
        assert_eq!(record.order(order), Err(RebalanceOrderFault::Cancelling));
    }
}
