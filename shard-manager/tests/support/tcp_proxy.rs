//! TCP proxy: a port in front of a server on this machine, so that a test can delay, hold or lose
//! traffic, or end connections. Tests of several packages include this file.
//!
//! **Invariant:** when a change of the mode returns, no bytes are on their way that the new mode
//! would not let pass. A connection that has lost bytes never carries any again.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes that are read at once.
const PIECE: usize = 64 << 10;
/// Pieces of one direction that may wait. When there are more, the sender has to wait.
const PIECES_MAX: usize = 64;

/// Behaviour of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    /// Everything passes.
    #[default]
    Open,
    /// Everything that the server sends arrives so much later.
    Late(Duration),
    /// Everything that the server sends waits for another mode.
    AnswersHeld,
    /// Everything passes, until a client has sent these texts, one after the other in two pieces:
    /// from then on answers to it wait for another mode.
    AnswersHeldAfter([&'static str; 2]),
    /// Everything waits for another mode.
    Held,
    /// Everything is accepted and lost, like in a network that is cut without notice.
    Silent,
    /// Connections are ended, new ones too.
    Cut,
}

/// A port in front of a server. Its connections end when it is dropped.
pub(crate) struct TcpProxy {
    /// Port of the proxy, on loopback.
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    mode: ProxyMode,
    /// Number of changes of the mode. A change ends a delay early.
    changes: u64,
    /// Both ends of all connections, in the order in which they were accepted.
    connections: Vec<[TcpStream; 2]>,
    /// Connections with a lower index than this have lost bytes.
    lost_before: usize,
    /// Number of texts that each connection has sent of those for which the mode waits.
    texts: HashMap<usize, usize>,
    is_over: bool,
}

impl TcpProxy {
    /// Opens a proxy in front of this port.
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.lock().is_over {
                    return;
                }
                if let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) {
                    accepting.connect([client, server]);
                }
            }
        });
        Self { port, shared }
    }

    /// Changes the behaviour, also towards existing connections.
    pub(crate) fn set(&self, mode: ProxyMode) {
        let mut state = self.shared.lock();
        (state.mode, state.changes) = (mode, state.changes + 1);
        state.texts.clear();
        match mode {
            ProxyMode::Silent => state.lost_before = state.connections.len(),
            ProxyMode::Cut => state.end_connections(),
            ProxyMode::Open
            | ProxyMode::Late(_)
            | ProxyMode::AnswersHeld
            | ProxyMode::AnswersHeldAfter(_)
            | ProxyMode::Held => {}
        }
        self.shared.changed.notify_all();
    }

    /// Loses the traffic of all existing connections from now on, without ending them.
    pub(crate) fn lose_existing(&self) {
        let mut state = self.shared.lock();
        state.lost_before = state.connections.len();
        self.shared.changed.notify_all();
    }
}

impl Drop for TcpProxy {
    fn drop(&mut self) {
        // A test that fails may have poisoned the state, and must not panic again.
        let Ok(mut state) = self.shared.state.lock() else { return };
        state.is_over = true;
        (state.mode, state.changes) = (ProxyMode::Cut, state.changes + 1);
        state.end_connections();
        self.shared.changed.notify_all();
        drop(state);
        // Wakes the thread that accepts, which then ends.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl State {
    /// Notes what a client has sent.
    fn note(&mut self, index: usize, piece: &[u8]) {
        let ProxyMode::AnswersHeldAfter(texts) = self.mode else { return };
        let sent = self.texts.entry(index).or_default();
        let Some(text) = texts.get(*sent) else { return };
        if piece.windows(text.len()).any(|bytes| bytes == text.as_bytes()) {
            *sent += 1;
        }
    }

    /// Returns true if the answers to a connection wait.
    fn holds_answers(&self, index: usize) -> bool {
        match self.mode {
            ProxyMode::AnswersHeld => true,
            ProxyMode::AnswersHeldAfter(texts) => self.texts.get(&index) == Some(&texts.len()),
            ProxyMode::Open
            | ProxyMode::Late(_)
            | ProxyMode::Held
            | ProxyMode::Silent
            | ProxyMode::Cut => false,
        }
    }

    fn end_connections(&self) {
        for end in self.connections.iter().flatten() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Joins the two ends of a new connection.
    fn connect(self: &Arc<Self>, ends: [TcpStream; 2]) {
        let mut state = self.lock();
        if state.mode == ProxyMode::Cut {
            return;
        }
        let copy = |end: usize| ends[end].try_clone().unwrap();
        let index = state.connections.len();
        for (from, to, is_answer) in [(copy(0), copy(1), false), (copy(1), copy(0), true)] {
            to.set_nodelay(true).unwrap();
            let (sender, pieces) = sync_channel(PIECES_MAX);
            thread::spawn(move || read_pieces(from, &sender));
            let shared = Arc::clone(self);
            thread::spawn(move || shared.write_pieces((index, is_answer), &pieces, to));
        }
        state.connections.push(ends);
        if state.mode == ProxyMode::Silent {
            state.lost_before = index + 1;
        }
    }

    /// Writes the pieces of one direction, and ends the connection after the last one.
    fn write_pieces(
        &self,
        direction: (usize, bool),
        pieces: &Receiver<(Instant, Vec<u8>)>,
        mut to: TcpStream,
    ) {
        for (arrived, piece) in pieces {
            let mut state = self.await_turn(direction, arrived);
            if !direction.1 {
                state.note(direction.0, &piece);
            }
            let is_lost = direction.0 < state.lost_before;
            // No change is made while the state is locked.
            let written = if is_lost { Ok(()) } else { to.write_all(&piece) };
            drop(state);
            if written.is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Waits until a piece of a direction may pass or is lost.
    fn await_turn(
        &self,
        (index, is_answer): (usize, bool),
        arrived: Instant,
    ) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while index >= state.lost_before {
            match state.mode {
                ProxyMode::Held => state = self.changed.wait(state).unwrap(),
                ProxyMode::AnswersHeld | ProxyMode::AnswersHeldAfter(_)
                    if is_answer && state.holds_answers(index) =>
                {
                    state = self.changed.wait(state).unwrap();
                }
                ProxyMode::Late(delay) if is_answer && arrived.elapsed() < delay => {
                    let (left, before) = (delay.saturating_sub(arrived.elapsed()), state.changes);
                    let unchanged = |state: &mut State| state.changes == before;
                    state = self.changed.wait_timeout_while(state, left, unchanged).unwrap().0;
                }
                ProxyMode::Open
                | ProxyMode::Late(_)
                | ProxyMode::AnswersHeld
                | ProxyMode::AnswersHeldAfter(_)
                | ProxyMode::Silent
                | ProxyMode::Cut => break,
            }
        }
        state
    }
}

/// Reads one direction of a connection, with the times at which its pieces arrived.
fn read_pieces(mut from: TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>) {
    let mut bytes = vec![0; PIECE];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if pieces.send((Instant::now(), bytes[..count].to_vec())).is_err() {
            return;
        }
    }
}
