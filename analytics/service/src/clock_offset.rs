//! Clock offset: the difference between a router's clock and this machine's, so that the metrics of
//! all routers use the time of one clock.
//!
//! A router reads the clock of its system once, when it starts. If the system's clock was wrong
//! then, all times of the router are wrong: they differ from the times of other routers. If the
//! clock was ahead, then after a restart with the right clock the frames that it reported before
//! block the new frames of the same intervals. The times of such a router are shifted by whole
//! minutes, so that intervals of every length keep their boundaries.
//!
//! **Not here:** comparing the clocks periodically (`collector`).

use recorder::Step;

/// Unit of offsets, in ms: the longest interval of a frame.
const UNIT_MS: i64 = Step::Minute.seconds() as i64 * 1_000;

/// Time by which a router's clock is ahead of this machine's, in whole minutes; negative if the
/// router's clock is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClockOffset {
    ms: i64,
}

impl ClockOffset {
    /// Compares a router's clock with this machine's at the same moment, both in ms since 1970.
    pub(crate) fn between(theirs: u64, ours: u64) -> Self {
        let ms = i128::from(theirs) - i128::from(ours);
        let units = (ms + i128::from(UNIT_MS / 2)).div_euclid(i128::from(UNIT_MS));
        let ms = i64::try_from(units * i128::from(UNIT_MS));
        // A clock outside the range of `i64` is ignored here, because a response with such a time
        // has been refused before.
        Self { ms: ms.unwrap_or_default() }
    }

    /// Converts a time of the router's clock to this machine's; both in ms since 1970.
    pub(crate) fn ours(self, ms: u64) -> u64 {
        ms.saturating_add_signed(self.ms.saturating_neg())
    }

    /// Converts a time of the router's clock to this machine's; both in s since 1970.
    pub(crate) fn ours_s(self, seconds: u64) -> u64 {
        seconds.saturating_add_signed((self.ms / 1_000).saturating_neg())
    }

    /// Converts a time of this machine's clock to the router's; both in s since 1970.
    pub(crate) fn theirs(self, seconds: u64) -> u64 {
        seconds.saturating_add_signed(self.ms / 1_000)
    }

    /// Describes the difference for people; `None` if the clocks agree.
    pub(crate) fn warning(self) -> Option<String> {
        let minutes = self.ms.unsigned_abs() / UNIT_MS.unsigned_abs();
        let side = match self.ms.signum() {
            0 => return None,
            1 => "ahead of",
            _ => "behind",
        };
        Some(format!(
            "its clock is about {minutes} min {side} the clock of this service, and its times are corrected by that: \
             set the clocks of both machines by NTP, and restart the router"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moved_by_whole_minutes_and_back() {
        let now = 1_773_000_000_000_u64;
        for (apart, minutes) in
            [(0, 0), (29_999, 0), (-29_999, 0), (31_000, 1), (-31_000, -1), (3_605_000, 60)]
        {
            let offset = ClockOffset::between(now.checked_add_signed(apart).unwrap(), now);
            assert_eq!(offset.ms, minutes * 60_000, "{apart}");
            assert_eq!(offset.warning().is_some(), minutes != 0);
            assert_eq!(offset.theirs(offset.ours_s(1_773_000_000)), 1_773_000_000);
            assert_eq!(offset.ours_s(1_773_000_000) % 60, 1_773_000_000 % 60);
        }
    }

    #[test]
    fn no_time_is_too_far_away() {
        for theirs in [0, 1, u64::MAX] {
            for ours in [0, 1_773_000_000_000, u64::MAX] {
                let offset = ClockOffset::between(theirs, ours);
                for at in [0, 1, u64::MAX] {
                    let _ =
                        (offset.ours(at), offset.ours_s(at), offset.theirs(at), offset.warning());
                }
            }
        }
    }
}
