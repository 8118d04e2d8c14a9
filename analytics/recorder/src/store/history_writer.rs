//! History writer: the thread that writes frames to the store, reads them after a restart, and
//! removes old frames.
//!
//! In each round the thread reads new frames from the rings. Nothing is queued, so an outage of the
//! store takes no memory; after it, the thread writes every frame that the rings still hold.
//!
//! **Invariant:** only [`HistoryWriter::close`] and [`HistoryWriter::flush`] wait for the thread,
//! for at most [`CLOSE_MAX`].
//! **Not here:** files and servers (`store/sqlite`, `store/postgres`), the size of the stored
//! history (`store/ring_index`), measured intervals (`store/coverage`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::coverage::{Coverage, row_source};
use super::ring_index::{RingIndex, ring_s, seconds_of};
use super::rollup::RollUp;
use super::row::{Row, SHAPE, packed, unpacked};
use super::{NextRows, SourceRename, Store, StoreAddress, StoreError, unix_now};
use crate::frame::{Frame, Step};
use crate::history::{History, restore_forgotten, take_forgotten};

/// Time between two writes. A crash loses the frames that finished since the last write, and the
/// running second.
pub const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Longest time for which [`HistoryWriter::close`] waits for the last frames to be written.
pub const CLOSE_MAX: Duration = Duration::from_secs(3);
/// Longest pause between two attempts during an outage of the store.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Maximum number of frames in one transaction, chosen so that a transaction takes less than a
/// second and a few megabytes.
const BATCH_MAX: usize = 200;
/// Maximum number of rows that are read at once when stored history is read.
const PAGE: i64 = 100;
/// Time between two removals of old frames of sources that no longer exist.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Writes the histories of its sources to the store until it is dropped.
pub struct HistoryWriter {
    commands: Sender<Command>,
    state: Arc<State>,
}

/// State of a history writer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistoryWriterState {
    /// Number of failed attempts to use the store since the start.
    pub store_errors: u64,
    /// True if the last attempt failed.
    pub is_unavailable: bool,
    /// Number of frames written since the start.
    pub written: u64,
    /// Number of frames read from the store since the start.
    pub loaded: u64,
    /// Number of stored frames that were ignored because they are damaged, have the format of
    /// another version, or start in the future.
    pub unreadable: u64,
}

#[derive(Default)]
struct State {
    store_errors: AtomicU64,
    is_unavailable: AtomicBool,
    written: AtomicU64,
    loaded: AtomicU64,
    unreadable: AtomicU64,
}

/// Callback that is called once: as soon as the stored history of a source has been read, or the
/// first attempt to read it has failed.
type OnLoaded = Box<dyn FnOnce() + Send>;

enum Command {
    Keep(Box<Source>),
    /// Writes all finished frames, and confirms that.
    Flush(Sender<()>),
    /// Writes all finished frames, confirms that, and ends.
    Close(Sender<()>),
}

impl HistoryWriter {
    /// Starts to keep the history of a recorder of this process, and reads the stored history in
    /// the background. Frames that were unfinished when the last process ended are computed from
    /// the stored frames of shorter intervals.
    ///
    /// # Errors
    /// Fails with [`StoreError`] if the thread cannot be created. A store that cannot be used is
    /// not an error: the thread logs the failure and tries again.
    pub fn start(
        address: StoreAddress,
        source: impl Into<String>,
        history: Arc<History>,
    ) -> Result<Self, StoreError> {
        let history_writer = Self::open(address)?;
        let source = Source::new(source.into(), history);
        history_writer.command(Source { is_recorded: true, ..source });
        Ok(history_writer)
    }

    /// Starts like [`HistoryWriter::start`]. Before the stored history is read, that of `earlier`
    /// is renamed to `source`, unless `source` has a stored history already. If several sources
    /// name the same `earlier`, the first one gets all of its history, so that nothing is counted
    /// twice.
    ///
    /// # Errors
    /// Fails like [`HistoryWriter::start`].
    pub fn start_renamed(
        address: StoreAddress,
        source: impl Into<String>,
        earlier: impl Into<String>,
        history: Arc<History>,
    ) -> Result<Self, StoreError> {
        let history_writer = Self::open(address)?;
        let (source, earlier) = (Source::new(source.into(), history), Some(earlier.into()));
        history_writer.command(Source { is_recorded: true, earlier, ..source });
        Ok(history_writer)
    }

    /// Creates a history writer without a source.
    ///
    /// # Errors
    /// Fails like [`HistoryWriter::start`].
    pub fn open(address: StoreAddress) -> Result<Self, StoreError> {
        let (commands, received) = mpsc::channel();
        let state = Arc::new(State::default());
        let place = address.to_string();
        let writer = WriterThread {
            address,
            state: state.clone(),
            store: None,
            sources: Vec::new(),
            reported: None,
            pause: Duration::ZERO,
            forgotten: None,
        };
        let thread = thread::Builder::new().name("history".to_owned());
        let spawned = thread.spawn(move || writer.run(&received));
        spawned.map_err(|error| StoreError::Unusable { place, cause: error.to_string() })?;
        Ok(Self { commands, state })
    }

    /// Adds another source, whose finished frames come from another process. `then` is called on
    /// the history writer's thread, as soon as the stored history of the source has been read or
    /// the first attempt has failed; it must not block.
    pub fn keep(
        &self,
        source: impl Into<String>,
        history: Arc<History>,
        then: impl FnOnce() + Send + 'static,
    ) {
        let source = Source::new(source.into(), history);
        self.command(Source { then: Some(Box::new(then)), ..source });
    }

    fn command(&self, source: Source) {
        // An error means that the thread has ended and needs no command any more.
        let _ = self.commands.send(Command::Keep(Box::new(source)));
    }

    /// Returns the state.
    pub fn state(&self) -> HistoryWriterState {
        HistoryWriterState {
            store_errors: self.state.store_errors.load(Ordering::Relaxed),
            is_unavailable: self.state.is_unavailable.load(Ordering::Relaxed),
            written: self.state.written.load(Ordering::Relaxed),
            loaded: self.state.loaded.load(Ordering::Relaxed),
            unreadable: self.state.unreadable.load(Ordering::Relaxed),
        }
    }

    /// Writes all finished frames, and waits for that for at most [`CLOSE_MAX`]. The writer
    /// continues.
    pub fn flush(&self) {
        self.wait(Command::Flush);
    }

    /// Writes all finished frames, waits for that for at most [`CLOSE_MAX`], and ends the writer.
    /// Dropping the writer has the same effect.
    pub fn close(self) {
        drop(self);
    }

    /// Sends a command, and waits for its confirmation for at most [`CLOSE_MAX`].
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

/// State of the thread.
struct WriterThread {
    address: StoreAddress,
    state: Arc<State>,
    store: Option<Store>,
    sources: Vec<Source>,
    /// Logged cause of the current outage.
    reported: Option<String>,
    pause: Duration,
    /// Time of the last search for old frames of sources that no longer exist.
    forgotten: Option<Instant>,
}

struct Source {
    name: String,
    /// Source whose stored history this source takes over if it has none itself; `None` once this
    /// has been done or was not necessary.
    earlier: Option<String>,
    history: Arc<History>,
    /// True if the recorder of this process makes the frames of the source; false if they come from
    /// another process.
    is_recorded: bool,
    then: Option<OnLoaded>,
    /// True if the stored history has been read.
    is_loaded: bool,
    /// List of the frames in the store, by step; `None` after each opening of the store until the
    /// list has been read.
    kept: Option<[RingIndex; 3]>,
    /// Measured intervals in the store.
    coverage: Coverage,
    /// True if another part of the program still held the history at the beginning of the last
    /// round.
    is_held: bool,
}

impl WriterThread {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut next = Instant::now();
        loop {
            match commands.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Command::Keep(mut source)) => {
                    if self.reported.is_none() {
                        next = Instant::now();
                    } else if let Some(then) = source.then.take() {
                        // The stored history cannot be read for now.
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

    /// Carries out one round of reading and writing, and logs its failure. `may_end` is true if the
    /// process may end after this round.
    fn round(&mut self, may_end: bool) {
        match self.attempt(may_end) {
            Ok(()) => {
                self.pause = Duration::ZERO;
                self.state.is_unavailable.store(false, Ordering::Relaxed);
                if self.reported.take().is_some() {
                    tracing::info!("{} is available: history is kept again", self.address);
                }
            }
            Err(cause) => {
                // The next attempt opens the store again, because the state of the connection or
                // file is unknown.
                self.store = None;
                for source in &mut self.sources {
                    source.kept = None;
                    source.coverage.doubt();
                }
                self.pause = (self.pause * 2).clamp(WRITE_EVERY, RETRY_MAX);
                self.state.store_errors.fetch_add(1, Ordering::Relaxed);
                self.state.is_unavailable.store(true, Ordering::Relaxed);
                if self.reported.is_none() {
                    tracing::warn!(
                        "history is not kept for now, metrics continue from memory: {cause}"
                    );
                }
                self.reported = Some(cause);
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
        let failed = |error: diesel::result::Error| format!("{}: {error}", self.address);
        for source in &mut self.sources {
            source.is_held = Arc::strong_count(&source.history) > 1;
            if source.earlier.is_some() {
                source.take_earlier(store).map_err(failed)?;
            }
            if source.kept.is_none() {
                source.read_indexes(store, now).map_err(failed)?;
            }
            if !source.is_loaded {
                source.load(store, &self.state, now).map_err(failed)?;
            }
            source
                .write(store, &self.state, may_end)
                .map_err(|cause| format!("{}: {cause}", self.address))?;
        }
        // A history that only this thread holds gets no new frames, and all its frames have just
        // been written, so it is removed.
        self.sources.retain(|source| source.is_held);
        if self.forgotten.is_none_or(|at| at.elapsed() >= FORGET_EVERY) {
            for step in Step::ALL {
                let before = now.saturating_sub(ring_s(step));
                store.forget_old(seconds_of(step), before as i64).map_err(failed)?;
            }
            self.forgotten = Some(Instant::now());
        }
        Ok(())
    }
}

impl Source {
    /// Creates a source whose frames come from another process.
    fn new(name: String, history: Arc<History>) -> Self {
        Self {
            coverage: Coverage::of(&name),
            name,
            earlier: None,
            history,
            is_recorded: false,
            then: None,
            is_loaded: false,
            kept: None,
            is_held: true,
        }
    }

    /// Renames the stored history of the earlier source to this source, unless this source has one
    /// itself.
    fn take_earlier(&mut self, store: &mut Store) -> diesel::QueryResult<()> {
        let Some(from) = self.earlier.clone() else { return Ok(()) };
        let to = self.name.clone();
        let counted = SourceRename { from: row_source(&from), to: row_source(&to) };
        store.rename(&[SourceRename { from, to }, counted])?;
        self.earlier = None;
        Ok(())
    }

    /// Reads the list of the frames in the store. Frames that start in the future are left out,
    /// because they were written while a clock was wrong.
    fn read_indexes(&mut self, store: &mut Store, now: u64) -> diesel::QueryResult<()> {
        let mut indexes = <[RingIndex; 3]>::default();
        for (seconds, start, bytes) in store.frame_sizes(&self.name)? {
            let step = Step::ALL.into_iter().position(|step| seconds_of(step) == seconds);
            let start = u64::try_from(start).ok().filter(|start| *start <= now);
            if let Some((step, start)) = step.zip(start) {
                indexes[step].add(start, u64::try_from(bytes).unwrap_or_default());
            }
        }
        self.kept = Some(indexes);
        Ok(())
    }

    /// Reads the stored history.
    fn load(&mut self, store: &mut Store, state: &State, now: u64) -> diesel::QueryResult<()> {
        let newest = self.kept.get_or_insert_default().each_ref().map(RingIndex::newest);
        let indexes = self.kept.get_or_insert_default();
        self.coverage.recall(store, indexes, &self.history, now)?;
        let mut roll_up = RollUp::default();
        // The longest intervals are read first, because their stored frames must be known before
        // frames of such intervals are computed from shorter ones.
        for step in Step::ALL.into_iter().rev() {
            let mut after = now.saturating_sub(ring_s(step)) as i64;
            loop {
                let (source, step) = (&*self.name, seconds_of(step));
                let rows = store.rows(NextRows { source, step, after, most: PAGE })?;
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
                    state.loaded.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        roll_up.give(&self.history, unix_now(), newest[2]);
        self.is_loaded = true;
        Ok(())
    }

    /// Removes the stored frames that begin at this second or later.
    fn forget_from(&mut self, store: &mut Store, second: u64) -> Result<(), String> {
        let last = second.saturating_sub(1) as i64;
        for (step, index) in Step::ALL.into_iter().zip(self.kept.get_or_insert_default()) {
            index.forget_from(second);
            // The list lacks frames of the future if it was read after they were written, so the
            // store removes frames even if the list has none.
            let removed = store.forget_new(&self.name, seconds_of(step), last);
            removed.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Writes the frames that finished since the last write, and removes the oldest. Frames that
    /// the history has forgotten are removed first, because new frames may start before them.
    fn write(&mut self, store: &mut Store, state: &State, may_end: bool) -> Result<(), String> {
        let mut has_written = false;
        if let Some(second) = take_forgotten(&self.history) {
            // After an error, the next attempt removes them.
            let removed = self.forget_from(store, second);
            removed.inspect_err(|_| restore_forgotten(&self.history, second))?;
        }
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
