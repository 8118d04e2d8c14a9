//! Database of a simulated shard: metadata, rows and recorded changes, as they are after one
//! commit.
//!
//! The content of a row is the set of all writes to it, so a lost write is noticed. The set stays
//! even if a client deletes the row.

use model::keyspace::Slot;

use crate::mark::Mark;
use crate::request_context::RowWork;
use crate::shard_metadata::ShardMetadata;

/// Number of keys: two in each slot that may move, and one in a slot that never moves.
pub(super) const KEYS: usize = 7;
/// Key in the slot that never moves. Its row is never deleted.
pub(super) const STAYING_KEY: usize = 6;

/// Returns the slot of a key.
pub(super) fn slot_of(key: usize) -> Slot {
    Slot::new((key / 2) as u16).unwrap()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// Set of the writes to the row, as bits.
    pub(super) writes: u64,
    /// False if the last write deleted the row.
    pub(super) is_present: bool,
    pub(super) version: u64,
}

/// Recorded change of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trace {
    pub(super) change: u64,
    pub(super) key: usize,
}

/// Rows of a round: keys, each with its row if there is one.
pub(super) type Rows = Vec<(usize, Option<Row>)>;

#[derive(Clone, Debug)]
pub(super) struct Database {
    pub(super) metadata: ShardMetadata,
    pub(super) rows: [Option<Row>; KEYS],
    pub(super) traces: Vec<Trace>,
    /// Lowest number above those of all committed changes. Running transactions may have higher
    /// numbers.
    pub(super) next_change: u64,
}

impl Database {
    pub(super) fn has_change_beyond(&self, slots: &[Slot], mark: &Mark) -> bool {
        let is_beyond =
            |trace: &Trace| slots.contains(&slot_of(trace.key)) && !mark.covers(trace.change);
        self.traces.iter().any(is_beyond)
    }

    /// Writes a key. Returns false if its version did not grow.
    pub(super) fn write(&mut self, key: usize, write: usize, deletes: bool, change: u64) -> bool {
        self.metadata.version += 1;
        let old = self.rows[key];
        let version = self.metadata.version;
        let writes = old.map_or(0, |row| row.writes) | 1 << write;
        self.rows[key] = Some(Row { writes, is_present: !deletes, version });
        if self.metadata.traces(slot_of(key)) {
            self.traces.push(Trace { change, key });
        }
        self.next_change = self.next_change.max(change + 1);
        old.is_none_or(|row| row.version < version)
    }

    /// Does the work that belongs to a request of a move.
    pub(super) fn work(&mut self, work: &RowWork, slots: &[Slot], rows: &Rows) {
        let keys = (0..KEYS).filter(|key| slots.contains(&slot_of(*key)));
        match work {
            RowWork::None | RowWork::BeginTraces => {}
            RowWork::DeleteRows => keys.for_each(|key| self.rows[key] = None),
            // A batch is one row here, so that each intermediate state occurs.
            RowWork::DeleteBatch(_) => {
                let first = keys.into_iter().find(|key| self.rows[*key].is_some());
                first.into_iter().for_each(|key| self.rows[key] = None);
            }
            RowWork::StoreRows => {
                for (key, row) in rows {
                    self.rows[*key] = *row;
                    let version = row.map_or(0, |row| row.version);
                    self.metadata.version = self.metadata.version.max(version);
                }
            }
            RowWork::EndTraces => self.traces.retain(|t| !slots.contains(&slot_of(t.key))),
            RowWork::TrimTraces(mark) => self.traces.retain(|t| !mark.covers(t.change)),
        }
    }
}
