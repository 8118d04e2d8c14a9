//! Move record: a move as the catalog lists it, and the orders that an operator may give.
//!
//! The catalog shows the state of a move and stores the goal that the operator has set. It does not
//! determine the state: the metadata of both shards does.
//!
//! The mover is the task that carries out a move. Each mover that takes over begins a new term,
//! with a higher number, so that requests of the earlier mover are refused.
//!
//! **Invariant:** the record of a move that has ended never changes again.
//! **Not here:** storing records (the catalogs), the steps of a move (`cluster`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use model::keyspace::Slot;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;
use moves::identity::MoveId;
use moves::limits::{COMPARISON_MAX, KEEP_MAX, SLOTS_MAX, STALL};
use moves::observation::{MoveGoal, MovePlan};
use uuid::Uuid;

use super::rebalance_id::RebalanceId;

/// Lowest permitted rate limit of a copy, in MiB/s.
pub const RATE_MIN: u32 = 1;
/// Highest permitted rate limit of a copy, in MiB/s.
pub const RATE_MAX: u32 = 10_000;

/// Phase of a move, or the way in which it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MovePhase {
    /// The move has not begun.
    Planned,
    /// The target deletes left-over rows of the slots, and the source begins to record changes.
    Preparing,
    /// Rows are copied.
    Copying,
    /// The target has all rows and follows the source.
    Following,
    /// The rows of both shards are compared.
    Verifying,
    /// Writes to the slots wait until the target has the last changes.
    Fencing,
    /// The source no longer owns the slots, and the target takes them over.
    Activating,
    /// The target owns the slots, and the source is kept for a rollback.
    Keeping,
    /// Rows that are no longer in use are deleted.
    Cleaning,
    /// The move has ended: the target owns the slots.
    Done,
    /// The move has ended: the source owns the slots as before.
    Cancelled,
    /// The move has ended: the slots went to the target and came back.
    RolledBack,
    /// The move has ended before the commit, because it cannot be carried out.
    Failed,
}

impl MovePhase {
    /// All phases.
    pub const ALL: [Self; 13] = [
        Self::Planned,
        Self::Preparing,
        Self::Copying,
        Self::Following,
        Self::Verifying,
        Self::Fencing,
        Self::Activating,
        Self::Keeping,
        Self::Cleaning,
        Self::Done,
        Self::Cancelled,
        Self::RolledBack,
        Self::Failed,
    ];

    /// Returns the name of the phase in the catalog and in responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Preparing => "preparing",
            Self::Copying => "copying",
            Self::Following => "following",
            Self::Verifying => "verifying",
            Self::Fencing => "fencing",
            Self::Activating => "activating",
            Self::Keeping => "keeping",
            Self::Cleaning => "cleaning",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
        }
    }

    /// Returns the phase with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// Returns true if the move has ended.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::RolledBack | Self::Failed)
    }
}

/// Move that is to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMove {
    /// Slots, at most [`SLOTS_MAX`].
    pub slots: SlotSet,
    /// Shard that owns them.
    pub source: ShardNumber,
    /// Shard that is to own them.
    pub target: ShardNumber,
    /// Maximum rate of the copy in MiB/s, from [`RATE_MIN`] to [`RATE_MAX`]; `None` without a
    /// limit.
    pub rate: Option<u32>,
    /// Time for which the source is kept for a rollback, at most [`KEEP_MAX`].
    pub keep: Duration,
}

/// Reason why a move cannot begin as it is described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewMoveFault {
    /// The move has no slots, or too many.
    #[error("a move has 1 to {SLOTS_MAX} slots, not {}", with_advice(.0))]
    SlotCount(usize),
    /// Source and target are the same shard.
    #[error("the target already owns the slots: name another shard in to")]
    SameShard,
    /// The rate is out of bounds.
    #[error("rate is {RATE_MIN} to {RATE_MAX} MiB/s, not {0}")]
    Rate(u32),
    /// The time for which the source is kept is out of bounds.
    #[error("keep is at most {} s", KEEP_MAX.as_secs())]
    Keep,
}

/// Returns a wrong number of slots, and what to do if there are too many.
fn with_advice(slots: &usize) -> String {
    match slots {
        0 => "0: name some".to_owned(),
        many => format!("{many}: begin one move after the other"),
    }
}

impl NewMove {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`NewMoveFault`].
    pub fn check(&self) -> Result<(), NewMoveFault> {
        let slots = self.slots.len();
        if slots == 0 || slots > SLOTS_MAX {
            return Err(NewMoveFault::SlotCount(slots));
        }
        if self.source == self.target {
            return Err(NewMoveFault::SameShard);
        }
        if let Some(rate) = self.rate.filter(|rate| !(RATE_MIN..=RATE_MAX).contains(rate)) {
            return Err(NewMoveFault::Rate(rate));
        }
        if self.keep > KEEP_MAX { Err(NewMoveFault::Keep) } else { Ok(()) }
    }
}

/// Move that the catalog lists.
#[derive(Clone, Debug, PartialEq)]
pub struct MoveRecord {
    /// Identity.
    pub id: MoveId,
    /// Rebalance that the move is a part of, if any.
    pub rebalance: Option<RebalanceId>,
    /// Description.
    pub new: NewMove,
    /// Phase that the last mover has reported.
    pub phase: MovePhase,
    /// Goal that the operator has set.
    pub goal: MoveGoal,
    /// True if the operator has paused the move.
    pub is_paused: bool,
    /// Highest number of a term that the catalog has assigned.
    pub term: u64,
    /// Time at which the move was ordered.
    pub began_at: DateTime<Utc>,
    /// Time at which the phase, the amount of work done or the operator's orders last changed. If
    /// that was too long ago, the move counts as stalled.
    pub changed_at: DateTime<Utc>,
    /// Time at which the target began to own the slots.
    pub owned_at: Option<DateTime<Utc>>,
    /// Time at which the move ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Progress that the last mover has reported.
    pub progress: MoveProgressReport,
}

/// Progress of a move, as its mover reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveProgressReport {
    /// Number of rows that were copied; a row that was copied again counts again.
    pub rows: u64,
    /// Size of these rows in bytes.
    pub bytes: u64,
    /// Number of batches of rows that were deleted because they are no longer in use.
    pub deleted_batches: u64,
    /// Longest time in microseconds for which writes to the slots waited, as the mover has measured
    /// it; 0 before the first fence. A fence makes the writes to the slots wait for a short time.
    pub hold_us: u64,
    /// Time at which the present fence began; `None` if no fence is in force.
    pub held_since: Option<DateTime<Utc>>,
    /// Time in microseconds that the move has spent in each phase that it has left, under all
    /// movers.
    pub phase_us: BTreeMap<MovePhase, u64>,
    /// Reason why the move waits or has ended: a sentence for the operator.
    pub reason: Option<String>,
    /// Changes that the receiving side lacks; `None` if no copy is kept current.
    pub lag: Option<MoveLag>,
    /// Estimate, from before the move began, of the number of rows to copy; `None` if it is not
    /// known, or if the copy has begun again.
    pub rows_expected: Option<u64>,
    /// Estimated time in seconds until all rows are copied, at the time of the report; `None` if it
    /// is not known, or if no rows are being copied.
    pub seconds_left: Option<u64>,
}

/// Changes that the receiving side lacks: the target, or the source while it is kept after a move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveLag {
    /// Number of changed rows that the receiving side lacked when the other side was last read.
    pub changes: u64,
    /// Lower bound for the time of the oldest missing change; `None` if no change is missing.
    pub since: Option<DateTime<Utc>>,
}

/// Order of an operator for a move that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveOrder {
    /// Pauses the move at its next step. Nothing is undone.
    Pause,
    /// Continues a paused move.
    Resume,
    /// Cancels the move before the target owns the slots: the copy is deleted, and the source keeps
    /// the slots.
    Cancel,
    /// Reverses the move once the target owns the slots: they return to the source, with all later
    /// writes.
    Rollback,
    /// Ends now the time for which the source is kept: its rows are deleted.
    Settle,
}

impl MoveOrder {
    /// All orders.
    pub const ALL: [Self; 5] =
        [Self::Pause, Self::Resume, Self::Cancel, Self::Rollback, Self::Settle];

    /// Returns the order with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|order| order.name() == name)
    }

    /// Returns the verb that names the order in URLs and commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Rollback => "rollback",
            Self::Settle => "settle",
        }
    }
}

/// Reason why an order cannot be carried out in the state of a move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoveOrderFault {
    /// The move has ended.
    #[error("the move has ended ({}): begin a new one", .0.name())]
    Ended(MovePhase),
    /// The slots have reached the target.
    #[error("the target owns the slots already: roll the move back instead")]
    AlreadyMoved,
    /// The slots have not reached the target.
    #[error("the target does not own the slots yet: cancel the move instead")]
    NotYetMoved,
    /// The source's rows are being deleted.
    #[error("the source's rows are being deleted: begin a move back instead")]
    Cleaning,
    /// The slots are already returning to the source.
    #[error("the move is on its way back already")]
    Returning,
    /// The move is being cancelled, or its last rows are being deleted.
    #[error("the move is ending, and its end cannot be paused: wait until it has ended")]
    Ending,
}

impl MoveRecord {
    /// Creates the record of a move that is to begin.
    pub fn begin(new: NewMove, now: DateTime<Utc>) -> Self {
        let now = listed_time(now);
        Self {
            id: MoveId(Uuid::new_v4().as_u128()),
            rebalance: None,
            new,
            phase: MovePhase::Planned,
            goal: MoveGoal::Forward,
            is_paused: false,
            term: 0,
            began_at: now,
            changed_at: now,
            owned_at: None,
            ended_at: None,
            progress: MoveProgressReport::default(),
        }
    }

    /// Returns the identity as a string, a UUID.
    pub fn name(&self) -> String {
        move_name(self.id)
    }

    /// Returns the plan for the mover.
    pub fn plan(&self) -> MovePlan {
        let slots: Arc<[Slot]> = self.new.slots.iter().collect();
        MovePlan { id: self.id, slots, shards: [self.new.source, self.new.target] }
    }

    /// Returns true if the move has ended with the slots on the source, so that a new move with the
    /// same description may begin.
    pub fn may_retry(&self) -> bool {
        self.phase.has_ended() && self.phase != MovePhase::Done
    }

    /// Returns the time for which the source will still be kept; `None` if the target does not own
    /// the slots yet.
    pub fn keep_left(&self, now: DateTime<Utc>) -> Option<Duration> {
        let keep = TimeDelta::from_std(self.new.keep).unwrap_or(TimeDelta::MAX);
        let left = self.owned_at?.checked_add_signed(keep).map(|end| end - now);
        Some(left.map_or(Duration::MAX, |left| left.to_std().unwrap_or(Duration::ZERO)))
    }

    /// Returns true if the target owns the slots and they are not about to return to the source.
    pub fn has_arrived(&self) -> bool {
        if self.phase.has_ended() {
            return self.phase == MovePhase::Done;
        }
        self.owned_at.is_some() && self.goal != MoveGoal::Back
    }

    /// Returns true if nothing has changed for some time although the move should make progress. A
    /// move that is paused, kept for a rollback or ended need not. Neither need a planned move that
    /// has a reason, because it waits for another move; a planned move that no process carries out
    /// has no reason.
    pub fn is_stalled(&self, now: DateTime<Utc>) -> bool {
        let waits = self.phase == MovePhase::Planned && self.progress.reason.is_some();
        let is_kept = self.phase == MovePhase::Keeping && self.goal == MoveGoal::Forward;
        let rests = self.is_paused || waits || is_kept || self.phase.has_ended();
        let limit = stall_limit(self.phase, self.progress.reason.is_some());
        let stall = chrono::Duration::from_std(limit).unwrap_or(chrono::Duration::MAX);
        !rests && now.signed_duration_since(self.changed_at) > stall
    }

    /// Applies an order. An order that is already in force changes nothing.
    ///
    /// # Errors
    /// [`MoveOrderFault`].
    pub fn order(&mut self, order: MoveOrder) -> Result<(), MoveOrderFault> {
        if self.phase.has_ended() {
            return Err(MoveOrderFault::Ended(self.phase));
        }
        let is_moved = self.owned_at.is_some();
        match order {
            MoveOrder::Pause if self.is_ending() => return Err(MoveOrderFault::Ending),
            MoveOrder::Pause => self.is_paused = true,
            MoveOrder::Resume => self.is_paused = false,
            MoveOrder::Cancel if is_moved => return Err(MoveOrderFault::AlreadyMoved),
            MoveOrder::Rollback | MoveOrder::Settle if !is_moved => {
                return Err(MoveOrderFault::NotYetMoved);
            }
            MoveOrder::Rollback if self.goal == MoveGoal::Settle => {
                return Err(MoveOrderFault::Cleaning);
            }
            MoveOrder::Settle if self.goal == MoveGoal::Back => {
                return Err(MoveOrderFault::Returning);
            }
            MoveOrder::Cancel | MoveOrder::Rollback => {
                self.goal = MoveGoal::Back;
                self.is_paused = false;
            }
            MoveOrder::Settle => {
                self.goal = MoveGoal::Settle;
                self.is_paused = false;
            }
        }
        Ok(())
    }

    /// Returns true if the move has only left-over rows to delete: it is being cancelled, or the
    /// owner of its slots is final.
    fn is_ending(&self) -> bool {
        let is_moved = self.owned_at.is_some();
        match self.goal {
            MoveGoal::Back => !is_moved,
            MoveGoal::Settle => true,
            // In the phase `Cleaning` before the commit, a record of changes that has become too
            // long is deleted, and recording begins again.
            MoveGoal::Forward => is_moved && self.phase == MovePhase::Cleaning,
        }
    }

    /// Applies an order that was given to all moves of the rebalance, and returns false if the
    /// state of this move does not permit it. A move whose target already owns the slots is neither
    /// paused nor cancelled with the rebalance. If such a move was paused just before its target
    /// owned the slots, any order other than a pause continues it.
    pub fn order_with_rebalance(&mut self, order: MoveOrder) -> bool {
        if !self.has_arrived() {
            return self.order(order).is_ok();
        }
        let goes_on = self.is_paused && order != MoveOrder::Pause && !self.phase.has_ended();
        if goes_on {
            self.is_paused = false;
        }
        goes_on
    }
}

/// Returns the time without progress after which a move in this phase counts as stalled. `waits` is
/// true if the move has a reason to wait.
pub fn stall_limit(phase: MovePhase, waits: bool) -> Duration {
    if phase == MovePhase::Verifying && !waits { COMPARISON_MAX } else { STALL }
}

/// Truncates a time to microseconds, the precision with which a catalog stores it.
pub fn listed_time(time: DateTime<Utc>) -> DateTime<Utc> {
    time.trunc_subsecs(6)
}

/// Returns the identity of a move as a string.
pub fn move_name(id: MoveId) -> String {
    Uuid::from_u128(id.0).to_string()
}

/// Parses the identity of a move; returns `None` if the string is not a UUID.
pub fn parse_move_name(name: &str) -> Option<MoveId> {
    Uuid::try_parse(name).ok().map(|id| MoveId(id.as_u128()))
}

/// Returns the name of a goal, as the catalog stores it.
pub fn goal_name(goal: MoveGoal) -> &'static str {
    match goal {
        MoveGoal::Forward => "forward",
        MoveGoal::Back => "back",
        MoveGoal::Settle => "settle",
    }
}

/// Returns the goal with this name.
pub fn parse_goal(name: &str) -> Option<MoveGoal> {
    [MoveGoal::Forward, MoveGoal::Back, MoveGoal::Settle]
        .into_iter()
        .find(|goal| goal_name(*goal) == name)
}

#[cfg(test)]
mod tests;
