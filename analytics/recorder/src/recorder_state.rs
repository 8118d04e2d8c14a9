//! RecorderState: what a recorder, its thread and its workers have in common.
//!
//! **Invariant:** the ledger's lock is taken by the thread that drains, by who asks for figures, and by a worker whose
//! queue is full; never to record.
//! **Not here:** the two ends of it (`recorder`, `worker`), the sums (`aggregator`).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crate::aggregator::Aggregator;
use crate::clock::Clock;
use crate::entry::Shape;
use crate::history::History;

/// How often queues are drained while requests come.
const DRAIN_EVERY: Duration = Duration::from_millis(100);

/// What a recorder, its thread and its workers share.
#[derive(Debug)]
pub(crate) struct RecorderState {
    pub(crate) clock: Clock,
    pub(crate) shape: Shape,
    /// Of the keys' hashes: nobody can choose keys that share a counter.
    pub(crate) seed: u64,
    aggregator: Mutex<Aggregator>,
    history: Arc<History>,
    in_flight: Mutex<Vec<Arc<InFlightCounter>>>,
    drainer: OnceLock<Thread>,
    ends: AtomicBool,
}

/// Requests that a worker is answering, alone on its cache lines so that workers do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct InFlightCounter(pub(crate) AtomicU64);

impl RecorderState {
    pub(crate) fn new(
        clock: Clock,
        shape: Shape,
        seed: u64,
        aggregator: Aggregator,
        history: Arc<History>,
    ) -> Self {
        Self {
            clock,
            shape,
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

    /// Counts what workers left up to `ms`. Tells how many entries there were.
    pub(crate) fn drain(&self, ms: u64) -> usize {
        self.aggregator().drain(ms / 1_000)
    }

    /// Has the queues drained soon.
    pub(crate) fn wake(&self) {
        if let Some(drainer) = self.drainer.get() {
            drainer.unpark();
        }
    }

    /// Has the thread that drains come to its end.
    pub(crate) fn end(&self) {
        self.ends.store(true, Ordering::Release);
        self.wake();
    }

    /// What the recorder's thread does.
    pub(crate) fn drain_until_end(&self) {
        // Set once, here.
        let _ = self.drainer.set(thread::current());
        while !self.ends.load(Ordering::Acquire) {
            let ms = self.clock.ms(Instant::now());
            let drained = self.drain(ms);
            // Nobody asks: then it is enough to close each second when it has ended.
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
