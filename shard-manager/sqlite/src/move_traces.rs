//! Move traces: keeps the entries of a shard's change log for as long as moves need them. A move is
//! *traced* on a shard while changes of its slots must be kept there for the copy.
//!
//! Each traced move has a guard in memory, which keeps the log from being trimmed. When a file is
//! opened, each traced move gets a new guard, which keeps all entries that the log still has.
//!
//! **Invariant:** each traced move has a guard, unless the log has exceeded its size limit.
//! **Not here:** reading the changes (`move_log`), trimming (`writer`).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use diesel::QueryResult;
use engine::move_record::move_name;
use engine::replication::{ReplicationState, RetainedLog};
use moves::identity::MoveId;

use super::stored_move::StoredMove;

/// Guards of the log, by move.
#[derive(Debug, Default)]
pub struct MoveTraces(Mutex<BTreeMap<MoveId, RetainedLog>>);

impl MoveTraces {
    /// Gives each traced move that has no guard a guard of the entries after `position`, and drops
    /// the guards of moves that are no longer traced.
    pub(super) fn settle(
        &self,
        replication: &ReplicationState,
        rows: &[StoredMove],
        position: u64,
    ) -> QueryResult<()> {
        let mut guards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = BTreeMap::new();
        for row in rows.iter().filter(|row| row.traced_after.is_some()) {
            let id = row.move_id()?;
            // Once a log above its size limit was trimmed, the guards of the removed entries have
            // no effect any more, and are replaced.
            let guard = guards.remove(&id).filter(RetainedLog::is_kept).unwrap_or_else(|| {
                let holder = format!("move {}", move_name(id));
                replication.retain_log(holder, Some(position))
            });
            kept.insert(id, guard);
        }
        *guards = kept;
        Ok(())
    }

    /// Releases the log entries up to a position, which the move no longer needs.
    pub(super) fn advance(&self, id: MoveId, position: u64) {
        let guards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = guards.get(&id) {
            guard.advance(position);
        }
    }
}
