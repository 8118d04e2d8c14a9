//! TCP link: a proxy on a loopback port in front of a server on this machine. The proxy can delay,
//! lose or cut the traffic.
//!
//! TCP hides the loss of a packet, because it sends the packet again after a timeout, which is at
//! least 200 ms on Linux. So a lossy link does not drop data, but delays some chunks by that time.
//!
//! **Invariant:** bytes pass in order and unchanged, or the connection ends; the threads and
//! connections of a link end when it is dropped.
//! **Not here:** choosing the state of a link (`disturbance`).

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::random::Random;

/// Maximum number of connections of a link. Further connections are closed at once.
const CONNECTIONS_MAX: usize = 256;
/// Maximum size of a chunk in bytes. A longer response is delayed once for each of its chunks.
const PIECE: usize = 64 << 10;
/// Time after which a lost chunk is sent again, which is the minimum of TCP on Linux.
const SENT_AGAIN: Duration = Duration::from_millis(200);

/// Pause after a failure to accept a connection.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// State of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LinkState {
    /// All data passes without delay.
    #[default]
    Open,
    /// Each chunk of a response is delayed by this time; requests are not delayed.
    Late(Duration),
    /// On average, one chunk in this many is lost and sent again.
    Lossy(u64),
    /// All connections are closed, and new ones are closed at once.
    Cut,
}

/// Proxy in front of one server.
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
    /// Sockets to the client and to the server of each connection, by the number of the connection.
    connections: HashMap<u64, [TcpStream; 2]>,
    is_over: bool,
}

impl TcpLink {
    /// Opens a link to a server's port on this machine. The seed selects the chunks that are lost.
    ///
    /// # Errors
    /// The error of the operating system, if no port or no thread is available.
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
                    // If the server cannot be reached, the client is disconnected, which it would
                    // notice without the link as well.
                    Ok(client) => drop(accepting.connect(number, client)),
                    // The cause may last, for example too many open files. Without the pause, the
                    // loop would use a whole core.
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

    /// Changes the state of the link, also for existing connections.
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
        // The connection wakes the thread that accepts connections, which then ends.
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
            // The link may have been cut or dropped while the server was being connected.
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
                // Either socket may be closed at any time; then the other socket is closed, too.
                let _ = shared.pass(from, to, (number, is_answer));
                shared.end(number);
            });
            if begun.is_err() {
                self.end(number);
            }
        }
        Ok(())
    }

    /// Forwards the bytes of one direction until one of the sockets is closed.
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

    /// Starts a server that returns every byte that it receives, and returns its port.
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
