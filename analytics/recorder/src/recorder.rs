//! Recorder: the façade. Hands out workers, drains them, answers with what they counted.
//!
//! **Invariant:** whoever asks is told of every request that was recorded before.
//! **Invariant:** the ledger's lock is taken before those of the history, never after.
//! **Not here:** the sums (`aggregator`), the figures (`figures`).

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rtrb::RingBuffer;

use crate::aggregator::{Aggregator, QueueReader};
use crate::clock::Clock;
use crate::entry::{DETAILS_MAX, ENTRIES_MAX, Shape};
use crate::history::History;
use crate::recorder_state::{InFlightCounter, RecorderState};
use crate::sample::Labels;
use crate::slot_load::SlotLoad;
use crate::totals::Totals;
use crate::worker::Worker;

/// Counts data requests. Share it by reference or `Arc`.
#[derive(Debug)]
pub struct Recorder {
    labels: Labels,
    state: Arc<RecorderState>,
    drainer: Option<JoinHandle<()>>,
}

impl Recorder {
    /// A recorder for these labels. Time starts now, and a thread of its own that drains the workers, until the
    /// recorder is dropped.
    ///
    /// # Panics
    /// With more labels than [`Labels`] allows, with a shard twice, or if the system has no thread to give.
    pub fn new(labels: Labels) -> Self {
        let mut recorder = Self::with_clock(labels, Clock::start());
        let state = recorder.state.clone();
        let drainer = thread::Builder::new().name("recorder".into());
        let drainer = drainer.spawn(move || state.drain_until_end());
        recorder.drainer = Some(drainer.expect("the system has a thread for the recorder"));
        recorder
    }

    /// A recorder without a thread, for tests: its clock says `started_ms` at [`Recorder::started`], and goes on only
    /// as far as [`Recorder::settle_at`] is told.
    pub fn by_hand(labels: Labels, started_ms: u64) -> Self {
        Self::with_clock(labels, Clock::at(started_ms))
    }

    fn with_clock(labels: Labels, clock: Clock) -> Self {
        let history = Arc::new(History::new());
        history.know_since(clock.started_ms());
        let second = clock.started_ms() / 1_000;
        let state = RecorderState::new(
            clock,
            Shape::of(&labels),
            RandomState::new().hash_one(0),
            Aggregator::new(labels.clone(), history.clone(), second),
            history,
        );
        Self { labels, state: Arc::new(state), drainer: None }
    }

    /// What a thread that answers requests records with; one for each of them.
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

    /// The history up to this moment: every request that was recorded before is in it. Takes the time of a drain, so
    /// ask where blocking is allowed.
    pub fn history(&self) -> &Arc<History> {
        // A recorder by hand has no time of its own: it stays where it was told to be.
        self.settle_at(if self.drainer.is_some() { Instant::now() } else { self.started() })
    }

    /// [`Recorder::history`] up to a moment: closes the seconds before it. For tests.
    pub fn settle_at(&self, now: Instant) -> &Arc<History> {
        self.drain_at(now);
        self.state.aggregator().show_open();
        self.state.history()
    }

    /// Counts what workers left up to a moment, and closes the seconds before it: what the recorder's thread does. For
    /// tests.
    pub fn drain_at(&self, now: Instant) {
        self.state.drain(self.state.clock.ms(now));
    }

    /// The clock of the recorder: ms since 1970 UTC, never backwards.
    pub fn at_ms(&self) -> u64 {
        self.state.clock.ms(Instant::now())
    }

    /// When the recorder began to count.
    pub fn started(&self) -> Instant {
        self.state.clock.started()
    }

    /// When the recorder began to count, in ms since 1970 UTC.
    pub fn started_ms(&self) -> u64 {
        self.state.clock.started_ms()
    }

    /// Requests being answered, of all workers.
    pub fn in_flight(&self) -> u64 {
        self.state.in_flight().iter().map(|running| running.0.load(Ordering::Relaxed)).sum()
    }

    /// Requests of each slot of the key space in the running minute and the `minutes` before it (at most 15): as many
    /// entries as there are slots.
    pub fn slot_load(&self, minutes: u64) -> Vec<SlotLoad> {
        self.history();
        let aggregator = self.state.aggregator();
        aggregator.aggregates().slots.sums(aggregator.aggregates().running(), minutes)
    }

    /// Bytes that it takes, its history included: what the README bounds.
    pub fn bytes(&self) -> usize {
        self.state.aggregator().bytes() + self.state.history().bytes()
    }

    /// The names it was made with.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// What was counted since the start.
    pub(crate) fn totals(&self) -> Totals {
        self.history();
        self.state.aggregator().aggregates().totals.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.state.end();
        if let Some(drainer) = self.drainer.take() {
            // Its thread panics only where this one would.
            let _ = drainer.join();
        }
    }
}
