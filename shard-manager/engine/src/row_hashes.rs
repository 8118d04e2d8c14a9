//! Row hashes: keys and hashes of the rows of one slot, to find the rows in which a copy differs
//! from its source.
//!
//! The hashes are read in pages, and only after the digests of both sides were found to differ.
//!
//! **Invariant:** the size of a page and of its set of changed keys is limited, so that a mover
//! needs less than 16 MiB of memory for them.
//! **Not here:** reading the hashes (the engines), comparing them (`cluster`).

use std::collections::BTreeSet;

use model::keyspace::Slot;
use moves::applied::AppliedRows;
use moves::identity::MoveId;

/// Maximum number of rows of a page, and of the changed keys that are returned with it.
pub const PAGE_KEYS_MAX: usize = 2_000;
/// Total size of keys and hashes, in bytes, at which a page ends.
pub const PAGE_BYTES_MAX: usize = 2 << 20;

/// Query for the hashes of the rows of one slot of a table, between two keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowHashQuery {
    /// The move.
    pub id: MoveId,
    /// Name of the table.
    pub table: String,
    /// The slot.
    pub slot: Slot,
    /// Key after which the rows begin, in the format of [`super::copy_key`]; `None` begins with the
    /// first row.
    pub after: Option<String>,
    /// Key of the last row; `None` for no upper limit.
    pub until: Option<String>,
    /// State of the copy: the keys that clients have changed since this state are returned as well.
    pub since: Option<AppliedRows>,
}

/// Key and hash of a row. Rows with equal contents have equal hashes on all shards of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowHash {
    /// Key, in the format of [`super::copy_key`].
    pub key: String,
    /// Hash of the row.
    pub hash: String,
}

/// Page of rows in the order of their keys.
#[derive(Debug, Default)]
pub struct RowHashes {
    /// The rows.
    pub rows: Vec<RowHash>,
    /// True if the page has as many rows as it can have, so that more may follow.
    pub is_full: bool,
    /// Keys of the slot that clients have changed since [`RowHashQuery::since`]; `None` if that
    /// state was not given, if the changes are not recorded, or if there are too many of them.
    pub changed: Option<BTreeSet<String>>,
    bytes: usize,
}

impl RowHashes {
    /// Adds a row, unless the page is full. Returns true if another row fits.
    pub fn push(&mut self, key: String, hash: String) -> bool {
        if !self.is_full {
            self.bytes += key.len() + hash.len();
            self.rows.push(RowHash { key, hash });
            self.is_full = self.rows.len() >= PAGE_KEYS_MAX || self.bytes >= PAGE_BYTES_MAX;
        }
        !self.is_full
    }
}

/// Set of keys that have changed, with the same limits as a page.
#[derive(Debug, Default)]
pub struct ChangedKeys {
    keys: BTreeSet<String>,
    bytes: usize,
}

impl ChangedKeys {
    /// Adds a key. Returns false once there are too many.
    pub fn push(&mut self, key: String) -> bool {
        let bytes = key.len();
        if self.has_room() && self.keys.insert(key) {
            self.bytes += bytes;
        }
        self.has_room()
    }

    /// Returns the keys; `None` if there are too many.
    pub fn finish(self) -> Option<BTreeSet<String>> {
        self.has_room().then_some(self.keys)
    }

    fn has_room(&self) -> bool {
        self.keys.len() < PAGE_KEYS_MAX && self.bytes < PAGE_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_rows_is_bounded_by_its_keys_and_by_its_bytes() {
        let mut page = RowHashes::default();
        while page.push("k".to_owned(), "h".to_owned()) {}
        assert_eq!((page.rows.len(), page.is_full), (PAGE_KEYS_MAX, true));
        assert!(!page.push("later".to_owned(), "h".to_owned()));
        assert_eq!(page.rows.len(), PAGE_KEYS_MAX);
        let mut page = RowHashes::default();
        assert!(page.push("k".repeat(PAGE_BYTES_MAX / 2), "h".to_owned()));
        assert!(!page.push("l".repeat(PAGE_BYTES_MAX / 2), "h".to_owned()));
    }

    #[test]
    fn too_many_changed_keys_are_none() {
        let mut few = ChangedKeys::default();
        assert!(few.push("a".to_owned()) && few.push("a".to_owned()));
        assert_eq!(few.finish(), Some(BTreeSet::from(["a".to_owned()])));
        let mut many = ChangedKeys::default();
        let mut number = 0;
        while many.push(number.to_string()) {
            number += 1;
        }
        assert_eq!(many.finish(), None);
    }
}
