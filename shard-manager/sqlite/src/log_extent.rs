//! Log extent: the entries of the change log that a file still has, and those that the next
//! transaction removes.
//!
//! SQLite reads all pages of an entry to delete it, and the entry of a bulk write, or of rows that
//! a move copied, may have several MiB. Therefore the number of bytes that one transaction removes
//! is limited.
//!
//! **Invariant:** trimming removes entries faster than writes append them, unless a replica, a move
//! or another holder still needs the old entries.
//! **Not here:** the removal (`log`), the holders of the log (`engine::replication`).

use engine::replication::ReplicationState;

/// Minimum number of removable entries for a trim, which has a fixed cost.
const ENTRIES_MIN: u64 = 64;
/// Maximum number of entries that one transaction removes, because writes wait meanwhile.
const ENTRIES_MAX: u64 = 256;
/// Number of removed bytes after which a transaction removes no further entry. The limit is twice
/// the size of the last appended entry if that is more.
const TRIM_BYTES: u64 = 1 << 20;
/// Maximum size of the log in bytes. A larger log is trimmed even if a replica or another holder
/// still needs its entries: the replica is then rebuilt, and any other holder must start over.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// Position up to which a log was trimmed, and its size.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogExtent {
    /// Position up to which the log was trimmed.
    trimmed: u64,
    /// Total number of bytes of all entries.
    bytes: u64,
    /// Number of bytes of the last appended entry; 0 if none was appended since the file was
    /// opened.
    last: u64,
}

/// Limit of the entries that a transaction removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TrimLimit {
    /// Position up to which entries may be removed.
    pub(super) position: u64,
    /// Number of removed bytes after which no further entry is removed.
    pub(super) bytes: u64,
}

/// Entries that a transaction has removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trimmed {
    /// Position of the last removed entry.
    pub(super) position: u64,
    /// Total number of bytes of the removed entries.
    pub(super) bytes: u64,
}

impl LogExtent {
    /// Creates the extent of a log that was trimmed up to a position.
    pub(super) fn new(trimmed: u64, bytes: u64) -> Self {
        Self { trimmed, bytes, last: 0 }
    }

    /// Records an appended entry of this many bytes; 0 if nothing was appended.
    pub(super) fn append(&mut self, bytes: u64) {
        if bytes > 0 {
            self.bytes += bytes;
            self.last = bytes;
        }
    }

    /// Records entries that were removed.
    pub(super) fn remove(&mut self, Trimmed { position, bytes }: Trimmed) {
        self.trimmed = position;
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Returns the limit for the next trim; `None` if too few entries can be removed. `position` is
    /// the position of the last entry.
    pub(super) fn trim_limit(
        &self,
        replication: &ReplicationState,
        position: u64,
    ) -> Option<TrimLimit> {
        self.limit(replication.trimmable_position(), position)
    }

    fn limit(&self, mut needless: u64, position: u64) -> Option<TrimLimit> {
        let Self { trimmed, bytes, last } = *self;
        if bytes >= LOG_BYTES_MAX {
            // The log is too large, so its oldest entries are removed even if a replica or another
            // holder needs them.
            needless = needless.max(trimmed + ENTRIES_MAX);
        }
        // The last entry always stays: the transaction that trims may append no entry, and an empty
        // log would mark the file as one of a replica.
        let to = needless.min(position.saturating_sub(1)).min(trimmed + ENTRIES_MAX);
        let limit = TrimLimit { position: to, bytes: TRIM_BYTES.max(last.saturating_mul(2)) };
        (to >= trimmed + ENTRIES_MIN).then_some(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unneeded_entries_are_removed_in_batches_and_the_last_entry_stays() {
        let extent = LogExtent::new(100, 0);
        let limit = |needless, position| extent.limit(needless, position);
        assert_eq!(limit(163, 1_000), None, "too few");
        let removed = |position| Some(TrimLimit { position, bytes: TRIM_BYTES });
        assert_eq!(limit(164, 1_000), removed(164));
        assert_eq!(limit(900, 1_000), removed(356), "no more at once");
        assert_eq!(limit(300, 300), removed(299), "the last entry stays");
    }

    #[test]
    fn a_transaction_may_remove_twice_the_bytes_of_the_last_entry() {
        let mut extent = LogExtent::new(0, 0);
        extent.append(3 << 20);
        extent.append(0);
        let limit = extent.limit(100, 200).expect("enough entries");
        assert_eq!(limit, TrimLimit { position: 100, bytes: 6 << 20 });
        extent.remove(Trimmed { position: 100, bytes: 2 << 20 });
        assert_eq!((extent.trimmed, extent.bytes), (100, 1 << 20));
    }

    #[test]
    fn a_log_above_its_size_limit_is_trimmed_even_if_it_is_needed() {
        let mut extent = LogExtent::new(0, LOG_BYTES_MAX - 1);
        assert_eq!(extent.limit(0, 1_000), None);
        extent.append(1);
        let limit = TrimLimit { position: ENTRIES_MAX, bytes: TRIM_BYTES };
        assert_eq!(extent.limit(0, 1_000), Some(limit));
    }
}
