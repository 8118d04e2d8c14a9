//! Recent writes: the keys of the latest writes. Only requests that are recorded with the text of
//! their key are included.
//!
//! **Invariant:** at most [`WRITES_MAX`] writes are kept, and each has a greater number than those
//! before.
//! **Not here:** counting (`current_second`); the choice of requests with a text (`worker`).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::entry::Detail;
use crate::sample::{Operation, Outcome};

/// Number of writes that are kept: more than a reader can follow in a second.
pub const WRITES_MAX: usize = 128;

/// A successful write of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentWrite {
    /// Number of the write since the start, from 1.
    pub number: u64,
    /// Second of the write, since 1970 UTC.
    pub second: u64,
    /// The shard key.
    pub key: Arc<str>,
    /// Shard that has stored it.
    pub shard: Option<Arc<str>>,
    /// Slot of the key.
    pub slot: Option<u16>,
}

/// The last writes, oldest first.
#[derive(Debug, Default)]
pub(crate) struct RecentWrites {
    kept: VecDeque<RecentWrite>,
    last: u64,
}

impl RecentWrites {
    /// Keeps a request if it is a successful write and its detail contains the text of the key.
    pub(crate) fn see(&mut self, detail: &Detail, shard: impl FnOnce() -> Option<Arc<str>>) {
        let entry = &detail.entry;
        let is_written = entry.operation == Operation::Write && entry.outcome == Outcome::Success;
        let Some(key) = detail.key().filter(|_| is_written) else { return };
        if self.kept.len() == WRITES_MAX {
            self.kept.pop_front();
        }
        self.last += 1;
        self.kept.push_back(RecentWrite {
            number: self.last,
            second: u64::from(entry.second),
            key: key.into(),
            shard: shard(),
            slot: entry.slot(),
        });
    }

    /// Returns the kept writes after this number, oldest first.
    pub(crate) fn after(&self, number: u64) -> Vec<RecentWrite> {
        self.kept.iter().filter(|write| write.number > number).cloned().collect()
    }
}
