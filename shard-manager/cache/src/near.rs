//! Near: what this process keeps of the cache itself, so that what is hot is answered without asking anybody.
//!
//! The same entries, which prove themselves in the same way. What is least worth its bytes gives way.
//!
//! **Invariant:** what was voided here is not kept by who has read it before.
//! **Not here:** whether an entry is enough (`proof`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::entry::Entry;
use super::shape::Name;

/// Entries of one key.
const ENTRIES_OF_KEY_MAX: usize = 32;
/// What an entry takes beside its rows, about.
const ENTRY_BYTES: usize = 256;
/// Counts of voids, which keys share.
const VOIDS: usize = 1_024;

/// All entries of one key.
type OfKey = Arc<[([u8; 16], Arc<Entry>)]>;

/// Entries in memory.
pub(super) struct Near {
    entries: Cache<u128, OfKey, Bytes>,
    voids: Box<[AtomicU64]>,
}

/// How often something was voided when a read began.
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

impl Near {
    /// Room for so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let about = bytes / (2 * ENTRY_BYTES);
        Self {
            entries: Cache::with_weighter(about, bytes as u64, Bytes),
            voids: (0..VOIDS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(super) fn get(&self, name: &Name) -> Option<Arc<Entry>> {
        let of_key = self.entries.get(&name.key_hash)?;
        let found = of_key.iter().find(|(field, _)| *field == name.field);
        found.map(|(_, entry)| Arc::clone(entry))
    }

    /// To be taken before what is to be kept is read.
    pub(super) fn mark(&self, key_hash: u128) -> Mark {
        Mark(self.voids(key_hash).load(Ordering::SeqCst))
    }

    /// Keeps an entry, unless its key was voided since the mark.
    pub(super) fn keep(&self, name: &Name, mark: Mark, entry: Arc<Entry>) {
        let Name { key_hash, field, .. } = name;
        let known = self.entries.get(key_hash);
        let others = known.iter().flat_map(|known| known.iter());
        let others = others.filter(|(known, _)| known != field).take(ENTRIES_OF_KEY_MAX - 1);
        let of_key = std::iter::once((*field, entry)).chain(others.cloned()).collect();
        self.entries.insert(*key_hash, of_key);
        // After that: who voids meanwhile removes it himself, or is seen here.
        if self.mark(*key_hash) != mark {
            self.entries.remove(key_hash);
        }
    }

    /// Somebody has written rows of this key.
    pub(super) fn void(&self, key_hash: u128) {
        self.voids(key_hash).fetch_add(1, Ordering::SeqCst);
        self.entries.remove(&key_hash);
    }

    fn voids(&self, key_hash: u128) -> &AtomicU64 {
        &self.voids[key_hash as usize % VOIDS]
    }
}
