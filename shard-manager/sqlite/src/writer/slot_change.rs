//! Slot change: a change of the slots that the shard owns, as a transaction of the writer.
//!
//! The file has no other writer, and the writer applies one batch after another, so the change sees
//! every write that was accepted before it, and every later write is checked against the changed
//! slots.
//!
//! **Invariant:** reads that begin after the change was acknowledged see the new slots. While the
//! outcome of a change is unknown, reads query the slots in the file instead of using those in
//! memory.
//! **Not here:** the contents of the transaction (`slot_change`).

use chrono::Utc;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::BatchFailure;
use engine::slot_change::{SlotChange, SlotChangeError};
use model::slot_set::SlotSet;

use super::{Attempt, SqliteWriter};
use crate::connection::DbErrorKind;
use crate::slot_change::{self, SlotsChanged};

impl SqliteWriter {
    /// Carries out a change of slots and returns the shard's position after it.
    pub(super) fn change_owned(&mut self, change: &SlotChange) -> Result<u64, SlotChangeError> {
        let mut opened = self.take_opened().map_err(failed)?;
        let (mut state, mut not_owned) = (Attempt::new(), None);
        let connection = &mut opened.connection;
        match transact(self, connection, change, &mut state, &mut not_owned) {
            Ok(SlotsChanged { counters, logged, owned }) => {
                let position = counters.position as u64;
                if logged > 0 {
                    self.replication.commit(position, state.began);
                }
                self.counters = counters;
                self.log.append(logged);
                if let Some(owned) = owned {
                    self.slots.ownership.finish_change(owned);
                    self.replication.primary().record_schema_change(position);
                }
                self.give_back(opened).map_err(failed)?;
                if logged > 0 {
                    self.slots.news.announce();
                }
                Ok(position)
            }
            Err(error) => {
                if let Some(slots) = not_owned {
                    // The writer itself aborted the transaction, so certainly nothing was stored.
                    self.opened = Some(opened);
                    return Err(SlotChangeError::NotOwned { shard: self.shard.clone(), slots });
                }
                // The connection is dropped, and the next batch opens a new one.
                let kind = state.cause.unwrap_or_else(|| DbErrorKind::of(&error));
                let committing = state.committing;
                tracing::error!(shard = %self.shard, %error, ?kind, committing, "slots could not be changed");
                Err(failed(self.failure(&kind, committing)))
            }
        }
    }
}

/// Executes the transaction, including its commit. If the shard lacks slots that the change
/// requires it to own, the transaction is rolled back and `not_owned` is set to those slots.
fn transact(
    writer: &SqliteWriter,
    connection: &mut SqliteConnection,
    change: &SlotChange,
    state: &mut Attempt,
    not_owned: &mut Option<SlotSet>,
) -> Result<SlotsChanged, DieselError> {
    connection.immediate_transaction(|connection| {
        let counters = writer.counters;
        #[cfg(feature = "sabotage")]
        let counters = super::slot_copy::copy_rows(connection, (counters, &writer.path), change)?;
        let changed = slot_change::change_and_log(connection, counters, change, Utc::now());
        let changed = changed.inspect_err(|error| state.cause = Some(DbErrorKind::of(error)))?;
        let changed = changed.map_err(|slots| {
            *not_owned = Some(slots);
            DieselError::RollbackTransaction
        })?;
        state.begin_commit(writer, &changed.counters, changed.logged > 0);
        if changed.owned.is_some() {
            writer.slots.ownership.begin_change();
        }
        Ok(changed)
    })
}

fn failed(failure: BatchFailure) -> SlotChangeError {
    SlotChangeError::Failed { error: failure.error, outcome: failure.outcome }
}
