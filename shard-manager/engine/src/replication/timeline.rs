//! Timeline: the history of a shard's primaries, and the node that leads now.
//!
//! **Invariant:** the last timeline of the history is the one to which the positions of the nodes
//! belong.
//! **Not here:** the change to another timeline ([`super::ReplicationState::follow`]), the search
//! for a primary (`postgres::primary_tracker`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

use model::position::{Position, TimelineHistory};

/// Timeline that a shard is on.
#[derive(Debug)]
pub struct Timeline {
    pub(super) history: ArcSwap<TimelineHistory>,
    /// Index of the node that is the primary; `nodes` or more if the primary has no index.
    pub(super) leader: AtomicUsize,
    /// True if the primary did not answer its last probe.
    pub(super) silent: AtomicBool,
    /// Number of nodes that have an index.
    pub(super) nodes: usize,
}

impl Timeline {
    pub(super) fn new(history: TimelineHistory, nodes: usize) -> Self {
        Self {
            history: ArcSwap::from_pointee(history),
            leader: AtomicUsize::new(usize::MAX),
            silent: AtomicBool::new(false),
            nodes,
        }
    }

    /// Returns the timelines of the shard.
    #[inline]
    pub fn history(&self) -> Arc<TimelineHistory> {
        self.history.load_full()
    }

    /// Returns the number of the current timeline.
    #[inline]
    pub fn id(&self) -> u32 {
        self.history.load().current()
    }

    /// Returns true if the shard's history contains a position.
    #[inline]
    pub fn holds(&self, position: Position) -> bool {
        self.history.load().holds(position)
    }

    /// Returns the position with this sequence number on the current timeline.
    #[inline]
    pub fn position(&self, sequence: u64) -> Position {
        Position { timeline: self.id(), sequence }
    }

    /// Returns the index of the primary, if it is one of the indexed nodes.
    #[inline]
    pub fn leader(&self) -> Option<usize> {
        let leader = self.leader.load(Ordering::SeqCst);
        (leader < self.nodes).then_some(leader)
    }

    /// Returns the number of replicas, including those that are down.
    #[inline]
    pub fn replica_count(&self) -> usize {
        self.nodes - usize::from(self.leader().is_some())
    }

    /// Records whether the primary answered its last probe.
    pub fn set_silent(&self, silent: bool) {
        self.silent.store(silent, Ordering::SeqCst);
    }

    /// Returns true if the primary did not answer its last probe.
    #[inline]
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::SeqCst)
    }
}
