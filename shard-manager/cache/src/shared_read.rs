//! Shared read: one read of the shard answers all concurrent readers of the same query.
//!
//! The first reader leads and reads; the others wait. Each waiting reader checks that the result is
//! new enough for it, like an entry of the cache. If a leader fails, or its client disconnects, the
//! next reader leads.
//!
//! **Invariant:** at most one read of a query can be joined at a time.
//! **Not here:** reading, and the age that a reader allows (`read_path`, `proof`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::cache_key::Name;
use super::entry::Entry;
use super::stats::ServedBy;

/// Number of locks: readers of different keys seldom wait for each other.
const PARTS: usize = 32;

type OpenReads = HashMap<u128, Vec<([u8; 16], Arc<SharedRead>)>>;

/// Shared reads that can be joined, by the hash of their key and by their field.
#[derive(Default)]
pub(super) struct SharedReads {
    parts: [Mutex<OpenReads>; PARTS],
}

/// A read that several readers share.
#[derive(Default)]
pub(super) struct SharedRead {
    /// Start of the read. Only a read that starts after a request is certain to see every write
    /// before that request.
    begun: OnceLock<Instant>,
    /// True if rows of the key were written since the read began.
    invalidated: AtomicBool,
    /// Result of the read; holds `None` if the read failed.
    result: OnceLock<Option<Arc<SharedResult>>>,
    finished: Notify,
}

/// Result of a shared read.
#[derive(Debug)]
pub(super) struct SharedResult {
    pub(super) entry: Arc<Entry>,
    pub(super) served_by: ServedBy,
}

/// Role of a reader in a shared read.
pub(super) enum Participation {
    /// The reader reads.
    Leader(LeadRead),
    /// The reader waits.
    Follower(Arc<SharedRead>),
}

/// The leader's handle of a shared read. Dropping it ends the shared read: no reader joins any
/// more, and without a result the read has failed.
pub(super) struct LeadRead {
    shared_reads: Arc<SharedReads>,
    key_hash: u128,
    shared_read: Arc<SharedRead>,
}

impl SharedReads {
    /// Joins the shared read of this query, or begins one.
    pub(super) fn join(self: &Arc<Self>, name: &Name) -> Participation {
        let mut part = self.part(name.key_hash);
        let of_key = part.entry(name.key_hash).or_default();
        if let Some((_, shared_read)) = of_key.iter().find(|(field, _)| *field == name.field) {
            return Participation::Follower(Arc::clone(shared_read));
        }
        let shared_read = Arc::<SharedRead>::default();
        of_key.push((name.field, Arc::clone(&shared_read)));
        let (shared_reads, key_hash) = (Arc::clone(self), name.key_hash);
        Participation::Leader(LeadRead { shared_reads, key_hash, shared_read })
    }

    /// Closes the shared reads of a key whose rows were written: later readers do not join them.
    pub(super) fn invalidate(&self, key_hash: u128) {
        let Some(gone) = self.part(key_hash).remove(&key_hash) else { return };
        gone.iter()
            .for_each(|(_, shared_read)| shared_read.invalidated.store(true, Ordering::SeqCst));
    }

    fn part(&self, key_hash: u128) -> MutexGuard<'_, OpenReads> {
        let part = &self.parts[key_hash as usize % PARTS];
        part.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SharedRead {
    /// True if the read began at `then` or later.
    pub(super) fn began_after(&self, then: Instant) -> bool {
        self.begun.get().is_some_and(|begun| *begun >= then)
    }

    /// Waits for the result; returns `None` if the read failed.
    ///
    /// Cancel safety: a dropped future loses nothing.
    pub(super) async fn result(&self) -> Option<Arc<SharedResult>> {
        loop {
            let finished = self.finished.notified();
            tokio::pin!(finished);
            // Registered before the check, so that a later notification is not missed.
            finished.as_mut().enable();
            if let Some(result) = self.result.get() {
                return result.clone();
            }
            finished.await;
        }
    }
}

impl LeadRead {
    /// Marks the start of the read.
    pub(super) fn begin(&self) {
        // A leader starts one read only.
        let _ = self.shared_read.begun.set(Instant::now());
    }

    /// Ends joining: readers for whom the result is not enough must not join this read again.
    pub(super) fn leave(&self) {
        let mut part = self.shared_reads.part(self.key_hash);
        if let Some(of_key) = part.get_mut(&self.key_hash) {
            of_key.retain(|(_, shared_read)| !Arc::ptr_eq(shared_read, &self.shared_read));
            if of_key.is_empty() {
                part.remove(&self.key_hash);
            }
        }
    }

    /// Hands the result to the readers that wait, and to those that join until this is dropped.
    pub(super) fn publish(&self, result: Arc<SharedResult>) {
        // Only the leader sends a result, and only once.
        let _ = self.shared_read.result.set(Some(result));
        self.shared_read.finished.notify_waiters();
    }

    /// True if rows of the key were written since the read began.
    pub(super) fn is_invalidated(&self) -> bool {
        self.shared_read.invalidated.load(Ordering::SeqCst)
    }
}

impl Drop for LeadRead {
    fn drop(&mut self) {
        self.leave();
        // After the removal, so that a reader that learns of the failure does not join again.
        let _ = self.shared_read.result.set(None);
        self.shared_read.finished.notify_waiters();
    }
}
