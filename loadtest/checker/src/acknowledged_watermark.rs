//! Acknowledged watermark: the highest version of a row that had been acknowledged before a given
//! moment.
//!
//! **Invariant:** only changes that were acknowledged as stored and have a known version are
//! included.
//! **Not here:** versions that reads have returned. C3 and C4 check that later reads do not return
//! older versions than these.

use crate::row::Row;
use crate::version_bound::{LowWatermark, VersionBound};

/// End times of the acknowledged changes of one row, in order, each with the highest mark (position
/// in the order of the row's changes, see `version_bound`) so far.
pub(crate) struct AcknowledgedWatermark(Vec<(u64, LowWatermark)>);

impl AcknowledgedWatermark {
    pub(crate) fn of(row: &Row<'_>) -> Self {
        let mut ends: Vec<(u64, LowWatermark)> = Vec::new();
        for (place, change) in row.operations().filter(|(_, one)| one.is_acknowledged()) {
            if let Some(version) = row.version(place) {
                ends.push((
                    change.end,
                    LowWatermark { mark: VersionBound::at(version), by: Some(place) },
                ));
            }
        }
        ends.sort_unstable_by_key(|&(end, low)| (end, low.mark));
        let mut highest = LowWatermark::default();
        for (_, low) in &mut ends {
            if low.mark > highest.mark {
                highest = *low;
            }
            *low = highest;
        }
        Self(ends)
    }

    /// Returns the highest mark of all changes that had been acknowledged before `moment`.
    pub(crate) fn before(&self, moment: u64) -> LowWatermark {
        let earlier = self.0.partition_point(|&(end, _)| end < moment);
        earlier.checked_sub(1).map_or_else(LowWatermark::default, |last| self.0[last].1)
    }
}
