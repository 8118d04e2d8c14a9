//! Version bound: a point in the order of a row's changes, either at a version or between two
//! versions.
//!
//! Such a point is called a mark. A change of unknown version also has a place between other
//! changes. To make room for it, marks are doubled versions: an even mark is a version, and the odd
//! mark above it stands for any point between that version and the next.
//!
//! **Invariant:** the order of marks is that of the points for which they stand, except that all
//! points between two successive versions have the same mark.
//! **Not here:** the operation to which a mark belongs, except in a [`LowWatermark`].

/// Index of an operation among the operations of its row, which are in order of their start.
pub(crate) type OperationIndex = u32;

/// A mark: a point in the order of one row's versions. The default is the point before the first
/// write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct VersionBound(u64);

impl VersionBound {
    /// Highest mark.
    pub(crate) const HIGHEST: Self = Self(u64::MAX);

    /// Returns the mark of a version. Versions in the API have 63 bits; a larger number gets the
    /// highest mark.
    pub(crate) fn at(version: u64) -> Self {
        Self(version.saturating_mul(2))
    }

    /// Returns the mark between the version of this mark and the next version.
    pub(crate) fn after(self) -> Self {
        Self(self.0 | 1)
    }

    /// Returns the mark of the highest version at or below this mark.
    pub(crate) fn before(self) -> Self {
        Self(self.0 & !1)
    }

    /// Returns true for the mark before the first write.
    pub(crate) fn is_start(self) -> bool {
        self.0 == 0
    }

    /// Returns the highest version at or below this mark.
    pub(crate) fn version(self) -> u64 {
        self.0 / 2
    }
}

/// Highest mark of all operations that ended before some moment, and the operation that set it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LowWatermark {
    pub(crate) mark: VersionBound,
    pub(crate) by: Option<OperationIndex>,
}

impl LowWatermark {
    /// Sets the mark to `mark` if `mark` is higher; `by` is the operation that has this mark.
    pub(crate) fn raise(&mut self, mark: VersionBound, by: OperationIndex) {
        if mark > self.mark {
            *self = Self { mark, by: Some(by) };
        }
    }
}

/// Start or end of an interval, with the number of the interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntervalEdge {
    Began(u32),
    Ended(u32),
}

/// Bit that is added to the number of an interval to denote the end of the interval.
const END: u32 = 1 << 31;

/// Returns the beginnings and ends of intervals in order of time. At equal times beginnings come
/// first, so that two operations that touch count as overlapping. The end of an interval that never
/// ends is left out. Intervals are numbered in the order of the iterator.
pub(crate) fn interval_edges(
    intervals: impl Iterator<Item = (u64, u64)>,
) -> Vec<(u64, IntervalEdge)> {
    let mut tagged = Vec::with_capacity(2 * intervals.size_hint().0);
    for (number, (start, end)) in (0..END).zip(intervals) {
        tagged.push((start, number));
        if end != u64::MAX {
            tagged.push((end, number | END));
        }
    }
    tagged.sort_unstable();
    let moment = |tag: u32| {
        if tag & END == 0 { IntervalEdge::Began(tag) } else { IntervalEdge::Ended(tag & !END) }
    };
    tagged.into_iter().map(|(time, tag)| (time, moment(tag))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touching_intervals_overlap_and_an_open_one_has_no_end() {
        let moments = interval_edges([(5, 9), (9, u64::MAX), (1, 5)].into_iter());
        let order: Vec<_> = moments.into_iter().map(|(_, moment)| moment).collect();
        let wanted = [
            IntervalEdge::Began(2),
            IntervalEdge::Began(0),
            IntervalEdge::Ended(2),
            IntervalEdge::Began(1),
            IntervalEdge::Ended(0),
        ];
        assert_eq!(order, wanted);
    }

    #[test]
    fn after_a_version_is_before_the_next() {
        assert!(
            VersionBound::at(3) < VersionBound::at(3).after()
                && VersionBound::at(3).after() < VersionBound::at(4)
        );
        assert_eq!(VersionBound::at(3).after().after(), VersionBound::at(3).after());
        assert!(VersionBound::default().is_start() && !VersionBound::default().after().is_start());
    }
}
