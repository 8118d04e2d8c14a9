//! Measured time: the intervals in which the recorders of one or several histories ran.
//!
//! **Invariant:** an interval that no recorder measured can be distinguished from an interval
//! without requests.
//! **Not here:** the frames (`history`).

use super::{History, WindowFrames};
use crate::frame::Step;
use crate::measured_intervals::MeasuredIntervals;

/// Times in which the recorders of one history ran.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Start of the time from which on requests are known, in s since 1970 UTC.
    pub(super) since: u64,
    /// End of the time whose frames were removed because of the memory limit, in s since 1970 UTC;
    /// 0 if there is none.
    pub(super) lost: u64,
    pub(super) counted: MeasuredIntervals,
    pub(super) counting_since: Option<u64>,
}

impl Measured {
    /// Returns the times in which the recorders of a history ran.
    pub(crate) fn of(history: &History) -> Self {
        let rings = history.rings();
        // Intervals that the ring of minutes has dropped are in no other ring, because the others
        // cover less time.
        let longest = &rings.rings[Step::Minute.index()];
        Self {
            since: rings.since_ms / 1_000,
            lost: if longest.dropped > 0 { longest.since } else { 0 },
            counted: rings.counted.clone(),
            counting_since: rings.counting_since,
        }
    }

    /// Returns a function that decides whether an interval (from, until) was measured. The function
    /// returns true if a recorder of any of these histories ran in the interval, or if the interval
    /// ends before the earliest start of all histories (`history.oldest` in a response). It returns
    /// false for gaps between the times in which recorders ran, and after the last such time.
    /// Histories without reported times are ignored; if none has any, the function always returns
    /// true.
    pub(crate) fn any_measured(all: &[Self]) -> impl Fn(u64, u64) -> bool {
        let reporting = || all.iter().filter(|one| one.has_reports());
        let since = reporting().map(|one| one.since).min();
        move |from, until| {
            since.is_none_or(|since| until <= since)
                || reporting().any(|one| one.touches(from, until))
        }
    }

    /// Returns the times, in s since 1970 UTC, in which any of these recorders ran, up to `at_ms`;
    /// `None` if no recorder has reported when it ran. Intervals of frames outside all reported
    /// times are included.
    pub(crate) fn counted_times(
        all: &[Self],
        window_frames: &WindowFrames,
        at_ms: u64,
    ) -> Option<CountedTimes> {
        let reporting = || all.iter().filter(|one| one.has_reports());
        reporting().next()?;
        let report = reporting().flat_map(|one| {
            let own = one.counting_since.map(|since| (since, at_ms.div_ceil(1_000)));
            one.counted.as_slice().iter().copied().chain(own)
        });
        let reported: MeasuredIntervals = report.collect();
        let mut counted = reported.clone();
        for frame in &window_frames.frames {
            if !counted.touch(frame.start, frame.end()) {
                counted.add((frame.start, frame.end()));
            }
        }
        Some(CountedTimes { reported, counted })
    }

    /// Returns the part of a window in which recorders ran, in ms, or the length of the whole
    /// window if that is unknown.
    pub(crate) fn counted_ms(
        times: Option<&CountedTimes>,
        window_frames: &WindowFrames,
        at_ms: u64,
    ) -> u64 {
        let Some(times) = times else { return at_ms.saturating_sub(window_frames.from_ms) };
        let within = times.counted.as_slice().iter().map(|(from, until)| {
            let until = until.saturating_mul(1_000).min(at_ms);
            until.saturating_sub(from.saturating_mul(1_000).max(window_frames.from_ms))
        });
        within.sum()
    }

    fn has_reports(&self) -> bool {
        self.counting_since.is_some() || !self.counted.as_slice().is_empty()
    }

    fn touches(&self, from: u64, until: u64) -> bool {
        until > self.lost
            && (self.counted.touch(from, until)
                || self.counting_since.is_some_and(|since| until > since))
    }
}

/// Times in which recorders ran, in s since 1970 UTC.
#[derive(Clone, Debug)]
pub(crate) struct CountedTimes {
    /// Times that the recorders reported.
    reported: MeasuredIntervals,
    /// The reported times, and the intervals of frames outside them.
    counted: MeasuredIntervals,
}

impl CountedTimes {
    /// Returns the number of seconds of an interval in which a recorder ran; `None` if no recorder
    /// reported any part of the interval.
    pub(crate) fn seconds_within(&self, from: u64, until: u64) -> Option<u64> {
        let is_reported = self.reported.touch(from, until);
        is_reported.then(|| self.counted.seconds_within(from, until))
    }
}
