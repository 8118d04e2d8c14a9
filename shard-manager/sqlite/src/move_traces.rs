//! Move traces: keeps the change log of a shard as long as moves need the changes in it.
//!
//! The guards of the log are in memory. When a file is opened, each row of a move whose changes are
//! recorded gets a guard again, from the first entry that the log still has.
//!
//! **Invariant:** a move whose changes are recorded has a guard, unless the log has exceeded its
//! size limit.
//! **Not here:** the changes (`move_log`), trimming (`writer`).

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
    /// Gives each move whose changes are recorded a guard from this position of the log on, if it
    /// has none, and drops the guards of other moves.
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
            // A log above its size limit is trimmed, and no guard keeps it after that.
            let guard = guards.remove(&id).filter(RetainedLog::is_kept).unwrap_or_else(|| {
                let holder = format!("move {}", move_name(id));
                replication.retain_log(holder, Some(position))
            });
            kept.insert(id, guard);
        }
        *guards = kept;
        Ok(())
    }

    /// Releases the entries of the log up to a position.
    pub(super) fn advance(&self, id: MoveId, position: u64) {
        let guards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(guard) = guards.get(&id) {
            guard.advance(position);
        }
    }
}
