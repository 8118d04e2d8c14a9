//! Ring index: lists the stored frames of one ring of a source, and chooses the frames that stay
//! stored.
//!
//! **Invariant:** stored frames have at most `bytes_max` bytes together and are not older than the
//! ring allows; the oldest are removed first.
//! **Not here:** reading and writing frames (`store/history_writer`).

use std::collections::BTreeMap;

use super::row::Row;
use crate::frame::Step;

/// Stored frames of one step of a source: the size of each frame in bytes, by its start.
#[derive(Default)]
pub(super) struct RingIndex {
    frames: BTreeMap<u64, u64>,
    bytes: u64,
}

impl RingIndex {
    /// Adds a frame of this start and size.
    pub(super) fn add(&mut self, start: u64, bytes: u64) {
        self.bytes += bytes;
        self.bytes -= self.frames.insert(start, bytes).unwrap_or_default();
    }

    /// Returns the start of the last frame; 0 if there is none.
    pub(super) fn newest(&self) -> u64 {
        self.frames.last_key_value().map_or(0, |(start, _)| *start)
    }

    /// Returns the start of the first frame; [`u64::MAX`] if there is none.
    pub(super) fn oldest(&self) -> u64 {
        self.frames.first_key_value().map_or(u64::MAX, |(start, _)| *start)
    }

    /// Returns true if there are no frames.
    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Returns the start of the first frame to keep, in s since 1970 UTC, if these rows are added.
    /// Frames that start earlier are too old or exceed the size limit.
    pub(super) fn first_to_keep(&self, step: Step, rows: &[Row]) -> u64 {
        let newest = rows.last().map_or(self.newest(), |row| row.start as u64);
        let mut first = newest.saturating_sub(ring_s(step));
        let coming: u64 = rows.iter().map(|row| row.frame.len() as u64).sum();
        let mut excess = (self.bytes + coming).saturating_sub(bytes_max(step));
        for (start, bytes) in &self.frames {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(*bytes);
            first = first.max(start + 1);
        }
        first
    }

    /// Removes the frames that start at this second or later.
    pub(super) fn forget_from(&mut self, second: u64) {
        let removed = self.frames.split_off(&second);
        self.bytes -= removed.values().sum::<u64>();
    }

    /// Adds written rows, and removes the frames before `first`.
    pub(super) fn note(&mut self, rows: &[Row], first: u64) {
        rows.iter().for_each(|row| self.add(row.start as u64, row.frame.len() as u64));
        let stay = self.frames.split_off(&first);
        self.bytes -= self.frames.values().sum::<u64>();
        self.frames = stay;
    }
}

/// Returns the maximum number of bytes that the frames of one step of a source may have. A typical
/// cluster needs a tenth of this limit.
const fn bytes_max(step: Step) -> u64 {
    match step {
        Step::Second => 32 << 20,
        Step::TenSeconds => 64 << 20,
        Step::Minute => 128 << 20,
    }
}

/// Returns the time that a ring covers, in s.
pub(super) const fn ring_s(step: Step) -> u64 {
    step.seconds() * step.intervals_kept()
}

/// Returns the value of the column `step` of a row, in s.
pub(super) fn seconds_of(step: Step) -> i32 {
    step.seconds() as i32
}
