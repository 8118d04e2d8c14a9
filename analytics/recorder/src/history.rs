//! History: the finished slots of a recorder, or of a router far away, in three rings.
//!
//! **Invariant:** a ring holds no more slots than [`Step::slots_kept`] and no more bytes than its budget; the oldest go
//! first. A slot stands in a ring once.
//! **Invariant:** what a window covers is cut at the edges of slots: nothing counts twice, and nothing that is
//! remembered is left out.
//! **Invariant:** that nothing was counted is told from that nobody counted, also over restarts.
//! **Not here:** who makes frames (`aggregator`), what they add up to (`figures`).

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::frame::{CellLabel, Frame, Step};
use crate::measured_intervals::MeasuredIntervals;
use crate::merge::merged;
use crate::window::Window;

/// Bytes that each ring may take, the ring of seconds first: 112 MiB together.
pub const BUDGETS: [usize; 3] = [24 << 20, 24 << 20, 64 << 20];

/// Labels of frames from elsewhere that are shared; with more, sharing begins anew.
const LABELS_MAX: usize = 65_536;
/// Windows up to this long, in ms, are read from seconds.
const BY_SECONDS_MAX: u64 = 900_000;
/// Windows up to this long, in ms, are read from slots of ten seconds.
const BY_TENS_MAX: u64 = 6 * 3_600_000;

/// The rings of one router. Share it by reference or `Arc`.
#[derive(Debug)]
pub struct History {
    rings: Mutex<Rings>,
}

#[derive(Debug)]
struct Rings {
    /// By step.
    rings: [Ring; 3],
    /// Since when everything is known, in ms since 1970 UTC; until something is, `u64::MAX`.
    since_ms: u64,
    /// When somebody counted who does no more, or far away.
    counted: MeasuredIntervals,
    /// Since when our own recorder has counted, in s.
    counting_since: Option<u64>,
    /// The slots that are still running, up to the last time somebody asked.
    open: Option<Arc<Frame>>,
    /// Labels of frames from elsewhere, shared by all of them.
    labels: HashSet<Arc<CellLabel>>,
}

#[derive(Debug)]
struct Ring {
    step: Step,
    budget: usize,
    /// Oldest first; slots without requests are left out.
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// Every slot that begins at this time or later is known, in s.
    since: u64,
    /// Every slot before this time is finished, in s.
    until: u64,
    /// Slots that went before their time.
    dropped: u64,
    /// What the slot that is running now had counted before a restart.
    resumed: Option<Arc<Frame>>,
}

/// What a window consists of.
#[derive(Debug, Default)]
pub(crate) struct WindowFrames {
    /// Oldest first; the last may be of a slot that is still running.
    pub(crate) frames: Vec<Arc<Frame>>,
    /// Where the first slot begins, in ms since 1970 UTC.
    pub(crate) from_ms: u64,
}

/// When somebody counted, of one history.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// Before this time, in s, nobody knows anything.
    since: u64,
    /// What was before this time, in s, went for lack of room.
    lost: u64,
    counted: MeasuredIntervals,
    counting_since: Option<u64>,
}

impl Measured {
    /// Whether a time may be told of by all of these together: not if it lies between those in which somebody counted, or
    /// behind them. What was before all is told to be so by `history.oldest`. Who never said when it counted has no say, but
    /// if nobody did.
    pub(crate) fn any_tells(all: &[Self]) -> impl Fn(u64, u64) -> bool {
        let heard = || all.iter().filter(|one| one.is_heard());
        let since = heard().map(|one| one.since).min();
        move |from, until| {
            since.is_none_or(|since| until <= since) || heard().any(|one| one.touches(from, until))
        }
    }

    /// Times in s in which any of them counted, up to `at_ms`; `None` if no recorder has reported
    /// since when it counts. Times of frames outside all reported times are included.
    pub(crate) fn counted(
        all: &[Self],
        window_frames: &WindowFrames,
        at_ms: u64,
    ) -> Option<CountedTimes> {
        let heard = || all.iter().filter(|one| one.is_heard());
        heard().next()?;
        let told = heard().flat_map(|one| {
            let own = one.counting_since.map(|since| (since, at_ms.div_ceil(1_000)));
            one.counted.as_slice().iter().copied().chain(own)
        });
        let reported: MeasuredIntervals = told.collect();
        let mut counted = reported.clone();
        for frame in &window_frames.frames {
            if !counted.touch(frame.start, frame.end()) {
                counted.add((frame.start, frame.end()));
            }
        }
        Some(CountedTimes { reported, counted })
    }

    /// Time in ms of a window in which requests were counted: the whole window if that is unknown.
    pub(crate) fn counted_ms(
        times: Option<&CountedTimes>,
        window_frames: &WindowFrames,
        at_ms: u64,
    ) -> u64 {
        let Some(times) = times else { return at_ms.saturating_sub(window_frames.from_ms) };
        let within = times.counted.as_slice().iter().map(|(from, until)| {
            let until = until.saturating_mul(1_000).min(at_ms);
            until.saturating_sub(from.saturating_mul(1_000).max(window_frames.from_ms))
        });
        within.sum()
    }

    fn is_heard(&self) -> bool {
        self.counting_since.is_some() || !self.counted.as_slice().is_empty()
    }

    fn touches(&self, from: u64, until: u64) -> bool {
        until > self.lost
            && (self.counted.touch(from, until)
                || self.counting_since.is_some_and(|since| until > since))
    }
}

/// Times in s in which recorders counted.
#[derive(Clone, Debug)]
pub(crate) struct CountedTimes {
    /// As the recorders reported them.
    reported: MeasuredIntervals,
    /// The reported times, and those of frames outside them.
    counted: MeasuredIntervals,
}

impl CountedTimes {
    /// Seconds of a time in which requests were counted; none if no recorder reported any of it.
    pub(crate) fn seconds_within(&self, from: u64, until: u64) -> Option<u64> {
        let is_reported = self.reported.touch(from, until);
        is_reported.then(|| self.counted.seconds_within(from, until))
    }
}

/// How much is remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) bytes: u64,
    pub(crate) since_ms: u64,
    pub(crate) dropped: u64,
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl History {
    /// A history without anything in it, that frames can be added to.
    pub fn new() -> Self {
        Self::with_budgets(BUDGETS)
    }

    /// The same with other bounds on the bytes of each ring, the ring of seconds first.
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
        };
        Self { rings: Mutex::new(rings) }
    }

    /// Tells that everything is known since a time in ms since 1970 UTC: that nothing before the first frame means
    /// nothing happened. Without it, time counts from the first frame.
    pub fn know_since(&self, ms: u64) {
        let mut rings = self.rings();
        rings.know_since(ms);
        rings.counting_since = rings.counting_since.into_iter().chain([ms / 1_000]).min();
    }

    /// The same up to another time: what comes behind is not known yet.
    pub fn know_between(&self, from_ms: u64, until_ms: u64) {
        let mut rings = self.rings();
        rings.know_since(from_ms);
        rings.count((from_ms / 1_000, until_ms.div_ceil(1_000)));
    }

    /// Adds the times in which somebody counted before, or elsewhere: without a frame, nothing happened in them.
    pub fn know_counted(&self, intervals: impl IntoIterator<Item = (u64, u64)>) {
        let mut rings = self.rings();
        intervals.into_iter().for_each(|interval| rings.count(interval));
    }

    /// The times in which somebody counted, up to the last second that was closed.
    pub fn counted(&self) -> MeasuredIntervals {
        let rings = self.rings();
        let mut counted = rings.counted.clone();
        if let Some(since) = rings.counting_since {
            counted.add((since, rings.rings[Step::Second.index()].until));
        }
        counted
    }

    /// Forgets slots that begin at this second or later: they were reported while a clock was
    /// wrong, and would hide what happens then.
    pub fn forget_from(&self, second: u64) {
        let mut rings = self.rings();
        rings.counted.forget_from(second);
        rings.rings.iter_mut().for_each(|ring| ring.forget_from(second));
    }

    /// Adds a finished frame from elsewhere; one of a slot that is there already, or was, is left out.
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

    /// Puts aside what a slot that is still running had counted before a restart: it is added to what is counted since,
    /// when the slot ends. Until then shorter slots tell of it.
    #[cfg(feature = "store")]
    pub(crate) fn resume(&self, frame: Frame) {
        let mut rings = self.rings();
        let ring = &mut rings.rings[frame.step.index()];
        if frame.end() > ring.until {
            ring.resumed = Some(Arc::new(frame));
        }
    }

    /// Finished frames of a ring that begin after `after` (in s since 1970 UTC), oldest first, at most `limit`.
    pub fn frames_after(&self, step: Step, after: u64, limit: usize) -> Vec<Arc<Frame>> {
        let rings = self.rings();
        let frames = &rings.rings[step.index()].frames;
        let first = frames.partition_point(|frame| frame.start <= after);
        frames.iter().skip(first).take(limit).cloned().collect()
    }

    /// Bytes that the frames take.
    pub fn bytes(&self) -> usize {
        self.rings().rings.iter().map(|ring| ring.bytes).sum()
    }

    pub(crate) fn extent(&self) -> Extent {
        let rings = self.rings();
        Extent {
            bytes: rings.rings.iter().map(|ring| ring.bytes as u64).sum(),
            since_ms: rings.since_ms,
            dropped: rings.rings.iter().map(|ring| ring.dropped).sum(),
        }
    }

    pub(crate) fn measured(&self) -> Measured {
        let rings = self.rings();
        // Nothing answers for what the longest slots have lost.
        let longest = &rings.rings[Step::Minute.index()];
        Measured {
            since: rings.since_ms / 1_000,
            lost: if longest.dropped > 0 { longest.since } else { 0 },
            counted: rings.counted.clone(),
            counting_since: rings.counting_since,
        }
    }

    /// Adds a slot of our own that has ended. One that was there from before a restart is added up with it.
    pub(crate) fn close(&self, frame: Arc<Frame>) {
        self.rings().rings[frame.step.index()].close(frame);
    }

    /// Tells that every slot of our own before `second` has been closed.
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

    /// Tells what the running slots have counted so far.
    pub(crate) fn show_open(&self, open: Option<Frame>) {
        self.rings().open = open.map(Arc::new);
    }

    /// What the window that ends at `at_ms` consists of, from slots as long as fits it.
    pub(crate) fn window_frames(&self, window: Window, at_ms: u64) -> WindowFrames {
        let length = window.length().as_millis() as u64;
        let base = if length <= BY_SECONDS_MAX { Step::Second } else { base_of_keys(length) };
        self.rings().window_frames(at_ms.saturating_sub(length), at_ms, base)
    }

    /// The same from slots that tell keys, as far as they are finished.
    pub(crate) fn window_frames_with_keys(&self, window: Window, at_ms: u64) -> WindowFrames {
        let length = window.length().as_millis() as u64;
        let base = base_of_keys(length);
        self.rings().window_frames(at_ms.saturating_sub(length), at_ms, base)
    }

    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slots that a window of `length` ms is read from, if they must tell keys.
fn base_of_keys(length: u64) -> Step {
    if length <= BY_TENS_MAX { Step::TenSeconds } else { Step::Minute }
}

impl Rings {
    fn know_since(&mut self, ms: u64) {
        self.since_ms = self.since_ms.min(ms);
        // A ring that has lost slots knows nothing of them any more, however long anybody counts.
        for ring in self.rings.iter_mut().filter(|ring| ring.dropped == 0) {
            ring.since = ring.since.min(ms / 1_000 / ring.step.seconds() * ring.step.seconds());
        }
    }

    fn count(&mut self, interval: (u64, u64)) {
        self.counted.add(interval);
        let kept = Step::Minute.slots_kept() * Step::Minute.seconds();
        let newest = self.counted.as_slice().last().map_or(0, |interval| interval.1);
        self.counted.forget(newest.saturating_sub(kept));
        // Also idle time is known. What the rings hold begins where it did.
        if let Some((from, _)) = self.counted.as_slice().first() {
            self.since_ms = self.since_ms.min(from.saturating_mul(1_000));
        }
    }

    /// Longer slots serve what is older than shorter ones reach, and `base` what is between; shorter ones serve what is
    /// newer than `base` has finished.
    fn window_frames(&self, from_ms: u64, at_ms: u64, base: Step) -> WindowFrames {
        let mut cuts = [u64::MAX, 0, 0, 0];
        let mut cut = 0;
        for at in (0..2).rev() {
            // Between the ring `at` and the one of longer slots.
            let (shorter, longer) = (&self.rings[at], &self.rings[at + 1]);
            let step = longer.step.seconds();
            let reached = shorter.since.div_ceil(step).saturating_mul(step);
            let begun = shorter.since / step * step;
            let between = if longer.step <= base || shorter.since == u64::MAX {
                longer.until
            } else if reached > longer.until {
                shorter.since
            } else if begun < shorter.since && !longer.tells_more_than(shorter, begun) {
                begun
            } else {
                reached
            };
            cut = cut.max(between);
            cuts[at + 1] = cut;
        }
        let from = from_ms / 1_000;
        let mut window_frames = WindowFrames { frames: Vec::new(), from_ms: u64::MAX };
        for at in (0..3).rev() {
            let ring = &self.rings[at];
            let (lower, upper) = (cuts[at + 1], cuts[at]);
            let served = |frame: &&Arc<Frame>| frame.start >= lower && frame.start < upper;
            let first = ring.frames.partition_point(|frame| frame.end() <= from);
            window_frames.frames.extend(ring.frames.iter().skip(first).filter(served).cloned());
            if from < upper {
                let step = ring.step.seconds();
                let begins = (from / step * step).max(lower).saturating_mul(1_000);
                window_frames.from_ms = window_frames.from_ms.min(begins);
            }
        }
        let open = self.open.as_ref().filter(|open| open.end() > from);
        window_frames.frames.extend(open.cloned());
        window_frames.from_ms = window_frames.from_ms.max(self.since_ms).min(at_ms);
        window_frames
    }
}

impl Ring {
    /// True if the slot that begins at `start`, in which a ring of shorter slots begins to have
    /// data, holds more than that ring. The slot of a recorder that had just begun does not, and
    /// shorter slots draw finer curves.
    fn tells_more_than(&self, shorter: &Self, start: u64) -> bool {
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
        // A slot that had begun by then may have ended after it.
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

    /// Slots before this time, in s, are too old to be kept.
    fn dropped_before(&self) -> u64 {
        let newest = self.frames.back().map_or(0, |frame| frame.end()).max(self.until);
        let kept = self.step.slots_kept() * self.step.seconds();
        let full = if self.dropped > 0 { self.since } else { 0 };
        newest.saturating_sub(kept).max(full)
    }

    /// Forgets what is too old, and what there is no room for.
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
