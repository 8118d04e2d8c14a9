//! Tests of the conditions under which a rebalance continues.

use model::keyspace::Keyspace;
use model::placement::Placement;
use model::slot_plan::SlotPlan;
use model::slot_set::SlotSet;
use model::topology::Topology;

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

#[test]
fn a_shard_that_the_map_does_not_list_yet_has_a_reason_and_no_state() {
    let shards = Topology::with_weights(&[1; 2]).expect("good shards");
    let map = ShardMap::first(Keyspace::Hash, Placement::Even, shards).expect("it fits");
    let found = listed_shard(&map, ShardNumber(1)).map(|shard| &*shard.name);
    assert_eq!(found, Some("shard2"));
    assert_eq!(listed_shard(&map, ShardNumber(2)), None);
    assert!(not_listed(ShardNumber(2)).contains("number 2"));
}

#[test]
fn the_reason_of_a_rebalance_names_the_order_that_frees_slots_which_move_already() {
    let slots = "0-63".parse::<SlotSet>().expect("slots");
    let move_name = "the-id".to_owned();
    let taken = MovesError::List(MoveListError::SlotsMove { slots, move_name });
    let expected = "the slots 0-63 move already (the-id): wait for that move, or settle it: \
        shard-manager move settle the-id";
    assert_eq!(reason_of(&taken), expected);
    let other = MovesError::List(MoveListError::NoMove);
    assert_eq!(reason_of(&other), other.to_string());
}

#[test]
fn a_drain_that_fails_names_the_slots_that_are_left_and_the_first_move_that_failed() {
    let drain = || Some("shard2 still owns 3 slots".to_owned());
    let moves = || Some("1 of 2 moves did not take place".to_owned());
    let both = "shard2 still owns 3 slots; 1 of 2 moves did not take place";
    assert_eq!(reason_of_end(drain(), moves()).as_deref(), Some(both));
    assert_eq!(reason_of_end(drain(), None), drain());
    assert_eq!(reason_of_end(None, moves()), moves());
    assert_eq!(reason_of_end(None, None), None);
}
