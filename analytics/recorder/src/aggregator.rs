//! Ledger: takes entries out of the workers' queues and writes them up, second by second.
//!
//! **Invariant:** every entry is counted once, in its own second; one that comes after its second was closed counts in
//! the running one.
//! **Invariant:** a second is closed when all that workers left of it has been counted.
//! **Not here:** the thread that drains (`recorder`), the queues' other end (`worker`).

use std::sync::Arc;

use rtrb::Consumer;

use crate::current_second::Sheet;
use crate::entry::{DETAILS_MAX, Detail, ENTRIES_MAX, Entry, Shape};
use crate::frame::{Frame, HotCount, Step};
use crate::history::History;
use crate::hot::HotKeys;
use crate::merge::{HOT_MAX, merged};
use crate::sample::Labels;
use crate::slot_load::SlotLoads;
use crate::totals::Totals;

/// The near end of a worker's queues.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) entries: Consumer<Entry>,
    pub(crate) details: Consumer<Detail>,
}

/// What has left the queues, and what has not.
#[derive(Debug)]
pub(crate) struct Ledger {
    lanes: Vec<Lane>,
    books: Books,
}

/// What has left the queues.
#[derive(Debug)]
pub(crate) struct Books {
    shards: Vec<Arc<str>>,
    history: Arc<History>,
    /// The running second, since 1970 UTC.
    running: u64,
    sheet: Sheet,
    /// Seconds of the running ten, tens of the running minute.
    seconds: Vec<Arc<Frame>>,
    tens: Vec<Arc<Frame>>,
    /// Of the running ten seconds.
    hot: HotKeys,
    pub(crate) slots: SlotLoads,
    pub(crate) totals: Totals,
}

impl Ledger {
    pub(crate) fn new(labels: Labels, history: Arc<History>, second: u64) -> Self {
        let shape = Shape::of(&labels);
        let books = Books {
            shards: labels.shards.iter().map(|shard| Arc::from(&**shard)).collect(),
            history,
            running: second,
            slots: SlotLoads::new(labels.slots),
            sheet: Sheet::new(labels),
            seconds: Vec::new(),
            tens: Vec::new(),
            hot: HotKeys::new(),
            totals: Totals::new(shape),
        };
        Self { lanes: Vec::new(), books }
    }

    pub(crate) fn add(&mut self, lane: Lane) {
        self.lanes.push(lane);
    }

    pub(crate) fn books(&self) -> &Books {
        &self.books
    }

    /// Counts all that was left up to `now` (in s since 1970 UTC), and closes the seconds before it. Tells how many
    /// entries there were.
    pub(crate) fn drain(&mut self, now: u64) -> usize {
        let Self { lanes, books } = self;
        let mut drained = 0;
        loop {
            drained += lanes.iter_mut().map(|lane| books.take(lane)).sum::<usize>();
            if books.running >= now {
                break;
            }
            let waiting = lanes.iter().filter_map(|lane| lane.entries.peek().ok());
            let next = waiting.map(|entry| u64::from(entry.second)).min();
            books.close(next.unwrap_or(now).min(now));
        }
        lanes.retain(|lane| !(lane.entries.is_abandoned() && lane.entries.is_empty()));
        drained
    }

    /// Bytes that queues, the running second and the load of slots take.
    pub(crate) fn bytes(&self) -> usize {
        let queues = ENTRIES_MAX * size_of::<Entry>() + DETAILS_MAX * size_of::<Detail>();
        self.lanes.len() * queues + self.books.sheet.bytes() + self.books.slots.bytes()
    }

    /// Shows the history what the running second has counted so far.
    pub(crate) fn show_open(&self) {
        let books = &self.books;
        let frame = books.sheet.frame(books.running);
        let hot = books.hot_counts();
        let nothing = || Frame::empty(Step::Second, books.running);
        let frame = frame.or_else(|| (!hot.is_empty()).then(nothing));
        books.history.show_open(frame.map(|frame| Frame { hot, ..frame }));
    }
}

impl Books {
    /// The running second, since 1970 UTC.
    pub(crate) fn running(&self) -> u64 {
        self.running
    }

    /// Counts what a worker left up to the end of the running second.
    fn take(&mut self, lane: &mut Lane) -> usize {
        let waiting = lane.entries.slots();
        let Ok(chunk) = lane.entries.read_chunk(waiting) else { return 0 };
        let (first, second) = chunk.as_slices();
        let mut taken = 0;
        for entry in first.iter().chain(second) {
            if u64::from(entry.second) > self.running {
                break;
            }
            self.count(entry);
            taken += 1;
        }
        chunk.commit(taken);
        let running = self.running;
        let explained = |detail: &Detail| u64::from(detail.entry.second) <= running;
        while lane.details.peek().is_ok_and(explained) {
            let Ok(detail) = lane.details.pop() else { break };
            self.explain(&detail);
        }
        taken
    }

    fn count(&mut self, entry: &Entry) {
        self.sheet.count(entry, self.running);
        self.slots.count(entry, self.running);
        self.totals.count(entry);
        if entry.hash != 0 {
            self.hot.count(entry);
        }
    }

    fn explain(&mut self, detail: &Detail) {
        if let Some(key) = detail.key() {
            self.hot.name(detail.entry.hash, key);
        }
        self.totals.exemplify(detail);
    }

    /// Ends the running second and begins second `next`; those between had no request.
    fn close(&mut self, next: u64) {
        assert!(next > self.running, "time goes forward");
        if let Some(frame) = self.sheet.frame(self.running).map(Arc::new) {
            self.sheet.reset();
            self.history.close(frame.clone());
            self.seconds.push(frame);
        }
        let ends = |step: Step| self.running / step.seconds() < next / step.seconds();
        let (ten_ends, minute_ends) = (ends(Step::TenSeconds), ends(Step::Minute));
        if ten_ends && !self.seconds.is_empty() {
            let mut frame = self.sum(Step::TenSeconds, &self.seconds);
            frame.hot = self.hot_counts();
            let frame = Arc::new(frame);
            self.history.close(frame.clone());
            self.tens.push(frame);
            self.seconds.clear();
            self.hot.reset();
        }
        if minute_ends && !self.tens.is_empty() {
            self.history.close(Arc::new(self.sum(Step::Minute, &self.tens)));
            self.tens.clear();
        }
        self.running = next;
        self.history.finish(next);
    }

    fn sum(&self, step: Step, frames: &[Arc<Frame>]) -> Frame {
        merged(step, self.running / step.seconds() * step.seconds(), frames)
    }

    /// The keys of the running ten seconds that were asked for most, as far as their text is known.
    fn hot_counts(&self) -> Vec<HotCount> {
        let named = self.hot.ranked().filter_map(|counter| {
            Some(HotCount {
                key: counter.key.clone()?,
                shard: self.shards.get(usize::from(counter.shard)).cloned(),
                slot: counter.slot,
                requests: counter.count,
                error: counter.error,
                reads: counter.reads,
                writes: counter.writes,
            })
        });
        named.take(HOT_MAX).collect()
    }
}
