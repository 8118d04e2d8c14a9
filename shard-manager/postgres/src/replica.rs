//! Replica: one node of a shard, and the task that watches its replication progress.
//!
//! PostgreSQL replicates the rows; this task only queries the positions that a replica has replayed
//! and has on disk, and the end of the log of the primary. It queries often while a request waits
//! for a position, and seldom otherwise. Any node may be promoted: a node that accepts writes on a
//! higher timeline becomes the primary for this router (`primary_tracker`).
//!
//! **Invariant:** a recorded position of a replica was reported by a node in recovery with the
//! system identifier and the timeline of the primary.
//! **Not here:** the choice of a replica for a read (`replica_set`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use diesel_async::AsyncPgConnection;
use engine::fault_injector::FaultInjector;
use engine::replication::{ReplicaState, ReplicationState};
use engine::runtime_pool::RuntimePool;
use engine::{NodeLabel, NodeReader, ReplicaNode};
use futures_util::StreamExt as _;
use tokio::sync::Notify;

use super::hazards::Hazards;
use super::node::Node;
use super::node_address::NodeAddress;
use super::primary_tracker::{DEPOSED, PrimaryTracker};
use super::readers::Readers;
use super::session::NodeRole;
use super::statement::{Statement, load, run};
use super::target::Target;
use super::term::Term;

/// Interval of the queries while no request waits for a position.
const IDLE: Duration = Duration::from_millis(100);
/// Interval of the queries while a request waits for a position.
const AWAITED: Duration = Duration::from_millis(1);
/// Longest expected interval between two reports of a replica's position: [`IDLE`] and a margin for
/// the query.
const REPORT_INTERVAL: Duration = Duration::from_millis(150);
/// Interval at which the tables of the primary are checked for hazards.
const TABLES_EVERY: Duration = Duration::from_secs(1);
/// Time limit for a response of a node.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause after a first failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Subscribes the session to notifications of slot changes, which only a primary sends.
const LISTEN: &str = "LISTEN tessera_slots";

/// Reads the state of a node: true if it is in recovery; the position that a replica has replayed,
/// or the end of a primary's log; the position that a replica has received; the timeline; and true
/// if the WAL receiver is active but hidden from this user.
const NODE_REPORT: &str = "SELECT r.recovery,CASE WHEN r.recovery THEN (pg_last_wal_replay_lsn()-'0/0')::bigint \
    ELSE (pg_current_wal_flush_lsn()-'0/0')::bigint END,\
    CASE WHEN r.recovery THEN (pg_last_wal_receive_lsn()-'0/0')::bigint END,\
    CASE WHEN r.recovery THEN (SELECT received_tli FROM pg_stat_wal_receiver WHERE status='streaming') \
    ELSE ('x'||left(pg_walfile_name(pg_current_wal_flush_lsn()),8))::bit(32)::integer END::bigint \
    ,r.recovery AND EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status IS NULL) \
    FROM (SELECT pg_is_in_recovery() AS recovery OFFSET 0) AS r";

/// Message about a node whose WAL receiver is active but hidden from this user.
const HIDDEN: &str = "it hides its WAL receiver, so it cannot confirm writes or serve reads: \
    GRANT pg_monitor TO the user of Tessera, on the primary";

/// A streaming replica.
pub struct Replica {
    tracker: Arc<PrimaryTracker>,
    index: usize,
    readers: Arc<Readers>,
    reachable: AtomicBool,
    /// True while the node receives the log of the primary.
    streaming: AtomicBool,
    stopping: AtomicBool,
    changed: Arc<Notify>,
}

impl Replica {
    /// Starts to watch a node, on the current runtime.
    pub fn start(
        tracker: &Arc<PrimaryTracker>,
        (index, replication): (usize, &Arc<ReplicationState>),
        (shard, runtimes): (&str, &RuntimePool),
    ) -> Arc<Self> {
        let target = Target::Replica(Arc::clone(tracker), index);
        let replica = Arc::new(Self {
            readers: Arc::new(Readers::start(&target, shard, replication, runtimes)),
            tracker: Arc::clone(tracker),
            index,
            reachable: AtomicBool::new(true),
            streaming: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            changed: Arc::default(),
        });
        // The closure does not hold the replica itself, which would otherwise live as long as the
        // replication state.
        let woken = Arc::clone(&replica.changed);
        replication.waiters().set_waker(index, move || woken.notify_one());
        // Only waiting requests wake the task; new writes alone do not.
        replication.waiters().set_gathering(index, true);
        replication.replicas().set_state(index, ReplicaState::Down);
        let watcher = Watcher {
            replica: Arc::clone(&replica),
            tracker: Arc::clone(tracker),
            replication: Arc::clone(replication),
            index,
            retry: RETRY_FIRST,
            reported: String::new(),
            looked_at: None,
        };
        tokio::spawn(watcher.run());
        replica
    }

    /// Returns the present name and address of the node.
    fn called(&self) -> (&str, &NodeAddress) {
        (self.tracker.called(self.index), &self.member().address)
    }

    fn member(&self) -> &Node {
        &self.tracker.members()[self.index]
    }

    /// Records that the node did not answer: the watcher checks it before it is used again.
    fn suspect(&self) {
        self.reachable.store(false, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

impl ReplicaNode for Replica {
    fn opened_name(&self) -> &str {
        &self.member().name
    }

    fn current(&self) -> NodeLabel<'_> {
        let (name, address) = self.called();
        NodeLabel { name, address: Some(address) }
    }

    fn reader(&self) -> Option<Arc<dyn NodeReader>> {
        Some(Arc::clone(&self.readers) as Arc<dyn NodeReader>)
    }

    fn fault_injector(&self) -> Option<&Arc<FaultInjector>> {
        None
    }

    fn is_reachable(&self) -> bool {
        self.reachable.load(Ordering::SeqCst)
    }

    fn is_streaming(&self) -> bool {
        self.streaming.load(Ordering::SeqCst)
    }

    fn read_failed(&self) {
        self.suspect();
    }

    fn probe_failed(&self) {
        self.suspect();
    }

    fn report_interval(&self) -> Duration {
        REPORT_INTERVAL
    }

    fn outlives_primary(&self) -> bool {
        true
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }
}

/// State of the task that watches a node.
struct Watcher {
    replica: Arc<Replica>,
    tracker: Arc<PrimaryTracker>,
    replication: Arc<ReplicationState>,
    index: usize,
    retry: Duration,
    /// Last logged reason why the node could not be watched.
    reported: String,
    /// Time of the last check of the tables.
    looked_at: Option<Instant>,
}

/// State that a node has reported.
pub(super) struct NodeReport {
    pub(super) in_recovery: bool,
    /// Position that a replica has replayed, or the end of the log of a primary.
    shows: u64,
    /// Position that a replica has received, and its timeline; `None` while it receives nothing.
    received: Option<(u64, u32)>,
    /// Timeline of a primary; `None` for a replica.
    pub(super) timeline: Option<u32>,
    /// True if the WAL receiver of the node is active but hidden from this user.
    is_hidden: bool,
}

impl Watcher {
    async fn run(mut self) {
        while !self.replica.stopping.load(Ordering::SeqCst) {
            let ended = self.watch().await;
            self.replica.reachable.store(false, Ordering::SeqCst);
            self.replica.streaming.store(false, Ordering::SeqCst);
            if self.tracker.term().member == self.index {
                self.replication.timeline().set_silent(true);
            }
            self.replication.replicas().set_state(self.index, ReplicaState::Down);
            if self.replica.stopping.load(Ordering::SeqCst) {
                return;
            }
            // A reason is logged as a warning only if it differs from the last one, so that a node
            // that stays down does not fill the log.
            let is_new = ended.as_ref().is_err_and(|error| *error != self.reported);
            let (node, at) = self.replica.called();
            match ended {
                Err(error) if is_new => {
                    tracing::warn!(node, %at, %error, "a node cannot be watched");
                    self.reported = error;
                }
                Err(error) => tracing::debug!(node, %at, %error, "a node cannot be watched"),
                Ok(()) => {}
            }
            tokio::time::sleep(RETRY_FIRST).await;
            let rest = self.retry.saturating_sub(RETRY_FIRST);
            let _ = tokio::time::timeout(rest, self.replica.changed.notified()).await;
            self.retry = (self.retry * 2).min(RETRY_MAX);
        }
    }

    /// Connects to the node and queries it periodically, until that fails or the task is stopped.
    async fn watch(&mut self) -> Result<(), String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let node = self.replica.member().connect("watcher", NodeRole::Any).await;
        let mut connection = node.map_err(|error| failed(&error))?.connection;
        let mut is_listening = false;
        loop {
            let term = self.tracker.term();
            let asked_at = Instant::now();
            let asked = tokio::time::timeout(PATIENCE, ask(&connection)).await;
            let report = match asked {
                Ok(Ok(report)) => report,
                Ok(Err(error)) => return Err(failed(&error)),
                Err(_elapsed) => return Err("it does not answer".to_owned()),
            };
            if report.in_recovery {
                self.heard_replica(term, &report)?;
            } else {
                self.heard_primary(term, &report, asked_at).await?;
                if !is_listening && self.tracker.term().member == self.index {
                    self.listen(&connection).await?;
                    is_listening = true;
                }
                self.look_at_tables(&connection).await;
            }
            self.retry = RETRY_FIRST;
            self.reported.clear();
            let pause = if self.replication.waiters().has_waiters() { AWAITED } else { IDLE };
            let is_notified = tokio::select! {
                _ = tokio::time::timeout(pause, self.rest(pause)) => None,
                notified = notified(&mut connection) => Some(notified),
            };
            match is_notified {
                Some(true) => self.tracker.slot_news.announce(),
                Some(false) => return Err("its session has ended".to_owned()),
                None => {}
            }
            if self.replica.stopping.load(Ordering::SeqCst) {
                return Ok(());
            }
        }
    }

    /// Listens for changes of slots on the primary. Changes that were committed before are
    /// announced here, because no notification of them arrives.
    async fn listen(&self, connection: &AsyncPgConnection) -> Result<(), String> {
        let listening = tokio::time::timeout(PATIENCE, run(connection, LISTEN)).await;
        let listening = listening.map_err(|_elapsed| "it does not answer".to_owned())?;
        listening.map_err(|error| error.to_string())?;
        self.tracker.slot_news.announce();
        Ok(())
    }

    async fn heard_primary(
        &self,
        term: Term,
        report: &NodeReport,
        asked_at: Instant,
    ) -> Result<(), String> {
        let timeline = report.timeline.unwrap_or(0);
        if timeline > term.timeline {
            return self.tracker.found(self.index).await.map_err(|error| error.to_string());
        }
        if timeline < term.timeline || term.member != self.index {
            return Err(DEPOSED.to_owned());
        }
        self.tracker.samples().record(report.shows, asked_at);
        self.replication.update_if_current(self.tracker.terms().timeline_id(term), |replication| {
            replication.primary().observe(report.shows);
            replication.timeline().set_silent(false);
        });
        self.replica.reachable.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Checks the primary's tables for hazards at [`TABLES_EVERY`]. A check that fails is repeated
    /// at the next interval.
    async fn look_at_tables(&mut self, connection: &AsyncPgConnection) {
        let is_due = self.looked_at.is_none_or(|at| at.elapsed() >= TABLES_EVERY);
        if !is_due || self.tracker.term().member != self.index {
            return;
        }
        self.looked_at = Some(Instant::now());
        match tokio::time::timeout(PATIENCE, Hazards::of_database(connection)).await {
            Ok(Ok(found)) => {
                let node = (self.tracker.name(), self.tracker.address());
                self.tracker.hazards().record(found, node);
            }
            Ok(Err(error)) => tracing::debug!(%error, "the tables cannot be checked for hazards"),
            Err(_elapsed) => tracing::debug!("the tables could not be checked for hazards in time"),
        }
    }

    fn heard_replica(&self, term: Term, report: &NodeReport) -> Result<(), String> {
        if term.member == self.index {
            return Err("it is a replica now, and no other node takes writes".to_owned());
        }
        if report.received.is_some_and(|(_, timeline)| timeline != term.timeline) {
            // Its positions belong to a timeline that the primary does not share.
            return Err("it follows a primary of another timeline".to_owned());
        }
        self.replica.streaming.store(report.received.is_some(), Ordering::SeqCst);
        let known = self.replication.replicas().state(self.index) == ReplicaState::Following;
        let was_there = self.replica.member().identity.timeline == term.timeline;
        if report.received.is_none() && !known && !was_there {
            // Until the node follows the present primary, its rows may belong to an abandoned
            // timeline.
            let nothing = "it receives nothing from the primary";
            return Err(if report.is_hidden { HIDDEN } else { nothing }.to_owned());
        }
        let current_at = self.tracker.samples().had_all_at(report.shows);
        self.replication.update_if_current(self.tracker.terms().timeline_id(term), |replication| {
            replication.replicas().record_applied(self.index, report.shows, current_at);
            if let Some((received, _)) = report.received {
                replication.replicas().record_durable(self.index, received);
            }
            self.replica.reachable.store(true, Ordering::SeqCst);
            if !known {
                let (node, at) = self.replica.called();
                tracing::info!(node, %at, "a replica follows");
                replication.replicas().set_state(self.index, ReplicaState::Following);
            }
        });
        Ok(())
    }

    /// Waits for [`AWAITED`] or, if `pause` is longer, until the task is woken, for example because
    /// a request begins to wait for a position. The calling function limits the wait to `pause`.
    async fn rest(&self, pause: Duration) {
        if pause == AWAITED {
            tokio::time::sleep(AWAITED).await;
        } else {
            self.replica.changed.notified().await;
        }
    }
}

/// Waits until the database notifies of a change of slots; returns false if the session has ended.
async fn notified(connection: &mut AsyncPgConnection) -> bool {
    let mut notifications = std::pin::pin!(connection.notifications_stream());
    matches!(notifications.next().await, Some(Ok(_)))
}

/// Queries the role and the positions of a node.
pub(super) async fn ask(connection: &AsyncPgConnection) -> QueryResult<NodeReport> {
    let rows = load(connection, Statement { sql: NODE_REPORT, binds: &[], cached: true }).await?;
    let row = rows.as_slice().first().ok_or(DieselError::NotFound)?;
    let in_recovery = row.boolean(0).ok_or(DieselError::NotFound)?;
    let number = |column| row.bigint(column).map(i64::cast_unsigned);
    let shows = number(1).ok_or(DieselError::NotFound)?;
    let timeline = number(3).map(|timeline| timeline as u32);
    let received = number(2).zip(timeline).filter(|_| in_recovery);
    let is_hidden = row.boolean(4) == Some(true);
    let timeline = timeline.filter(|_| !in_recovery);
    Ok(NodeReport { in_recovery, shows, received, timeline, is_hidden })
}
