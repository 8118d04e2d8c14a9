//! Recorder: creates workers, drains their queues, and answers queries about the recorded requests.
//!
//! **Invariant:** a query includes every request that was recorded before it.
//! **Invariant:** the lock of the aggregator is taken before the locks of the history, never after
//! them.
//! **Not here:** the sums (`aggregator`), the metrics (`figures`).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rtrb::RingBuffer;

use crate::aggregator::{Aggregator, QueueReader};
use crate::clock::Clock;
use crate::cluster::ClusterNow;
use crate::entry::{DETAILS_MAX, ENTRIES_MAX, Shape};
use crate::figures::figures;
use crate::history::History;
use crate::query::MetricsQuery;
use crate::recent_writes::{RecentWrite, RecentWrites, SampledRows};
use crate::recorder_state::{InFlightCounter, RecorderState};
use crate::sample::Labels;
use crate::shard_labels::ShardLabels;
use crate::slot_load::SlotLoad;
use crate::totals::Totals;
use crate::window::Window;
use crate::worker::Worker;

/// Counts data requests. Threads share a recorder by reference or `Arc`.
#[derive(Debug)]
pub struct Recorder {
    /// Names of the shards. The names of shards that join later are added here.
    pub shards: Arc<ShardLabels>,
    labels: Labels,
    recent: Arc<RecentWrites>,
    state: Arc<RecorderState>,
    drainer: Option<JoinHandle<()>>,
}

impl Recorder {
    /// Creates a recorder for these labels. Time starts now, and a thread drains the workers until
    /// the recorder is dropped.
    ///
    /// # Panics
    /// Panics with more labels than [`Labels`] allows, with two shards of one name, or if the
    /// system cannot create a thread.
    pub fn new(labels: Labels) -> Self {
        let mut recorder = Self::with_clock(labels, Clock::start());
        let state = recorder.state.clone();
        let drainer = thread::Builder::new().name("recorder".into());
        let drainer = drainer.spawn(move || state.drain_until_end());
        recorder.drainer = Some(drainer.expect("the system has a thread for the recorder"));
        recorder
    }

    /// Creates a recorder without a thread, for tests. Its clock shows `started_ms` at the instant
    /// [`Recorder::started`]. Seconds are closed only by [`Recorder::settle_at`], by
    /// [`Recorder::drain_at`], and by workers whose queue is full.
    pub fn without_thread(labels: Labels, started_ms: u64) -> Self {
        Self::with_clock(labels, Clock::at(started_ms))
    }

    fn with_clock(labels: Labels, clock: Clock) -> Self {
        let history = Arc::new(History::new());
        history.know_since(clock.started_ms());
        let second = clock.started_ms() / 1_000;
        let shape = Shape::of(&labels);
        let shards = Arc::new(ShardLabels::new(&labels.shards));
        let aggregator = Aggregator::new((&labels, shape), shards.clone(), history.clone(), second);
        let recent = aggregator.aggregates().recent.clone();
        let state = RecorderState::new(
            clock,
            (shape, shards.clone()),
            RandomState::new().hash_one(0),
            aggregator,
            history,
        );
        Self { shards, labels, recent, state: Arc::new(state), drainer: None }
    }

    /// Creates a worker, with which one thread records the requests that it answers.
    pub fn worker(&self) -> Worker {
        let (entries, entries_taken) = RingBuffer::new(ENTRIES_MAX);
        let (details, details_taken) = RingBuffer::new(DETAILS_MAX);
        self.state.aggregator().add(QueueReader { entries: entries_taken, details: details_taken });
        let running = Arc::new(InFlightCounter::default());
        let mut in_flight = self.state.in_flight();
        in_flight.retain(|other| Arc::strong_count(other) > 1);
        in_flight.push(running.clone());
        Worker::new(self.state.clone(), running, entries, details)
    }

    /// Returns the history up to this moment, with every request that was recorded before. This
    /// method drains the queues, so it must be called where blocking is allowed.
    pub fn history(&self) -> &Arc<History> {
        // Without a thread (in a test), the time of the start is used, so this call closes no
        // second.
        self.settle_at(if self.drainer.is_some() { Instant::now() } else { self.started() })
    }

    /// Returns the history as [`Recorder::history`] does, but up to `now`: closes the seconds
    /// before `now`.
    pub fn settle_at(&self, now: Instant) -> &Arc<History> {
        self.drain_at(now);
        self.state.aggregator().show_open();
        self.state.history()
    }

    /// Counts the entries that workers queued up to `now`, and closes the seconds before `now`, as
    /// the recorder's thread does. This method is for tests.
    pub fn drain_at(&self, now: Instant) {
        self.state.drain(self.state.clock.ms(now));
    }

    /// Returns the recorder's time in ms since 1970 UTC, which never goes backwards.
    pub fn at_ms(&self) -> u64 {
        self.state.clock.ms(Instant::now())
    }

    /// Returns the start of the recorder.
    pub fn started(&self) -> Instant {
        self.state.clock.started()
    }

    /// Returns the start of the recorder, in ms since 1970 UTC.
    pub fn started_ms(&self) -> u64 {
        self.state.clock.started_ms()
    }

    /// Returns the number of requests that all workers together are processing now.
    pub fn in_flight(&self) -> u64 {
        self.state.in_flight().iter().map(|running| running.0.load(Ordering::Relaxed)).sum()
    }

    /// Returns one entry for each slot of the keyspace: its requests in the current minute and in
    /// the `minutes` before it (at most 15).
    pub fn slot_load(&self, minutes: u64) -> Vec<SlotLoad> {
        self.history();
        let aggregator = self.state.aggregator();
        aggregator.aggregates().slots.sums(aggregator.aggregates().running(), minutes)
    }

    /// Returns the number of bytes that the recorder and its history take. The README states the
    /// maximum.
    pub fn bytes(&self) -> usize {
        self.state.aggregator().bytes() + self.state.history().bytes()
    }

    /// Returns the labels of the recorder, including the shards that were added.
    pub fn labels(&self) -> Labels {
        Labels { shards: self.shards.names(), ..self.labels.clone() }
    }

    /// Returns the counts since the start.
    pub(crate) fn totals(&self) -> Totals {
        self.history();
        self.state.aggregator().aggregates().totals.clone()
    }
}

/// A frequently requested key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusyKey {
    /// The key.
    pub key: String,
    /// Slot of the key; `None` if unknown.
    pub slot: Option<u16>,
    /// Lower bound of the number of requests for the key: the part of the count that may belong to
    /// other keys is subtracted.
    pub requests: u64,
}

/// Returns the most requested keys of the last `minutes`, the most requested first. The call takes
/// some milliseconds.
pub fn busiest_keys(recorder: &Recorder, minutes: u64) -> Vec<BusyKey> {
    let query = MetricsQuery { window: Window::of_minutes(minutes), ..MetricsQuery::default() };
    let metrics = figures(&[recorder.history()], &query, &ClusterNow::default(), recorder.at_ms());
    let keys = metrics.hot_keys.into_iter().map(|hot| BusyKey {
        key: hot.key,
        slot: hot.slot,
        requests: hot.requests.saturating_sub(hot.error),
    });
    keys.collect()
}

/// Returns the most recent writes with a number above `number`, oldest first. Writes that were
/// recorded without the text of their key are not among them.
pub fn writes_after(recorder: &Recorder, number: u64) -> Vec<RecentWrite> {
    recorder.history();
    recorder.recent.after(number)
}

/// Adds rows that a shard stored in a bulk write at the time `now` to the recent writes. The
/// request itself is recorded by a [`Worker`].
pub fn list_sampled_rows(recorder: &Recorder, stored: &SampledRows<'_>, now: Instant) {
    let second = recorder.state.clock.ms(now) / 1_000;
    let shard = recorder.shards.name(recorder.shards.index(stored.shard)).cloned();
    recorder.recent.collect(second, shard, stored);
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.state.end();
        if let Some(drainer) = self.drainer.take() {
            // An error means that the thread has panicked. The recorder is dropped nevertheless.
            let _ = drainer.join();
        }
    }
}
