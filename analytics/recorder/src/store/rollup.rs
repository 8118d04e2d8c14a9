//! Roll-up: slots of ten seconds and of a minute that had not ended when a process did, from the shorter ones that were
//! kept of them.
//!
//! Without it, a crash would lose up to a minute of every window that is read from slots of a minute, though no more than
//! the last seconds of it are lost.
//!
//! **Not here:** which slots were kept (`store/history_writer`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::frame::{Frame, Step};
use crate::history::History;
use crate::merge::merged;

/// Frames whose longer slots were not kept.
#[derive(Default)]
pub(super) struct RollUp {
    tens: BTreeMap<u64, Vec<Arc<Frame>>>,
    minutes: BTreeMap<u64, Vec<Arc<Frame>>>,
}

impl RollUp {
    /// Takes note of a frame that was kept; `newest` is the last slot of each step that was.
    pub(super) fn note(&mut self, frame: &Frame, newest: [u64; 3]) {
        let [_, ten, minute] = newest;
        match frame.step {
            Step::Second if slot(frame, Step::TenSeconds) > ten => {
                let frames = self.tens.entry(slot(frame, Step::TenSeconds)).or_default();
                frames.push(Arc::new(frame.clone()));
            }
            Step::TenSeconds if slot(frame, Step::Minute) > minute => self.note_ten(frame),
            Step::Second | Step::TenSeconds | Step::Minute => {}
        }
    }

    fn note_ten(&mut self, frame: &Frame) {
        let frames = self.minutes.entry(slot(frame, Step::Minute)).or_default();
        frames.push(Arc::new(frame.clone()));
    }

    /// Gives the longer slots to a history: those that have ended by `now` as they are, the running ones to go on with.
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
            if slot(&frame, Step::Minute) > newest_minute {
                self.note_ten(&frame);
            }
            give(frame);
        }
        for (start, frames) in self.minutes {
            give(merged(Step::Minute, start, &frames));
        }
    }
}

/// The longer slot in which a frame lies.
fn slot(frame: &Frame, step: Step) -> u64 {
    frame.start / step.seconds() * step.seconds()
}
