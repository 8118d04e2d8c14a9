//! Rebalance view: plans and rebalances as responses and commands show them, with shards by name
//! and times as text.
//!
//! **Invariant:** a view names exactly the orders that the rebalance accepts at the time of the
//! view.
//! **Not here:** the rules of orders (`rebalance_record`), the choice of moves
//! (`model::slot_plan`).

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use model::shard_map::ShardMap;
use model::slot_plan::{PlanGoal, PlanStep, SlotPlan};
use model::topology::{ShardNumber, Topology};
use moves::limits::STALL;
use serde::{Deserialize, Serialize};

use super::move_record::move_name;
use super::rebalance_record::{
    ListedStep, RebalanceOrder, RebalanceRecord, RebalanceState, StepState,
};

/// Goal of a plan or rebalance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoalView {
    /// Name of the goal: `slots`, `size`, `load`, `placement` or `drain`; `engine` if the engine
    /// distributes rows over nodes itself and does not store the goal.
    pub by: String,
    /// Placement according to which the slots are moved.
    pub placement: Option<String>,
    /// Shard that is emptied.
    pub shard: Option<String>,
    /// Table group whose slots move; left out if the slots of all groups move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// A plan, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanView {
    /// Goal.
    #[serde(flatten)]
    pub goal: GoalView,
    /// Epoch of the shard map on which the plan is based; `None` if the engine places the rows
    /// without a shard map.
    pub epoch: Option<u64>,
    /// Number of slots that move.
    pub slots: usize,
    /// Number of slots that have to move to give each shard its share of the slots.
    pub needed_slots: usize,
    /// Approximate number of rows that move.
    pub rows: Option<u64>,
    /// Approximate number of bytes that move.
    pub bytes: Option<u64>,
    /// Approximate duration in seconds: the time for the copies, plus a fixed time for each move.
    pub seconds: Option<f64>,
    /// Skew now: the most that any shard has, as a multiple of its fair share.
    pub skew_before: f64,
    /// Skew once all moves have ended: the most that any shard will then have, as a multiple of its
    /// fair share.
    pub skew_planned: f64,
    /// The shards, in their order.
    pub shards: Vec<PlanShardView>,
    /// The moves, in the order in which they begin.
    pub moves: Vec<PlannedMoveView>,
    /// Remark for the operator.
    pub note: Option<String>,
    /// Reasons why a rebalance with this plan cannot begin now.
    pub refusals: Vec<String>,
}

/// Slots of a shard before and after a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanShardView {
    /// Name.
    pub shard: String,
    /// Name of the state.
    pub state: String,
    /// Weight.
    pub weight: u32,
    /// Number of slots that the shard owns now.
    pub slots: usize,
    /// Number of slots that the shard will own after all moves.
    pub slots_after: usize,
    /// Number of slots that is the shard's share according to its weight.
    pub fair_slots: f64,
}

/// Move of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMoveView {
    /// Name of the shard that owns the slots.
    pub from: String,
    /// Name of the shard that is to own the slots.
    pub to: String,
    /// Slots, as ranges.
    pub slots: String,
    /// Number of slots.
    pub slot_count: usize,
    /// Approximate number of rows that move.
    pub rows: Option<u64>,
    /// Approximate number of bytes that move.
    pub bytes: Option<u64>,
}

/// A rebalance, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RebalanceView {
    /// Identity: a UUID, or the engine's own identity for the rebalance if the engine carries it
    /// out.
    pub id: String,
    /// Goal.
    #[serde(flatten)]
    pub goal: GoalView,
    /// Name of the [`RebalanceState`].
    pub state: String,
    /// True if no move has made progress for some time although one could: the rebalance is not
    /// paused, and some remaining move does not wait for another move.
    pub stalled: bool,
    /// Maximum rate of the copy of each move in MiB/s.
    pub rate: Option<u32>,
    /// Time in seconds for which the sources are kept for a rollback.
    pub keep: u64,
    /// Number of slots that the plan moves.
    pub slots: usize,
    /// Number of slots that have moved.
    pub slots_moved: usize,
    /// Number of slots that had to move to give each shard its share of the slots.
    pub needed_slots: u64,
    /// Number of moves in the plan.
    pub move_count: usize,
    /// Number of moves whose target owns the slots.
    pub moved_count: usize,
    /// Number of moves that have ended in another way.
    pub failed_count: usize,
    /// Number of rows that were copied; a row that was copied again counts again. `None` if the
    /// engine does not report the number.
    pub rows: Option<u64>,
    /// Size of these rows in bytes.
    pub bytes: Option<u64>,
    /// Approximate number of rows that the plan moves.
    pub planned_rows: Option<u64>,
    /// Approximate number of bytes that the plan moves.
    pub planned_bytes: Option<u64>,
    /// Skew before the first move; `None` if the engine does not store it.
    pub skew_before: Option<f64>,
    /// Skew after the last move, as planned.
    pub skew_planned: Option<f64>,
    /// Skew that was measured at the end.
    pub skew_measured: Option<f64>,
    /// Reason for waiting, or for an end without success.
    pub reason: Option<String>,
    /// Time at which the rebalance was requested; if the engine carries it out, the time at which
    /// it began.
    pub began_at: Option<String>,
    /// Time of the last change of a move; `None` if the engine does not report it.
    pub changed_at: Option<String>,
    /// Time at which the rebalance ended.
    pub ended_at: Option<String>,
    /// Names of the orders that the rebalance accepts now.
    pub actions: Vec<String>,
    /// Moves of the rebalance; `None` in a list of rebalances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moves: Option<Vec<StepView>>,
}

/// Move of a rebalance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// Move of the plan.
    #[serde(flatten)]
    pub planned: PlannedMoveView,
    /// Name of the [`StepState`].
    pub state: String,
    /// Identity of the move, once it has begun.
    #[serde(rename = "move")]
    pub move_id: Option<String>,
    /// Number of rows that were copied; a row that was copied again counts again. `None` if the
    /// engine does not report the number.
    pub copied_rows: Option<u64>,
    /// Size of these rows in bytes.
    pub copied_bytes: Option<u64>,
    /// Reason for waiting, or for an end without success.
    pub reason: Option<String>,
}

/// Result of a request for a rebalance.
#[derive(Clone, Debug, PartialEq)]
pub enum RebalanceBegun {
    /// The rebalance has begun.
    Begun(Box<RebalanceView>),
    /// Nothing has to move, so no rebalance has begun.
    Settled(Box<PlanView>),
}

impl GoalView {
    /// Creates the view of a goal for all table groups.
    pub fn of(goal: &PlanGoal, name_of: impl Fn(ShardNumber) -> String) -> Self {
        let placement = match goal {
            PlanGoal::Placement(placement) => Some(placement.to_string()),
            PlanGoal::Slots | PlanGoal::Balance(_) | PlanGoal::Drain(_) => None,
        };
        let shard = match goal {
            PlanGoal::Drain(shard) => Some(name_of(*shard)),
            PlanGoal::Slots | PlanGoal::Balance(_) | PlanGoal::Placement(_) => None,
        };
        Self { by: goal.name().to_owned(), placement, shard, group: None }
    }
}

impl PlannedMoveView {
    fn of(step: &PlanStep, name_of: &impl Fn(ShardNumber) -> String) -> Self {
        Self {
            from: name_of(step.from),
            to: name_of(step.to),
            slots: step.slots.to_string(),
            slot_count: step.slots.len(),
            rows: step.rows,
            bytes: step.bytes,
        }
    }
}

impl PlanView {
    /// Creates the view of a plan for these shards.
    pub fn of(goal: &PlanGoal, plan: &SlotPlan, topology: &Topology, epoch: u64) -> Self {
        let name_of = |shard: ShardNumber| topology.name(shard).to_owned();
        let shards = plan.shards.iter().map(|shard| {
            let spec = &topology.shards()[shard.shard.index()];
            PlanShardView {
                shard: spec.name.clone(),
                state: spec.state.name().to_owned(),
                weight: spec.weight,
                slots: shard.slots,
                slots_after: shard.slots_after,
                fair_slots: shard.fair_slots,
            }
        });
        let moves = plan.steps.iter().map(|step| PlannedMoveView::of(step, &name_of));
        Self {
            goal: GoalView::of(goal, name_of),
            epoch: Some(epoch),
            slots: plan.slots(),
            needed_slots: plan.needed,
            rows: plan.rows(),
            bytes: plan.bytes(),
            seconds: None,
            skew_before: plan.skew_before,
            skew_planned: plan.skew_planned,
            shards: shards.collect(),
            moves: moves.collect(),
            note: plan.note.clone(),
            refusals: Vec::new(),
        }
    }
}

impl StepView {
    fn of(step: &ListedStep, name_of: &impl Fn(ShardNumber) -> String) -> Self {
        Self {
            planned: PlannedMoveView::of(&step.plan, name_of),
            state: step.status.state.name().to_owned(),
            move_id: step.status.move_id.map(move_name),
            copied_rows: Some(step.status.rows),
            copied_bytes: Some(step.status.bytes),
            reason: step.status.reason.clone(),
        }
    }
}

impl RebalanceView {
    /// Creates the view of a rebalance at a time, without its moves.
    pub fn of(
        record: &RebalanceRecord,
        name_of: impl Fn(ShardNumber) -> String,
        now: DateTime<Utc>,
    ) -> Self {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Millis, true);
        let steps = || record.steps.iter();
        let slots = |is_counted: fn(&ListedStep) -> bool| {
            steps().filter(|step| is_counted(step)).map(|step| step.plan.slots.len()).sum()
        };
        let is_moved = |step: &ListedStep| step.status.state == StepState::Moved;
        let has_failed = |step: &&ListedStep| step.status.state.has_ended() && !is_moved(step);
        Self {
            id: record.id.name(),
            goal: GoalView::of(&record.goal, name_of),
            state: record.state.name().to_owned(),
            stalled: is_stalled(record, now),
            rate: record.rate,
            keep: record.keep.as_secs(),
            slots: slots(|_| true),
            slots_moved: slots(is_moved),
            needed_slots: record.needed,
            move_count: record.steps.len(),
            moved_count: steps().filter(|step| is_moved(step)).count(),
            failed_count: steps().filter(has_failed).count(),
            rows: Some(steps().map(|step| step.status.rows).sum()),
            bytes: Some(steps().map(|step| step.status.bytes).sum()),
            planned_rows: steps().map(|step| step.plan.rows).sum(),
            planned_bytes: steps().map(|step| step.plan.bytes).sum(),
            skew_before: Some(record.skew_before),
            skew_planned: Some(record.skew_planned),
            skew_measured: record.skew_measured,
            reason: record.reason.clone(),
            began_at: Some(time(record.began_at)),
            changed_at: Some(time(record.changed_at)),
            ended_at: record.ended_at.map(time),
            actions: actions(record),
            moves: None,
        }
    }

    /// Creates the view of a rebalance with the name of its table group, which is taken from this
    /// map.
    pub fn in_map(
        record: &RebalanceRecord,
        map: &ShardMap,
        name_of: impl Fn(ShardNumber) -> String,
        now: DateTime<Utc>,
    ) -> Self {
        let group = record.group.map(|group| map.groups().name_of(group).to_owned());
        let view = Self::of(record, name_of, now);
        Self { goal: GoalView { group, ..view.goal }, ..view }
    }

    /// Adds the moves of the rebalance.
    #[must_use]
    pub fn with_moves(
        self,
        record: &RebalanceRecord,
        name_of: impl Fn(ShardNumber) -> String,
    ) -> Self {
        let moves = record.steps.iter().map(|step| StepView::of(step, &name_of));
        Self { moves: Some(moves.collect()), ..self }
    }

    /// Returns true if the rebalance has ended.
    pub fn has_ended(&self) -> bool {
        RebalanceState::parse(&self.state).is_none_or(RebalanceState::has_ended)
    }
}

/// Returns true if no step has made progress for some time although one could.
fn is_stalled(record: &RebalanceRecord, now: DateTime<Utc>) -> bool {
    let could_go_on = record.could_go_on()
        && matches!(record.state, RebalanceState::Running | RebalanceState::Cancelling);
    let stall = TimeDelta::from_std(STALL).unwrap_or(TimeDelta::MAX);
    could_go_on && now.signed_duration_since(record.changed_at) > stall
}

/// Returns the names of the orders that a rebalance accepts and that would change it.
fn actions(record: &RebalanceRecord) -> Vec<String> {
    let takes = |order: &RebalanceOrder| {
        let mut ordered = record.clone();
        ordered.order(*order).is_ok() && ordered.state != record.state
    };
    let orders = RebalanceOrder::ALL.into_iter().filter(takes);
    orders.map(|order| order.name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::advice::BalanceBy;
    use model::keyspace::Slot;

    use super::super::rebalance_record::StepStatus;
    use super::*;

    fn record() -> RebalanceRecord {
        let step = |slots: std::ops::Range<u16>| PlanStep {
            from: ShardNumber(0),
            to: ShardNumber(1),
            slots: slots.filter_map(Slot::new).collect(),
            rows: Some(10),
            bytes: Some(100),
        };
        let plan = SlotPlan {
            steps: vec![step(0..64), step(64..74)],
            skew_before: 2.0,
            skew_planned: 1.0,
            needed: 74,
            shards: Vec::new(),
            note: None,
        };
        RebalanceRecord::begin((PlanGoal::Slots, &plan), (None, Duration::ZERO), Utc::now())
    }

    fn view(record: &RebalanceRecord, later: Duration) -> RebalanceView {
        let name_of = |shard: ShardNumber| format!("shard{}", shard.0 + 1);
        RebalanceView::of(record, name_of, record.changed_at + later).with_moves(record, name_of)
    }

    #[test]
    fn a_view_names_the_orders_that_the_rebalance_takes() {
        let mut record = record();
        for (state, orders) in [
            (RebalanceState::Running, "pause cancel"),
            (RebalanceState::Paused, "resume cancel"),
            (RebalanceState::Cancelling, ""),
            (RebalanceState::Done, ""),
        ] {
            record.state = state;
            assert_eq!(view(&record, Duration::ZERO).actions.join(" "), orders, "{state:?}");
        }
    }

    #[test]
    fn a_view_counts_slots_and_moves_by_what_has_become_of_them() {
        let mut record = record();
        record.steps[0].status =
            StepStatus { state: StepState::Moved, rows: 12, bytes: 120, ..StepStatus::PLANNED };
        record.steps[1].status.state = StepState::Failed;
        let view = view(&record, Duration::ZERO);
        assert_eq!((view.slots, view.slots_moved), (74, 64));
        assert_eq!((view.move_count, view.moved_count, view.failed_count), (2, 1, 1));
        assert_eq!((view.rows, view.planned_rows), (Some(12), Some(20)));
        let moves = view.moves.as_ref().expect("they are shown");
        assert_eq!((&*moves[0].planned.slots, &*moves[0].planned.to), ("0-63", "shard2"));
        let text = serde_json::to_string(&view).expect("it is written");
        assert_eq!(serde_json::from_str::<RebalanceView>(&text).ok(), Some(view));
    }

    #[test]
    fn a_rebalance_without_a_change_is_stalled_unless_it_rests_or_has_moved_everything() {
        let mut record = record();
        let is_stalled = |record: &RebalanceRecord, later| view(record, later).stalled;
        assert!(!is_stalled(&record, STALL));
        assert!(is_stalled(&record, STALL * 2));
        record.state = RebalanceState::Paused;
        assert!(!is_stalled(&record, STALL * 2));
        record.state = RebalanceState::Running;
        record.steps.iter_mut().for_each(|step| step.status.state = StepState::Moved);
        assert!(!is_stalled(&record, STALL * 2), "sources are only kept");
    }

    #[test]
    fn a_rebalance_of_which_each_move_waits_for_another_is_not_stalled() {
        let mut record = record();
        let is_stalled = |record: &RebalanceRecord| view(record, STALL * 2).stalled;
        let waits = || Some("the slots move already".to_owned());
        record.steps[0].status.reason = waits();
        assert!(is_stalled(&record), "the second move could begin");
        record.steps[1].status.reason = waits();
        assert!(!is_stalled(&record));
        record.steps[1].status.state = StepState::Moving;
        assert!(is_stalled(&record), "the second move is in progress");
        record.steps[1].status.state = StepState::Failed;
        assert!(!is_stalled(&record), "only the first move is left");
        // By load, a shard takes slots only after it has given others.
        record.steps[1].status = StepStatus::PLANNED;
        record.steps[1].plan.to = ShardNumber(0);
        assert!(is_stalled(&record));
        record.goal = PlanGoal::Balance(BalanceBy::Load);
        assert!(!is_stalled(&record), "the second move waits for the first");
        record.steps[0].status.reason = None;
        assert!(is_stalled(&record));
    }
}
