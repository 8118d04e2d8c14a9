//! Replica: one streaming replica of a shard, and the task that watches how far it has come.
//!
//! PostgreSQL copies the rows; this only asks: what the primary has, then what the replica has replayed and what it has
//! on disk. It asks often while somebody waits, and seldom otherwise.
//!
//! **Invariant:** what is told of a replica was so when it was told, of a node in recovery, of the primary's system.
//! **Not here:** which replica answers a read (`replica_set`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;
use tokio::sync::Notify;

use super::node::Node;
use super::primary_log::PrimaryLog;
use super::readers::Readers;
use super::statement::{Statement, load};
use crate::home::Homes;
use crate::progress::{Progress, ReplicaState};
use crate::topology::Role;

/// How often a replica is asked while nobody waits for it.
const IDLE: Duration = Duration::from_millis(100);
/// How often while somebody does.
const AWAITED: Duration = Duration::from_millis(1);
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The pause after a first failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What a replica shows, and what it has on disk.
const REPLAYED: &str = "SELECT (pg_last_wal_replay_lsn()-'0/0')::bigint,\
    (pg_last_wal_receive_lsn()-'0/0')::bigint,pg_is_in_recovery(),\
    (SELECT received_tli FROM pg_stat_wal_receiver)";

/// A streaming replica.
pub struct Replica {
    node: Node,
    readers: Arc<Readers>,
    reachable: AtomicBool,
    stopping: AtomicBool,
    changed: Notify,
}

impl Replica {
    /// Watches a replica, on the runtime that this is called in.
    pub fn start(
        node: Node,
        primary: Arc<PrimaryLog>,
        (index, progress): (usize, &Arc<Progress>),
        (shard, homes): (&str, &Homes),
    ) -> Arc<Self> {
        let replica = Arc::new(Self {
            readers: Arc::new(Readers::start(&node, Role::Replica, shard, homes)),
            node,
            reachable: AtomicBool::new(true),
            stopping: AtomicBool::new(false),
            changed: Notify::new(),
        });
        let woken = Arc::clone(&replica);
        progress.set_waker(index, move || woken.changed.notify_one());
        // Only those who wait wake it; that something was written does not.
        progress.set_gathering(index, true);
        progress.set_state(index, ReplicaState::Down);
        let watcher = Watcher {
            replica: Arc::clone(&replica),
            primary,
            progress: Arc::clone(progress),
            index,
            retry: RETRY_FIRST,
        };
        tokio::spawn(watcher.run());
        replica
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node.name
    }

    /// Who reads it.
    pub fn readers(&self) -> Arc<Readers> {
        Arc::clone(&self.readers)
    }

    /// Whether it answered when it was asked last.
    pub fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::SeqCst)
    }

    /// Told when a read failed: it is asked before it is used again.
    pub fn suspect(&self) {
        self.reachable.store(false, Ordering::SeqCst);
        self.changed.notify_one();
    }

    /// Ends the task.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

/// The task's side.
struct Watcher {
    replica: Arc<Replica>,
    primary: Arc<PrimaryLog>,
    progress: Arc<Progress>,
    index: usize,
    retry: Duration,
}

impl Watcher {
    async fn run(mut self) {
        while !self.replica.stopping.load(Ordering::SeqCst) {
            let ended = self.watch().await;
            self.replica.reachable.store(false, Ordering::SeqCst);
            self.progress.set_state(self.index, ReplicaState::Down);
            if self.replica.stopping.load(Ordering::SeqCst) {
                return;
            }
            if let Err(error) = ended {
                tracing::warn!(node = %self.replica.node.name, %error, "a replica cannot be watched");
            }
            let _ = tokio::time::timeout(self.retry, self.replica.changed.notified()).await;
            self.retry = (self.retry * 2).min(RETRY_MAX);
        }
    }

    /// Connects to both nodes and asks them in turn, until one fails.
    async fn watch(&mut self) -> Result<(), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let node = self.replica.node.replica("watcher").await;
        let replica = node.map_err(|error| told(&error))?.connection;
        loop {
            let began = Instant::now();
            // While the primary is gone nobody knows how current the replica is.
            let written = self.primary.written().await;
            let timeline = self.primary.timeline();
            let asked = tokio::time::timeout(PATIENCE, ask(&replica, timeline)).await;
            let (replayed, received) = match asked {
                Ok(Ok(Ok(positions))) => positions,
                Ok(Ok(Err(cause))) => return Err(cause.to_owned()),
                Ok(Err(error)) => return Err(told(&error)),
                Err(_elapsed) => return Err("it does not answer".to_owned()),
            };
            self.tell(written, replayed, received, began);
            self.retry = RETRY_FIRST;
            let pause = if self.progress.is_awaited() { AWAITED } else { IDLE };
            let _ = tokio::time::timeout(pause, self.rest(pause)).await;
            if self.replica.stopping.load(Ordering::SeqCst) {
                return Ok(());
            }
        }
    }

    fn tell(&self, written: Option<u64>, replayed: u64, received: Option<u64>, began: Instant) {
        let had_all = written.filter(|written| replayed >= *written);
        if let Some(written) = written {
            self.progress.observe(written);
        }
        self.progress.applied(self.index, replayed, had_all.map(|_| began));
        if let Some(received) = received {
            self.progress.durable(self.index, received);
        }
        self.replica.reachable.store(true, Ordering::SeqCst);
        if self.progress.state(self.index) != ReplicaState::Following {
            tracing::info!(node = %self.replica.node.name, "a replica follows");
            self.progress.set_state(self.index, ReplicaState::Following);
        }
    }

    /// Ends early if somebody begins to wait.
    async fn rest(&self, pause: Duration) {
        if pause == AWAITED {
            tokio::time::sleep(AWAITED).await;
        } else {
            self.replica.changed.notified().await;
        }
    }
}

/// What a replica shows, and what it has on disk of this timeline; of that nothing is known while it receives nothing.
async fn ask(
    connection: &AsyncPgConnection,
    timeline: u32,
) -> QueryResult<Result<(u64, Option<u64>), &'static str>> {
    let rows = load(connection, Statement { sql: REPLAYED, binds: &[], cached: true }).await?;
    let row = rows.as_slice().first().ok_or(DieselError::NotFound)?;
    if row.boolean(2) != Some(true) {
        return Ok(Err("it is no replica any more"));
    }
    let received_of = row.bigint(3);
    if received_of.is_some_and(|found| found != i64::from(timeline)) {
        // Its positions are those of a life that the primary does not share.
        return Ok(Err("it follows a primary of another timeline"));
    }
    let number = |column| row.bigint(column).map(i64::cast_unsigned);
    let replayed = number(0).ok_or(DieselError::NotFound)?;
    Ok(Ok((replayed, number(1).filter(|_| received_of.is_some()))))
}
