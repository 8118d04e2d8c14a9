//! Rebalance rows: the form in which the table of a catalog stores the listed rebalances.
//!
//! **Invariant:** a record that is stored and read again is unchanged.
//! **Not here:** the transactions (`sqlite`, `postgres`), the rules of changes
//! (`rebalance_catalog`).

use std::time::Duration;

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use model::advice::BalanceBy;
use model::placement::Placement;
use model::slot_plan::{PlanGoal, PlanStep};
use model::table_group::GroupNumber;
use model::topology::ShardNumber;
use model::value::format_timestamp;
use serde::{Deserialize, Serialize};

use super::move_record::{move_name, parse_move_name};
use super::move_rows::{capped, maybe_time, time};
use super::rebalance_catalog::RebalanceListError;
use super::rebalance_record::{
    ListedStep, RebalanceId, RebalanceRecord, RebalanceState, StepState, StepStatus,
};
use super::system_tables::tessera_rebalances;

/// Row of a listed rebalance.
#[derive(Clone, Debug, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = tessera_rebalances, treat_none_as_null = true)]
pub struct RebalanceRow {
    /// Identity, a UUID; primary key.
    pub id: String,
    /// Name of the goal.
    pub goal: String,
    /// Name of the state.
    pub state: String,
    /// Steps and details of the goal, as JSON.
    pub plan: String,
    /// Maximum rate of the copy of each move in MiB/s.
    pub rate: Option<i64>,
    /// Time in microseconds for which the sources are kept.
    pub keep_us: i64,
    /// Skew before the first move.
    pub skew_before: f64,
    /// Skew as planned.
    pub skew_planned: f64,
    /// Skew at the end.
    pub skew_measured: Option<f64>,
    /// Reason why the rebalance waits or has ended.
    pub reason: Option<String>,
    /// Time of the order.
    pub began_at: String,
    /// Time of the last progress.
    pub changed_at: String,
    /// Time of the end.
    pub ended_at: Option<String>,
}

/// Steps and details of the goal, in the form in which they are stored.
#[derive(Serialize, Deserialize)]
struct StoredPlan {
    /// Name of the placement and its parameters.
    placement: Option<(String, String)>,
    /// Number of the shard that is drained.
    shard: Option<u16>,
    /// Number of the table group whose slots move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    group: Option<usize>,
    needed: u64,
    steps: Vec<StoredStep>,
}

#[derive(Serialize, Deserialize)]
struct StoredStep {
    from: u16,
    to: u16,
    slots: String,
    rows: Option<u64>,
    bytes: Option<u64>,
    state: String,
    #[serde(rename = "move")]
    move_name: Option<String>,
    moved_rows: u64,
    moved_bytes: u64,
    reason: Option<String>,
}

impl RebalanceRow {
    /// Returns the row of a record.
    pub fn of(record: &RebalanceRecord) -> Self {
        Self {
            id: record.id.name(),
            goal: record.goal.name().to_owned(),
            state: record.state.name().to_owned(),
            plan: StoredPlan::of(record).json(),
            rate: record.rate.map(i64::from),
            keep_us: capped(record.keep.as_micros()),
            skew_before: record.skew_before,
            skew_planned: record.skew_planned,
            skew_measured: record.skew_measured,
            reason: record.reason.clone(),
            began_at: format_timestamp(record.began_at),
            changed_at: format_timestamp(record.changed_at),
            ended_at: record.ended_at.map(format_timestamp),
        }
    }

    /// Restores the record.
    ///
    /// # Errors
    /// A description of the damage.
    pub fn record(self) -> Result<RebalanceRecord, String> {
        let id = self.id.clone();
        let restored = self.restore();
        restored.ok_or_else(|| format!("the row of the rebalance {id} is damaged"))
    }

    fn restore(self) -> Option<RebalanceRecord> {
        let plan: StoredPlan = serde_json::from_str(&self.plan).ok()?;
        let steps: Option<Vec<ListedStep>> = plan.steps.iter().map(StoredStep::restore).collect();
        Some(RebalanceRecord {
            id: RebalanceId::parse(&self.id)?,
            goal: plan.goal(&self.goal)?,
            group: plan.group()?,
            state: RebalanceState::parse(&self.state)?,
            steps: steps?,
            needed: plan.needed,
            rate: self.rate.map(u32::try_from).transpose().ok()?,
            keep: Duration::from_micros(u64::try_from(self.keep_us).ok()?),
            skew_before: self.skew_before,
            skew_planned: self.skew_planned,
            skew_measured: self.skew_measured,
            reason: self.reason,
            began_at: time(&self.began_at)?,
            changed_at: time(&self.changed_at)?,
            ended_at: maybe_time(self.ended_at.as_deref())?,
        })
    }
}

impl StoredPlan {
    fn of(record: &RebalanceRecord) -> Self {
        let placement = match &record.goal {
            PlanGoal::Placement(placement) => {
                Some((placement.name().to_owned(), placement.parameters()))
            }
            PlanGoal::Slots | PlanGoal::Balance(_) | PlanGoal::Drain(_) => None,
        };
        Self {
            placement,
            shard: record.drained().map(|shard| shard.0),
            group: record.group.map(GroupNumber::index),
            needed: record.needed,
            steps: record.steps.iter().map(StoredStep::of).collect(),
        }
    }

    fn goal(&self, name: &str) -> Option<PlanGoal> {
        if let Some((placement, parameters)) = &self.placement {
            return Placement::restore(placement, parameters).ok().map(PlanGoal::Placement);
        }
        if let Some(shard) = self.shard {
            return Some(PlanGoal::Drain(ShardNumber(shard)));
        }
        if name == PlanGoal::Slots.name() {
            return Some(PlanGoal::Slots);
        }
        BalanceBy::find(name).map(PlanGoal::Balance)
    }

    /// Returns the table group, if there is one; `None` if the stored number is out of range.
    fn group(&self) -> Option<Option<GroupNumber>> {
        match self.group {
            Some(number) => GroupNumber::new(number).map(Some),
            None => Some(None),
        }
    }

    fn json(&self) -> String {
        serde_json::to_string(self).expect("numbers and texts always serialise")
    }
}

impl StoredStep {
    fn of(step: &ListedStep) -> Self {
        let ListedStep { plan, status } = step;
        Self {
            from: plan.from.0,
            to: plan.to.0,
            slots: plan.slots.to_string(),
            rows: plan.rows,
            bytes: plan.bytes,
            state: status.state.name().to_owned(),
            move_name: status.move_id.map(move_name),
            moved_rows: status.rows,
            moved_bytes: status.bytes,
            reason: status.reason.clone(),
        }
    }

    fn restore(&self) -> Option<ListedStep> {
        let move_id = match &self.move_name {
            None => None,
            Some(name) => Some(parse_move_name(name)?),
        };
        Some(ListedStep {
            plan: PlanStep {
                from: ShardNumber(self.from),
                to: ShardNumber(self.to),
                slots: self.slots.parse().ok()?,
                rows: self.rows,
                bytes: self.bytes,
            },
            status: StepStatus {
                state: StepState::parse(&self.state)?,
                move_id,
                rows: self.moved_rows,
                bytes: self.moved_bytes,
                reason: self.reason.clone(),
            },
        })
    }
}

/// Restores records, the latest first.
///
/// # Errors
/// A description of the damage.
pub fn rebalance_records(
    rows: impl IntoIterator<Item = RebalanceRow>,
) -> Result<Vec<RebalanceRecord>, String> {
    let records: Result<Vec<RebalanceRecord>, String> =
        rows.into_iter().map(RebalanceRow::record).collect();
    let mut records = records?;
    records.sort_by_key(|record| std::cmp::Reverse((record.began_at, record.id)));
    Ok(records)
}

/// Checks that a new rebalance may be listed. `epoch` is the epoch of the map in the catalog, and
/// `open` is the identity of a rebalance that has not ended, if there is one.
///
/// # Errors
/// [`RebalanceListError::AlreadyRunning`], [`RebalanceListError::Stale`].
pub fn check_new_rebalance(
    (expected, epoch): (u64, u64),
    open: Option<String>,
) -> Result<(), RebalanceListError> {
    if let Some(open) = open {
        return Err(RebalanceListError::AlreadyRunning(open));
    }
    if epoch == expected { Ok(()) } else { Err(RebalanceListError::Stale { expected, epoch }) }
}

/// Reason to roll back a transaction on listed rebalances.
#[derive(Debug)]
pub enum RebalanceListFault {
    /// The change is refused.
    Refused(RebalanceListError),
    /// The database reported an error.
    Database(DieselError),
}

impl From<RebalanceListError> for RebalanceListFault {
    fn from(error: RebalanceListError) -> Self {
        Self::Refused(error)
    }
}

impl From<DieselError> for RebalanceListFault {
    fn from(error: DieselError) -> Self {
        Self::Database(error)
    }
}

#[cfg(test)]
mod tests;
