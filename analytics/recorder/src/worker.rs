//! Worker: records the requests of one thread. It takes no lock and allocates nothing unless one of
//! its queues is full.
//!
//! A worker puts entries and details into its own bounded queues, from which the recorder's thread
//! takes them. If a queue is full, the worker drains it itself. So every request is counted, and
//! the text of a key is known even if the key becomes hot while the recorder's thread sleeps.
//!
//! **Not here:** counting entries (`aggregator`).

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rtrb::{Producer, PushError};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::entry::{Detail, ENTRIES_MAX, Entry};
use crate::recorder_state::{InFlightCounter, RecorderState};
use crate::sample::Sample;

/// Number of entries between two checks of a worker whether its queue is half full.
const LOOK_EVERY: u32 = ENTRIES_MAX as u32 / 4;
/// Minimum time between two details (text of the key, trace id), in ms. A thousand details per
/// second are enough to find hot keys.
const DETAIL_EVERY_MS: u64 = 1;
/// Duration of a request from which on its detail is always recorded.
const SLOW: Duration = Duration::from_millis(100);

/// Records the requests of one thread.
#[derive(Debug)]
pub struct Worker {
    state: Arc<RecorderState>,
    in_flight: Arc<InFlightCounter>,
    own: RefCell<Own>,
}

#[derive(Debug)]
struct Own {
    entries: Producer<Entry>,
    details: Producer<Detail>,
    /// Number of entries until the next check of the queue.
    look_in: u32,
    /// Latest time of an entry that this worker has queued, in ms since 1970 UTC.
    latest_ms: u64,
    /// Earliest time of the next detail, in ms since 1970 UTC.
    detail_at_ms: u64,
}

/// Guard that counts a request as being in progress until the guard is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<InFlightCounter>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Worker {
    pub(crate) fn new(
        state: Arc<RecorderState>,
        in_flight: Arc<InFlightCounter>,
        entries: Producer<Entry>,
        details: Producer<Detail>,
    ) -> Self {
        let own = Own { entries, details, look_in: LOOK_EVERY, latest_ms: 0, detail_at_ms: 0 };
        Self { state, in_flight, own: RefCell::new(own) }
    }

    /// Counts a request as being answered until the guard is dropped.
    pub fn begin(&self) -> InFlight {
        self.in_flight.0.fetch_add(1, Ordering::Relaxed);
        InFlight(self.in_flight.clone())
    }

    /// Records an answered request; `now` is the time at which the response was known. Takes no
    /// lock and allocates nothing unless a queue is full.
    pub fn record(&self, sample: &Sample<'_>, now: Instant) {
        let state = &*self.state;
        let ms = state.clock.ms(now);
        // The hash 0 means that there is no key. A key whose hash is 0 gets the hash 1, which it
        // may share with another key.
        let hash = sample.key.map_or(0, |key| xxh3_64_with_seed(key.as_bytes(), state.seed).max(1));
        let second = u32::try_from(ms / 1_000).unwrap_or(u32::MAX);
        let entry = Entry::of(sample, hash, second, (state.shape, &state.shards));
        let mut own = self.own.borrow_mut();
        own.latest_ms = own.latest_ms.max(ms);
        if let Err(PushError::Full(entry)) = own.entries.push(entry) {
            self.empty(&mut own, entry);
        }
        own.look_in -= 1;
        if own.look_in == 0 {
            own.look_in = LOOK_EVERY;
            if own.entries.slots() < ENTRIES_MAX / 2 {
                state.wake();
            }
        }
        if (ms >= own.detail_at_ms || sample.elapsed >= SLOW)
            && (sample.key.is_some() || sample.trace.is_some())
        {
            own.detail_at_ms = ms + DETAIL_EVERY_MS;
            if let Err(PushError::Full(detail)) = own.details.push(Detail::of(entry, sample)) {
                self.empty_details(&mut own, detail);
            }
        }
    }

    #[cold]
    fn empty(&self, own: &mut Own, entry: Entry) {
        // Draining leaves only entries of later seconds in the queues. `latest_ms` is the latest
        // time in this worker's queue, so its queue is empty afterwards.
        self.state.drain(own.latest_ms);
        let pushed = own.entries.push(entry);
        assert!(pushed.is_ok(), "a drained queue has room");
    }

    #[cold]
    fn empty_details(&self, own: &mut Own, detail: Detail) {
        // The recorder's thread sleeps for up to a second after a period without requests. Without
        // this drain, all details of a burst except the first ones would be lost.
        self.state.drain(own.latest_ms);
        let pushed = own.details.push(detail);
        assert!(pushed.is_ok(), "a drained queue has room");
    }
}
