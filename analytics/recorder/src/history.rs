//! History: the frames of one recorder, which runs in this process or in another one. They are kept
//! in three rings: of seconds, of intervals of ten seconds, and of minutes.
//!
//! **Invariant:** a ring holds no more intervals than [`Step::intervals_kept`] and no more bytes
//! than its budget; the oldest frames are removed first. An interval occurs at most once in a ring.
//! **Invariant:** a period without requests can be distinguished from a period in which no recorder
//! ran, even over restarts.
//! **Not here:** making frames (`aggregator`), choosing the frames of a window (`window_frames`),
//! adding frames up (`figures`).

mod measured;
mod window_frames;

pub(crate) use measured::{CountedTimes, Measured};
pub(crate) use window_frames::WindowFrames;

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::frame::{CellLabel, Frame, Step};
use crate::measured_intervals::MeasuredIntervals;
use crate::merge::merged;

/// Maximum number of bytes of each ring, the ring of seconds first. All three together take up to
/// 112 MiB.
pub const BUDGETS: [usize; 3] = [24 << 20, 24 << 20, 64 << 20];

/// Number of distinct labels of received frames above which the set of shared labels is emptied and
/// filled again.
const LABELS_MAX: usize = 65_536;

/// The three rings of one recorder. Threads share a history by reference or `Arc`.
#[derive(Debug)]
pub struct History {
    rings: Mutex<Rings>,
}

#[derive(Debug)]
struct Rings {
    /// Rings by the length of their intervals, the shortest first.
    rings: [Ring; 3],
    /// Start of the time from which on requests are known, in ms since 1970 UTC; `u64::MAX` while
    /// the history is empty.
    since_ms: u64,
    /// Times in which other recorders ran: those of earlier processes, or those in other processes.
    counted: MeasuredIntervals,
    /// Time at which this process's recorder started, in s since 1970 UTC; `None` if it has none
    /// for this history.
    counting_since: Option<u64>,
    /// Counts of the current second at the time of the last query, and the keys of the current
    /// interval of ten seconds.
    open: Option<Arc<Frame>>,
    /// Labels of received frames. Equal labels are stored once and shared by the frames.
    labels: HashSet<Arc<CellLabel>>,
    /// Earliest second from which frames were removed because a clock was wrong; `None` once the
    /// store has removed these frames too.
    forgotten: Option<u64>,
}

#[derive(Debug)]
struct Ring {
    step: Step,
    budget: usize,
    /// Frames, oldest first; intervals without requests have none.
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// Time from which on every interval is known, in s since 1970 UTC.
    since: u64,
    /// Time up to which every interval is finished, in s since 1970 UTC.
    until: u64,
    /// Number of frames that were removed because of the memory limit, before they were too old.
    dropped: u64,
    /// Counts that an earlier process made in the interval that is still running.
    resumed: Option<Arc<Frame>>,
}

/// Size and start of a history, and the number of its dropped frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) bytes: u64,
    pub(crate) since_ms: u64,
    pub(crate) dropped: u64,
}

impl Extent {
    /// Returns the current extent of a history.
    pub(crate) fn of(history: &History) -> Self {
        let rings = history.rings();
        Self {
            bytes: rings.rings.iter().map(|ring| ring.bytes as u64).sum(),
            since_ms: rings.since_ms,
            dropped: rings.rings.iter().map(|ring| ring.dropped).sum(),
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl History {
    /// Creates an empty history, to which frames can be added.
    pub fn new() -> Self {
        Self::with_budgets(BUDGETS)
    }

    /// Creates an empty history whose rings hold at most these numbers of bytes; the limit of the
    /// ring of seconds comes first.
    pub fn with_budgets(budgets: [usize; 3]) -> Self {
        let ring = |step: Step| Ring {
            step,
            budget: budgets[step.index()],
            frames: VecDeque::new(),
            bytes: 0,
            since: u64::MAX,
            until: 0,
            dropped: 0,
            resumed: None,
        };
        let rings = Rings {
            rings: Step::ALL.map(ring),
            since_ms: u64::MAX,
            counted: MeasuredIntervals::default(),
            counting_since: None,
            open: None,
            labels: HashSet::new(),
            forgotten: None,
        };
        Self { rings: Mutex::new(rings) }
    }

    /// Declares that this process has counted every request since `ms` (in ms since 1970 UTC), so
    /// that a time without frames had no requests. Without this call, the known time starts with
    /// the first frame.
    pub fn know_since(&self, ms: u64) {
        let mut rings = self.rings();
        rings.know_since(ms);
        rings.counting_since = rings.counting_since.into_iter().chain([ms / 1_000]).min();
    }

    /// Declares that every request between two times was counted, and leaves open whether later
    /// ones are.
    pub fn know_between(&self, from_ms: u64, until_ms: u64) {
        let mut rings = self.rings();
        rings.know_since(from_ms);
        rings.count((from_ms / 1_000, until_ms.div_ceil(1_000)));
    }

    /// Adds times, in s since 1970 UTC, in which a recorder ran in an earlier process or in another
    /// one. An interval within these times that has no frame had no requests.
    pub fn know_counted(&self, intervals: impl IntoIterator<Item = (u64, u64)>) {
        let mut rings = self.rings();
        intervals.into_iter().for_each(|interval| rings.count(interval));
    }

    /// Returns the times in which a recorder ran, up to the last closed second.
    pub fn counted_times(&self) -> MeasuredIntervals {
        let rings = self.rings();
        let mut counted = rings.counted.clone();
        if let Some(since) = rings.counting_since {
            counted.add((since, rings.rings[Step::Second.index()].until));
        }
        counted
    }

    /// Removes frames that begin at this second or later. They were reported while a clock was
    /// wrong, and would block the correct frames of the same intervals.
    pub fn forget_from(&self, second: u64) {
        let mut rings = self.rings();
        rings.mark_forgotten(second);
        rings.counted.forget_from(second);
        rings.rings.iter_mut().for_each(|ring| ring.forget_from(second));
    }

    /// Adds a finished frame of another process or of the store, unless the ring has or had a frame
    /// of the same interval.
    pub fn absorb(&self, mut frame: Frame) {
        let mut rings = self.rings();
        if rings.labels.len() > LABELS_MAX {
            rings.labels.clear();
        }
        for cell in &mut frame.cells {
            match rings.labels.get(&cell.label) {
                Some(label) => cell.label = label.clone(),
                None => {
                    rings.labels.insert(cell.label.clone());
                }
            }
        }
        rings.since_ms = rings.since_ms.min(frame.start.saturating_mul(1_000));
        rings.rings[frame.step.index()].absorb(frame);
    }

    /// Keeps the counts that an earlier process made in an interval that is still running. They are
    /// added to the interval's frame when it ends; until then, frames of shorter intervals contain
    /// the same counts.
    #[cfg(feature = "store")]
    pub(crate) fn resume(&self, frame: Frame) {
        let mut rings = self.rings();
        let ring = &mut rings.rings[frame.step.index()];
        if frame.end() > ring.until {
            ring.resumed = Some(Arc::new(frame));
        }
    }

    /// Returns at most `limit` finished frames of a ring that begin after `after` (in s since 1970
    /// UTC), oldest first.
    pub fn frames_after(&self, step: Step, after: u64, limit: usize) -> Vec<Arc<Frame>> {
        let rings = self.rings();
        let frames = &rings.rings[step.index()].frames;
        let first = frames.partition_point(|frame| frame.start <= after);
        frames.iter().skip(first).take(limit).cloned().collect()
    }

    /// Returns the number of bytes that the frames take.
    pub fn bytes(&self) -> usize {
        self.rings().rings.iter().map(|ring| ring.bytes).sum()
    }

    /// Adds the frame of an interval that has ended in this process, together with the counts that
    /// an earlier process made in that interval.
    pub(crate) fn close(&self, frame: Arc<Frame>) {
        self.rings().rings[frame.step.index()].close(frame);
    }

    /// Marks every interval of this process before `second` as closed.
    pub(crate) fn finish(&self, second: u64) {
        for ring in &mut self.rings().rings {
            let until = ring.until.max(second / ring.step.seconds() * ring.step.seconds());
            ring.until = until;
            if let Some(alone) = ring.resumed.take_if(|resumed| resumed.end() <= until) {
                ring.close(alone);
            }
            ring.trim();
        }
    }

    /// Sets the counts of the current second.
    pub(crate) fn show_open(&self, open: Option<Frame>) {
        self.rings().open = open.map(Arc::new);
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the earliest second from which a history has forgotten frames since the last call.
#[cfg(feature = "store")]
pub(crate) fn take_forgotten(history: &History) -> Option<u64> {
    history.rings().forgotten.take()
}

/// Restores a result of [`take_forgotten`], because the store has not removed these frames.
#[cfg(feature = "store")]
pub(crate) fn restore_forgotten(history: &History, second: u64) {
    history.rings().mark_forgotten(second);
}

impl Rings {
    fn mark_forgotten(&mut self, second: u64) {
        self.forgotten = Some(self.forgotten.map_or(second, |earlier| earlier.min(second)));
    }

    fn know_since(&mut self, ms: u64) {
        self.since_ms = self.since_ms.min(ms);
        // A ring that has removed frames does not know the requests of their intervals, however
        // long a recorder ran.
        for ring in self.rings.iter_mut().filter(|ring| ring.dropped == 0) {
            ring.since = ring.since.min(ms / 1_000 / ring.step.seconds() * ring.step.seconds());
        }
    }

    fn count(&mut self, interval: (u64, u64)) {
        self.counted.add(interval);
        let kept = Step::Minute.intervals_kept() * Step::Minute.seconds();
        let newest = self.counted.as_slice().last().map_or(0, |interval| interval.1);
        self.counted.forget(newest.saturating_sub(kept));
        // A time without requests is known too, so the known time begins with the first measured
        // interval, which may lie before the first frame.
        if let Some((from, _)) = self.counted.as_slice().first() {
            self.since_ms = self.since_ms.min(from.saturating_mul(1_000));
        }
    }
}

impl Ring {
    /// Returns true if the frame of this ring at `start` counts more requests than the `shorter`
    /// ring's frames of the same interval. The calling function passes the interval in which the
    /// `shorter` ring's data begins. If the recorder started in that interval, both count the same
    /// requests, and the shorter frames are used because they give finer curves.
    fn holds_more_than(&self, shorter: &Self, start: u64) -> bool {
        let Ok(place) = self.frames.binary_search_by_key(&start, |frame| frame.start) else {
            return false;
        };
        let frame = &self.frames[place];
        let first = shorter.frames.partition_point(|frame| frame.start < shorter.since);
        let within =
            shorter.frames.iter().skip(first).take_while(|within| within.start < frame.end());
        frame.total() > within.map(|frame| frame.total()).sum::<u64>()
    }

    fn absorb(&mut self, frame: Frame) {
        let forgotten = self.dropped_before() > frame.start;
        let Err(place) = self.frames.binary_search_by_key(&frame.start, |frame| frame.start) else {
            return;
        };
        if forgotten {
            return;
        }
        self.since = self.since.min(frame.start);
        self.until = self.until.max(frame.end());
        self.bytes += frame.bytes();
        self.frames.insert(place, Arc::new(frame));
        self.trim();
    }

    fn forget_from(&mut self, second: u64) {
        while let Some(last) = self.frames.pop_back_if(|last| last.start >= second) {
            self.bytes -= last.bytes();
        }
        // The last frame that is left begins before `second`, but may end after it.
        let until = self.frames.back().map_or(second, |last| last.end().max(second));
        self.until = self.until.min(until);
    }

    fn close(&mut self, frame: Arc<Frame>) {
        let frame = match self.resumed.take_if(|resumed| resumed.start == frame.start) {
            Some(before) => Arc::new(merged(self.step, frame.start, &[before, frame])),
            None => frame,
        };
        let frame = match self.frames.back() {
            Some(last) if last.start == frame.start => {
                let both = merged(self.step, frame.start, &[last.clone(), frame]);
                self.bytes -= last.bytes();
                self.frames.pop_back();
                Arc::new(both)
            }
            Some(_) | None => frame,
        };
        self.bytes += frame.bytes();
        self.frames.push_back(frame);
        self.trim();
    }

    /// Returns the time, in s since 1970 UTC, before which a frame is too old to be kept or was
    /// dropped.
    fn dropped_before(&self) -> u64 {
        let newest = self.frames.back().map_or(0, |frame| frame.end()).max(self.until);
        let kept = self.step.intervals_kept() * self.step.seconds();
        let full = if self.dropped > 0 { self.since } else { 0 };
        newest.saturating_sub(kept).max(full)
    }

    /// Removes frames that are too old or that exceed the memory limit.
    fn trim(&mut self) {
        let oldest = self.dropped_before();
        while let Some(first) = self.frames.front() {
            let late = first.start < oldest;
            let crowded = self.bytes > self.budget && self.frames.len() > 1;
            if !late && !crowded {
                break;
            }
            self.bytes -= first.bytes();
            self.since = self.since.max(first.end());
            self.dropped += u64::from(!late);
            self.frames.pop_front();
        }
    }
}
