//! Clock: timestamps that this process and other processes can compare.
//!
//! **Not here:** the comparison of timestamps (`proof`).

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::proof::ClockReading;

/// The monotonic clock of this process, and the system clock.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) process: u64,
    epoch: Instant,
}

impl Clock {
    pub(super) fn new() -> Self {
        Self { process: uuid::Uuid::new_v4().as_u64_pair().0, epoch: Instant::now() }
    }

    pub(super) fn now(&self) -> ClockReading {
        self.moment(Instant::now())
    }

    /// Returns the microseconds from the creation of this clock to `at`; 0 if `at` is earlier.
    pub(super) fn own(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }

    /// Returns the values of both clocks at an instant in the past.
    pub(super) fn moment(&self, at: Instant) -> ClockReading {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |since| since.as_micros() as i64);
        let own = match at.checked_duration_since(self.epoch) {
            Some(since) => since.as_micros() as i64,
            // The value is rounded down, as positive values are.
            None => -(self.epoch.duration_since(at).as_micros() as i64) - 1,
        };
        let wall = wall - at.elapsed().as_micros() as i64;
        ClockReading { process: self.process, own, wall }
    }
}
