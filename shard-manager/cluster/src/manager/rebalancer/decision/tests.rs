//! Tests of the decision about the steps of a rebalance.

use std::time::Duration;

use chrono::Utc;
use engine::move_record::{MoveProgressReport, NewMove};
use model::advice::BalanceBy;
use model::keyspace::Keyspace;
use model::map_change::MapChange;
use model::placement::Placement;
use model::shard_map::with_owner;
use model::slot_plan::SlotPlan;
use model::topology::Topology;
use moves::observation::MoveGoal;

use super::*;
use crate::manager::rebalancer::next_steps::RefusingShard;

/// Four shards, of which each owns 4096 slots.
fn map() -> ShardMap {
    let shards = Topology::with_weights(&[1; 4]).expect("good shards");
    ShardMap::first(Keyspace::Hash, Placement::Even, shards).expect("it fits")
}

fn step(from: u16, to: u16, offset: u16) -> PlanStep {
    let slot = Slot::new(from * 4_096 + offset);
    PlanStep {
        from: ShardNumber(from),
        to: ShardNumber(to),
        slots: slot.into_iter().collect(),
        rows: None,
        bytes: None,
    }
}

fn rebalance(steps: Vec<PlanStep>) -> RebalanceRecord {
    let plan = SlotPlan {
        needed: steps.len(),
        steps,
        skew_before: 2.0,
        skew_planned: 1.0,
        shards: Vec::new(),
        note: None,
    };
    RebalanceRecord::begin((PlanGoal::Slots, &plan), (None, Duration::ZERO), Utc::now())
}

fn listed(record: &RebalanceRecord, index: usize, phase: MovePhase) -> MoveRecord {
    let PlanStep { from: source, to: target, slots, .. } = record.steps[index].plan.clone();
    let new = NewMove { slots, source, target, rate: None, keep: Duration::ZERO };
    let begun = MoveRecord::begin(new, Utc::now());
    let owned_at = (phase == MovePhase::Keeping).then_some(begun.began_at);
    let reason = Some("why".to_owned());
    let progress =
        MoveProgressReport { rows: 3, bytes: 4, reason, ..MoveProgressReport::default() };
    MoveRecord { rebalance: Some(record.id), phase, owned_at, progress, ..begun }
}

/// Returns the steps that begin if none is refused.
fn begun(decision: &Decision) -> Vec<usize> {
    let mut next = decision.next.clone();
    std::iter::from_fn(|| next.take()).collect()
}

/// Returns the steps that begin while these moves are listed.
fn next_beside(record: &RebalanceRecord, moves: &[MoveRecord]) -> Vec<usize> {
    begun(&Decision::of(record, moves, &map()))
}

fn states(decision: &Decision) -> Vec<StepState> {
    decision.statuses.iter().map(|status| status.state).collect()
}

#[test]
fn a_shard_gives_one_move_and_takes_one_and_four_run_at_a_time() {
    let steps = vec![step(0, 3, 0), step(0, 3, 1), step(1, 3, 0), step(1, 2, 1), step(2, 0, 0)];
    let record = rebalance(steps);
    let decision = Decision::of(&record, &[], &map());
    assert_eq!(begun(&decision), [0, 3, 4]);
    assert_eq!(states(&decision), [StepState::Planned; 5]);
    let moving = [listed(&record, 0, MovePhase::Copying)];
    assert_eq!(next_beside(&record, &moving), [3, 4]);
    // A move outside the rebalance occupies its shards as well, even before it has begun.
    let mut foreign = listed(&record, 3, MovePhase::Planned);
    foreign.rebalance = None;
    foreign.new.slots = [Slot::new(5_000).expect("a slot")].into_iter().collect();
    assert_eq!(next_beside(&record, &[foreign]), [0, 4]);
    // A move whose source only keeps its old rows does not occupy its shards.
    let kept = [listed(&record, 0, MovePhase::Keeping)];
    assert_eq!(next_beside(&record, &kept), [1, 3, 4]);
}

#[test]
fn by_load_a_shard_takes_only_after_it_has_given_what_the_plan_has_earlier() {
    let steps = vec![step(0, 1, 0), step(2, 3, 0), step(3, 0, 0), step(1, 2, 0)];
    let mut record = rebalance(steps);
    assert_eq!(next_beside(&record, &[]), [0, 1, 2, 3]);
    record.goal = PlanGoal::Balance(BalanceBy::Load);
    assert_eq!(next_beside(&record, &[]), [0, 1]);
    let moves = [listed(&record, 0, MovePhase::Keeping), listed(&record, 1, MovePhase::Copying)];
    assert_eq!(next_beside(&record, &moves), [2], "shard1 has given");
    // A step that failed delays no other step.
    let moves = [listed(&record, 0, MovePhase::Keeping), listed(&record, 1, MovePhase::Failed)];
    assert_eq!(next_beside(&record, &moves), [2, 3]);
}

#[test]
fn a_step_whose_slots_are_still_moving_delays_no_other_step_of_its_source() {
    let record = rebalance(vec![step(0, 3, 0), step(0, 3, 1), step(1, 2, 0)]);
    // An earlier move, still in phase `keeping`, has brought the slots to the source.
    let mut kept = listed(&record, 0, MovePhase::Keeping);
    kept.rebalance = None;
    (kept.new.source, kept.new.target) = (ShardNumber(2), ShardNumber(0));
    assert_eq!(next_beside(&record, std::slice::from_ref(&kept)), [1, 2]);
    // If it is the only step left of its source, it is tried, so that the reason is reported.
    let moves = [kept, listed(&record, 1, MovePhase::Done)];
    assert_eq!(next_beside(&record, &moves), [2, 0]);
}

/// Stores in the record the statuses that a decision about these moves has changed.
fn take_over(record: &mut RebalanceRecord, moves: &[MoveRecord]) {
    for (index, status) in Decision::of(record, moves, &map()).changed(record) {
        record.steps[index].status = status;
    }
}

#[test]
fn a_planned_step_has_a_reason_only_while_it_waits_for_a_move_of_others() {
    let mut record = rebalance(vec![step(0, 3, 0), step(1, 2, 0)]);
    let mut kept = listed(&record, 0, MovePhase::Keeping);
    kept.rebalance = None;
    (kept.new.source, kept.new.target) = (ShardNumber(2), ShardNumber(0));
    let mut busy = listed(&record, 1, MovePhase::Copying);
    busy.rebalance = None;
    busy.new.slots = [Slot::new(5_000).expect("a slot")].into_iter().collect();
    let moves = [kept.clone(), busy.clone()];
    take_over(&mut record, &moves);
    let reasons = |record: &RebalanceRecord| -> Vec<Option<String>> {
        record.steps.iter().map(|step| step.status.reason.clone()).collect()
    };
    let (of_slots, of_shards) = (kept.name(), busy.name());
    let of_slots = format!(
        "the slots 0 move already ({of_slots}): wait for that move, or settle it: shard-manager \
         move settle {of_slots}"
    );
    let of_shards = format!("another move is in progress ({of_shards}): wait for that move");
    assert_eq!(reasons(&record), [Some(of_slots.clone()), Some(of_shards)]);
    assert!(!record.could_go_on());
    assert!(Decision::of(&record, &moves, &map()).changed(&record).is_empty(), "nothing changes");
    take_over(&mut record, &[kept]);
    assert_eq!(reasons(&record), [Some(of_slots), None]);
    assert!(record.could_go_on(), "the second step could begin");
    take_over(&mut record, &[]);
    assert_eq!(reasons(&record), [None, None]);
}

#[test]
fn a_planned_step_waits_for_no_step_that_is_left() {
    let mut record = rebalance(vec![step(0, 3, 0), step(0, 3, 1)]);
    let copying = listed(&record, 0, MovePhase::Copying);
    take_over(&mut record, &[copying]);
    assert_eq!(record.steps[1].status, StepStatus::PLANNED);
    assert!(record.could_go_on());
    // The first step has ended, but its move still occupies the shards.
    let mut cleaning = listed(&record, 0, MovePhase::Cleaning);
    cleaning.owned_at = Some(cleaning.began_at);
    take_over(&mut record, &[cleaning]);
    assert_eq!(states(&Decision::of(&record, &[], &map()))[0], StepState::Moved);
    assert!(record.steps[1].status.reason.is_some() && !record.could_go_on());
}

#[test]
fn a_move_that_is_paused_before_it_begins_does_not_block_others() {
    let record = rebalance(vec![step(0, 3, 0)]);
    let mut foreign = listed(&record, 0, MovePhase::Planned);
    foreign.rebalance = None;
    foreign.new.slots = [Slot::new(9).expect("a slot")].into_iter().collect();
    assert_eq!(next_beside(&record, std::slice::from_ref(&foreign)), [0; 0]);
    foreign.is_paused = true;
    assert_eq!(next_beside(&record, std::slice::from_ref(&foreign)), [0]);
    foreign.phase = MovePhase::Copying;
    assert_eq!(next_beside(&record, &[foreign]), [0; 0], "it has begun");
}

#[test]
fn a_refused_target_delays_no_step_to_another_target() {
    let record = rebalance(vec![step(0, 3, 0), step(0, 2, 1), step(1, 3, 0)]);
    let mut next = Decision::of(&record, &[], &map()).next;
    assert_eq!(next.take(), Some(0));
    next.leave_out(RefusingShard::Target(ShardNumber(3)));
    assert_eq!((next.take(), next.take()), (Some(1), None));
}

#[test]
fn a_step_whose_target_has_retired_is_skipped() {
    let mut record = rebalance(vec![step(0, 3, 0), step(0, 2, 0)]);
    let given: SlotSet = map().slots_of(ShardNumber(3)).filter_map(Slot::new).collect();
    let empty = with_owner(&map(), &given, ShardNumber(1)).expect("a shard");
    let change = MapChange::State { shard: ShardNumber(3), state: ShardState::Retired };
    let retired = change.apply(&empty).expect("it owns no slots");
    for state in [RebalanceState::Running, RebalanceState::Paused] {
        record.state = state;
        let decision = Decision::of(&record, &[], &retired);
        assert_eq!(states(&decision), [StepState::Skipped, StepState::Planned]);
        assert_eq!(decision.statuses[0].reason.as_deref(), Some("shard4 has retired"));
    }
}

#[test]
fn a_step_with_a_shard_or_slot_that_the_map_does_not_list_yet_waits_for_a_later_map() {
    let of_later_shard = PlanStep { from: ShardNumber(5), ..step(0, 1, 1) };
    // The slot of the second step is the first one of a second table group.
    let mut record = rebalance(vec![step(0, 4, 0), step(4, 0, 0), of_later_shard]);
    for state in [RebalanceState::Running, RebalanceState::Paused] {
        record.state = state;
        assert_eq!(states(&Decision::of(&record, &[], &map())), [StepState::Planned; 3]);
    }
    record.state = RebalanceState::Cancelling;
    assert_eq!(states(&Decision::of(&record, &[], &map())), [StepState::Cancelled; 3]);
}

#[test]
fn the_state_of_a_step_is_that_of_its_latest_move() {
    let record = rebalance(vec![step(0, 3, 0)]);
    for (phase, state) in [
        (MovePhase::Planned, StepState::Moving),
        (MovePhase::Copying, StepState::Moving),
        (MovePhase::Keeping, StepState::Moved),
        (MovePhase::Done, StepState::Moved),
        (MovePhase::Failed, StepState::Failed),
        (MovePhase::Cancelled, StepState::Cancelled),
        (MovePhase::RolledBack, StepState::Cancelled),
    ] {
        let moves = [listed(&record, 0, phase), listed(&record, 0, MovePhase::Failed)];
        let decision = Decision::of(&record, &moves, &map());
        assert_eq!(states(&decision), [state], "{phase:?}");
        assert_eq!(begun(&decision), [0; 0]);
        assert_eq!(decision.has_no_steps_left(), state.has_ended());
        let [(0, status)] = &decision.changed(&record)[..] else { panic!("{decision:?}") };
        assert_eq!((status.move_id, status.rows, status.bytes), (Some(moves[0].id), 3, 4));
        assert_eq!(status.reason.is_none(), state == StepState::Moved);
    }
    let mut returns = listed(&record, 0, MovePhase::Keeping);
    returns.goal = MoveGoal::Back;
    assert_eq!(states(&Decision::of(&record, &[returns], &map())), [StepState::Moving]);
}

#[test]
fn a_failed_move_does_not_block_others_and_is_reported_at_the_end() {
    let mut record = rebalance(vec![step(0, 3, 0), step(0, 3, 1)]);
    let failed = [listed(&record, 0, MovePhase::Failed)];
    let decision = Decision::of(&record, &failed, &map());
    assert_eq!(begun(&decision), [1]);
    for (index, status) in decision.changed(&record) {
        record.steps[index].status = status;
    }
    // The failed move is forgotten, and the step stays as it is.
    let moves = [listed(&record, 1, MovePhase::Done)];
    let decision = Decision::of(&record, &moves, &map());
    assert!(decision.has_no_steps_left());
    let failure = decision.failure().expect("one failed");
    assert!(failure.starts_with("1 of 2 moves did not") && failure.ends_with("why"), "{failure}");
}

#[test]
fn slots_that_have_another_owner_meanwhile_are_left_where_they_are() {
    let record = rebalance(vec![step(0, 3, 0), step(0, 3, 1), step(0, 3, 2)]);
    let slots = |index: usize| &record.steps[index].plan.slots;
    let map = with_owner(&map(), slots(0), ShardNumber(2)).expect("a shard");
    let map = with_owner(&map, slots(1), ShardNumber(3)).expect("a shard");
    let decision = Decision::of(&record, &[], &map);
    assert_eq!(
        states(&decision),
        [StepState::Skipped, StepState::Moved, StepState::Planned],
        "{decision:?}"
    );
    let reason = decision.statuses[0].reason.as_deref();
    assert_eq!(reason, Some("shard1 does not own the slots 0 any more"));
    // A move in progress brings the slots to the source of the step.
    let arriving = NewMove {
        slots: slots(0).clone(),
        source: ShardNumber(2),
        target: ShardNumber(0),
        rate: None,
        keep: Duration::ZERO,
    };
    let arriving = [MoveRecord::begin(arriving, Utc::now())];
    assert_eq!(states(&Decision::of(&record, &arriving, &map))[0], StepState::Planned);
}

#[test]
fn nothing_begins_while_it_rests_and_what_had_not_begun_ends_with_a_cancellation() {
    let mut record = rebalance(vec![step(0, 3, 0), step(1, 2, 0)]);
    record.state = RebalanceState::Paused;
    assert_eq!(next_beside(&record, &[]), [0; 0]);
    record.state = RebalanceState::Cancelling;
    let under_way = [listed(&record, 1, MovePhase::Copying)];
    let decision = Decision::of(&record, &under_way, &map());
    assert_eq!(states(&decision), [StepState::Cancelled, StepState::Moving]);
    assert!(begun(&decision).is_empty() && !decision.has_no_steps_left());
}
