//! Log retention: keeps a shard's change log from being trimmed while copies of the shard need it.
//!
//! Each such copy is a holder, with a name and a position. Holders are independent of each other: a
//! backup and several moves of slots may read the log at the same time. When a holder advances, it
//! releases the entries up to its new position.
//!
//! The log has a size limit, so a holder that no longer advances cannot fill the disk. Once entries
//! that a holder needs have been removed, the holder is dropped. Its copy then has to begin again,
//! like that of a replica that has fallen too far behind.
//!
//! **Invariant:** entries after the position of every holder stay in the log, unless the log
//! exceeds its size limit. A holder that has lost entries no longer retains any.
//! **Not here:** entries that replicas need ([`super::ReplicationState::trimmable_position`]), the
//! size limit (the writer).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Positions after which the log is retained for purposes other than replicas.
#[derive(Debug)]
pub(super) struct LogRetention {
    /// Lowest position of all holders; `u64::MAX` without holders. The writer reads it before each
    /// batch.
    after: AtomicU64,
    holders: Mutex<Holders>,
}

/// Holders by their ids, which are never reused.
#[derive(Debug, Default)]
struct Holders {
    next_id: u64,
    by_id: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    name: String,
    position: u64,
}

impl Default for LogRetention {
    fn default() -> Self {
        Self { after: AtomicU64::new(u64::MAX), holders: Mutex::default() }
    }
}

impl LogRetention {
    /// Retains the log after the position that `committed` returns, until the guard is dropped.
    pub(super) fn retain_after(
        self: &Arc<Self>,
        name: String,
        committed: impl FnOnce() -> u64,
    ) -> RetainedLog {
        let mut holders = self.holders();
        // From here on, no trim begins. A trim that is already running removes entries only up to a
        // position that was committed earlier, so the position of the holder is read after this
        // store.
        self.after.store(0, Ordering::SeqCst);
        let position = committed();
        let id = holders.next_id;
        holders.next_id += 1;
        holders.by_id.insert(id, Holder { name, position });
        self.update(&holders);
        RetainedLog { retention: Arc::clone(self), id }
    }

    /// Returns the position up to which the log may be trimmed.
    pub(super) fn limit(&self) -> u64 {
        self.after.load(Ordering::SeqCst)
    }

    /// Drops the holders that still need entries up to this position, because these entries were
    /// removed. Returns the names of the dropped holders.
    pub(super) fn drop_behind(&self, trimmed: u64) -> Vec<String> {
        if self.limit() >= trimmed {
            return Vec::new();
        }
        let mut holders = self.holders();
        let behind = holders.by_id.extract_if(.., |_, holder| holder.position < trimmed);
        let names = behind.map(|(_, holder)| holder.name).collect();
        self.update(&holders);
        names
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, holders: &Holders) {
        let lowest = holders.by_id.values().map(|holder| holder.position).min();
        self.after.store(lowest.unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

/// Guard of a holder: keeps the log of a shard from being trimmed, unless the log exceeds its size
/// limit.
#[derive(Debug)]
pub struct RetainedLog {
    retention: Arc<LogRetention>,
    id: u64,
}

impl RetainedLog {
    /// Releases the entries up to this position. A lower position than before changes nothing.
    pub fn advance(&self, position: u64) {
        let mut holders = self.retention.holders();
        if let Some(holder) = holders.by_id.get_mut(&self.id) {
            holder.position = holder.position.max(position);
            self.retention.update(&holders);
        }
    }

    /// Returns false once entries after its position were removed from the log.
    pub fn is_kept(&self) -> bool {
        self.retention.holders().by_id.contains_key(&self.id)
    }
}

impl Drop for RetainedLog {
    fn drop(&mut self) {
        let mut holders = self.retention.holders();
        holders.by_id.remove(&self.id);
        self.retention.update(&holders);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retain(log: &Arc<LogRetention>, name: &str, position: u64) -> RetainedLog {
        log.retain_after(name.to_owned(), || position)
    }

    #[test]
    fn the_holder_furthest_behind_counts() {
        let log = Arc::<LogRetention>::default();
        assert_eq!(log.limit(), u64::MAX);
        let (backup, first) = (retain(&log, "backup", 50), retain(&log, "move 1", 20));
        let second = retain(&log, "move 2", 70);
        assert_eq!(log.limit(), 20);
        first.advance(60);
        assert_eq!(log.limit(), 50);
        first.advance(10);
        assert_eq!(log.limit(), 50, "a holder never goes back");
        drop(backup);
        assert_eq!(log.limit(), 60);
        drop(first);
        drop(second);
        assert_eq!(log.limit(), u64::MAX);
    }

    #[test]
    fn a_holder_whose_entries_were_removed_is_dropped_and_holds_no_more() {
        let log = Arc::<LogRetention>::default();
        let (slow, fast) = (retain(&log, "slow", 20), retain(&log, "fast", 90));
        assert!(log.drop_behind(20).is_empty(), "it needs the entries after its position");
        assert_eq!(log.drop_behind(30), ["slow"]);
        assert_eq!((slow.is_kept(), fast.is_kept(), log.limit()), (false, true, 90));
        slow.advance(25);
        drop(slow);
        assert_eq!(log.limit(), 90);
        let again = retain(&log, "slow", 95);
        assert!(again.is_kept() && fast.is_kept());
        assert_eq!(log.limit(), 90);
    }

    #[test]
    fn no_entry_is_trimmed_between_the_beginning_of_a_hold_and_its_position() {
        let log = Arc::<LogRetention>::default();
        let inside = Arc::clone(&log);
        let held = log.retain_after("backup".to_owned(), || {
            assert_eq!(inside.limit(), 0);
            40
        });
        assert_eq!(log.limit(), 40);
        drop(held);
    }
}
