//! Roll-up: makes frames of ten seconds and of a minute from the shorter frames in the store, for
//! the intervals that were unfinished when a process ended.
//!
//! A crash loses only the last few seconds. Without the roll-up, however, windows that are read
//! from frames of a minute would miss the whole minute of the crash.
//!
//! **Not here:** reading stored frames (`store/history_writer`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::frame::{Frame, Step};
use crate::history::History;
use crate::merge::merged;

/// Stored frames that lie in a longer interval without a stored frame, by the start of the longer
/// interval.
#[derive(Default)]
pub(super) struct RollUp {
    tens: BTreeMap<u64, Vec<Arc<Frame>>>,
    minutes: BTreeMap<u64, Vec<Arc<Frame>>>,
}

impl RollUp {
    /// Adds a stored frame if its longer interval has no stored frame. `newest` holds the start of
    /// the last stored frame of each step.
    pub(super) fn note(&mut self, frame: &Frame, newest: [u64; 3]) {
        let [_, ten, minute] = newest;
        match frame.step {
            Step::Second if interval_start(frame, Step::TenSeconds) > ten => {
                let frames = self.tens.entry(interval_start(frame, Step::TenSeconds)).or_default();
                frames.push(Arc::new(frame.clone()));
            }
            Step::TenSeconds if interval_start(frame, Step::Minute) > minute => {
                self.note_ten(frame)
            }
            Step::Second | Step::TenSeconds | Step::Minute => {}
        }
    }

    fn note_ten(&mut self, frame: &Frame) {
        let frames = self.minutes.entry(interval_start(frame, Step::Minute)).or_default();
        frames.push(Arc::new(frame.clone()));
    }

    /// Adds the frames of the longer intervals to a history. A frame whose interval has ended by
    /// `now` is complete. Any other frame is completed by the running recorder when its interval
    /// ends.
    pub(super) fn give(mut self, history: &History, now: u64, newest_minute: u64) {
        let give = |frame: Frame| {
            if frame.end() <= now {
                history.absorb(frame);
            } else {
                history.resume(frame);
            }
        };
        for (start, frames) in std::mem::take(&mut self.tens) {
            let frame = merged(Step::TenSeconds, start, &frames);
            if interval_start(&frame, Step::Minute) > newest_minute {
                self.note_ten(&frame);
            }
            give(frame);
        }
        for (start, frames) in self.minutes {
            give(merged(Step::Minute, start, &frames));
        }
    }
}

/// Returns the start of the longer interval that contains a frame.
fn interval_start(frame: &Frame, step: Step) -> u64 {
    frame.start / step.seconds() * step.seconds()
}
