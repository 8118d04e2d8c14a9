//! Replication: the position that each node of a shard has reached, and the tasks that wait for a
//! position.
//!
//! The writer of the primary and the appliers, which apply the primary's changes to the replicas,
//! report positions; reads and writes use them. A position is reported before its changes can
//! become visible (`begin`, `begin_apply`), and again once they are visible (`commit`,
//! `record_applied`). The newest change that a read can have seen is therefore known without a
//! second query of the database.
//!
//! **Invariant:** the positions of a node only increase while a timeline lasts, and `durable <=
//! applied <= applying` holds for a replica.
//! **Not here:** the choice of the node that answers a read (`replica_set`), the transport of rows
//! to a replica (`sqlite`; PostgreSQL replicates its rows itself).

mod connection_loss;
mod log_retention;
mod position_waiters;
mod primary_positions;
mod replica_positions;
mod timeline;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use connection_loss::presumed_lost;
use log_retention::LogRetention;
pub use log_retention::RetainedLog;
use model::position::TimelineHistory;
pub use position_waiters::{PositionWaiters, Waiting};
pub use primary_positions::PrimaryPositions;
pub use replica_positions::{ReplicaPositions, ReplicaState};
pub use timeline::Timeline;

/// Set of processes that may write to the shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WriterAccess {
    /// Only this process writes: the positions known here are complete.
    Exclusive,
    /// Other processes write as well: the primary may have more changes than are known here.
    Shared,
}

/// Replication state of the nodes of one shard.
#[derive(Debug)]
pub struct ReplicationState {
    timeline: Timeline,
    primary: PrimaryPositions,
    replicas: ReplicaPositions,
    log: Arc<LogRetention>,
    writers: WriterAccess,
    /// Lock that is held while the timeline changes, and while positions are recorded that are
    /// valid for one timeline only.
    changing: Mutex<()>,
}

impl ReplicationState {
    /// Creates the state of a shard to which only this process writes. Its primary has reached
    /// `position` on the last timeline of `history`, and all of its replicas are down.
    pub fn new(history: TimelineHistory, position: u64, replicas: usize) -> Self {
        Self {
            timeline: Timeline::new(history, replicas),
            primary: PrimaryPositions::new(position),
            replicas: ReplicaPositions::new(replicas),
            log: Arc::default(),
            writers: WriterAccess::Exclusive,
            changing: Mutex::new(()),
        }
    }

    /// Marks the shard as writable by other processes. Its nodes then include the primary, which is
    /// node 0 at first and is not counted as a replica.
    #[must_use]
    pub fn with_shared_writers(self) -> Self {
        let timeline = Timeline { leader: AtomicUsize::new(0), ..self.timeline };
        Self { timeline, writers: WriterAccess::Shared, ..self }
    }

    /// Returns the timeline that the shard is on.
    #[inline]
    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Returns the positions of the primary.
    #[inline]
    pub fn primary(&self) -> &PrimaryPositions {
        &self.primary
    }

    /// Returns the positions of the replicas.
    #[inline]
    pub fn replicas(&self) -> &ReplicaPositions {
        &self.replicas
    }

    /// Returns the tasks that wait until replicas reach a position.
    #[inline]
    pub fn waiters(&self) -> &PositionWaiters {
        &self.replicas.waiters
    }

    /// Begins the timeline of a node that has become the primary, at that node's position. The
    /// position of each other node is unknown until the node is found to follow the new primary.
    pub fn follow(&self, history: TimelineHistory, position: u64, leader: usize) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.timeline.leader.store(leader, Ordering::SeqCst);
        let PrimaryPositions { begun, committed, read_high_watermark, schema } = &self.primary;
        for positions in [begun, committed, read_high_watermark, schema] {
            positions.store(position, Ordering::SeqCst);
        }
        for replica in &self.replicas.nodes {
            replica.state.store(ReplicaState::Down as u8, Ordering::SeqCst);
            for position in [&replica.applying, &replica.applied, &replica.durable] {
                position.store(0, Ordering::SeqCst);
            }
            replica.current_at.store(0, Ordering::SeqCst);
        }
        // This comes last, so that a thread that sees the new timeline sees no positions of the
        // earlier one.
        self.timeline.history.store(Arc::new(history));
        self.timeline.silent.store(false, Ordering::SeqCst);
        self.waiters().notify_advanced();
        self.waiters().notify_down();
    }

    /// Calls `update` to record positions that are valid for one timeline only; does nothing if
    /// that timeline has ended.
    pub fn update_if_current(&self, timeline_id: u32, update: impl FnOnce(&Self)) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.timeline.id() == timeline_id {
            update(self);
        }
    }

    /// Records a batch that is durable on the primary, before its operations are acknowledged.
    /// `began` is the time at which its commit began.
    pub fn commit(&self, position: u64, began: Instant) {
        let before = self.primary.committed.load(Ordering::Acquire);
        self.replicas.fall_behind(before, began);
        self.primary.committed.store(position, Ordering::SeqCst);
        self.waiters().wake_idle();
    }

    /// Sets the position of the primary after a batch has failed, or after its file was opened
    /// again.
    pub fn reset_to(&self, position: u64) {
        self.primary.committed.store(position, Ordering::SeqCst);
        self.primary.begun.store(position, Ordering::SeqCst);
        self.waiters().wake_all();
    }

    /// Returns the time since the replica last had all committed changes; zero if it is known to
    /// have them now.
    pub fn staleness(&self, replica: usize) -> Duration {
        let has_all = || self.replicas.applied(replica) >= self.primary.committed();
        // Other writers may have committed more than is known here.
        if self.writers == WriterAccess::Exclusive && has_all() {
            return Duration::ZERO;
        }
        self.replicas.nodes[replica].time_since_current()
    }

    /// Returns the lag of a replica for reports; `None` if the replica has never had all committed
    /// changes since this process began.
    pub fn lag(&self, replica: usize) -> Option<Duration> {
        let has_all = self.replicas.applied(replica) >= self.primary.committed();
        let staleness = if has_all { Duration::ZERO } else { self.staleness(replica) };
        let known = self.replicas.nodes[replica].was_current();
        (known || staleness.is_zero()).then_some(staleness)
    }

    /// Returns the number of replicas on which everything up to `position` is durable.
    pub fn confirmations(&self, position: u64) -> usize {
        let leader = self.timeline.leader();
        let others = self.replicas.nodes.iter().enumerate();
        let others = others.filter(|(index, _)| Some(*index) != leader);
        let durable = others.map(|(_, replica)| replica.durable.load(Ordering::SeqCst));
        durable.filter(|durable| *durable >= position).count()
    }

    /// Returns the position up to which the log is no longer needed: every replica has these
    /// entries on disk, and no holder retains them.
    pub fn trimmable_position(&self) -> u64 {
        let limit = self.log.limit();
        let durable = self.replicas.nodes.iter();
        let durable = durable.map(|replica| replica.durable.load(Ordering::SeqCst)).min();
        durable.unwrap_or(u64::MAX).min(limit).min(self.primary.committed())
    }

    /// Retains the log entries after a position, or those that are added from now on if no position
    /// is given, until the guard is dropped or the log exceeds its size limit. Messages name the
    /// guard by `holder`. Only the writer may give a position, because only the writer knows that
    /// it has not trimmed the log beyond that position.
    pub fn retain_log(&self, holder: impl Into<String>, after: Option<u64>) -> RetainedLog {
        self.log.retain_after(holder.into(), || after.unwrap_or_else(|| self.primary.committed()))
    }
}

/// Records that the log of a shard was trimmed up to a position. Returns the names of the holders
/// that still needed some of the removed entries; these holders no longer retain the log.
pub fn record_trim(replication: &ReplicationState, position: u64) -> Vec<String> {
    replication.log.drop_behind(position)
}
