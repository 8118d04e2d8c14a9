//! Delay: the position up to which a delayed replica applies the log.
//!
//! The age of an entry is measured with a monotonic clock, from the moment at which the replica
//! first saw the entry committed. The timestamps in the log are not used, because the time of day
//! may be set back.
//!
//! **Invariant:** the position never decreases, so that entries are applied in order.
//! **Not here:** setting the delay (`fault_injector`), applying the entries (`applier`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Committed positions that a replica has seen, and the highest position that it may apply now.
#[derive(Debug, Default)]
pub(super) struct Delay {
    /// Committed positions that may not be applied yet, oldest first, each with the time at which
    /// it was first seen.
    seen: VecDeque<(Instant, u64)>,
    due: u64,
}

impl Delay {
    /// Records the position that is committed now, and returns the highest position that was
    /// already committed `delay` ago.
    pub(super) fn due(&mut self, now: Instant, committed: u64, delay: Duration) -> u64 {
        let newest = self.seen.back().map_or(self.due, |(_, position)| *position);
        if committed > newest {
            self.seen.push_back((now, committed));
        }
        while let Some((at, position)) = self.seen.front() {
            if now.saturating_duration_since(*at) < delay {
                break;
            }
            self.due = *position;
            self.seen.pop_front();
        }
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);

    #[test]
    fn without_a_delay_every_committed_entry_is_due() {
        let (mut delay, now) = (Delay::default(), Instant::now());
        assert_eq!(delay.due(now, 7, Duration::ZERO), 7);
        assert_eq!(delay.due(now, 9, Duration::ZERO), 9);
    }

    #[test]
    fn an_entry_is_due_after_the_delay_and_a_shorter_delay_takes_effect_at_once() {
        let (mut delay, start) = (Delay::default(), Instant::now());
        assert_eq!(delay.due(start, 5, Duration::ZERO), 5);
        assert_eq!(delay.due(start, 6, STEP * 3), 5);
        assert_eq!(delay.due(start + STEP, 8, STEP * 3), 5);
        assert_eq!(delay.due(start + STEP * 3, 8, STEP * 3), 6);
        assert_eq!(delay.due(start + STEP * 3, 9, STEP * 2), 8);
        assert_eq!(delay.due(start + STEP * 3, 9, Duration::ZERO), 9);
    }

    #[test]
    fn the_position_never_goes_back() {
        let (mut delay, start) = (Delay::default(), Instant::now());
        assert_eq!(delay.due(start + STEP, 5, Duration::ZERO), 5);
        assert_eq!(delay.due(start, 4, STEP), 5);
        assert_eq!(delay.due(start + STEP * 2, 5, STEP), 5);
    }
}
