//! Proxy between a router and a node, which can drop traffic or close connections.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

const PASS: u8 = 0;
const SILENT: u8 = 1;
const CUT: u8 = 2;
const OVER: u8 = 3;

/// Interval at which a connection checks for a change of the mode.
const LOOK: Duration = Duration::from_millis(10);

/// A port that forwards to another port of this machine.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    mode: Arc<AtomicU8>,
}

impl Proxy {
    pub(crate) fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let mode = Arc::new(AtomicU8::new(PASS));
        let told = Arc::clone(&mode);
        listener.set_nonblocking(true).unwrap();
        spawn(move || {
            while told.load(Ordering::SeqCst) != OVER {
                match listener.accept() {
                    Ok((client, _)) if told.load(Ordering::SeqCst) != CUT => {
                        join(client, port, &told);
                    }
                    Ok(_) => {}
                    Err(_) => sleep(LOOK),
                }
            }
        });
        Self { port: own, mode }
    }

    /// Forwards everything.
    pub(crate) fn pass(&self) {
        self.mode.store(PASS, Ordering::SeqCst);
    }

    /// Accepts and drops all traffic, like a network that is cut without notice.
    pub(crate) fn fall_silent(&self) {
        self.mode.store(SILENT, Ordering::SeqCst);
    }

    /// Closes all connections and accepts no new ones.
    pub(crate) fn cut(&self) {
        self.mode.store(CUT, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mode.store(OVER, Ordering::SeqCst);
    }
}

fn join(client: TcpStream, port: u16, mode: &Arc<AtomicU8>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    for (from, to) in [(&client, &server), (&server, &client)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        from.set_nonblocking(false).unwrap();
        from.set_read_timeout(Some(LOOK)).unwrap();
        to.set_nodelay(true).unwrap();
        let mode = Arc::clone(mode);
        spawn(move || carry(from, to, &mode));
    }
}

/// Copies one direction. Once it has dropped bytes it stays dead: a stream with a gap must not
/// continue.
fn carry(mut from: TcpStream, mut to: TcpStream, mode: &AtomicU8) {
    let mut bytes = [0; 16 << 10];
    let mut is_dead = false;
    loop {
        let read = from.read(&mut bytes);
        let mode = mode.load(Ordering::SeqCst);
        is_dead |= mode == SILENT;
        match read {
            _ if mode == CUT || mode == OVER => break,
            Ok(0) => break,
            Ok(_) if is_dead => {}
            Ok(count) if to.write_all(&bytes[..count]).is_ok() => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(_) | Err(_) => break,
        }
    }
    for end in [from, to] {
        let _ = end.shutdown(Shutdown::Both);
    }
}
