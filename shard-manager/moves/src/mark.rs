//! Mark: the set of recorded changes of a shard that a reader has seen, as the shard's engine
//! numbers them.
//!
//! PostgreSQL gives a transaction its ID before the commit, and transactions may commit in another
//! order. What a reader has seen is therefore a set of transactions. A single number would be
//! wrong: a transaction may still be running when one with a higher ID has committed. The change
//! log of an SQLite file is written in the order of commits, so a single number is enough there.
//!
//! **Invariant:** a mark is valid only within one [`crate::applied::Feed`], because after a
//! failover the same number may belong to another change.

use std::sync::Arc;

/// Set of changes that a reader has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// The reader has seen no change.
    #[default]
    Nothing,
    /// The reader has seen everything up to this entry of the change log.
    Entry(u64),
    /// The reader has seen everything that is visible in a snapshot.
    Snapshot {
        /// Lowest transaction ID that, like all higher ones, was not visible.
        end: u64,
        /// IDs below `end` of transactions that had not ended.
        running: Arc<[u64]>,
    },
}

impl Mark {
    /// Returns true if the reader has seen a change, given the number of its log entry or its
    /// transaction ID.
    pub fn covers(&self, change: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::Entry(last) => change <= *last,
            Self::Snapshot { end, running } => change < *end && !running.contains(&change),
        }
    }
}
