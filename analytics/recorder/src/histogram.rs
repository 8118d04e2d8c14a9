//! Histogram: counts how many latencies were in which range. Histograms can be merged, and return
//! quantiles.
//!
//! The 17,408 buckets are those of an HDR histogram with three significant digits from 1 µs to 60
//! s. [`Packed`] is the form in which a histogram is kept once nothing is added to it.
//!
//! **Invariant:** the quantiles of merged packed histograms are those of one histogram of all
//! values: exactly if all of them have three significant digits, otherwise within 0.5 %.
//! **Not here:** the memory of the counts (`paged_counts`); averages of percentiles, which would be
//! wrong; the time interval in which the latencies were measured.

mod paged_counts;

use std::time::Duration;

use crate::packed::{Buckets, Packed};
use paged_counts::PagedCounts;

/// Longest latency that is counted as such, in µs; longer ones count as this one. 60 s is the
/// longest deadline that a client may set.
pub(crate) const MICROS_MAX: u32 = 60_000_000;

/// Converts a latency to whole µs: 1 to 60,000,000.
pub(crate) fn counted_micros(elapsed: Duration) -> u32 {
    part_micros(elapsed).max(1)
}

/// Converts a part of a latency to whole µs: 0 to 60,000,000.
pub(crate) fn part_micros(elapsed: Duration) -> u32 {
    u32::try_from(elapsed.as_micros()).map_or(MICROS_MAX, |micros| micros.min(MICROS_MAX))
}

/// Counts of latencies from 0 to 60 s in whole µs, with three significant digits. Longer latencies
/// count as 60 s.
#[derive(Clone, Debug, Default)]
pub struct LatencyHistogram {
    pub(crate) counts: PagedCounts,
    total: u64,
}

impl LatencyHistogram {
    /// Creates an empty histogram.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts one latency.
    pub fn record(&mut self, elapsed: Duration) {
        self.record_micros(counted_micros(elapsed));
    }

    /// Counts one latency of at most [`MICROS_MAX`] µs, and returns the number of pages allocated.
    pub(crate) fn record_micros(&mut self, micros: u32) -> usize {
        self.add(Buckets::FINE.of(micros), 1)
    }

    /// Adds `count` latencies to a bucket of the layout with three digits, and returns the number
    /// of pages allocated.
    pub(crate) fn add(&mut self, bucket: usize, count: u64) -> usize {
        self.total += count;
        self.counts.add(bucket, count)
    }

    /// Returns the number of latencies.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// Returns the latency that the fraction `quantile` (0.0 to 1.0) of all latencies did not
    /// exceed, as the upper edge of its bucket; zero if there are no latencies.
    pub fn quantile(&self, quantile: f64) -> Duration {
        let [micros] = self.quantiles([quantile]);
        Duration::from_micros(micros)
    }

    /// Returns several quantiles in µs, computed in one pass; `quantiles` must be in increasing
    /// order.
    pub(crate) fn quantiles<const N: usize>(&self, quantiles: [f64; N]) -> [u64; N] {
        debug_assert!(quantiles.is_sorted(), "one pass finds growing quantiles");
        let rank = |quantile: f64| ((quantile * self.total as f64).ceil() as u64).max(1);
        let mut found = [0; N];
        let (mut next, mut seen) = (0, 0);
        for (bucket, count) in self.counts.used() {
            seen += count;
            while next < N && seen >= rank(quantiles[next]).min(self.total) {
                found[next] = upper_edge(bucket);
                next += 1;
            }
            if next == N {
                break;
            }
        }
        found
    }

    /// Returns the longest latency, with three digits; zero if there are no latencies.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_micros())
    }

    /// Returns [`LatencyHistogram::max`] in µs.
    pub(crate) fn max_micros(&self) -> u64 {
        self.counts.highest().map_or(0, upper_edge)
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.counts.used() {
            self.add(bucket, count);
        }
    }

    /// Adds the counts of a packed histogram. Counts of a histogram with two digits are added at
    /// the middle of their bucket.
    pub fn absorb(&mut self, packed: &Packed) {
        packed.each(|bucket, count| {
            self.add(bucket, count);
        });
    }

    /// Returns the packed form. It has three digits, or two if with three it would be longer than
    /// [`Packed::FINE_BYTES_MAX`].
    pub fn packed(&self) -> Packed {
        Packed::of_fine(self.counts.used())
    }

    /// Returns the packed form, with two digits.
    pub fn packed_coarse(&self) -> Packed {
        Packed::of_coarse(self.counts.used())
    }

    /// Resets the counts and keeps their memory.
    pub(crate) fn reset(&mut self) {
        self.counts.reset();
        self.total = 0;
    }
}

/// Returns the upper edge of a bucket in µs. It is limited to 60 s, which the edge of the last
/// bucket exceeds.
fn upper_edge(bucket: usize) -> u64 {
    let (first, width) = Buckets::FINE.bounds(bucket);
    (first + width - 1).min(u64::from(MICROS_MAX))
}
