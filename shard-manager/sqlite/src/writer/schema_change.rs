//! Schema change: a change of the tables or of an index, as a transaction of the writer.
//!
//! An index whose build has a time limit is built on a second connection, while the writer's own
//! connection is idle.
//!
//! **Invariant:** the replication state records a change of the tables before the change is
//! acknowledged, so that no read is sent to a replica that does not have the table yet.
//! **Not here:** the contents of the transaction (`ddl`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::{BatchFailure, IndexChange, SchemaChange};
use model::error::{Error, Outcome};
use model::table_index::TableIndex;

use super::{Attempt, SqliteWriter};
use crate::connection::DbErrorKind;
use crate::ddl::{self, Changed};
use crate::declarations::unreadable;

impl SqliteWriter {
    /// Carries out a change of a table or an index, and returns the shard's position after it.
    pub(super) fn alter(&mut self, change: &SchemaChange) -> Result<u64, BatchFailure> {
        let mut opened = self.take_opened()?;
        let mut state = Attempt::new();
        let altered = match change {
            SchemaChange::Index(IndexChange::MakeWithin(index, pause_max)) => {
                let bounded = (index, *pause_max);
                let built = build(self, &mut opened.connection, bounded, &mut state);
                if is_late(&built) && !state.committing {
                    // The writer itself stopped the build, so certainly nothing was stored.
                    self.opened = Some(opened);
                    return Err(too_long(*pause_max));
                }
                built
            }
            SchemaChange::Make(_)
            | SchemaChange::Drop(_)
            | SchemaChange::Index(IndexChange::Make(_) | IndexChange::Drop(_)) => {
                self.try_alter(&mut opened.connection, change, &mut state)
            }
        };
        match altered {
            Ok(Changed { counters, logged }) => {
                let position = counters.position as u64;
                if logged > 0 {
                    self.replication.commit(position, state.began);
                    if !matches!(change, SchemaChange::Index(_)) {
                        // A replica without the index returns the same rows, only more slowly.
                        self.replication.primary().record_schema_change(position);
                    }
                }
                self.counters = counters;
                self.log.append(logged);
                self.give_back(opened)?;
                Ok(position)
            }
            Err(error) => {
                // The connection is dropped, and the next batch opens a new one.
                let kind = state.cause.unwrap_or_else(|| DbErrorKind::of(&error));
                let committing = state.committing;
                let failure =
                    BatchFailure { retry_split: false, ..self.failure(&kind, committing) };
                if let (SchemaChange::Index(change), DbErrorKind::Constraint("unique")) =
                    (change, &kind)
                {
                    let index = change.index().name().to_owned();
                    return Err(BatchFailure { error: Error::NotUnique { index }, ..failure });
                }
                tracing::error!(shard = %self.shard, %error, ?kind, committing, "a table could not be changed");
                Err(failure)
            }
        }
    }

    fn try_alter(
        &self,
        connection: &mut SqliteConnection,
        change: &SchemaChange,
        state: &mut Attempt,
    ) -> Result<Changed, DieselError> {
        connection.immediate_transaction(|connection| {
            let changed = ddl::change_and_log(connection, self.counters, change);
            let changed =
                changed.inspect_err(|error| state.cause = Some(DbErrorKind::of(error)))?;
            state.committing = changed.logged > 0;
            state.began = Instant::now();
            self.replication.primary().begin(changed.counters.position as u64);
            Ok(changed)
        })
    }
}

/// Builds an index on a second connection to the writer's file.
fn build(
    writer: &SqliteWriter,
    connection: &mut SqliteConnection,
    bounded: (&Arc<TableIndex>, Duration),
    state: &mut Attempt,
) -> Result<Changed, DieselError> {
    // The second connection opens the file by its path, which must still lead to the same file.
    writer.file_check.check().map_err(|error| unreadable(&error))?;
    ddl::build_and_log(connection, (&*writer.path, writer.counters), bounded, |position| {
        state.committing = true;
        state.began = Instant::now();
        writer.replication.primary().begin(position);
    })
}

/// Returns true if a build was stopped because it exceeded its time limit.
fn is_late(built: &Result<Changed, DieselError>) -> bool {
    matches!(built, Err(DieselError::RollbackTransaction))
}

fn too_long(pause_max: Duration) -> BatchFailure {
    let pause_max_ms = pause_max.as_millis() as u64;
    let error = Error::IndexPauseExceeded { pause_max_ms };
    BatchFailure { error, outcome: Outcome::Rejected, retry_split: false }
}
