//! Mark: the changes of a shard that a reader has seen, as the shard's engine counts them.
//!
//! PostgreSQL numbers transactions when they begin, and they commit in another order. A reader has
//! therefore seen a set of them: a counter would miss the commit that was overtaken. The change log
//! of files is written in order, so there a number is enough.
//!
//! **Invariant:** a mark has a meaning within one [`crate::applied::Feed`] only: after a failover
//! the same number may belong to another change.

use std::sync::Arc;

/// Set of changes that a reader has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// No change.
    #[default]
    Nothing,
    /// Everything up to this entry of the change log.
    Entry(u64),
    /// Everything that a snapshot shows.
    Snapshot {
        /// First transaction that had not begun.
        end: u64,
        /// Transactions below `end` that had not ended.
        running: Arc<[u64]>,
    },
}

impl Mark {
    /// Returns true if the change, by its log entry or transaction, has been seen.
    pub fn covers(&self, change: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::Entry(last) => change <= *last,
            Self::Snapshot { end, running } => change < *end && !running.contains(&change),
        }
    }
}
