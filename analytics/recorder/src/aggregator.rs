//! Aggregator: takes entries out of the workers' queues and counts them, second by second.
//!
//! **Invariant:** every entry is counted once: in the second of its timestamp, or in the current
//! second if the second of its timestamp is closed already. A second is closed only when all
//! entries that workers queued during it have been counted.
//! **Not here:** the thread that drains the queues (`recorder`), the worker's end of a queue
//! (`worker`).

use std::sync::Arc;

use rtrb::Consumer;

use crate::current_second::CurrentSecond;
use crate::entry::{DETAILS_MAX, Detail, ENTRIES_MAX, Entry, Shape};
use crate::frame::{Frame, HotCount, Step};
use crate::history::History;
use crate::hot::HotKeys;
use crate::merge::{HOT_MAX, merged};
use crate::recent_writes::RecentWrites;
use crate::sample::Labels;
use crate::shard_labels::ShardLabels;
use crate::slot_load::SlotLoads;
use crate::totals::Totals;

/// Reading ends of a worker's two queues, for entries and for details.
#[derive(Debug)]
pub(crate) struct QueueReader {
    pub(crate) entries: Consumer<Entry>,
    pub(crate) details: Consumer<Detail>,
}

/// Queues of all workers, and the counts of the entries that were taken from them.
#[derive(Debug)]
pub(crate) struct Aggregator {
    readers: Vec<QueueReader>,
    aggregates: Aggregates,
}

/// Counts of the entries that were taken from the queues.
#[derive(Debug)]
pub(crate) struct Aggregates {
    shards: Arc<ShardLabels>,
    history: Arc<History>,
    /// The current second, in s since 1970 UTC.
    running: u64,
    current: CurrentSecond,
    /// Frames of the seconds that have ended within the current interval of ten seconds. The next
    /// field holds the frames of the intervals of ten seconds that have ended within the current
    /// minute.
    seconds: Vec<Arc<Frame>>,
    tens: Vec<Arc<Frame>>,
    /// Counts of the keys that were requested in the current interval of ten seconds.
    hot: HotKeys,
    pub(crate) recent: Arc<RecentWrites>,
    pub(crate) slots: SlotLoads,
    pub(crate) totals: Totals,
}

impl Aggregator {
    pub(crate) fn new(
        (labels, shape): (&Labels, Shape),
        shards: Arc<ShardLabels>,
        history: Arc<History>,
        second: u64,
    ) -> Self {
        let aggregates = Aggregates {
            history,
            running: second,
            slots: SlotLoads::new(labels.slots),
            current: CurrentSecond::new(labels.routes.clone(), shape, shards.clone()),
            shards,
            seconds: Vec::new(),
            tens: Vec::new(),
            hot: HotKeys::new(),
            recent: Arc::default(),
            totals: Totals::new(shape),
        };
        Self { readers: Vec::new(), aggregates }
    }

    pub(crate) fn add(&mut self, reader: QueueReader) {
        self.readers.push(reader);
    }

    pub(crate) fn aggregates(&self) -> &Aggregates {
        &self.aggregates
    }

    /// Counts all entries queued up to `now` (in s since 1970 UTC), closes the seconds before it,
    /// and returns how many entries there were.
    pub(crate) fn drain(&mut self, now: u64) -> usize {
        let Self { readers, aggregates } = self;
        let mut drained = 0;
        loop {
            drained += readers.iter_mut().map(|reader| aggregates.take(reader)).sum::<usize>();
            if aggregates.running >= now {
                break;
            }
            let waiting = readers.iter().filter_map(|reader| reader.entries.peek().ok());
            let next = waiting.map(|entry| u64::from(entry.second)).min();
            let next = next.unwrap_or(now).min(now);
            // A worker may have queued another entry of the current second in the meantime. If so,
            // the loop takes that entry before the second is closed.
            if next > aggregates.running {
                aggregates.close(next);
            }
        }
        readers.retain(|reader| !(reader.entries.is_abandoned() && reader.entries.is_empty()));
        drained
    }

    /// Returns the number of bytes that the queues, the current second and the load of slots take.
    pub(crate) fn bytes(&self) -> usize {
        let queues = ENTRIES_MAX * size_of::<Entry>() + DETAILS_MAX * size_of::<Detail>();
        self.readers.len() * queues
            + self.aggregates.current.bytes()
            + self.aggregates.slots.bytes()
    }

    /// Copies the current second's counts so far to the history.
    pub(crate) fn show_open(&self) {
        let aggregates = &self.aggregates;
        let frame = aggregates.current.frame(aggregates.running);
        let hot = aggregates.hot_counts();
        let nothing = || Frame::empty(Step::Second, aggregates.running);
        let frame = frame.or_else(|| (!hot.is_empty()).then(nothing));
        aggregates.history.show_open(frame.map(|frame| Frame { hot, ..frame }));
    }
}

impl Aggregates {
    /// The current second, in s since 1970 UTC.
    pub(crate) fn running(&self) -> u64 {
        self.running
    }

    /// Counts the entries that a worker queued up to the end of the current second, and returns
    /// their number.
    fn take(&mut self, reader: &mut QueueReader) -> usize {
        let waiting = reader.entries.slots();
        let Ok(chunk) = reader.entries.read_chunk(waiting) else { return 0 };
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
        while reader.details.peek().is_ok_and(explained) {
            let Ok(detail) = reader.details.pop() else { break };
            self.explain(&detail);
        }
        taken
    }

    fn count(&mut self, entry: &Entry) {
        self.current.count(entry, self.running);
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
        self.recent.see(detail, || self.shards.name(detail.entry.shard).cloned());
        self.totals.exemplify(detail);
    }

    /// Closes the current second and begins second `next`; there was no request in the seconds
    /// between them.
    fn close(&mut self, next: u64) {
        assert!(next > self.running, "time goes forward");
        if let Some(frame) = self.current.frame(self.running).map(Arc::new) {
            self.current.reset();
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

    /// Returns the most requested keys of the current interval of ten seconds, without the keys of
    /// which only the hash is known.
    fn hot_counts(&self) -> Vec<HotCount> {
        let named = self.hot.ranked().filter_map(|counter| {
            Some(HotCount {
                key: counter.key.clone()?,
                shard: self.shards.name(counter.shard).cloned(),
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
