//! Window frames: selects the frames of a history from which the metrics of a window are computed.
//!
//! **Invariant:** a window begins and ends at the edges of intervals. Within it nothing is counted
//! twice, and no frame that the rings still hold is left out.
//! **Not here:** adding the frames up (`window_sums`).

use std::sync::Arc;

use super::{History, Rings};
use crate::frame::{Frame, Step};
use crate::window::Window;

/// Maximum length of a window that is read from frames of a second, in ms.
const BY_SECONDS_MAX: u64 = 900_000;
/// Maximum length of a window that is read from frames of ten seconds, in ms.
const BY_TENS_MAX: u64 = 6 * 3_600_000;

/// Frames of a window.
#[derive(Debug, Default)]
pub(crate) struct WindowFrames {
    /// Frames, oldest first; the interval of the last one may still be running.
    pub(crate) frames: Vec<Arc<Frame>>,
    /// Start of the time that the frames cover, in ms since 1970 UTC.
    pub(crate) from_ms: u64,
}

impl WindowFrames {
    /// Returns the frames of the window that ends at `at_ms`. The window's length decides which of
    /// the three lengths of intervals is preferred.
    pub(crate) fn of(history: &History, window: Window, at_ms: u64) -> Self {
        let length = window.length().as_millis() as u64;
        let base = if length <= BY_SECONDS_MAX { Step::Second } else { base_of_keys(length) };
        Self::cut(&history.rings(), at_ms.saturating_sub(length), at_ms, base)
    }

    /// Returns the frames of the window, preferring intervals of at least ten seconds, because only
    /// their frames hold keys. Frames of seconds, with that of the current second, cover the time
    /// after the last finished interval.
    pub(crate) fn with_keys(history: &History, window: Window, at_ms: u64) -> Self {
        let length = window.length().as_millis() as u64;
        let base = base_of_keys(length);
        Self::cut(&history.rings(), at_ms.saturating_sub(length), at_ms, base)
    }

    /// Selects the frames of the window from the rings. Intervals of length `base` are preferred.
    /// The time before the oldest of them is covered by longer intervals, and the time after the
    /// last finished one by shorter intervals.
    fn cut(rings: &Rings, from_ms: u64, at_ms: u64, base: Step) -> Self {
        let mut cuts = [u64::MAX, 0, 0, 0];
        let mut cut = 0;
        for at in (0..2).rev() {
            // `between` is the boundary: earlier times are read from `longer`, later ones from
            // `shorter`.
            let (shorter, longer) = (&rings.rings[at], &rings.rings[at + 1]);
            let step = longer.step.seconds();
            let reached = shorter.since.div_ceil(step).saturating_mul(step);
            let begun = shorter.since / step * step;
            let between = if longer.step <= base || shorter.since == u64::MAX {
                longer.until
            } else if reached > longer.until {
                shorter.since
            } else if begun < shorter.since && !longer.holds_more_than(shorter, begun) {
                begun
            } else {
                reached
            };
            cut = cut.max(between);
            cuts[at + 1] = cut;
        }
        let from = from_ms / 1_000;
        let mut window_frames = Self { frames: Vec::new(), from_ms: u64::MAX };
        for at in (0..3).rev() {
            let ring = &rings.rings[at];
            let (lower, upper) = (cuts[at + 1], cuts[at]);
            let served = |frame: &&Arc<Frame>| frame.start >= lower && frame.start < upper;
            let first = ring.frames.partition_point(|frame| frame.end() <= from);
            window_frames.frames.extend(ring.frames.iter().skip(first).filter(served).cloned());
            if from < upper {
                let step = ring.step.seconds();
                let begins = (from / step * step).max(lower).saturating_mul(1_000);
                window_frames.from_ms = window_frames.from_ms.min(begins);
            }
        }
        let open = rings.open.as_ref().filter(|open| open.end() > from);
        window_frames.frames.extend(open.cloned());
        window_frames.from_ms = window_frames.from_ms.max(rings.since_ms).min(at_ms);
        window_frames
    }
}

/// Returns the preferred length of intervals for a window of `length` ms if their frames must hold
/// keys.
fn base_of_keys(length: u64) -> Step {
    if length <= BY_TENS_MAX { Step::TenSeconds } else { Step::Minute }
}
