//! Clock: unix time that never runs backwards.
//!
//! The clock of the system is read once, at the start, and monotonic time is added to it. So no
//! interval occurs twice in a ring of the history, even if the clock of the machine is changed.
//!
//! **Not here:** the times of errors. Those are read from the system's clock, because people
//! compare them with other logs.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Time of the system at the start, advanced by monotonic time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_ms: u64,
}

impl Clock {
    /// Creates a clock that begins at the current time of the system.
    pub(crate) fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::at(unix.as_millis() as u64)
    }

    /// Creates a clock whose current time is `started_ms`.
    pub(crate) fn at(started_ms: u64) -> Self {
        Self { started: Instant::now(), started_ms }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Returns the start in ms since 1970 UTC.
    pub(crate) fn started_ms(&self) -> u64 {
        self.started_ms
    }

    /// Returns the time in ms since 1970 UTC.
    pub(crate) fn ms(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.started);
        self.started_ms.saturating_add(elapsed.as_millis() as u64)
    }
}
