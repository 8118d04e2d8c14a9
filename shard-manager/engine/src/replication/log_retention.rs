//! Log retention: keeps a shard's change log from being trimmed while a copy of the shard needs it.
//!
//! **Invariant:** entries after the retained position stay in the log while the guard lives, unless
//! the log exceeds its size limit.
//! **Not here:** entries that replicas need ([`super::ReplicationState::trimmable_position`]).

use std::sync::atomic::{AtomicU64, Ordering};

/// Position after which the log is retained for other uses than replicas.
#[derive(Debug)]
pub(super) struct LogRetention {
    /// `u64::MAX` if nothing is retained.
    after: AtomicU64,
}

impl Default for LogRetention {
    fn default() -> Self {
        Self { after: AtomicU64::new(u64::MAX) }
    }
}

impl LogRetention {
    /// Retains the log after `position` until the guard is dropped.
    pub(super) fn retain_after(&self, position: u64) -> RetainedLog<'_> {
        self.after.store(position, Ordering::SeqCst);
        RetainedLog(self)
    }

    /// Returns the position up to which the log may be trimmed.
    pub(super) fn limit(&self) -> u64 {
        self.after.load(Ordering::SeqCst)
    }
}

/// Guard that keeps the log of a shard from being trimmed, unless the log exceeds its size limit.
#[derive(Debug)]
pub struct RetainedLog<'r>(&'r LogRetention);

impl Drop for RetainedLog<'_> {
    fn drop(&mut self) {
        self.0.after.store(u64::MAX, Ordering::SeqCst);
    }
}
