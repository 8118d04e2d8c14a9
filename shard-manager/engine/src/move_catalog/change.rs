//! Change: the changes of a listed move, as every catalog makes them.
//!
//! **Invariant:** a move that has ended is not changed; the number of a term is never assigned
//! again.
//! **Not here:** the transactions (the catalogs).

use chrono::{DateTime, Utc};

use super::{MoveListError, MoveReport};
use crate::move_record::{MoveOrder, MovePhase, MoveProgressReport, MoveRecord, listed_time};

/// Change of a listed move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListedMoveChange {
    /// An operator gives an order.
    Order(MoveOrder),
    /// A mover takes over the move.
    TakeOver {
        /// Number of the highest term that the mover knows, from the records of the shards.
        known: u64,
    },
    /// The mover that has this term reports.
    Report {
        /// Number of its term.
        term: u64,
        /// The report.
        report: MoveReport,
    },
}

impl ListedMoveChange {
    /// Applies the change to a record.
    ///
    /// # Errors
    /// [`MoveListError::Order`] or [`MoveListError::Superseded`]; the record is then unchanged.
    pub fn apply(&self, record: &mut MoveRecord, now: DateTime<Utc>) -> Result<(), MoveListError> {
        match self {
            Self::Order(order) => {
                let before = (record.goal, record.is_paused);
                record.order(*order)?;
                if (record.goal, record.is_paused) != before {
                    record.changed_at = listed_time(now);
                }
                Ok(())
            }
            Self::TakeOver { .. } | Self::Report { .. } if record.phase.has_ended() => {
                Err(MoveListError::Superseded)
            }
            Self::TakeOver { known } => {
                // Stored numbers have 63 bits.
                let term = record.term.max(*known) + 1;
                record.term = term.min(i64::MAX as u64);
                Ok(())
            }
            Self::Report { term, .. } if *term != record.term => Err(MoveListError::Superseded),
            Self::Report { report, .. } => {
                apply_report(record, report, listed_time(now));
                Ok(())
            }
        }
    }
}

fn apply_report(record: &mut MoveRecord, report: &MoveReport, now: DateTime<Utc>) {
    let MoveReport { phase, progress } = report;
    let work =
        |progress: &MoveProgressReport| (progress.rows, progress.bytes, progress.deleted_batches);
    if (record.phase, work(&record.progress)) != (*phase, work(progress)) {
        record.changed_at = now;
    }
    record.phase = *phase;
    record.progress = progress.clone();
    if *phase == MovePhase::Keeping {
        record.owned_at.get_or_insert(now);
    }
    record.ended_at = phase.has_ended().then_some(now);
}

#[cfg(test)]
mod tests;
