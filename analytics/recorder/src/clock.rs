//! Clock: unix time that never runs backwards.
//!
//! The system's clock is read once, at the start, and monotonic time is added to it. Therefore no
//! interval occurs twice in the history, even if the machine's clock is set back.
//!
//! **Not here:** the times of errors. Those are read from the system's clock, because people
//! compare them with other logs.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Clock that starts with the system's time and advances by monotonic time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_ms: u64,
}

impl Clock {
    /// Creates a clock that begins at the system's current time.
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
