//! Tests of the conditions under which a rebalance continues.

use model::slot_plan::SlotPlan;

use super::*;

#[test]
fn a_drained_shard_retires_only_while_its_rebalance_is_listed_as_running() {
    let goal = PlanGoal::Drain(ShardNumber(3));
    let now = chrono::Utc::now();
    let mut open =
        RebalanceRecord::begin((goal, &SlotPlan::default()), (None, Duration::ZERO), now);
    let id = open.id;
    for state in RebalanceState::ALL {
        open.state = state;
        assert_eq!(is_running(Some(&open), id), state == RebalanceState::Running, "{state:?}");
    }
    open.state = RebalanceState::Running;
    assert!(!is_running(Some(&open), RebalanceId(id.0 ^ 1)), "it is another one");
    assert!(!is_running(None, id), "it has ended");
}
