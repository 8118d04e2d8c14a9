//! HistoryWriter: the thread that writes finished slots, gives back what was kept, and forgets what is old.
//!
//! What is to be written is asked of the rings each time: nothing is queued, so a store that is away for a day costs no
//! memory, and when it is back it gets all that the rings still hold.
//!
//! **Invariant:** nothing here is waited for but by [`HistoryWriter::close`] and [`HistoryWriter::flush`], and that no longer than [`CLOSE_MAX`].
//! **Not here:** files and servers (`store/sqlite`, `store/postgres`), how much is kept (`store/ring_index`), when somebody
//! counted (`store/coverage`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::coverage::Coverage;
use super::ring_index::{RingIndex, ring_s, seconds_of};
use super::rollup::RollUp;
use super::row::{Row, SHAPE, packed, unpacked};
use super::{Store, StoreAddress, StoreError, unix_now};
use crate::frame::{Frame, Step};
use crate::history::History;

/// How often finished slots are written: a crash loses them and the second that runs.
pub const WRITE_EVERY: Duration = Duration::from_secs(5);
/// How long [`HistoryWriter::close`] waits for the last slots to be written.
pub const CLOSE_MAX: Duration = Duration::from_secs(3);
/// The longest pause between two attempts at a store that is away.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Most frames of one transaction: what it takes stays below a second, and its memory some megabytes.
const BATCH_MAX: usize = 200;
/// Rows read at once while what was kept is given back.
const PAGE: i64 = 100;
/// How often what nobody keeps any more is looked for.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Keeps the history of sources until it is dropped.
pub struct HistoryWriter {
    commands: Sender<Command>,
    state: Arc<State>,
}

/// How a keeper is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryWriterState {
    /// Attempts at the store that failed, since the start.
    pub store_errors: u64,
    /// Whether the last one did.
    pub is_away: bool,
    /// Frames written since the start.
    pub written: u64,
    /// Frames given back since the start.
    pub given_back: u64,
    /// Frames that were kept and cannot be read, or are of another program's shape.
    pub unreadable: u64,
}

#[derive(Default)]
struct State {
    store_errors: AtomicU64,
    is_away: AtomicBool,
    written: AtomicU64,
    given_back: AtomicU64,
    unreadable: AtomicU64,
}

/// Called once, when all that was kept of a source is in its history, or cannot be had for now.
type OnLoaded = Box<dyn FnOnce() + Send>;

enum Command {
    Keep(Box<Source>),
    /// Write what there is, and say so.
    Flush(Sender<()>),
    /// The same, and end.
    Close(Sender<()>),
}

impl HistoryWriter {
    /// Begins to keep the history of a recorder of this process: gives back what was kept, beside whatever else goes on.
    /// Slots that had not ended when the process before did are made of the shorter ones that were kept of them.
    ///
    /// # Errors
    /// [`StoreError`] if there can be no thread. A store that cannot be used is no error: it is told of and tried again.
    pub fn start(
        address: StoreAddress,
        source: impl Into<String>,
        history: Arc<History>,
    ) -> Result<Self, StoreError> {
        let history_writer = Self::open(address)?;
        history_writer.command(source.into(), history, true, Box::new(|| ()));
        Ok(history_writer)
    }

    /// A keeper of no source yet.
    ///
    /// # Errors
    /// As [`HistoryWriter::start`].
    pub fn open(address: StoreAddress) -> Result<Self, StoreError> {
        let (commands, received) = mpsc::channel();
        let state = Arc::new(State::default());
        let place = address.to_string();
        let writer = WriterThread {
            address,
            state: state.clone(),
            store: None,
            sources: Vec::new(),
            told: None,
            pause: Duration::ZERO,
            forgotten: None,
        };
        let thread = thread::Builder::new().name("history".to_owned());
        let spawned = thread.spawn(move || writer.run(&received));
        spawned.map_err(|error| StoreError::Unusable { place, cause: error.to_string() })?;
        Ok(Self { commands, state })
    }

    /// Keeps another source, whose finished slots come from elsewhere. `then` is called on the keeper's thread when all that was kept of it was given back, or
    /// cannot be had for now; it must not block.
    pub fn keep(
        &self,
        source: impl Into<String>,
        history: Arc<History>,
        then: impl FnOnce() + Send + 'static,
    ) {
        self.command(source.into(), history, false, Box::new(then));
    }

    fn command(&self, name: String, history: Arc<History>, is_recorded: bool, then: OnLoaded) {
        let source = Source {
            coverage: Coverage::of(&name),
            name,
            history,
            is_recorded,
            then: Some(then),
            is_given_back: false,
            kept: None,
        };
        // A thread that has ended has nothing to say either.
        let _ = self.commands.send(Command::Keep(Box::new(source)));
    }

    /// How it is doing.
    pub fn state(&self) -> HistoryWriterState {
        HistoryWriterState {
            store_errors: self.state.store_errors.load(Ordering::Relaxed),
            is_away: self.state.is_away.load(Ordering::Relaxed),
            written: self.state.written.load(Ordering::Relaxed),
            given_back: self.state.given_back.load(Ordering::Relaxed),
            unreadable: self.state.unreadable.load(Ordering::Relaxed),
        }
    }

    /// Writes what is finished, within [`CLOSE_MAX`], and goes on keeping.
    pub fn flush(&self) {
        self.wait(Command::Flush);
    }

    /// Writes what is finished and ends, within [`CLOSE_MAX`]. Dropping does the same.
    pub fn close(self) {
        drop(self);
    }

    /// Has something done, and waits for it as long as that may take.
    fn wait(&self, command: impl FnOnce(Sender<()>) -> Command) {
        let (done, wait) = mpsc::channel();
        if self.commands.send(command(done)).is_ok() {
            let _ = wait.recv_timeout(CLOSE_MAX);
        }
    }
}

impl Drop for HistoryWriter {
    fn drop(&mut self) {
        self.wait(Command::Close);
    }
}

/// What the thread works on.
struct WriterThread {
    address: StoreAddress,
    state: Arc<State>,
    store: Option<Store>,
    sources: Vec<Source>,
    /// What was said of the outage that goes on.
    told: Option<String>,
    pause: Duration,
    /// When what nobody keeps any more was looked for last.
    forgotten: Option<Instant>,
}

struct Source {
    name: String,
    history: Arc<History>,
    /// Whether its slots end in this process.
    is_recorded: bool,
    then: Option<OnLoaded>,
    /// Whether what was kept is in the history.
    is_given_back: bool,
    /// What the store has, by step; `None` until it was asked since it was opened.
    kept: Option<[RingIndex; 3]>,
    /// When somebody counted, as the store has it.
    coverage: Coverage,
}

impl WriterThread {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut next = Instant::now();
        loop {
            match commands.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Command::Keep(mut source)) => {
                    if self.told.is_none() {
                        next = Instant::now();
                    } else if let Some(then) = source.then.take() {
                        // Nothing can be had of it for now.
                        then();
                    }
                    self.sources.push(*source);
                }
                Ok(Command::Flush(done)) => {
                    self.round(true);
                    let _ = done.send(());
                }
                Ok(Command::Close(done)) => {
                    self.round(true);
                    drop(self.store.take());
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    self.round(false);
                    next = Instant::now() + WRITE_EVERY.max(self.pause);
                }
            }
        }
    }

    /// Does all that is to be done, or tells why not. It may be the last time.
    fn round(&mut self, may_end: bool) {
        match self.attempt(may_end) {
            Ok(()) => {
                self.pause = Duration::ZERO;
                self.state.is_away.store(false, Ordering::Relaxed);
                if self.told.take().is_some() {
                    tracing::info!("{} is back: history is kept again", self.address);
                }
            }
            Err(cause) => {
                // Opened anew by the next attempt: what is left of a connection or a file proves nothing.
                self.store = None;
                for source in &mut self.sources {
                    source.kept = None;
                    source.coverage.doubt();
                }
                self.pause = (self.pause * 2).clamp(WRITE_EVERY, RETRY_MAX);
                self.state.store_errors.fetch_add(1, Ordering::Relaxed);
                self.state.is_away.store(true, Ordering::Relaxed);
                if self.told.is_none() {
                    tracing::warn!(
                        "history is not kept for now, figures go on from memory: {cause}"
                    );
                }
                self.told = Some(cause);
            }
        }
        for source in &mut self.sources {
            if let Some(then) = source.then.take() {
                then();
            }
        }
    }

    fn attempt(&mut self, may_end: bool) -> Result<(), String> {
        let store = match &mut self.store {
            Some(store) => store,
            None => {
                let opened = Store::open(&self.address).map_err(|error| error.to_string())?;
                self.store.insert(opened)
            }
        };
        let now = unix_now();
        let told = |error: diesel::result::Error| format!("{}: {error}", self.address);
        for source in &mut self.sources {
            if source.kept.is_none() {
                source.read_indexes(store, now).map_err(told)?;
            }
            if !source.is_given_back {
                source.give_back(store, &self.state, now).map_err(told)?;
            }
            source
                .write(store, &self.state, may_end)
                .map_err(|cause| format!("{}: {cause}", self.address))?;
        }
        if self.forgotten.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
            for step in Step::ALL {
                let before = now.saturating_sub(ring_s(step));
                store.forget_old(seconds_of(step), before as i64).map_err(told)?;
            }
            self.forgotten = Some(Instant::now());
        }
        Ok(())
    }
}

impl Source {
    /// Learns what the store has. What is of the future was written while a clock was wrong: it does not count.
    fn read_indexes(&mut self, store: &mut Store, now: u64) -> diesel::QueryResult<()> {
        let mut indexes = <[RingIndex; 3]>::default();
        for (seconds, start, bytes) in store.slots(&self.name)? {
            let step = Step::ALL.into_iter().position(|step| seconds_of(step) == seconds);
            let start = u64::try_from(start).ok().filter(|start| *start <= now);
            if let Some((step, start)) = step.zip(start) {
                indexes[step].add(start, u64::try_from(bytes).unwrap_or_default());
            }
        }
        self.kept = Some(indexes);
        Ok(())
    }

    /// Puts what was kept into the history.
    fn give_back(&mut self, store: &mut Store, state: &State, now: u64) -> diesel::QueryResult<()> {
        let newest = self.kept.get_or_insert_default().each_ref().map(RingIndex::newest);
        let indexes = self.kept.get_or_insert_default();
        self.coverage.recall(store, indexes, &self.history, now)?;
        let mut roll_up = RollUp::default();
        // The longest first: so what was kept of them is there before any is made of shorter ones.
        for step in Step::ALL.into_iter().rev() {
            let mut after = now.saturating_sub(ring_s(step)) as i64;
            loop {
                let rows = store.rows(&self.name, seconds_of(step), after, PAGE)?;
                let Some(last) = rows.last() else { break };
                after = last.start;
                for row in rows {
                    let readable = row.shape == SHAPE && row.start <= now as i64;
                    let frame = readable.then(|| unpacked::<Frame>(&row.frame)).flatten();
                    let Some(frame) = frame else {
                        state.unreadable.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    if self.is_recorded {
                        roll_up.note(&frame, newest);
                    }
                    self.history.absorb(frame);
                    state.given_back.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        roll_up.give(&self.history, unix_now(), newest[2]);
        self.is_given_back = true;
        Ok(())
    }

    /// Writes the slots that were finished since, and forgets the oldest.
    fn write(&mut self, store: &mut Store, state: &State, may_end: bool) -> Result<(), String> {
        let mut has_written = false;
        let indexes = self.kept.get_or_insert_default();
        for (step, index) in Step::ALL.into_iter().zip(indexes) {
            loop {
                let frames = self.history.frames_after(step, index.newest(), BATCH_MAX);
                let mut rows = Vec::with_capacity(frames.len());
                for frame in &frames {
                    rows.push(row_of(&self.name, frame).map_err(|error| error.to_string())?);
                }
                let first = index.first_to_keep(step, &rows);
                if rows.is_empty() && index.oldest() >= first {
                    break;
                }
                let forget = [(self.name.clone(), seconds_of(step), first as i64)];
                store.write(&rows, &forget).map_err(|error| error.to_string())?;
                state.written.fetch_add(rows.len() as u64, Ordering::Relaxed);
                has_written |= !rows.is_empty();
                index.note(&rows, first);
            }
        }
        if has_written || may_end || self.coverage.is_old() {
            self.coverage.write(store, &self.history)?;
        }
        Ok(())
    }
}

fn row_of(source: &str, frame: &Frame) -> std::io::Result<Row> {
    Ok(Row {
        source: source.to_owned(),
        step: seconds_of(frame.step),
        start: frame.start as i64,
        shape: SHAPE,
        frame: packed(frame)?,
    })
}
