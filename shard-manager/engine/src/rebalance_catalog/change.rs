//! Change: the changes of a listed rebalance, as every catalog makes them.
//!
//! **Invariant:** a rebalance ends once, and only after all of its steps have.
//! **Not here:** the transactions (the catalogs).

use chrono::{DateTime, Utc};

use super::{RebalanceListError, RebalanceReport};
use crate::move_record::{MoveOrder, listed_time};
use crate::rebalance_record::{
    RebalanceOrder, RebalanceOrderFault, RebalanceRecord, RebalanceState, StepState,
};

/// Change of a listed rebalance.
#[derive(Clone, Debug, PartialEq)]
pub enum RebalanceChange {
    /// An operator gives an order.
    Order(RebalanceOrder),
    /// The router that carries out the rebalance reports.
    Report(RebalanceReport),
}

impl RebalanceChange {
    /// Applies the change to a record.
    ///
    /// # Errors
    /// [`RebalanceListError::Order`]; the record is then unchanged.
    pub fn apply(
        &self,
        record: &mut RebalanceRecord,
        now: DateTime<Utc>,
    ) -> Result<(), RebalanceListError> {
        match self {
            Self::Order(order) => Ok(record.order(*order)?),
            Self::Report(_) if record.state.has_ended() => {
                Err(RebalanceOrderFault::Ended(record.state).into())
            }
            Self::Report(report) => {
                apply_report(record, report, listed_time(now));
                Ok(())
            }
        }
    }

    /// Returns the order that the change implies for the moves of the rebalance. `before` is the
    /// state before the change, and `record` is the rebalance after it. If a rebalance ends while
    /// it is paused, because its last moves were almost complete, these moves are resumed: no later
    /// order for the rebalance can reach them.
    pub fn order_of_moves(
        &self,
        before: RebalanceState,
        record: &RebalanceRecord,
    ) -> Option<MoveOrder> {
        match self {
            Self::Order(order) => Some(order.of_moves()),
            Self::Report(_) => {
                let has_ended = before == RebalanceState::Paused && record.state.has_ended();
                has_ended.then_some(MoveOrder::Resume)
            }
        }
    }
}

fn apply_report(record: &mut RebalanceRecord, report: &RebalanceReport, now: DateTime<Utc>) {
    for (index, status) in &report.steps {
        let step = record.steps.get_mut(*index);
        let Some(step) = step.filter(|step| !step.status.state.has_ended()) else { continue };
        if step.status != *status {
            step.status = status.clone();
            record.changed_at = now;
        }
    }
    record.reason = report.reason.clone();
    let Some(end) = report.end.as_ref().filter(|_| record.has_no_steps_left()) else { return };
    let all_moved = record.steps.iter().all(|step| step.status.state == StepState::Moved);
    record.state = if record.state == RebalanceState::Cancelling {
        RebalanceState::Cancelled
    } else if all_moved && !end.has_failed {
        RebalanceState::Done
    } else {
        RebalanceState::Failed
    };
    record.skew_measured = end.skew;
    (record.changed_at, record.ended_at) = (now, Some(now));
}

#[cfg(test)]
mod tests;
