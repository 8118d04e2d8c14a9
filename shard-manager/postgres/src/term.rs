//! Term: the period in which one node of a shard is the primary.
//!
//! Each promotion begins a new timeline of PostgreSQL, and with it a new term.
//!
//! **Invariant:** a term lasts until the tracker begins the next one.
//! **Not here:** the choice of the next primary (`primary_tracker`).

use tokio::sync::watch;

/// Maximum number of timelines by which a token may be ahead of the known timeline.
const AHEAD_MAX: u32 = 1_024;

/// Period in which one node is the primary on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Index of the node.
    pub member: usize,
    /// Timeline of the node.
    pub timeline: u32,
}

/// Terms of a shard: gives access to the present term, and waits for its end.
pub struct Terms {
    system: u64,
    present: watch::Sender<Term>,
    /// True once the shard has retired.
    retired: watch::Sender<bool>,
}

impl Terms {
    /// Creates the terms of a shard with this system identifier and this present term.
    pub(super) fn new(system: u64, present: Term) -> Self {
        Self { system, present: watch::Sender::new(present), retired: watch::Sender::new(false) }
    }

    /// Returns the system identifier of the servers.
    pub(super) fn system(&self) -> u64 {
        self.system
    }

    /// Returns the present term.
    pub fn present(&self) -> Term {
        *self.present.borrow()
    }

    /// Begins a term.
    pub(super) fn begin(&self, term: Term) {
        self.present.send_replace(term);
    }

    /// Records that the shard has retired, which ends the tasks that wait for the next term.
    pub(super) fn retire(&self) {
        self.retired.send_replace(true);
    }

    /// Waits until the shard has retired.
    pub(super) async fn retired(&self) {
        // The sender is not dropped before this value.
        let _ = self.retired.subscribe().wait_for(|retired| *retired).await;
    }

    /// Returns the id of a term in histories. Terms of two shards have different ids, except with a
    /// probability of one in four billion.
    pub fn timeline_id(&self, term: Term) -> u32 {
        timeline_id(self.system, term.timeline)
    }

    /// Waits until this term is over.
    pub async fn ended(&self, term: Term) {
        self.until(|now| *now != term).await;
    }

    /// Waits until the present term meets a condition.
    pub async fn until(&self, is_met: impl FnMut(&Term) -> bool) {
        let mut terms = self.present.subscribe();
        // The sender is not dropped before this value.
        let _ = terms.wait_for(is_met).await;
    }

    /// Returns true if the timeline with this id is later than the present one: a node was
    /// promoted, and this router does not know it yet. Returns false if the id is not a timeline of
    /// this system.
    pub fn is_ahead(&self, sought: u32) -> bool {
        let known = self.present().timeline;
        let mut later = (1..=AHEAD_MAX).map_while(|step| known.checked_add(step));
        later.any(|timeline| timeline_id(self.system, timeline) == sought)
    }
}

/// Returns the id, in histories, of a timeline of a system.
pub(super) fn timeline_id(system: u64, timeline: u32) -> u32 {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&system.to_be_bytes());
    bytes[8..].copy_from_slice(&timeline.to_be_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes) as u32
}
