//! Current authenticator: holds the keys, roles and token issuers in force, and replaces them.
//!
//! **Invariant:** keys and roles are replaced all at once, and never by older ones. Requests read
//! them without a lock.
//! **Not here:** the origin of keys, roles and issuers (`files`, `sources`), decisions (`gate`).

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};
use shard_manager::access::authenticator::Authenticator;
use shard_manager::access::jwt::Issuers;
use shard_manager::access::snapshot::{Snapshot, SnapshotContents, SnapshotError};
use shard_manager::access::unix_time::UnixTime;

/// Keys, roles and issuers in force.
#[derive(Debug)]
pub struct CurrentAuthenticator {
    current: ArcSwap<Authenticator>,
    /// Held while keys, roles or issuers are replaced.
    replacing: Mutex<()>,
}

impl CurrentAuthenticator {
    pub(super) fn new(first: Authenticator) -> Self {
        Self { current: ArcSwap::from_pointee(first), replacing: Mutex::default() }
    }

    /// Returns a guard of the keys, roles and issuers, which must be held for one request only.
    #[inline]
    pub(super) fn load(&self) -> Guard<Arc<Authenticator>> {
        self.current.load()
    }

    /// Returns the keys, roles and issuers.
    pub fn get(&self) -> Arc<Authenticator> {
        self.current.load_full()
    }

    /// Returns the generation of the keys, roles and issuers in force, which grows with each
    /// change.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.current.load().generation()
    }

    /// Replaces all keys, roles and denials, unless `contents` are older than those in force. If
    /// both have the same generation, only the time at which they were known to be current is
    /// updated.
    ///
    /// # Errors
    /// [`SnapshotError`] if there are too many keys or roles; then nothing has changed.
    pub fn apply(&self, contents: SnapshotContents) -> Result<(), SnapshotError> {
        let _guard = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load();
        let known = current.snapshot().generation();
        if contents.generation < known {
            return Ok(());
        }
        if contents.generation == known {
            current.snapshot().confirm(contents.read_at);
            return Ok(());
        }
        let mut snapshot = Snapshot::build(contents, &current.limits())?;
        snapshot.share_uses(current.snapshot());
        self.current.store(Arc::new(current.with_snapshot(snapshot)));
        Ok(())
    }

    /// Records that keys and roles were read at this time and have not changed.
    pub fn confirm(&self, now: UnixTime) {
        self.current.load().snapshot().confirm(now);
    }

    /// Replaces the issuers.
    pub(super) fn apply_issuers(&self, issuers: Issuers) {
        let _guard = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(Arc::new(self.current.load().with_issuers(issuers)));
    }

    /// Replaces the issuers by equal ones that may be used for longer.
    pub(super) fn prolong_issuers(&self, issuers: Issuers) {
        let _guard = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(Arc::new(self.current.load().with_prolonged_issuers(issuers)));
    }
}
