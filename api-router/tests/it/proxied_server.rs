//! Proxied server: a connection to a server through this process, so that a test can pause it.
//!
//! **Invariant:** when a change of the mode returns, no bytes are on their way that would not have
//! been sent after it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Mode of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ProxyMode {
    /// Nothing.
    #[default]
    Open,
    /// Bytes of the server wait so long.
    Late(Duration),
    /// Bytes of the server wait until the proxy is open again.
    Stopped,
    /// New connections fail, and existing ones are ended.
    Cut,
}

#[derive(Default)]
struct State {
    mode: ProxyMode,
    /// Grows with every change, which ends a delay early.
    changes: u64,
    connections: Vec<TcpStream>,
}

/// A way to a server.
pub(crate) struct ProxiedServer {
    /// Port of the proxy, on loopback.
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl ProxiedServer {
    /// Returns a proxy to this port.
    pub(crate) fn to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let shared = Arc::new(Shared::default());
        let proxy = Self { port: listener.local_addr().unwrap().port(), shared };
        let shared = Arc::clone(&proxy.shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { continue };
                shared.connect(&client, &server);
            }
        });
        proxy
    }

    /// Holds it up, or lets it go.
    pub(crate) fn set(&self, mode: ProxyMode) {
        let mut state = self.shared.lock();
        state.mode = mode;
        state.changes += 1;
        if mode == ProxyMode::Cut {
            for connection in state.connections.drain(..) {
                let _ = connection.shutdown(Shutdown::Both);
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn connect(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) {
        let copy = |stream: &TcpStream| stream.try_clone().unwrap();
        let mut state = self.lock();
        if state.mode == ProxyMode::Cut {
            return;
        }
        for stream in [client, server] {
            stream.set_nodelay(true).unwrap();
            state.connections.push(copy(stream));
        }
        let (mut from, mut to) = (copy(client), copy(server));
        thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
        let (shared, from, to) = (Arc::clone(self), copy(server), copy(client));
        thread::spawn(move || shared.answer(from, to));
    }

    /// Carries what the server says.
    fn answer(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let state = self.await_open();
            let sent = to.write_all(&bytes[..count]);
            drop(state);
            if sent.is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }

    /// Returns the right to carry something: no change is made while it is held.
    fn await_open(&self) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let mut delayed = false;
        loop {
            let before = state.changes;
            match state.mode {
                ProxyMode::Open | ProxyMode::Cut => return state,
                ProxyMode::Late(_) if delayed => return state,
                ProxyMode::Late(delay) => {
                    let unchanged = |state: &mut State| state.changes == before;
                    state = self.changed.wait_timeout_while(state, delay, unchanged).unwrap().0;
                    delayed = true;
                }
                ProxyMode::Stopped => state = self.changed.wait(state).unwrap(),
            }
        }
    }
}
