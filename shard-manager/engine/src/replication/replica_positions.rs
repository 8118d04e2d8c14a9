//! Replica positions: the positions that each replica of a shard has applied and made durable.
//!
//! **Invariant:** `durable <= applied <= applying` for each replica; waiting tasks are notified
//! after each change of the state, of `applied` or of `durable`.
//! **Not here:** lag and confirmations, which need the primary's positions
//! ([`super::ReplicationState`]).

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::position_waiters::PositionWaiters;

/// State of a replica in the replication of its shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaState {
    /// The replica is being built from a snapshot of the primary.
    Building,
    /// The replica applies the primary's log.
    Following,
    /// The replica cannot be used; attempts to reach it continue.
    Down,
}

impl ReplicaState {
    const ALL: [Self; 3] = [Self::Building, Self::Following, Self::Down];
}

/// Positions of the replicas, each addressed by its index.
#[derive(Debug)]
pub struct ReplicaPositions {
    pub(super) nodes: Box<[NodePositions]>,
    /// Notified when a replica advances or goes down.
    pub(super) waiters: PositionWaiters,
}

/// Positions of one replica.
#[derive(Debug)]
pub(super) struct NodePositions {
    pub(super) state: AtomicU8,
    /// Number of times that the replica went down.
    losses: AtomicUsize,
    pub(super) applying: AtomicU64,
    pub(super) applied: AtomicU64,
    pub(super) durable: AtomicU64,
    /// Time that is the zero of `current_at`.
    epoch: Instant,
    /// Last time at which the replica had all committed changes, in microseconds since `epoch`.
    pub(super) current_at: AtomicU64,
}

impl NodePositions {
    fn new(epoch: Instant) -> Self {
        Self {
            state: AtomicU8::new(ReplicaState::Down as u8),
            losses: AtomicUsize::new(0),
            applying: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            epoch,
            current_at: AtomicU64::new(0),
        }
    }

    /// Returns true if the replica has had all committed changes at some time since this process
    /// began.
    pub(super) fn was_current(&self) -> bool {
        self.current_at.load(Ordering::Acquire) > 0
    }

    /// Returns the time since the replica was last known to have all committed changes.
    pub(super) fn time_since_current(&self) -> Duration {
        let current_at = self.current_at.load(Ordering::Acquire);
        self.epoch.elapsed().saturating_sub(Duration::from_micros(current_at))
    }

    /// Records a time at which the replica had all committed changes.
    fn record_current(&self, at: Instant) {
        let at = at.saturating_duration_since(self.epoch).as_micros() as u64;
        self.current_at.fetch_max(at, Ordering::AcqRel);
    }
}

impl ReplicaPositions {
    pub(super) fn new(replicas: usize) -> Self {
        let epoch = Instant::now();
        Self {
            nodes: (0..replicas).map(|_| NodePositions::new(epoch)).collect(),
            waiters: PositionWaiters::new(replicas),
        }
    }

    /// Returns the state of a replica.
    #[inline]
    pub fn state(&self, replica: usize) -> ReplicaState {
        let state = self.nodes[replica].state.load(Ordering::SeqCst);
        ReplicaState::ALL
            .into_iter()
            .find(|known| *known as u8 == state)
            .unwrap_or(ReplicaState::Down)
    }

    /// Sets the state of a replica.
    pub fn set_state(&self, replica: usize, state: ReplicaState) {
        self.nodes[replica].state.store(state as u8, Ordering::SeqCst);
        self.waiters.notify_advanced();
        if state == ReplicaState::Down {
            self.nodes[replica].losses.fetch_add(1, Ordering::SeqCst);
            self.waiters.notify_down();
        }
    }

    /// Waits until a replica no longer follows the primary: waiting for its response is then
    /// pointless.
    pub async fn stopped_following(&self, replica: usize) {
        loop {
            let down = self.waiters.down();
            tokio::pin!(down);
            down.as_mut().enable();
            if self.state(replica) != ReplicaState::Following {
                return;
            }
            down.await;
        }
    }

    /// Records the position of an applier's transaction before it is committed.
    #[inline]
    pub fn begin_apply(&self, replica: usize, position: u64) {
        self.nodes[replica].applying.store(position, Ordering::SeqCst);
    }

    /// Records the position of an applier's transaction after its commit. `had_all_at` is a time at
    /// which the primary had no changes beyond this position, if such a time is known.
    pub fn record_applied(&self, replica: usize, position: u64, had_all_at: Option<Instant>) {
        let replica = &self.nodes[replica];
        if let Some(at) = had_all_at {
            replica.record_current(at);
        }
        replica.applied.store(position, Ordering::SeqCst);
        self.waiters.notify_advanced();
    }

    /// Records that everything up to `position` is on the replica's disk.
    pub fn record_durable(&self, replica: usize, position: u64) {
        self.nodes[replica].durable.store(position, Ordering::SeqCst);
        self.waiters.notify_advanced();
    }

    /// Sets the position of a replica that was rebuilt or opened. All changes up to it must be on
    /// disk: a snapshot is synced, and an applier syncs when it opens a file.
    pub fn reset_to(&self, replica: usize, position: u64) {
        let replica = &self.nodes[replica];
        replica.applying.store(position, Ordering::SeqCst);
        replica.applied.store(position, Ordering::SeqCst);
        replica.durable.store(position, Ordering::SeqCst);
        self.waiters.notify_advanced();
    }

    /// Returns the position up to which a replica shows the primary's changes.
    #[inline]
    pub fn applied(&self, replica: usize) -> u64 {
        self.nodes[replica].applied.load(Ordering::SeqCst)
    }

    /// Returns the position up to which the primary's changes survive a loss of power on a replica.
    #[inline]
    pub fn durable(&self, replica: usize) -> u64 {
        self.nodes[replica].durable.load(Ordering::SeqCst)
    }

    /// Returns the highest position that a finished read of a replica may have seen. The primary
    /// has all changes up to it.
    #[inline]
    pub fn visible_bound(&self, replica: usize) -> u64 {
        self.nodes[replica].applying.load(Ordering::SeqCst)
    }

    /// Returns the number of times that a node went down; 0 if it has no index here.
    pub(super) fn losses(&self, node: usize) -> usize {
        self.nodes.get(node).map_or(0, |node| node.losses.load(Ordering::SeqCst))
    }

    /// Records that the replicas that have all changes up to `committed` were current until `at`,
    /// the time of the next commit. Their lag is then counted from that commit, not from the last
    /// change that they applied.
    pub(super) fn fall_behind(&self, committed: u64, at: Instant) {
        for replica in &self.nodes {
            if replica.applied.load(Ordering::Acquire) >= committed {
                replica.record_current(at);
            }
        }
    }
}
