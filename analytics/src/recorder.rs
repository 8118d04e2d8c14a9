//! The façade: takes samples from many threads, answers with [`Metrics`].
//!
//! Threads leave entries in their stripes. The *ledger* has the running slot and a ring of finished
//! ones; it is rolled when somebody comes by after a slot has ended, so no timer and no thread is
//! needed.
//!
//! **Invariant:** every sample is counted exactly once, in the slot that runs when it is recorded
//! (a sample that races with the end of a slot may count in the one before).
//! **Invariant:** the ring holds at most [`SLOTS_KEPT_MAX`] slots. The ledger's lock is taken
//! before a stripe's, never after.
//! **Not here:** the sums (`slot`), the figures (`metrics`), any unit but [`Duration`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Metrics;
use crate::sample::Sample;
use crate::slot::{FinishedSlot, SLOT_LENGTH, Sheet, slot_at, slot_start};
use crate::stripe::{Entry, Stripes};
use crate::window::Window;

/// Finished slots kept: an hour, the longest window.
const SLOTS_KEPT_MAX: u64 = Window::MAX.length().as_secs() / SLOT_LENGTH.as_secs();
/// Labels of one recorder. The running slot takes 68 KiB for each: 68 MiB at most.
const SHARDS_MAX: usize = 1_024;

/// Counts data requests and their latencies over the last hour. Share it by reference or `Arc`.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    shards: Vec<String>,
    stripes: Stripes,
    /// Number of the running slot; a copy of the ledger's, to be read without its lock.
    running: AtomicU64,
    ledger: Mutex<Ledger>,
}

/// What has left the stripes.
#[derive(Debug)]
struct Ledger {
    running: u64,
    sheet: Sheet,
    /// Oldest first; slots without requests are left out.
    finished: VecDeque<Arc<FinishedSlot>>,
}

impl Recorder {
    /// A recorder for these shard labels; their order is the order of every answer. Time starts
    /// now.
    ///
    /// # Panics
    /// With more than 1,024 labels, or with the same label twice.
    pub fn new(shards: Vec<String>) -> Self {
        assert!(shards.len() <= SHARDS_MAX, "at most {SHARDS_MAX} shard labels");
        let repeated = shards.iter().enumerate().find(|(at, shard)| shards[..*at].contains(shard));
        assert!(repeated.is_none(), "shard labels are distinct: {repeated:?}");
        let sheet = Sheet::new(shards.len());
        Self {
            started: Instant::now(),
            shards,
            stripes: Stripes::new(),
            running: AtomicU64::new(0),
            ledger: Mutex::new(Ledger { running: 0, sheet, finished: VecDeque::new() }),
        }
    }

    /// Counts one request, now. From any thread.
    pub fn record(&self, sample: &Sample) {
        self.record_at(sample, self.started.elapsed());
    }

    /// Counts one request at a time since the start of the recorder. For a caller that has just
    /// read the clock, and for tests. Time that runs backwards counts in the running slot.
    pub fn record_at(&self, sample: &Sample, at: Duration) {
        if slot_at(at) > self.running.load(Ordering::Relaxed) {
            self.roll_unless_busy(at);
        }
        let shards = self.shards.len() as u16; // At most SHARDS_MAX.
        if self.stripes.push(Entry::of(sample, shards)) {
            let mut ledger = self.ledger();
            self.stripes.drain_own(|entry| ledger.sheet.count(entry));
        }
    }

    /// When the recorder began to count.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// What happened in the window that ends now. Takes about 20 µs per slot of 5 s and label: 5 ms
    /// for five minutes of four shards, so call it where blocking is allowed.
    pub fn snapshot(&self, window: Window) -> Metrics {
        self.snapshot_at(window, self.started.elapsed())
    }

    /// [`Recorder::snapshot`] at a time since the start of the recorder.
    pub fn snapshot_at(&self, window: Window, at: Duration) -> Metrics {
        // The lock is held for a copy; the slots are decoded and added up outside.
        let (mut sheet, slots, at) = {
            let mut ledger = self.ledger();
            self.roll(&mut ledger, at);
            self.stripes.drain_all(|entry| ledger.sheet.count(entry));
            let at = at.max(slot_start(ledger.running));
            (ledger.sheet.clone(), ledger.since(first_slot(window, at)), at)
        };
        for slot in &slots {
            sheet.add(slot);
        }
        let measured = at - slot_start(first_slot(window, at));
        Metrics::of(&sheet, &self.shards, window, measured)
    }

    /// Bytes that the finished slots take: at most 9 MiB for each label used.
    pub fn finished_bytes(&self) -> usize {
        self.ledger().finished.iter().map(|slot| slot.size_bytes()).sum()
    }

    /// No request waits for another that is closing the slot, or for a snapshot.
    fn roll_unless_busy(&self, at: Duration) {
        if let Ok(mut ledger) = self.ledger.try_lock() {
            self.roll(&mut ledger, at);
        }
    }

    /// Ends the running slot if `at` is beyond it.
    fn roll(&self, ledger: &mut Ledger, at: Duration) {
        let next = slot_at(at);
        if next > ledger.running {
            self.stripes.drain_all(|entry| ledger.sheet.count(entry));
            ledger.advance(next);
            self.running.store(next, Ordering::Relaxed);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Closes the running slot, begins slot `next`, and forgets what no window reaches any more.
    fn advance(&mut self, next: u64) {
        assert!(next > self.running, "slots only go forward");
        self.finished.extend(self.sheet.finish(self.running).map(Arc::new));
        self.running = next;
        let oldest = next.saturating_sub(SLOTS_KEPT_MAX);
        while self.finished.front().is_some_and(|slot| slot.index < oldest) {
            self.finished.pop_front();
        }
        assert!(self.finished.len() as u64 <= SLOTS_KEPT_MAX, "one entry per slot");
    }

    fn since(&self, first: u64) -> Vec<Arc<FinishedSlot>> {
        self.finished.iter().filter(|slot| slot.index >= first).cloned().collect()
    }
}

/// The oldest slot that the window touches.
fn first_slot(window: Window, at: Duration) -> u64 {
    slot_at(at.saturating_sub(window.length()))
}
