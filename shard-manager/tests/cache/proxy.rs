//! Proxy in front of Redis, which can delay traffic, hold it, or drop it without closing a
//! connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use shard_manager::cache::CacheSettings;

use crate::redis_server::Server;

/// A proxy in front of one Redis. Its threads end with the connections.
pub(crate) struct Proxy {
    port: u16,
    traffic: Arc<Traffic>,
    accepted: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Traffic {
    /// Connections with a number below this one are dead: their traffic is dropped.
    dead_below: Mutex<usize>,
    /// True while traffic is held in both directions.
    held: Mutex<bool>,
    released: Condvar,
    /// Delay of each answer of Redis.
    delay: Mutex<Duration>,
}

impl Proxy {
    pub(crate) fn to(redis: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), redis.port());
        let (traffic, accepted) = (Arc::<Traffic>::default(), Arc::<AtomicUsize>::default());
        let (opened, counted) = (Arc::clone(&traffic), Arc::clone(&accepted));
        thread::spawn(move || {
            for inner in listener.incoming() {
                let (Ok(inner), Ok(outer)) = (inner, TcpStream::connect(("127.0.0.1", to))) else {
                    return;
                };
                let number = counted.fetch_add(1, Ordering::SeqCst);
                for (from, to, is_answer) in [(&inner, &outer, false), (&outer, &inner, true)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let traffic = Arc::clone(&opened);
                    thread::spawn(move || traffic.pass((number, is_answer), from, to));
                }
            }
        });
        Self { port, traffic, accepted }
    }

    /// Settings to reach Redis through this proxy.
    pub(crate) fn settings(&self, redis: &Server) -> CacheSettings {
        self.settings_as("", redis)
    }

    /// Settings to reach Redis through this proxy with credentials: `user:password@`.
    pub(crate) fn settings_as(&self, user: &str, redis: &Server) -> CacheSettings {
        let address = format!("redis://{user}127.0.0.1:{}", self.port).parse().unwrap();
        CacheSettings { address, ..redis.settings() }
    }

    /// Delays all further answers of Redis.
    pub(crate) fn delay(&self, delay: Duration) {
        *self.traffic.delay.lock().unwrap() = delay;
    }

    /// Drops the traffic of all current connections from now on, without closing them.
    pub(crate) fn lose_all(&self) {
        *self.traffic.dead_below.lock().unwrap() = self.accepted.load(Ordering::SeqCst);
    }

    /// Holds traffic in both directions until it is released.
    pub(crate) fn hold(&self, held: bool) {
        *self.traffic.held.lock().unwrap() = held;
        self.traffic.released.notify_all();
    }
}

impl Traffic {
    fn pass(&self, (number, is_answer): (usize, bool), mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = [0; 65_536];
        let mut later = is_answer.then(|| later(to.try_clone().unwrap()));
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            drop(self.released.wait_while(self.held.lock().unwrap(), |held| *held));
            if number < *self.dead_below.lock().unwrap() {
                continue;
            }
            let is_gone = match &mut later {
                Some(later) => {
                    let due = Instant::now() + *self.delay.lock().unwrap();
                    later.send((due, bytes[..count].to_vec())).is_err()
                }
                None => to.write_all(&bytes[..count]).is_err(),
            };
            if is_gone {
                return;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    }
}

/// Writes each piece when it is due; later pieces may already be under way.
fn later(mut to: TcpStream) -> mpsc::Sender<(Instant, Vec<u8>)> {
    let (sender, pieces) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (due, piece) in pieces {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&piece).is_err() {
                return;
            }
        }
    });
    sender
}
