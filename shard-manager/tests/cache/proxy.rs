//! Proxy: the way to Redis, which a test can cut without a word to either side.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use shard_manager::cache::CacheSettings;

use crate::redis_server::Server;

/// A way to a Redis. Its threads end with the connections.
pub(crate) struct Proxy {
    port: u16,
    gate: Arc<Gate>,
    accepted: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Gate {
    /// Connections below this number lead nowhere any more.
    dead_below: Mutex<usize>,
    /// Whether what comes is held.
    held: Mutex<bool>,
    released: Condvar,
}

impl Proxy {
    pub(crate) fn to(redis: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), redis.port());
        let (gate, accepted) = (Arc::<Gate>::default(), Arc::<AtomicUsize>::default());
        let (opened, counted) = (Arc::clone(&gate), Arc::clone(&accepted));
        thread::spawn(move || {
            for inner in listener.incoming() {
                let (Ok(inner), Ok(outer)) = (inner, TcpStream::connect(("127.0.0.1", to))) else {
                    return;
                };
                let number = counted.fetch_add(1, Ordering::SeqCst);
                for (from, to) in [(&inner, &outer), (&outer, &inner)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let gate = Arc::clone(&opened);
                    thread::spawn(move || gate.pass(number, from, to));
                }
            }
        });
        Self { port, gate, accepted }
    }

    /// How to reach Redis this way.
    pub(crate) fn settings(&self, redis: &Server) -> CacheSettings {
        let address = format!("redis://127.0.0.1:{}", self.port).parse().unwrap();
        CacheSettings { address, ..redis.settings() }
    }

    /// All connections that there are lead nowhere from now on, and nobody is told.
    pub(crate) fn lose_all(&self) {
        *self.gate.dead_below.lock().unwrap() = self.accepted.load(Ordering::SeqCst);
    }

    /// Holds what comes, either way, until it is released.
    pub(crate) fn hold(&self, held: bool) {
        *self.gate.held.lock().unwrap() = held;
        self.gate.released.notify_all();
    }
}

impl Gate {
    fn pass(&self, number: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            drop(self.released.wait_while(self.held.lock().unwrap(), |held| *held));
            if number < *self.dead_below.lock().unwrap() {
                continue;
            }
            if to.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    }
}
