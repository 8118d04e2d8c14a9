//! Decision: the state of each step of a rebalance, and the steps whose moves may begin next.
//!
//! **Invariant:** the decision depends only on the rebalance record, the listed moves and the map,
//! so that every router makes the same decision.
//! **Not here:** the shards that are free for the next moves (`next_steps`), beginning moves
//! (`rebalancer`).

use std::collections::BTreeSet;

use engine::move_catalog::wait_for_slots;
use engine::move_record::{MovePhase, MoveRecord};
use engine::rebalance_record::{
    ListedStep, RebalanceRecord, RebalanceState, StepState, StepStatus,
};
use model::keyspace::Slot;
use model::shard_map::ShardMap;
use model::slot_plan::{PlanGoal, PlanStep};
use model::slot_set::{SlotSet, check_known};
use model::topology::{ShardNumber, ShardState};
use moves::limits::MOVES_MAX;

use super::next_steps::NextSteps;
use crate::manager::rebalances::planning::PlannedSlots;

/// Present status of all steps, and the steps whose moves may begin next.
#[derive(Debug)]
pub(super) struct Decision {
    /// Status of each step.
    statuses: Vec<StepStatus>,
    /// Steps whose moves may begin.
    pub(super) next: NextSteps,
}

impl Decision {
    /// Decides from the moves that the catalog lists, and from the owners of the slots.
    pub(super) fn of(record: &RebalanceRecord, moves: &[MoveRecord], map: &ShardMap) -> Self {
        let is_own = |listed: &&MoveRecord| listed.rebalance == Some(record.id);
        let own: Vec<&MoveRecord> = moves.iter().filter(is_own).collect();
        let gives_up = record.state == RebalanceState::Cancelling;
        let planned = PlannedSlots::of(map, moves).owners;
        let status = |step: &ListedStep| {
            if step.status.state.has_ended() {
                return step.status.clone();
            }
            // The latest move comes first in the list: an earlier move of the same slots has ended.
            let is_of = |listed: &&&MoveRecord| is_of_step(listed, &step.plan);
            match own.iter().find(is_of) {
                Some(found) => under_way(found),
                None => not_begun(&step.plan, (map, &planned), gives_up),
            }
        };
        let other_moves = OtherMoves::of(record, moves);
        let statuses = record.steps.iter().map(|step| match status(step) {
            planned if planned.state == StepState::Planned => {
                StepStatus { reason: other_moves.reason_to_wait(&step.plan), ..planned }
            }
            begun => begun,
        });
        let statuses: Vec<StepStatus> = statuses.collect();
        let next = match record.state {
            RebalanceState::Running => next(record, &statuses, moves),
            RebalanceState::Paused
            | RebalanceState::Cancelling
            | RebalanceState::Done
            | RebalanceState::Cancelled
            | RebalanceState::Failed => NextSteps::default(),
        };
        Self { statuses, next }
    }

    /// Returns the index and the new status of each step whose status differs from that in the
    /// catalog.
    pub(super) fn changed(&self, record: &RebalanceRecord) -> Vec<(usize, StepStatus)> {
        let both = self.statuses.iter().zip(&record.steps).enumerate();
        let changed = both.filter(|(_, (status, step))| **status != step.status);
        changed.map(|(index, (status, _))| (index, status.clone())).collect()
    }

    /// Returns true if all steps have ended.
    pub(super) fn has_no_steps_left(&self) -> bool {
        self.statuses.iter().all(|status| status.state.has_ended())
    }

    /// Returns the number of moves of this rebalance that have not ended, including those whose
    /// source only keeps its old rows for a while.
    pub(super) fn open_moves(&self, moves: &[MoveRecord]) -> usize {
        let is_own = |id| self.statuses.iter().any(|status| status.move_id == Some(id));
        moves.iter().filter(|open| !open.phase.has_ended() && is_own(open.id)).count()
    }

    /// Returns the reason why not all slots have moved; `None` if they have.
    pub(super) fn failure(&self) -> Option<String> {
        let failed = self.statuses.iter().filter(|status| status.state != StepState::Moved);
        let first = failed.clone().next()?;
        let (count, all) = (failed.count(), self.statuses.len());
        let reason = first.reason.as_deref().unwrap_or("it was cancelled");
        Some(format!("{count} of {all} moves did not take place, the first because: {reason}"))
    }
}

/// Open moves for which the planned steps of a rebalance may have to wait.
struct OtherMoves<'m> {
    open: Vec<&'m MoveRecord>,
    /// Moves that occupy their shards and do not belong to a step in progress of this rebalance.
    busy: Vec<&'m MoveRecord>,
}

impl<'m> OtherMoves<'m> {
    fn of(record: &RebalanceRecord, moves: &'m [MoveRecord]) -> Self {
        let is_left = |open: &MoveRecord| {
            open.rebalance == Some(record.id) && under_way(open).state == StepState::Moving
        };
        let open: Vec<&MoveRecord> = moves.iter().filter(|open| !open.phase.has_ended()).collect();
        let busy = open.iter().filter(|open| is_busy(open) && !is_left(open));
        Self { busy: busy.copied().collect(), open }
    }

    /// Returns the reason why a planned step waits for one of these moves; `None` if it need not
    /// wait.
    fn reason_to_wait(&self, plan: &PlanStep) -> Option<String> {
        let taken = |slot: &Slot| self.open.iter().any(|open| open.new.slots.contains(*slot));
        let slots: SlotSet = plan.slots.iter().filter(taken).collect();
        if let Some(first) = slots.iter().next() {
            let holder = self.open.iter().find(|open| open.new.slots.contains(first))?;
            return Some(wait_for_slots(&slots, &holder.name()));
        }
        let is_rival =
            |busy: &&&MoveRecord| busy.new.source == plan.from || busy.new.target == plan.to;
        let is_full = self.busy.len() >= MOVES_MAX;
        let rival = self.busy.iter().find(is_rival);
        let rival = rival.or_else(|| self.busy.first().filter(|_| is_full))?;
        Some(format!("another move is in progress ({}): wait for that move", rival.name()))
    }
}

fn is_of_step(listed: &MoveRecord, plan: &PlanStep) -> bool {
    let new = &listed.new;
    (new.source, new.target) == (plan.from, plan.to) && new.slots == plan.slots
}

/// Returns the status of a step whose move the catalog lists.
fn under_way(listed: &MoveRecord) -> StepStatus {
    let state = match listed.phase {
        _ if listed.has_arrived() => StepState::Moved,
        MovePhase::Failed => StepState::Failed,
        MovePhase::Cancelled | MovePhase::RolledBack => StepState::Cancelled,
        MovePhase::Done
        | MovePhase::Planned
        | MovePhase::Preparing
        | MovePhase::Copying
        | MovePhase::Following
        | MovePhase::Verifying
        | MovePhase::Fencing
        | MovePhase::Activating
        | MovePhase::Keeping
        | MovePhase::Cleaning => StepState::Moving,
    };
    // If the slots have moved, the reason why the move itself still waits does not concern the
    // rebalance.
    let reason = listed.progress.reason.clone().filter(|_| state != StepState::Moved);
    StepStatus {
        state,
        move_id: Some(listed.id),
        rows: listed.progress.rows,
        bytes: listed.progress.bytes,
        reason,
    }
}

/// Returns the status of a step without a listed move.
fn not_begun(
    plan: &PlanStep,
    (map, planned): (&ShardMap, &[ShardNumber]),
    gives_up: bool,
) -> StepStatus {
    let ended =
        |state, reason: String| StepStatus { state, reason: Some(reason), ..StepStatus::PLANNED };
    let is_known = check_known(&plan.slots, map.groups().slot_count()).is_ok();
    if is_known && plan.slots.iter().all(|slot| map.owner(slot) == plan.to) {
        return StepStatus { state: StepState::Moved, ..StepStatus::PLANNED };
    }
    if gives_up {
        return ended(StepState::Cancelled, "it had not begun".to_owned());
    }
    let target = map.topology().shards().get(plan.to.index());
    if let Some(target) = target.filter(|target| target.state == ShardState::Retired) {
        return ended(StepState::Skipped, format!("{} has retired", target.name));
    }
    let source = map.topology().shards().get(plan.from.index());
    let Some(source) = source.filter(|_| is_known) else {
        // Another router has added the shard or the table group, which a later map will list.
        return StepStatus::PLANNED;
    };
    // The source may be about to receive the slots through another move.
    let is_foreign = |slot: &Slot| planned[slot.index()] != plan.from;
    let foreign: SlotSet = plan.slots.iter().filter(is_foreign).collect();
    if foreign.is_empty() {
        return StepStatus::PLANNED;
    }
    let name = &source.name;
    ended(StepState::Skipped, format!("{name} does not own the slots {foreign} any more"))
}

/// Returns the planned steps that need not wait for earlier steps, in order. Steps with slots that
/// are still part of other moves come last. Otherwise such a step would be tried first each time,
/// and its refusal would delay the other steps of its source.
fn next(record: &RebalanceRecord, statuses: &[StepStatus], moves: &[MoveRecord]) -> NextSteps {
    let open = || moves.iter().filter(|open| !open.phase.has_ended());
    let mut moving = SlotSet::empty();
    open().for_each(|open| moving.unite(&open.new.slots));
    // In a plan by load or size, a shard receives slots only after the slots of its earlier steps
    // have left it. Otherwise it could become fuller than the fullest shard was before.
    let has_order = matches!(record.goal, PlanGoal::Balance(_));
    let mut giving = BTreeSet::new();
    let (mut unmoved, mut moved) = (Vec::new(), Vec::new());
    for (index, (step, status)) in record.steps.iter().zip(statuses).enumerate() {
        let PlanStep { from, to, slots, .. } = &step.plan;
        let must_wait = has_order && giving.contains(to);
        if status.state == StepState::Planned && !must_wait {
            let steps = if slots.is_disjoint(&moving) { &mut unmoved } else { &mut moved };
            steps.push((index, (*from, *to)));
        }
        if !status.state.has_ended() {
            giving.insert(*from);
        }
    }
    let busy = open().filter(|open| is_busy(open));
    let taken = busy.map(|open| (open.new.source, open.new.target)).collect();
    NextSteps::new(unmoved.into_iter().chain(moved), taken)
}

/// Returns true if a move that has not ended occupies its shards. A move that is paused before it
/// begins does not block others.
fn is_busy(open: &MoveRecord) -> bool {
    let rests = open.phase == MovePhase::Planned && open.is_paused;
    open.phase != MovePhase::Keeping && !rests
}

#[cfg(test)]
mod tests;
