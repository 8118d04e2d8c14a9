//! Five seconds of counts and latencies, per label: running, finished, or summed over a window.
//!
//! A [`Sheet`] is the open form: one [`Cell`] per label and a last one for "several shards or
//! none". A [`FinishedSlot`] is the closed form, which holds only labels that were used.
//!
//! **Invariant:** closing a sheet and adding it to an empty one gives the same counts.
//! **Not here:** no locks and no clock; `recorder` decides when a slot ends.

use std::time::Duration;

use crate::histogram::{EncodedHistogram, LatencyHistogram};
use crate::sample::{Operation, Outcome};
use crate::stripe::Entry;

/// Length of a slot. Short enough for a curve, long enough that an hour is 720 of them.
pub(crate) const SLOT_LENGTH: Duration = Duration::from_secs(5);

/// The number of the slot that is running `at` after the start.
pub(crate) fn slot_at(at: Duration) -> u64 {
    at.as_secs() / SLOT_LENGTH.as_secs()
}

/// When slot `index` begins, after the start.
pub(crate) fn slot_start(index: u64) -> Duration {
    Duration::from_secs(index.saturating_mul(SLOT_LENGTH.as_secs()))
}

/// What was counted for one label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) errors_client: u64,
    pub(crate) errors_server: u64,
    /// Sum of all latencies.
    pub(crate) micros: u64,
}

impl Tally {
    pub(crate) fn total(&self) -> u64 {
        self.reads + self.writes
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors_client + self.errors_server
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        let Tally { reads, writes, errors_client, errors_server, micros } = other;
        self.reads += reads;
        self.writes += writes;
        self.errors_client += errors_client;
        self.errors_server += errors_server;
        self.micros += micros;
    }

    fn count(&mut self, entry: Entry) {
        match entry.operation {
            Operation::Read => self.reads += 1,
            Operation::Write => self.writes += 1,
        }
        match entry.outcome {
            Outcome::Success => {}
            Outcome::ClientError => self.errors_client += 1,
            Outcome::ServerError => self.errors_server += 1,
        }
        self.micros += u64::from(entry.micros);
    }
}

/// Counts and latencies of one label.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    pub(crate) tally: Tally,
    pub(crate) latencies: LatencyHistogram,
}

/// One cell per label, and the last for requests of several shards or none.
#[derive(Clone, Debug)]
pub(crate) struct Sheet {
    pub(crate) cells: Vec<Cell>,
}

impl Sheet {
    pub(crate) fn new(shards: usize) -> Self {
        Self { cells: std::iter::repeat_with(Cell::default).take(shards + 1).collect() }
    }

    pub(crate) fn count(&mut self, entry: Entry) {
        let cell = &mut self.cells[usize::from(entry.label)];
        cell.tally.count(entry);
        cell.latencies.record_micros(entry.micros);
    }

    pub(crate) fn add(&mut self, slot: &FinishedSlot) {
        for used in &slot.used {
            let cell = &mut self.cells[usize::from(used.label)];
            cell.tally.add(&used.tally);
            cell.latencies.merge_encoded(&used.latencies);
        }
    }

    /// Closes the sheet as slot `index` and leaves it empty. `None` when nothing was counted.
    pub(crate) fn finish(&mut self, index: u64) -> Option<FinishedSlot> {
        let mut used = Vec::new();
        for (label, cell) in (0..).zip(&mut self.cells) {
            if cell.tally.total() == 0 {
                continue; // Untouched memory stays untouched: idle shards cost nothing.
            }
            used.push(UsedCell { label, tally: cell.tally, latencies: cell.latencies.encode() });
            cell.tally = Tally::default();
            cell.latencies.reset();
        }
        (!used.is_empty()).then(|| FinishedSlot { index, used: used.into() })
    }
}

/// A slot that has ended; nothing changes in it.
#[derive(Debug)]
pub(crate) struct FinishedSlot {
    pub(crate) index: u64,
    used: Box<[UsedCell]>,
}

#[derive(Debug)]
struct UsedCell {
    label: u16,
    tally: Tally,
    latencies: EncodedHistogram,
}

impl FinishedSlot {
    /// Bytes it takes, without the allocator's own.
    pub(crate) fn size_bytes(&self) -> usize {
        let latencies: usize = self.used.iter().map(|cell| cell.latencies.size_bytes()).sum();
        size_of::<Self>() + size_of_val(&*self.used) + latencies
    }
}
