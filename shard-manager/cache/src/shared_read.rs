//! Shared read: one read of the shard answers all concurrent readers of the same query.
//!
//! The first reader of a query is the leader, which reads the shard; the others, the followers,
//! wait. Each follower checks whether the result is new enough for it, as it checks an entry of the
//! cache. If the leader fails or its client disconnects, one of the followers becomes the leader of
//! a new shared read.
//!
//! **Invariant:** at any time, at most one shared read of a query can be joined.
//! **Not here:** the read itself, and the check of the result's age (`read_path`, `proof`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::cache_key::Name;
use super::entry::Entry;
use super::stats::ServedBy;

/// Number of parts of the table, each with its own lock, so that readers of different keys seldom
/// wait for each other.
const PARTS: usize = 32;

type OpenReads = HashMap<u128, Vec<([u8; 16], Arc<SharedRead>)>>;

/// Shared reads that can be joined. They are found by the hash of the Redis key and by the field.
#[derive(Default)]
pub(super) struct SharedReads {
    parts: [Mutex<OpenReads>; PARTS],
}

/// A read that several readers share.
#[derive(Default)]
pub(super) struct SharedRead {
    /// Moment at which the leader began to read the shard. A read that began after a request
    /// arrived is certain to see every write that was acknowledged before the request.
    begun: OnceLock<Instant>,
    /// True if the key was invalidated because of a write since the shared read began.
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
    /// The reader is the leader and reads the shard.
    Leader(LeadRead),
    /// The reader waits for the result of this shared read.
    Follower(Arc<SharedRead>),
}

/// Handle with which the leader controls a shared read. Dropping it ends the shared read: no more
/// readers can join it, and if no result was published, the followers learn that the read has
/// failed.
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

    /// Closes the shared reads of a key whose rows were written, so that later readers do not join
    /// them.
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
    /// Returns true if the leader began to read the shard at `then` or later.
    pub(super) fn began_after(&self, then: Instant) -> bool {
        self.begun.get().is_some_and(|begun| *begun >= then)
    }

    /// Waits for the result; returns `None` if the read failed.
    ///
    /// Cancel safety: dropping the future has no effect on the shared read.
    pub(super) async fn result(&self) -> Option<Arc<SharedResult>> {
        loop {
            let finished = self.finished.notified();
            tokio::pin!(finished);
            // The task registers for the notification before it checks the result, so that it
            // cannot miss a result that is published in between.
            finished.as_mut().enable();
            if let Some(result) = self.result.get() {
                return result.clone();
            }
            finished.await;
        }
    }
}

impl LeadRead {
    /// Records that the leader now begins to read the shard.
    pub(super) fn begin(&self) {
        // Setting the start fails only if it is already set, and a leader begins one read only.
        let _ = self.shared_read.begun.set(Instant::now());
    }

    /// Closes the shared read to further readers. A reader that cannot use the result must not join
    /// the same read again.
    pub(super) fn leave(&self) {
        let mut part = self.shared_reads.part(self.key_hash);
        if let Some(of_key) = part.get_mut(&self.key_hash) {
            of_key.retain(|(_, shared_read)| !Arc::ptr_eq(shared_read, &self.shared_read));
            if of_key.is_empty() {
                part.remove(&self.key_hash);
            }
        }
    }

    /// Publishes the result to the readers that wait, and to those that join until this handle is
    /// dropped.
    pub(super) fn publish(&self, result: Arc<SharedResult>) {
        // Setting the result fails only if it is already set, and only the leader publishes one,
        // once.
        let _ = self.shared_read.result.set(Some(result));
        self.shared_read.finished.notify_waiters();
    }

    /// True if the key was invalidated because of a write since the shared read began.
    pub(super) fn is_invalidated(&self) -> bool {
        self.shared_read.invalidated.load(Ordering::SeqCst)
    }
}

impl Drop for LeadRead {
    fn drop(&mut self) {
        self.leave();
        // The failure is published after the removal, so that a reader that learns of it does not
        // join this shared read again. A result that is already published stays.
        let _ = self.shared_read.result.set(None);
        self.shared_read.finished.notify_waiters();
    }
}
