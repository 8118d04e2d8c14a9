//! Primary positions: the positions up to which a shard's primary has begun changes, committed them
//! and shown them to readers.
//!
//! **Invariant:** every acknowledged change is at or below `committed`, and every change that a
//! read can have seen is at or below `begun` or the read high watermark.
//! **Not here:** commits, which concern replicas too ([`super::ReplicationState::commit`]).

use std::sync::atomic::{AtomicU64, Ordering};

/// Positions of the primary.
#[derive(Debug)]
pub struct PrimaryPositions {
    pub(super) begun: AtomicU64,
    pub(super) committed: AtomicU64,
    /// Highest position that a strong read of the primary has returned.
    pub(super) read_high_watermark: AtomicU64,
    /// Position of the last change of the tables, or of the slots that the shard owns.
    pub(super) schema: AtomicU64,
}

impl PrimaryPositions {
    pub(super) fn new(position: u64) -> Self {
        Self {
            begun: AtomicU64::new(position),
            committed: AtomicU64::new(position),
            read_high_watermark: AtomicU64::new(position),
            schema: AtomicU64::new(0),
        }
    }

    /// Records the position of a batch before it is committed.
    #[inline]
    pub fn begin(&self, position: u64) {
        self.begun.store(position, Ordering::SeqCst);
    }

    /// Records that the primary has reached at least this position. Used for shards to which other
    /// processes write as well: called after a batch is durable, and after each probe of the
    /// primary.
    #[inline]
    pub fn observe(&self, position: u64) {
        self.begun.fetch_max(position, Ordering::SeqCst);
        self.committed.fetch_max(position, Ordering::SeqCst);
    }

    /// Returns the committed position: every acknowledged change is at or below it.
    #[inline]
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::SeqCst)
    }

    /// Records a durable change of the tables, or of the slots that the shard owns, before the
    /// change is acknowledged. At the start, records the last such change.
    pub fn record_schema_change(&self, position: u64) {
        self.schema.fetch_max(position, Ordering::SeqCst);
    }

    /// Returns the position of the last change of the tables or of the owned slots. A node below
    /// this position may lack a table, or respond for slots that the shard no longer owns.
    #[inline]
    pub fn schema_position(&self) -> u64 {
        self.schema.load(Ordering::SeqCst)
    }

    /// Returns the highest position that a finished read may have seen; `None` while a commit is in
    /// progress, because the read may or may not have seen it.
    #[inline]
    pub fn visible_bound(&self) -> Option<u64> {
        // The order matters: `begun` is read last, so it covers a batch that the read saw, even if
        // `committed` did not include it yet.
        let committed = self.committed();
        (self.begun.load(Ordering::SeqCst) == committed).then_some(committed)
    }

    /// Raises the read high watermark. Called before the response to a strong read of the primary
    /// is sent, because a commit can become visible a moment before the writer records it.
    #[inline]
    pub fn raise_read_high_watermark(&self, position: u64) {
        self.read_high_watermark.fetch_max(position, Ordering::SeqCst);
    }

    /// Returns the lowest position that a strong read may show. It covers every acknowledged
    /// change, and every change that an earlier strong read has returned.
    #[inline]
    pub fn strong_min_position(&self) -> u64 {
        self.committed().max(self.read_high_watermark.load(Ordering::SeqCst))
    }
}
