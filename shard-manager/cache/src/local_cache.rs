//! In-process cache: entries that are kept in the memory of this process, so that a hit needs no
//! round trip to Redis.
//!
//! Entries found here are checked like entries found in Redis. The size of the cache in bytes is
//! limited; when it is full, rarely used entries are evicted.
//!
//! **Invariant:** an invalidation of a key removes every entry of the key whose rows were read
//! before the invalidation.
//! **Not here:** the check whether an entry is new enough (`proof`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::cache_key::Name;
use super::entry::Entry;

/// Maximum number of entries of one key.
const ENTRIES_OF_KEY_MAX: usize = 32;
/// Approximate memory of an entry without its rows, in bytes.
const ENTRY_BYTES: usize = 256;
/// Number of invalidation counters. Several keys share one, so an invalidation of one key may also
/// prevent that an entry of another is stored.
const COUNTERS: usize = 1_024;

/// All entries of one key.
type OfKey = Arc<[([u8; 16], Arc<Entry>)]>;

/// Entries in the memory of this process.
pub(super) struct LocalCache {
    entries: Cache<u128, OfKey, Bytes>,
    invalidations: Box<[AtomicU64]>,
}

/// Value of a key's invalidation counter before a read. If it differs when the result is to be
/// stored, the rows may be older than a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark(u64);

#[derive(Clone)]
struct Bytes;

impl Weighter<u128, OfKey> for Bytes {
    fn weight(&self, _key: &u128, entries: &OfKey) -> u64 {
        let bytes = |entry: &Entry| entry.rows.json().len() + 8 * entry.rows.len() + ENTRY_BYTES;
        entries.iter().map(|(_, entry)| bytes(entry) as u64).sum()
    }
}

impl LocalCache {
    /// Creates a cache with a maximum size of this many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let about = bytes / (2 * ENTRY_BYTES);
        Self {
            entries: Cache::with_weighter(about, bytes as u64, Bytes),
            invalidations: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn get(&self, name: &Name) -> Option<Arc<Entry>> {
        let of_key = self.entries.get(&name.key_hash)?;
        let found = of_key.iter().find(|(field, _)| *field == name.field);
        found.map(|(_, entry)| Arc::clone(entry))
    }

    /// Returns the mark of a key, which must be taken before the rows are read that are to be
    /// stored.
    pub(super) fn mark(&self, key_hash: u128) -> Mark {
        Mark(self.invalidations(key_hash).load(Ordering::SeqCst))
    }

    /// Stores an entry, unless its key was invalidated after the mark was taken.
    pub(super) fn keep(&self, name: &Name, mark: Mark, entry: Arc<Entry>) {
        let Name { key_hash, field, .. } = name;
        let known = self.entries.get(key_hash);
        let others = known.iter().flat_map(|known| known.iter());
        let others = others.filter(|(known, _)| known != field).take(ENTRIES_OF_KEY_MAX - 1);
        let of_key = std::iter::once((*field, entry)).chain(others.cloned()).collect();
        self.entries.insert(*key_hash, of_key);
        // The check must follow the insertion: a concurrent invalidation first changes the counter
        // and then removes the entries, so it either removes this entry or is noticed here.
        if self.mark(*key_hash) != mark {
            self.entries.remove(key_hash);
        }
    }

    /// Removes the entries of a key whose rows were written.
    pub(super) fn invalidate(&self, key_hash: u128) {
        self.invalidations(key_hash).fetch_add(1, Ordering::SeqCst);
        self.entries.remove(&key_hash);
    }

    fn invalidations(&self, key_hash: u128) -> &AtomicU64 {
        &self.invalidations[key_hash as usize % COUNTERS]
    }
}
