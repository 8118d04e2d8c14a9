//! TCP link: a proxy on a loopback port in front of a server on this machine, which can be slow,
//! lossy or cut.
//!
//! TCP hides the loss of a packet: it is sent again after a timeout, which is at least 200 ms on
//! Linux. So a lossy link delays some chunks for that long.
//!
//! **Invariant:** bytes pass in order and unchanged, or the connection ends; threads and
//! connections end with the link.
//! **Not here:** choosing the state of a link (`disturbance`).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::random::Random;

/// Highest number of connections of a link; further ones are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// Bytes of a chunk. A longer response is delayed once for each chunk.
const PIECE: usize = 64 << 10;
/// Time after which a lost packet is sent again: the minimum on Linux.
const SENT_AGAIN: Duration = Duration::from_millis(200);

/// Pause after a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// State of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// Everything passes.
    #[default]
    Open,
    /// Each chunk of a response is delayed.
    Late(Duration),
    /// One chunk in this many is lost, and sent again.
    Lossy(u64),
    /// Connections are closed, new ones too.
    Cut,
}

/// Proxy in front of a server.
#[derive(Debug)]
pub struct TcpLink {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: u16,
    seed: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    link: LinkState,
    /// Both ends of each connection, by its number.
    connections: HashMap<u64, [TcpStream; 2]>,
    is_over: bool,
}

impl TcpLink {
    /// Opens a port in front of the server's port. The seed selects the chunks that are lost.
    ///
    /// # Errors
    /// The error of the operating system, if there is no port or no thread.
    pub fn to(server: u16, seed: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared { server, seed, state: Mutex::default() });
        let accepting = Arc::clone(&shared);
        thread::Builder::new().name("tcp-link".to_owned()).spawn(move || {
            for (number, client) in (0..).zip(listener.incoming()) {
                if accepting.lock().is_over {
                    return;
                }
                match client {
                    // If the server does not answer, the client is disconnected, as it would be
                    // without the link.
                    Ok(client) => drop(accepting.connect(number, client)),
                    // Too many open files, for example: trying again at once would only spin.
                    Err(_) => thread::sleep(ACCEPT_RETRY),
                }
            }
        })?;
        Ok(Self { port, shared })
    }

    /// Returns the port of the link.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the state, also for existing connections.
    pub fn set(&self, link: LinkState) {
        let mut state = self.shared.lock();
        state.link = link;
        if link == LinkState::Cut {
            state.end_connections();
        }
    }
}

impl Drop for TcpLink {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_over = true;
        state.end_connections();
        drop(state);
        // Wakes the thread that accepts, which then ends.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

impl State {
    fn end_connections(&mut self) {
        for end in self.connections.drain().flat_map(|(_, ends)| ends) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects a client with the server.
    fn connect(self: &Arc<Self>, number: u64, client: TcpStream) -> io::Result<()> {
        let is_open = |state: &State| {
            state.link != LinkState::Cut && state.connections.len() < CONNECTIONS_MAX
        };
        if !is_open(&self.lock()) {
            return Ok(());
        }
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.server))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let ways = [
            (client.try_clone()?, server.try_clone()?, false),
            (server.try_clone()?, client.try_clone()?, true),
        ];
        {
            // The link may have been cut meanwhile.
            let mut state = self.lock();
            if !is_open(&state) || state.is_over {
                return Ok(());
            }
            state.connections.insert(number, [client, server]);
        }
        for (from, to, is_answer) in ways {
            let shared = Arc::clone(self);
            let way = thread::Builder::new().name("tcp-link".to_owned());
            let begun = way.spawn(move || {
                // Either end may be closed at any time, which closes the other.
                let _ = shared.pass(from, to, (number, is_answer));
                shared.end(number);
            });
            if begun.is_err() {
                self.end(number);
            }
        }
        Ok(())
    }

    /// Forwards the bytes of one direction until one of the ends is closed.
    fn pass(
        &self,
        mut from: TcpStream,
        mut to: TcpStream,
        (number, is_answer): (u64, bool),
    ) -> io::Result<()> {
        let way = number.wrapping_mul(2).wrapping_add(u64::from(is_answer));
        let mut random = Random::new(self.seed.wrapping_add(way), "loss");
        let mut piece = vec![0; PIECE];
        loop {
            let count = from.read(&mut piece)?;
            if count == 0 {
                return Ok(());
            }
            let link = self.lock().link;
            match link {
                LinkState::Late(by) if is_answer => thread::sleep(by),
                LinkState::Lossy(one_of) if random.below(one_of.max(1)) == 0 => {
                    thread::sleep(SENT_AGAIN);
                }
                LinkState::Open | LinkState::Late(_) | LinkState::Lossy(_) | LinkState::Cut => {}
            }
            to.write_all(&piece[..count])?;
        }
    }

    fn end(&self, number: u64) {
        let ends = self.lock().connections.remove(&number);
        for end in ends.into_iter().flatten() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that returns every byte that it gets.
    fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        thread::spawn(move || {
            for mut client in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut back = client.try_clone().expect("a handle");
                    io::copy(&mut client, &mut back)
                });
            }
        });
        port
    }

    fn answers(client: &mut TcpStream, text: &[u8]) -> io::Result<bool> {
        client.write_all(text)?;
        let mut back = vec![0; text.len()];
        client.read_exact(&mut back)?;
        Ok(back == text)
    }

    #[test]
    fn bytes_pass_unchanged_in_each_state_but_that_of_a_cut() {
        let link = TcpLink::to(echo(), 1).expect("a link");
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, link.port())).expect("a way");
        let mut client = connect();
        for state in [
            LinkState::Open,
            LinkState::Late(Duration::from_millis(2)),
            LinkState::Lossy(2),
            LinkState::Open,
        ] {
            link.set(state);
            assert!(answers(&mut client, b"a question").expect("it is connected"), "{state:?}");
        }
        link.set(LinkState::Cut);
        assert!(!answers(&mut client, b"a question").is_ok_and(|same| same));
        assert!(!answers(&mut connect(), b"a question").is_ok_and(|same| same));
        link.set(LinkState::Open);
        assert!(answers(&mut connect(), b"a question").expect("it is connected again"));
    }
}
