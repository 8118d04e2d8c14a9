//! Recorder state: the state shared by a recorder, its thread and its workers.
//!
//! **Invariant:** the lock of the aggregator is taken by the draining thread, by queries, and by a
//! worker whose queue is full. A worker whose queue has room records requests without this lock.
//! **Not here:** filling and draining the queues (`worker`, `recorder`), adding up (`aggregator`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::aggregator::Aggregator;
use crate::clock::Clock;
use crate::entry::Shape;
use crate::history::History;
use crate::shard_labels::ShardLabels;

/// Time between two drains of the queues while there are requests.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// State shared by a recorder, its thread and its workers.
#[derive(Debug)]
pub(crate) struct RecorderState {
    pub(crate) clock: Clock,
    pub(crate) shape: Shape,
    pub(crate) shards: Arc<ShardLabels>,
    /// Random seed of the hashes of keys, so that clients cannot choose keys whose hashes collide
    /// in one counter.
    pub(crate) seed: u64,
    aggregator: Mutex<Aggregator>,
    history: Arc<History>,
    in_flight: Mutex<Vec<Arc<InFlightCounter>>>,
    drainer: OnceLock<Thread>,
    ends: AtomicBool,
}

/// Number of requests that a worker is answering, on cache lines of its own so that workers do not
/// slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct InFlightCounter(pub(crate) AtomicU64);

impl RecorderState {
    pub(crate) fn new(
        clock: Clock,
        (shape, shards): (Shape, Arc<ShardLabels>),
        seed: u64,
        aggregator: Aggregator,
        history: Arc<History>,
    ) -> Self {
        Self {
            clock,
            shape,
            shards,
            seed,
            aggregator: Mutex::new(aggregator),
            history,
            in_flight: Mutex::default(),
            drainer: OnceLock::new(),
            ends: AtomicBool::new(false),
        }
    }

    pub(crate) fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// Counts the entries that workers queued up to `ms`, and returns how many there were.
    pub(crate) fn drain(&self, ms: u64) -> usize {
        self.aggregator().drain(ms / 1_000)
    }

    /// Wakes the thread that drains the queues.
    pub(crate) fn wake(&self) {
        if let Some(drainer) = self.drainer.get() {
            drainer.unpark();
        }
    }

    /// Ends the thread that drains the queues.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Release);
        self.wake();
    }

    /// Drains the queues until the recorder ends. The recorder's thread runs this method.
    pub(crate) fn drain_until_end(&self) {
        // An error would mean that the cell is set already, but only this line sets it, once.
        let _ = self.drainer.set(thread::current());
        while !self.ends.load(Ordering::Acquire) {
            let ms = self.clock.ms(Instant::now());
            let drained = self.drain(ms);
            // Without requests, the thread needs to wake only at the end of each second, to close
            // it.
            let second_ends = Duration::from_millis(1_000 - ms % 1_000);
            thread::park_timeout(if drained > 0 { DRAIN_EVERY } else { second_ends });
        }
    }

    pub(crate) fn aggregator(&self) -> MutexGuard<'_, Aggregator> {
        self.aggregator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn in_flight(&self) -> MutexGuard<'_, Vec<Arc<InFlightCounter>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
