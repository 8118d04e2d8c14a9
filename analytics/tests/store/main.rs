//! Tests of persistent history: in files, and in PostgreSQL databases if `TESSERA_TEST_POSTGRES`
//! names a folder in which `shard-manager cluster up` has created `plain`, like `./setup.sh test`
//! does.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod addresses;
mod files;
#[path = "../../../shard-manager/tests/support/prerequisites.rs"]
mod prerequisites;
mod restarts;
mod servers;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use analytics::store::{HistoryWriter, HistoryWriterState, StoreAddress};
use analytics::{Fanout, Frame, History, Step};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Returns a frame that can be recognised by its number of requests.
fn frame(step: Step, start: u64, requests: u64) -> Frame {
    let fanout = Fanout { requests, shards: requests, max: 1 };
    Frame { step, start, cells: Vec::new(), parts: Vec::new(), fanout, hot: Vec::new() }
}

fn history(frames: impl IntoIterator<Item = Frame>) -> Arc<History> {
    let history = History::new();
    frames.into_iter().for_each(|frame| history.absorb(frame));
    Arc::new(history)
}

/// Returns the frames of the last `count` seconds. The first frame has one request, the second has
/// two, and so on.
fn seconds(count: u64) -> impl Iterator<Item = Frame> {
    let first = now() - count;
    (0..count).map(move |second| frame(Step::Second, first + second, second + 1))
}

/// Returns the number of requests of each frame of a step, oldest first.
fn requests(history: &History, step: Step) -> Vec<u64> {
    let frames = history.frames_after(step, 0, usize::MAX);
    frames.iter().map(|frame| frame.fanout.requests).collect()
}

/// Returns the stored history of a source, and the state of the writer that loaded it.
fn stored_history(address: &StoreAddress, source: &str) -> (Arc<History>, HistoryWriterState) {
    let history_writer = HistoryWriter::open(address.clone()).unwrap();
    let history = loaded(&history_writer, source);
    let state = history_writer.state();
    history_writer.close();
    (history, state)
}

fn loaded(history_writer: &HistoryWriter, source: &str) -> Arc<History> {
    let history = Arc::new(History::new());
    let (done, wait) = mpsc::channel();
    history_writer.keep(source, history.clone(), move || done.send(()).unwrap());
    wait.recv_timeout(PATIENCE).unwrap();
    history
}

/// Waits until a history writer has a certain state.
fn await_state(
    history_writer: &HistoryWriter,
    is: impl Fn(&HistoryWriterState) -> bool,
) -> HistoryWriterState {
    let began = Instant::now();
    loop {
        let state = history_writer.state();
        if is(&state) {
            return state;
        }
        assert!(began.elapsed() < PATIENCE, "it never is: {state:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
