//! Measured intervals: the intervals in which a recorder ran. Between them nothing was measured,
//! which does not mean that there were no requests.
//!
//! **Invariant:** the intervals are in order, none is empty, no two touch, and there are at most
//! [`MeasuredIntervals::MAX`].
//! **Not here:** the recorder (`recorder`), storing intervals (`store`).

/// Intervals, each as its first second and the first second after it, both in s since 1970 UTC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeasuredIntervals(Vec<(u64, u64)>);

impl MeasuredIntervals {
    /// Maximum number of intervals. If more restarts within a week would exceed it, the two oldest
    /// intervals are merged, which makes the gap between them count as measured.
    pub const MAX: usize = 256;

    /// Adds an interval, which may overlap others and need not be the latest.
    pub fn add(&mut self, (from, until): (u64, u64)) {
        if from >= until {
            return;
        }
        let first = self.0.partition_point(|interval| interval.1 < from);
        let behind = self.0.partition_point(|interval| interval.0 <= until);
        let met = &self.0[first..behind];
        let from = met.first().map_or(from, |interval| interval.0.min(from));
        let until = met.last().map_or(until, |interval| interval.1.max(until));
        self.0.splice(first..behind, [(from, until)]);
        if self.0.len() > Self::MAX {
            let (from, _) = self.0.remove(0);
            self.0[0].0 = from;
        }
    }

    /// Removes intervals that ended before this second.
    pub fn forget(&mut self, before: u64) {
        self.0.retain(|interval| interval.1 > before);
    }

    /// Removes all intervals, and parts of intervals, at this second or later.
    pub fn forget_from(&mut self, second: u64) {
        self.0.retain_mut(|interval| {
            interval.1 = interval.1.min(second);
            interval.0 < interval.1
        });
    }

    /// Returns true if any second of the time from `from` up to `until` is measured.
    pub fn touch(&self, from: u64, until: u64) -> bool {
        let next = self.0.partition_point(|interval| interval.1 <= from);
        self.0.get(next).is_some_and(|interval| interval.0 < until)
    }

    /// Returns the number of measured seconds in the time from `from` up to `until`.
    pub(crate) fn seconds_within(&self, from: u64, until: u64) -> u64 {
        let overlap =
            |interval: &(u64, u64)| interval.1.min(until).saturating_sub(interval.0.max(from));
        self.0.iter().map(overlap).sum()
    }

    /// Returns all intervals, the oldest first.
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }
}

impl FromIterator<(u64, u64)> for MeasuredIntervals {
    fn from_iter<T: IntoIterator<Item = (u64, u64)>>(times: T) -> Self {
        let mut intervals = Self::default();
        times.into_iter().for_each(|time| intervals.add(time));
        intervals
    }
}
