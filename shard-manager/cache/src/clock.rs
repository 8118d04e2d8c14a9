//! Clock: readings of time that this process and other processes can compare.
//!
//! **Not here:** comparing the readings (`proof`).

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::proof::ClockReading;

/// The clocks of this process.
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

    /// Returns the microseconds from the beginning of this process to `at`; 0 for earlier moments.
    pub(super) fn own(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }

    /// Returns the reading of both clocks at a past instant.
    pub(super) fn moment(&self, at: Instant) -> ClockReading {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        let wall = wall.map_or(0, |since| since.as_micros() as i64);
        let own = match at.checked_duration_since(self.epoch) {
            Some(since) => since.as_micros() as i64,
            // Rounded down, like every reading of these clocks.
            None => -(self.epoch.duration_since(at).as_micros() as i64) - 1,
        };
        let wall = wall - at.elapsed().as_micros() as i64;
        ClockReading { process: self.process, own, wall }
    }
}
