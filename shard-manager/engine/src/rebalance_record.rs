//! Rebalance record: a rebalance as the catalog lists it, and the orders that an operator may give.
//!
//! A rebalance is a list of moves, which its record calls steps. The leading router, which has the
//! right to carry out moves, begins the steps one after another and reports their outcomes.
//!
//! **Invariant:** a step that has ended, and a rebalance that has ended, never change again.
//! **Not here:** storing records (the catalogs), the choice of the next step (`cluster`), plans
//! (`model::slot_plan`).

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use model::slot_plan::{PlanGoal, PlanStep, SlotPlan};
use model::table_group::GroupNumber;
use model::topology::ShardNumber;
use moves::identity::MoveId;
use uuid::Uuid;

use super::move_record::{MoveOrder, listed_time};

pub use super::rebalance_id::RebalanceId;

/// State of a rebalance, or the way in which it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RebalanceState {
    /// The moves begin one after another.
    Running,
    /// No further move begins, and the moves in progress are paused.
    Paused,
    /// No further move begins, and moves whose target does not own the slots yet are cancelled.
    Cancelling,
    /// The rebalance has ended: all slots have moved.
    Done,
    /// The rebalance has ended: an operator has cancelled it.
    Cancelled,
    /// The rebalance has ended: some slots could not be moved.
    Failed,
}

impl RebalanceState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Paused, Self::Cancelling, Self::Done, Self::Cancelled, Self::Failed];

    /// Returns the name, as in the catalog and in responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Returns the state with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Returns true if the rebalance has ended.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }
}

/// State of a step, or the way in which it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepState {
    /// The move of the step has not begun.
    Planned,
    /// The move of the step is in progress.
    Moving,
    /// The step has ended: the target owns the slots.
    Moved,
    /// The step has ended: its move was cancelled by an order, or had not begun by then.
    Cancelled,
    /// The step has ended: the move could not be carried out.
    Failed,
    /// The step has ended: the source no longer owned the slots when the move was to begin, or the
    /// target had retired.
    Skipped,
}

impl StepState {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Planned, Self::Moving, Self::Moved, Self::Cancelled, Self::Failed, Self::Skipped];

    /// Returns the name, as in the catalog and in responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Moving => "moving",
            Self::Moved => "moved",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// Returns the state with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Returns true if the step has ended.
    pub fn has_ended(self) -> bool {
        !matches!(self, Self::Planned | Self::Moving)
    }
}

/// Step of a rebalance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedStep {
    /// Plan of the step.
    pub plan: PlanStep,
    /// State of the step.
    pub status: StepStatus,
}

/// State of a step, with its move and its progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepStatus {
    /// State.
    pub state: StepState,
    /// Move of the step, once one has begun.
    pub move_id: Option<MoveId>,
    /// Number of rows that were copied; a row that was copied again counts again.
    pub rows: u64,
    /// Size of these rows in bytes.
    pub bytes: u64,
    /// Reason why the step waits, or has ended without success. A planned step with a reason waits
    /// for another move.
    pub reason: Option<String>,
}

impl StepStatus {
    /// Status of a step before its move begins.
    pub const PLANNED: Self =
        Self { state: StepState::Planned, move_id: None, rows: 0, bytes: 0, reason: None };
}

/// Rebalance that the catalog lists.
#[derive(Clone, Debug, PartialEq)]
pub struct RebalanceRecord {
    /// Identity.
    pub id: RebalanceId,
    /// Goal.
    pub goal: PlanGoal,
    /// Table group whose slots move; `None` for all of them.
    pub group: Option<GroupNumber>,
    /// State.
    pub state: RebalanceState,
    /// Steps, in the order in which they begin.
    pub steps: Vec<ListedStep>,
    /// Number of slots that had to move to give each shard its share of the slots.
    pub needed: u64,
    /// Maximum rate of the copy of each move in MiB/s; `None` without a limit.
    pub rate: Option<u32>,
    /// Time for which the sources of its moves are kept for a rollback.
    pub keep: Duration,
    /// Skew before the first move: the most that any shard has, as a multiple of its fair share.
    pub skew_before: f64,
    /// Skew after the last move, as planned.
    pub skew_planned: f64,
    /// Skew that was measured at the end; `None` before the end, or if it could not be measured.
    pub skew_measured: Option<f64>,
    /// Reason why the rebalance waits, or has ended without success: a sentence for the operator.
    pub reason: Option<String>,
    /// Time at which the rebalance was ordered.
    pub began_at: DateTime<Utc>,
    /// Time of the last change of a step, or of the end.
    pub changed_at: DateTime<Utc>,
    /// Time at which the rebalance ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Order of an operator for a rebalance that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RebalanceOrder {
    /// Pauses the rebalance and its moves.
    Pause,
    /// Continues the rebalance and its moves.
    Resume,
    /// Ends the rebalance: moves whose target does not own the slots yet are cancelled. Slots that
    /// have moved stay where they are.
    Cancel,
}

impl RebalanceOrder {
    /// All orders.
    pub const ALL: [Self; 3] = [Self::Pause, Self::Resume, Self::Cancel];

    /// Returns the order with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|order| order.name() == name)
    }

    /// Returns the verb that names the order in URLs and commands.
    pub fn name(self) -> &'static str {
        self.of_moves().name()
    }

    /// Returns the corresponding order for the moves of the rebalance.
    pub fn of_moves(self) -> MoveOrder {
        match self {
            Self::Pause => MoveOrder::Pause,
            Self::Resume => MoveOrder::Resume,
            Self::Cancel => MoveOrder::Cancel,
        }
    }
}

/// Reason why an order cannot be carried out in the state of a rebalance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RebalanceOrderFault {
    /// The rebalance has ended.
    #[error("the rebalance has ended ({}): begin another one", .0.name())]
    Ended(RebalanceState),
    /// The rebalance is being cancelled already.
    #[error("the rebalance is being cancelled already")]
    Cancelling,
}

impl RebalanceRecord {
    /// Creates the record of a rebalance of all table groups that is to begin.
    pub fn begin(
        (goal, plan): (PlanGoal, &SlotPlan),
        (rate, keep): (Option<u32>, Duration),
        now: DateTime<Utc>,
    ) -> Self {
        let now = listed_time(now);
        let step = |plan: &PlanStep| ListedStep { plan: plan.clone(), status: StepStatus::PLANNED };
        Self {
            id: RebalanceId(Uuid::new_v4().as_u128()),
            goal,
            group: None,
            state: RebalanceState::Running,
            steps: plan.steps.iter().map(step).collect(),
            needed: plan.needed as u64,
            rate,
            keep,
            skew_before: plan.skew_before,
            skew_planned: plan.skew_planned,
            skew_measured: None,
            reason: None,
            began_at: now,
            changed_at: now,
            ended_at: None,
        }
    }

    /// Returns the shard that the rebalance drains; `None` if it drains no shard.
    pub fn drained(&self) -> Option<ShardNumber> {
        match self.goal {
            PlanGoal::Drain(shard) => Some(shard),
            PlanGoal::Slots | PlanGoal::Balance(_) | PlanGoal::Placement(_) => None,
        }
    }

    /// Returns true if all steps have ended.
    pub fn has_no_steps_left(&self) -> bool {
        self.steps.iter().all(|step| step.status.state.has_ended())
    }

    /// Returns true if some step can make progress: it is in progress, or it is planned and waits
    /// neither for another move nor for an earlier step.
    pub fn could_go_on(&self) -> bool {
        // In a plan by load or size, a shard takes slots only after it has given away the slots of
        // earlier steps.
        let has_order = matches!(self.goal, PlanGoal::Balance(_));
        let mut giving = BTreeSet::new();
        self.steps.iter().any(|ListedStep { plan, status }| {
            let is_later = has_order && giving.contains(&plan.to);
            let waits = status.reason.is_some() || is_later;
            if !status.state.has_ended() {
                giving.insert(plan.from);
            }
            match status.state {
                StepState::Moving => true,
                StepState::Planned => !waits,
                StepState::Moved
                | StepState::Cancelled
                | StepState::Failed
                | StepState::Skipped => false,
            }
        })
    }

    /// Applies an order. An order that is already in force changes nothing.
    ///
    /// # Errors
    /// [`RebalanceOrderFault`].
    pub fn order(&mut self, order: RebalanceOrder) -> Result<(), RebalanceOrderFault> {
        self.state = match (self.state, order) {
            (ended, _) if ended.has_ended() => return Err(RebalanceOrderFault::Ended(ended)),
            (_, RebalanceOrder::Cancel) => RebalanceState::Cancelling,
            (RebalanceState::Cancelling, _) => return Err(RebalanceOrderFault::Cancelling),
            (_, RebalanceOrder::Pause) => RebalanceState::Paused,
            (_, RebalanceOrder::Resume) => RebalanceState::Running,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
