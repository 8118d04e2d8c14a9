//! Tally: counters of a lane's work, updated once for each batch.
//!
//! **Not here:** rates, which are computed from two readings of the counters.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use model::stats::{BATCH_CLASSES, LaneStats, batch_class};

use super::{BATCH_OPERATIONS_MAX, Lane, QUEUE_BYTES_MAX, QUEUE_MAX};

const _: () = assert!(
    BATCH_OPERATIONS_MAX == 1 << (BATCH_CLASSES - 1),
    "the classes end with the largest batch"
);

/// Counters of a lane. Only the loop of the lane updates them, except `refused`, which the sending
/// side of the queue updates.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Number of operations (at most one) that were taken from the queue and still wait for their
    /// batch.
    held: AtomicUsize,
    /// Number of operations in the batch that is being applied.
    applying: AtomicUsize,
    batches: AtomicU64,
    operations: AtomicU64,
    rows: AtomicU64,
    /// Number of operations that were refused because their tenant had more than half of the queue.
    refused: AtomicU64,
    largest: AtomicU64,
    sizes: [AtomicU64; BATCH_CLASSES],
    /// Total time spent on changes for moves of slots, in microseconds.
    move_micros: AtomicU64,
}

impl Tally {
    /// Records how many operations were taken from the queue and still wait for their batch.
    pub(super) fn hold(&self, operations: usize) {
        self.held.store(operations, Ordering::Relaxed);
    }

    /// Records the size of the batch that begins, or 0 after the results of the batch were sent.
    pub(super) fn apply(&self, operations: usize) {
        self.held.store(0, Ordering::Relaxed);
        self.applying.store(operations, Ordering::Relaxed);
    }

    /// Records an operation that was refused because its tenant had more than half of the queue.
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a durable batch. Called before the results are sent, so that a client that has
    /// received its result finds the write counted.
    pub(super) fn add(&self, operations: usize, rows: usize) {
        let size = operations as u64;
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.operations.fetch_add(size, Ordering::Relaxed);
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.largest.fetch_max(size, Ordering::Relaxed);
        self.sizes[batch_class(operations)].fetch_add(1, Ordering::Relaxed);
    }

    /// Records the time that a change for a move took. Called before the result of the change is
    /// sent, so that the mover, the task that carries out moves, finds the time counted.
    pub(super) fn add_move(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.move_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Lane {
    /// Returns the present load of the lane and its counters.
    pub fn stats(&self) -> LaneStats {
        let tally = &self.state.tally;
        LaneStats {
            lanes: 1,
            waiting: (self.queue.waiting() + tally.held.load(Ordering::Relaxed))
                .saturating_sub(self.state.pulse.probes()),
            waiting_bytes: self.queued_bytes.load(Ordering::Relaxed),
            applying: tally.applying.load(Ordering::Relaxed),
            waiting_max: QUEUE_MAX,
            waiting_bytes_max: QUEUE_BYTES_MAX,
            waits_for_node: self.waits(),
            batches: tally.batches.load(Ordering::Relaxed),
            operations: tally.operations.load(Ordering::Relaxed),
            rows: tally.rows.load(Ordering::Relaxed),
            refused: tally.refused.load(Ordering::Relaxed),
            largest_batch: tally.largest.load(Ordering::Relaxed),
            batch_sizes: std::array::from_fn(|class| tally.sizes[class].load(Ordering::Relaxed)),
            move_time: Duration::from_micros(tally.move_micros.load(Ordering::Relaxed)),
        }
    }
}
