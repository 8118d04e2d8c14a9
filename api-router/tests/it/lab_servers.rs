//! The laboratory of stories on servers: every replica of it is reached, and follows its primary, through wires that can
//! be held up.
//!
//! On files the router itself can hold a replica up (`/api/lab/nodes`). A server of PostgreSQL is not the router's, so
//! that what happens to it has to happen on the way there.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shard_manager::local::LocalNode;

use crate::databases::{Server, query};
use crate::harness::PATIENCE;
use crate::wire::{Hold, Wire};

/// Servers whose replicas can be held up.
pub(crate) struct Lab {
    pub(crate) servers: Vec<Server>,
    wires: HashMap<String, Wires>,
    /// Replicas that replay nothing.
    paused: Mutex<HashSet<String>>,
}

/// The ways of one replica.
struct Wires {
    /// From the router to it.
    asked: Wire,
    /// From it to its primary.
    followed: Wire,
}

impl Lab {
    pub(crate) fn new(servers: Vec<Server>) -> Self {
        let mut wires = HashMap::new();
        for server in &servers {
            for replica in &server.replicas {
                let followed = Wire::to(server.primary.port);
                follow_through(replica, followed.port);
                let asked = Wire::to(replica.port);
                wires.insert(replica.name.clone(), Wires { asked, followed });
            }
        }
        Self { servers, wires, paused: Mutex::default() }
    }

    /// How a router reaches a database of this replica.
    pub(crate) fn url(&self, replica: &LocalNode, database: &str) -> String {
        let wire = self.wires[&replica.name].asked.port;
        let (own, wire) = (format!(":{}/", replica.port), format!(":{wire}/"));
        replica.url(database).replace(&own, &wire)
    }

    /// Sets the state of a replica, as the router's own laboratory does on files.
    pub(crate) fn set(&self, replica: &str, state: &str) {
        let (asked, followed) = match state {
            "running" => (Hold::Open, Hold::Open),
            "paused" => (Hold::Open, Hold::Stopped),
            // It gets everything, and shows nothing new.
            "behind" => (Hold::Open, Hold::Open),
            "cut" => (Hold::Cut, Hold::Stopped),
            other => panic!("no state of a node: {other}"),
        };
        self.wires[replica].followed.set(followed);
        self.wires[replica].asked.set(asked);
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(state, "paused" | "behind") && paused.insert(replica.to_owned()) {
            pause(&self.url_of(replica));
        } else if state == "running" && paused.remove(replica) {
            query(&self.url_of(replica), "SELECT pg_wal_replay_resume()");
        }
    }

    /// How the stories themselves reach a replica, whatever holds it up.
    fn url_of(&self, replica: &str) -> String {
        let mut replicas = self.servers.iter().flat_map(|server| &server.replicas);
        replicas.find(|node| node.name == replica).unwrap().url("postgres")
    }

    /// Makes a replica late.
    pub(crate) fn delay(&self, replica: &str, delay: Duration) {
        let hold = if delay.is_zero() { Hold::Open } else { Hold::Late(delay) };
        self.wires[replica].followed.set(hold);
    }

    /// Lets everything go.
    pub(crate) fn release(&self) {
        self.wires.keys().for_each(|replica| self.set(replica, "running"));
    }
}

/// Lets a replica stand still: what is on its way to it already is not replayed either.
fn pause(url: &str) {
    query(url, "SELECT pg_wal_replay_pause()");
    let began = Instant::now();
    while query(url, "SELECT pg_get_wal_replay_pause_state()") != ["paused"] {
        assert!(began.elapsed() < PATIENCE, "a replica does not pause");
    }
}

/// Tells a replica to reach its primary through this port.
fn follow_through(replica: &LocalNode, port: u16) {
    let url = replica.url("postgres");
    // It may have been paused by stories that were cut off.
    query(&url, "SELECT pg_wal_replay_resume()");
    let way = query(&url, "SELECT current_setting('primary_conninfo')").remove(0);
    let words = way.split(' ').map(|word| match word.strip_prefix("port=") {
        Some(_) => format!("port={port}"),
        None => word.to_owned(),
    });
    let way = words.collect::<Vec<_>>().join(" ").replace('\'', "''");
    query(&url, &format!("ALTER SYSTEM SET primary_conninfo = '{way}'"));
    query(&url, "SELECT pg_reload_conf()");
    let began = Instant::now();
    let follows = format!(
        "SELECT 1 FROM pg_stat_wal_receiver WHERE sender_port = {port} AND status = 'streaming'"
    );
    while query(&url, &follows).is_empty() {
        assert!(began.elapsed() < PATIENCE, "{} does not follow through its wire", replica.name);
    }
}
