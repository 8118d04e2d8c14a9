//! Ahead: how far a router's clock goes before this machine's, so that what it counted is told at
//! the times of one clock.
//!
//! A router reads its system's clock once, when it starts. If that was wrong then, all that it
//! tells lies in another time: beside what other routers told, and in the way of what it will tell
//! itself when it was started again with a clock that is right. Here its times are moved, by whole
//! minutes: so slots of any length stay what they are.
//!
//! **Not here:** when clocks are compared (`service/collector`).

use crate::frame::Step;

/// The longest slot, in ms.
const UNIT_MS: i64 = Step::Minute.seconds() as i64 * 1_000;

/// By how much a clock is ahead of ours: whole minutes, less than none if it is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    ms: i64,
}

impl Ahead {
    /// Between what a router's clock says, and ours at that moment, both in ms since 1970.
    pub(super) fn between(theirs: u64, ours: u64) -> Self {
        let ms = i128::from(theirs) - i128::from(ours);
        let units = (ms + i128::from(UNIT_MS / 2)).div_euclid(i128::from(UNIT_MS));
        let ms = i64::try_from(units * i128::from(UNIT_MS));
        // A clock that cannot be compared is none: what it tells is refused before.
        Self { ms: ms.unwrap_or_default() }
    }

    /// A time of the router, as ours; in ms since 1970.
    pub(super) fn ours(self, ms: u64) -> u64 {
        ms.saturating_add_signed(self.ms.saturating_neg())
    }

    /// The same in s.
    pub(super) fn ours_s(self, seconds: u64) -> u64 {
        seconds.saturating_add_signed((self.ms / 1_000).saturating_neg())
    }

    /// A time of ours, as the router's; in s since 1970.
    pub(super) fn theirs(self, seconds: u64) -> u64 {
        seconds.saturating_add_signed(self.ms / 1_000)
    }

    /// What people should know of it; nothing if the clocks go alike.
    pub(super) fn told(self) -> Option<String> {
        let minutes = self.ms.unsigned_abs() / UNIT_MS.unsigned_abs();
        let side = match self.ms.signum() {
            0 => return None,
            1 => "ahead of",
            _ => "behind",
        };
        Some(format!(
            "its clock is about {minutes} min {side} the clock of this service, and its times are moved by that: set the \
             clocks of both machines by NTP, and start the router again"
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
            let ahead = Ahead::between(now.checked_add_signed(apart).unwrap(), now);
            assert_eq!(ahead.ms, minutes * 60_000, "{apart}");
            assert_eq!(ahead.told().is_some(), minutes != 0);
            assert_eq!(ahead.theirs(ahead.ours_s(1_773_000_000)), 1_773_000_000);
            assert_eq!(ahead.ours_s(1_773_000_000) % 60, 1_773_000_000 % 60);
        }
    }

    #[test]
    fn no_time_is_too_far_away() {
        for theirs in [0, 1, u64::MAX] {
            for ours in [0, 1_773_000_000_000, u64::MAX] {
                let ahead = Ahead::between(theirs, ours);
                for at in [0, 1, u64::MAX] {
                    let _ = (ahead.ours(at), ahead.ours_s(at), ahead.theirs(at), ahead.told());
                }
            }
        }
    }
}
