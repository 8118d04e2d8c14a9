//! Series: counts of operations and response times for each second of a run, for graphs.
//!
//! **Invariant:** a series has at most [`SECONDS_MAX`] seconds; later operations are counted in the
//! last second.

use std::time::Duration;

/// Maximum number of seconds of a series: a day. Each second takes 164 bytes of memory.
const SECONDS_MAX: u64 = 86_400;
/// Number of classes of response times: two for each doubling, from 0.1 ms to 100 s.
const BUCKETS: usize = 40;
/// Upper bound of the first class, in microseconds.
const FIRST_US: f64 = 100.0;
/// Number of classes between a time and its double.
const PER_DOUBLING: f64 = 2.0;

#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    seconds: Vec<Second>,
}

/// Counts of one second.
#[derive(Clone, Debug)]
pub(crate) struct Second {
    pub(crate) failed: u32,
    /// Number of operations in each class of response times; class n ends at 0.1 ms times 2^(n/2).
    pub(crate) buckets: [u32; BUCKETS],
}

impl Default for Second {
    fn default() -> Self {
        Self { failed: 0, buckets: [0; BUCKETS] }
    }
}

impl Second {
    pub(crate) fn requests(&self) -> u64 {
        self.buckets.iter().map(|&count| u64::from(count)).sum()
    }

    /// Returns the upper bound, in milliseconds, of the class that contains the quantile `share` of
    /// the response times.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let wanted = (self.requests() as f64 * share).ceil().max(1.0) as u64;
        let mut counted = 0;
        for (bucket, &count) in self.buckets.iter().enumerate() {
            counted += u64::from(count);
            if counted >= wanted {
                return class_end_ms(bucket);
            }
        }
        0.0
    }
}

/// Returns the upper bound of a class of times, in milliseconds. The last class also contains all
/// longer times.
pub(crate) fn class_end_ms(bucket: usize) -> f64 {
    FIRST_US / 1_000.0 * (bucket as f64 / PER_DOUBLING).exp2()
}

impl Series {
    pub(super) fn add(&mut self, second: u64, time: Duration, failed: bool) {
        let index = second.min(SECONDS_MAX - 1) as usize;
        if self.seconds.len() <= index {
            self.seconds.resize_with(index + 1, Second::default);
        }
        let second = &mut self.seconds[index];
        second.failed = second.failed.saturating_add(u32::from(failed));
        let doublings = (time.as_micros() as f64 / FIRST_US).max(1.0).log2();
        let bucket = ((doublings * PER_DOUBLING).ceil() as usize).min(BUCKETS - 1);
        second.buckets[bucket] = second.buckets[bucket].saturating_add(1);
    }

    /// Returns all seconds, from the first one on.
    pub(crate) fn seconds(&self) -> &[Second] {
        &self.seconds
    }

    /// Returns the p99 of the last complete second; `None` if there is no such second, or if no
    /// operation ended in it.
    pub(super) fn last_whole_p99_ms(&self) -> Option<f64> {
        let whole = self.seconds.len().checked_sub(2).and_then(|index| self.seconds.get(index));
        whole.filter(|second| second.requests() > 0).map(|second| second.quantile_ms(0.99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_class_that_holds_it() {
        let mut series = Series::default();
        for (us, end_ms) in [(1, 0.1), (100, 0.1), (101, 0.1414), (1_600, 1.6), (1_601, 2.2627)] {
            series.add(0, Duration::from_micros(us), false);
            let bucket = series.seconds[0].buckets.iter().position(|&count| count > 0).unwrap();
            assert!((class_end_ms(bucket) - end_ms).abs() < 1e-3, "{us}");
            series = Series::default();
        }
        series.add(3, Duration::from_secs(1_000_000), true);
        assert_eq!(series.seconds().len(), 4);
        assert_eq!((series.seconds[3].failed, series.seconds[3].buckets[BUCKETS - 1]), (1, 1));
        series.add(u64::MAX, Duration::ZERO, false);
        assert_eq!(series.seconds().len(), SECONDS_MAX as usize);
    }

    #[test]
    fn a_quantile_of_a_second_is_no_less_than_it_was() {
        let mut series = Series::default();
        assert_eq!(series.last_whole_p99_ms(), None);
        (1..=100).for_each(|ms| series.add(0, Duration::from_millis(ms), false));
        assert_eq!(series.last_whole_p99_ms(), None, "the first second is not over");
        series.add(1, Duration::ZERO, false);
        let p99 = series.last_whole_p99_ms().unwrap();
        assert!((99.0..99.0 * 1.5).contains(&p99), "{p99}");
        series.add(3, Duration::ZERO, false);
        assert_eq!(series.last_whole_p99_ms(), None, "nothing ended in the second before");
    }
}
