//! Times: the distribution of the response times of many operations.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest time that is distinguished from longer ones, in microseconds: the maximum of
/// `--timeout`.
const TIME_US_MAX: u64 = 600_000_000;
/// Number of significant digits of a time. The precision of 0.1 % is finer than the difference
/// between any two runs.
const DIGITS: u8 = 3;
/// Number of significant digits of a time if there are many histograms.
const DIGITS_COARSE: u8 = 2;

/// Distribution of the times of operations, including failed ones.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self::with_digits(DIGITS)
    }
}

impl Times {
    /// Creates a distribution with a precision of one percent, which takes a tenth of the memory.
    pub(crate) fn coarse() -> Self {
        Self::with_digits(DIGITS_COARSE)
    }

    fn with_digits(digits: u8) -> Self {
        let empty = Histogram::new_with_bounds(1, TIME_US_MAX, digits);
        Self(empty.expect("the bounds are constants within what a histogram takes"))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(TIME_US_MAX));
    }

    /// Adds the times of another distribution.
    pub(crate) fn merge(&mut self, other: &Self) {
        for counted in other.0.iter_recorded() {
            self.0.saturating_record_n(counted.value_iterated_to(), counted.count_at_value());
        }
    }

    /// Returns the number of operations.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// Returns the quantile `share` (0.0 to 1.0) of the times, in milliseconds; 0 if there were no
    /// operations.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(2);

    #[test]
    fn times_are_kept_to_a_thousandth_and_never_refused() {
        let mut times = Times::default();
        assert_eq!((times.count(), times.quantile_ms(0.5)), (0, 0.0));
        for time in [Duration::ZERO, TIME, Duration::MAX] {
            times.add(time);
        }
        assert_eq!(times.count(), 3);
        assert!((1.998..2.002).contains(&times.quantile_ms(0.5)));
        assert!(times.quantile_ms(1.0) > 599_000.0);
        let mut both = Times::coarse();
        both.merge(&times);
        assert_eq!(both.count(), 3);
    }
}
