//! Lab servers: PostgreSQL servers for tests that pause replicas. The router reaches every replica,
//! and every replica follows its primary, through proxies that can be paused.
//!
//! If shards are files, the router itself can pause a replica (`/api/lab/nodes`). The router does
//! not control a PostgreSQL server, so the proxies pause its connections instead.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shard_manager::local::LocalNode;

use crate::databases::{Server, query};
use crate::harness::PATIENCE;
use crate::tcp_proxy::{ProxyMode, TcpProxy};

/// Servers whose replicas can be paused, delayed and cut off.
pub(crate) struct Lab {
    pub(crate) servers: Vec<Server>,
    connections: HashMap<String, ReplicaConnections>,
    /// Names of replicas whose replay is paused.
    paused: Mutex<HashSet<String>>,
}

/// Proxies of one replica.
struct ReplicaConnections {
    /// Connections from the router to the replica.
    asked: TcpProxy,
    /// Connections from the replica to its primary.
    followed: TcpProxy,
}

impl Lab {
    pub(crate) fn new(servers: Vec<Server>) -> Self {
        let mut connections = HashMap::new();
        for server in &servers {
            for replica in &server.replicas {
                let followed = TcpProxy::to(server.primary.port);
                follow_through(replica, followed.port);
                let asked = TcpProxy::to(replica.port);
                connections.insert(replica.name.clone(), ReplicaConnections { asked, followed });
            }
        }
        Self { servers, connections, paused: Mutex::default() }
    }

    /// Returns the URL of a database of this replica for a router.
    pub(crate) fn url(&self, replica: &LocalNode, database: &str) -> String {
        let proxy = self.connections[&replica.name].asked.port;
        let (own, proxy) = (format!(":{}/", replica.port), format!(":{proxy}/"));
        replica.url(database).replace(&own, &proxy)
    }

    /// Sets the state of a replica, with the names that `/api/lab/nodes` uses for files.
    pub(crate) fn set(&self, replica: &str, state: &str) {
        let (asked, followed) = match state {
            "running" => (ProxyMode::Open, ProxyMode::Open),
            "paused" => (ProxyMode::Open, ProxyMode::AnswersHeld),
            // The replica receives all changes, but does not replay them.
            "behind" => (ProxyMode::Open, ProxyMode::Open),
            "cut" => (ProxyMode::Cut, ProxyMode::AnswersHeld),
            other => panic!("no state of a node: {other}"),
        };
        self.connections[replica].followed.set(followed);
        self.connections[replica].asked.set(asked);
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(state, "paused" | "behind") && paused.insert(replica.to_owned()) {
            pause(&self.url_of(replica));
        } else if state == "running" && paused.remove(replica) {
            query(&self.url_of(replica), "SELECT pg_wal_replay_resume()");
        }
    }

    /// Returns the URL of a replica for the tests themselves, without its proxy.
    fn url_of(&self, replica: &str) -> String {
        let mut replicas = self.servers.iter().flat_map(|server| &server.replicas);
        replicas.find(|node| node.name == replica).unwrap().url("postgres")
    }

    /// Delays the changes that a replica receives.
    pub(crate) fn delay(&self, replica: &str, delay: Duration) {
        let mode = if delay.is_zero() { ProxyMode::Open } else { ProxyMode::Late(delay) };
        self.connections[replica].followed.set(mode);
    }

    /// Sets all replicas running.
    pub(crate) fn release(&self) {
        self.connections.keys().for_each(|replica| self.set(replica, "running"));
    }
}

/// Pauses the replay of a replica: changes that it has already received are not replayed either.
fn pause(url: &str) {
    query(url, "SELECT pg_wal_replay_pause()");
    let began = Instant::now();
    while query(url, "SELECT pg_get_wal_replay_pause_state()") != ["paused"] {
        assert!(began.elapsed() < PATIENCE, "a replica does not pause");
    }
}

/// Makes a replica connect to its primary through this port.
fn follow_through(replica: &LocalNode, port: u16) {
    let url = replica.url("postgres");
    // It may have been paused by tests that were killed.
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
        assert!(began.elapsed() < PATIENCE, "{} does not follow through its proxy", replica.name);
    }
}
