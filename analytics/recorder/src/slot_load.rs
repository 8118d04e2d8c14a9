//! Slot load: the number of requests for each slot of the keyspace in each of the last fifteen
//! minutes.
//!
//! Advice on moving slots is computed from these numbers. Each minute has a table of its own.
//!
//! **Invariant:** there are at most [`MINUTES_MAX`] tables of finished minutes and one of the
//! running minute, 8 bytes per slot each; a minute without requests has none.
//! **Not here:** keys; `hot` counts the most requested keys.

use std::collections::VecDeque;

use crate::entry::Entry;
use crate::sample::Operation;

/// Maximum number of finished minutes.
pub(crate) const MINUTES_MAX: u64 = 15;

/// Numbers of requests for one slot of the keyspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotLoad {
    /// Number of reads.
    pub reads: u64,
    /// Number of writes.
    pub writes: u64,
}

/// Numbers of requests for each slot in each of the last minutes.
#[derive(Debug)]
pub(crate) struct SlotLoads {
    slots: usize,
    /// Tables of the finished minutes and of the running one, oldest first.
    minutes: VecDeque<Minute>,
}

#[derive(Debug)]
struct Minute {
    /// Number of the minute, counted since 1970 UTC.
    minute: u64,
    /// Numbers of reads and writes of each slot.
    counts: Box<[(u32, u32)]>,
}

impl SlotLoads {
    pub(crate) fn new(slots: usize) -> Self {
        Self { slots, minutes: VecDeque::new() }
    }

    /// Counts an entry in the running second.
    pub(crate) fn count(&mut self, entry: &Entry, second: u64) {
        let Some(slot) = entry.slot() else { return };
        let minute = second / 60;
        if self.minutes.back().is_none_or(|last| last.minute < minute) {
            self.begin(minute);
        }
        let Some(last) = self.minutes.back_mut() else { return };
        let (reads, writes) = &mut last.counts[usize::from(slot)];
        let count = match entry.operation {
            Operation::Read => reads,
            Operation::Write => writes,
        };
        *count = count.saturating_add(1);
    }

    /// Returns the number of requests for each slot in the current minute and in the `minutes`
    /// before it (at most [`MINUTES_MAX`]).
    pub(crate) fn sums(&self, second: u64, minutes: u64) -> Vec<SlotLoad> {
        let first = (second / 60).saturating_sub(minutes.min(MINUTES_MAX));
        let mut sums = vec![SlotLoad::default(); self.slots];
        for minute in self.minutes.iter().filter(|minute| minute.minute >= first) {
            for (sum, (reads, writes)) in sums.iter_mut().zip(&minute.counts) {
                sum.reads += u64::from(*reads);
                sum.writes += u64::from(*writes);
            }
        }
        sums
    }

    /// Returns the number of bytes that the tables take.
    pub(crate) fn bytes(&self) -> usize {
        self.minutes.iter().map(|minute| size_of_val(&*minute.counts)).sum()
    }

    #[cold]
    fn begin(&mut self, minute: u64) {
        let oldest = minute.saturating_sub(MINUTES_MAX);
        while self.minutes.front().is_some_and(|first| first.minute < oldest) {
            self.minutes.pop_front();
        }
        self.minutes.push_back(Minute { minute, counts: vec![(0, 0); self.slots].into() });
    }
}
