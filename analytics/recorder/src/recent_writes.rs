//! Recent writes: the list of the latest written keys. A write of one key is listed if its request
//! was recorded with the text of the key. The rows of bulk writes are collected for a second, by
//! shard; then a few of their keys are listed, and each of them stands for an equal part of the
//! rows.
//!
//! **Invariant:** at most [`WRITES_MAX`] writes are kept, and each has a greater number than the
//! one before. At most [`WRITES_MAX`] keys of bulk writes are collected.
//! **Invariant:** the lock is held for a few steps in memory, and no other lock is taken meanwhile.
//! **Not here:** counting (`current_second`); deciding for which requests the text of the key is
//! recorded (`worker`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::entry::{Detail, KEY_BYTES_MAX};
use crate::sample::{Operation, Outcome};

/// Maximum number of writes that are kept, which is more than a person can follow in a second.
pub const WRITES_MAX: usize = 128;
/// Maximum number of keys that are listed for the rows that one shard has stored in bulk writes
/// within a second.
pub const BULK_KEYS_MAX: usize = 4;
/// Maximum number of shards whose rows of bulk writes are collected at the same time.
const BULK_SHARDS_MAX: usize = WRITES_MAX / BULK_KEYS_MAX;

/// A successful write of one key, or a key of bulk writes that stands for some of their rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentWrite {
    /// Sequence number of the write since the start; the first write has number 1.
    pub number: u64,
    /// Time of the write, in s since 1970 UTC.
    pub second: u64,
    /// The shard key.
    pub key: Arc<str>,
    /// Shard that has stored the write.
    pub shard: Option<Arc<str>>,
    /// Slot of the key.
    pub slot: Option<u16>,
    /// Number of rows for which the key stands: 1 unless they were stored by bulk writes.
    pub rows: u64,
}

/// Rows of a bulk write that one shard has stored, with a sample of their keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampledRows<'k> {
    /// Number of the shard.
    pub shard: u16,
    /// Number of rows.
    pub rows: u64,
    /// Keys of some of these rows with their slots, at most one key for each row. Only the first
    /// [`BULK_KEYS_MAX`] are used; without any key, the rows are not listed.
    pub keys: Vec<(&'k str, u16)>,
}

/// The last writes.
#[derive(Debug, Default)]
pub(crate) struct RecentWrites(Mutex<WriteList>);

/// The last writes, oldest first, and the rows of bulk writes that are collected but not listed
/// yet.
#[derive(Debug, Default)]
struct WriteList {
    kept: VecDeque<RecentWrite>,
    last: u64,
    /// Rows of the bulk writes of `bulk_second`, by the name of the shard.
    bulk: BTreeMap<Option<Arc<str>>, BulkRows>,
    bulk_second: u64,
}

/// Rows of bulk writes that one shard has stored.
#[derive(Debug, Default)]
struct BulkRows {
    rows: u64,
    keys: Vec<(Arc<str>, u16)>,
}

impl RecentWrites {
    /// Lists a request if it is a successful write and its detail contains the text of the key.
    pub(crate) fn see(&self, detail: &Detail, shard: impl FnOnce() -> Option<Arc<str>>) {
        let entry = &detail.entry;
        let is_written = entry.operation == Operation::Write && entry.outcome == Outcome::Success;
        let Some(key) = detail.key().filter(|_| is_written) else { return };
        let (second, slot, shard) = (u64::from(entry.second), entry.slot(), shard());
        let key = Arc::from(key);
        self.list().keep(RecentWrite { number: 0, second, key, shard, slot, rows: 1 });
    }

    /// Collects rows that the shard with this name has stored in a bulk write.
    pub(crate) fn collect(&self, second: u64, shard: Option<Arc<str>>, stored: &SampledRows<'_>) {
        if stored.keys.is_empty() {
            return;
        }
        let mut list = self.list();
        let is_full = list.bulk.len() == BULK_SHARDS_MAX && !list.bulk.contains_key(&shard);
        if is_full || list.bulk_second != second {
            list.keep_bulk();
            list.bulk_second = second;
        }
        let collected = list.bulk.entry(shard).or_default();
        collected.rows += stored.rows;
        for (key, slot) in &stored.keys {
            if collected.keys.len() == BULK_KEYS_MAX {
                break;
            }
            let is_known = collected.keys.iter().any(|(known, _)| **known == **key);
            if !is_known && key.len() <= KEY_BYTES_MAX {
                collected.keys.push((Arc::from(*key), *slot));
            }
        }
    }

    /// Returns the kept writes with a number above `number`, oldest first. Rows of bulk writes that
    /// were collected so far are listed first, so the result includes them.
    pub(crate) fn after(&self, number: u64) -> Vec<RecentWrite> {
        let mut list = self.list();
        list.keep_bulk();
        list.kept.iter().filter(|write| write.number > number).cloned().collect()
    }

    fn list(&self) -> MutexGuard<'_, WriteList> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteList {
    /// Keeps a write under the next number.
    fn keep(&mut self, write: RecentWrite) {
        if self.kept.len() == WRITES_MAX {
            self.kept.pop_front();
        }
        self.last += 1;
        self.kept.push_back(RecentWrite { number: self.last, ..write });
    }

    /// Lists the collected keys of bulk writes, each with its part of the rows.
    fn keep_bulk(&mut self) {
        let second = self.bulk_second;
        for (shard, BulkRows { rows, keys }) in std::mem::take(&mut self.bulk) {
            let parts = keys.len() as u64;
            for (at, (key, slot)) in (0..).zip(keys) {
                let rows = rows / parts + u64::from(at < rows % parts);
                let (shard, slot) = (shard.clone(), Some(slot));
                // If there are more keys than rows, a key may stand for 0 rows and is left out.
                if rows > 0 {
                    self.keep(RecentWrite { number: 0, second, key, shard, slot, rows });
                }
            }
        }
    }
}
