//! Copy rate: enforces the operator's limit on the number of bytes that a move copies per second.
//!
//! **Invariant:** the average rate within a window does not exceed the limit. A window ends after 5
//! s, so that a move that was slower than the limit cannot catch up later.

use std::time::{Duration, Instant};

/// Time after which a new window begins.
const WINDOW: Duration = Duration::from_secs(5);

/// Limit on the rate of a copy, and the bytes of the current window.
#[derive(Debug)]
pub(super) struct CopyRate {
    /// Bytes per second.
    limit: Option<u64>,
    begun: Instant,
    bytes: u64,
}

impl CopyRate {
    /// Creates a limit in MiB/s.
    pub(super) fn new(limit: Option<u32>) -> Self {
        let limit = limit.map(|mebibytes| u64::from(mebibytes) << 20);
        Self { limit, begun: Instant::now(), bytes: 0 }
    }

    /// Counts bytes that were copied, and returns the time for which the move must pause.
    pub(super) fn count(&mut self, bytes: u64, now: Instant) -> Duration {
        let Some(limit) = self.limit else { return Duration::ZERO };
        if now.saturating_duration_since(self.begun) > WINDOW {
            (self.begun, self.bytes) = (now, 0);
        }
        self.bytes += bytes;
        let due = Duration::from_secs_f64(self.bytes as f64 / limit as f64);
        (self.begun + due).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_over_the_rate_wait_and_unused_time_is_not_made_up_for() {
        let mut rate = CopyRate::new(Some(2));
        let begun = rate.begun;
        assert_eq!(rate.count(4 << 20, begun), Duration::from_secs(2));
        assert_eq!(rate.count(2 << 20, begun + Duration::from_secs(2)), Duration::from_secs(1));
        let later = begun + Duration::from_secs(60);
        assert_eq!(rate.count(2 << 20, later), Duration::from_secs(1));
        assert_eq!(CopyRate::new(None).count(u64::MAX, begun), Duration::ZERO);
    }
}
