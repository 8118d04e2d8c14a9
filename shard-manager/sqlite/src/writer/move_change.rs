//! Move change: a change of a move, as transactions of the writer.
//!
//! The file has no other writer, and the writer applies one batch after another, so every write
//! that was accepted before the change is visible to it, and every later one is checked against it.
//!
//! **Invariant:** writes wait for one change for little longer than for a batch: longer work is
//! reported as busy, and continues when the change is sent again.
//! **Not here:** the contents of a transaction (`move_change`).

use std::time::{Duration, Instant};

use chrono::Utc;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::BatchFailure;
use engine::slot_move::{MoveChange, MoveChangeError};
use model::sabotage::{StopTime, reach};
use moves::mark::Mark;
use moves::request::MoveRequest;
use moves::request_context::{MoveEffect, RowWork};

use super::{Attempt, SqliteWriter};
use crate::connection::DbErrorKind;
use crate::move_change::{self, MoveChanged};
use crate::stored_move;

/// Time after which the deletion of left-over rows lets writes pass.
const DELETION_MAX: Duration = Duration::from_millis(20);

/// Carries out the change of a move.
pub(super) fn carry_out(
    writer: &mut SqliteWriter,
    change: &MoveChange,
) -> Result<MoveEffect, MoveChangeError> {
    let began = Instant::now();
    loop {
        if let Some(effect) = attempt(writer, change)? {
            return Ok(effect);
        }
        if began.elapsed() > DELETION_MAX {
            let holder = "the deletion of rows that were left over".to_owned();
            return Err(MoveChangeError::Busy { holder });
        }
    }
}

/// Carries out one transaction, and returns the effect of the change; `None` if left-over rows
/// were deleted first.
fn attempt(
    writer: &mut SqliteWriter,
    change: &MoveChange,
) -> Result<Option<MoveEffect>, MoveChangeError> {
    let mut opened = writer.take_opened().map_err(failed)?;
    let (mut state, mut refused) = (Attempt::new(), None);
    let connection = &mut opened.connection;
    let changed = match transact(writer, connection, change, &mut state, &mut refused) {
        Ok(changed) => changed,
        Err(error) => {
            if let Some(refused) = refused {
                // The writer aborted the transaction itself: nothing is in doubt.
                writer.opened = Some(opened);
                return Err(refused);
            }
            // The connection is dropped: the next batch opens another.
            let kind = state.cause.unwrap_or_else(|| DbErrorKind::of(&error));
            let committing = state.committing;
            tracing::error!(shard = %writer.shard, %error, ?kind, committing, "a move could not be changed");
            return Err(failed(writer.failure(&kind, committing)));
        }
    };
    let MoveChanged { counters, logged, owned, has_news, effect } = changed;
    let position = counters.position as u64;
    if logged > 0 {
        writer.replication.commit(position, state.began);
    }
    writer.counters = counters;
    writer.note_log(logged, state.trimmed);
    if let Some(owned) = owned {
        writer.slots.ownership.finish_change(owned);
        writer.replication.primary().record_schema_change(position);
    }
    let traced = follow_traces(writer, &mut opened.connection, change, effect.as_ref());
    writer.give_back(opened).map_err(failed)?;
    if has_news {
        writer.slots.news.announce();
    }
    if let Err(error) = traced {
        tracing::error!(shard = %writer.shard, %error, "the rows of moves cannot be read");
    }
    Ok(effect)
}

/// Keeps or releases entries of the log after a change.
fn follow_traces(
    writer: &SqliteWriter,
    connection: &mut SqliteConnection,
    change: &MoveChange,
    effect: Option<&MoveEffect>,
) -> Result<(), DieselError> {
    let traces = &writer.slots.traces;
    match effect {
        Some(MoveEffect::Changed(RowWork::TrimTraces(Mark::Entry(position)))) => {
            traces.advance(change.request.move_id(), *position);
        }
        // If the log was trimmed although the move needs it, the mover begins another copy in its
        // next term, and raises that term here before it reads the first round.
        Some(MoveEffect::Changed(work))
            if matches!(work, RowWork::BeginTraces | RowWork::EndTraces)
                || matches!(change.request, MoveRequest::Raise { .. }) =>
        {
            let rows = stored_move::load(connection)?;
            traces.settle(&writer.replication, &rows, writer.counters.position as u64)?;
        }
        Some(_) | None => {}
    }
    Ok(())
}

/// Executes a transaction up to its commit. Sets `refused` if the transaction was aborted because
/// the change is refused.
fn transact(
    writer: &SqliteWriter,
    connection: &mut SqliteConnection,
    change: &MoveChange,
    state: &mut Attempt,
    refused: &mut Option<MoveChangeError>,
) -> Result<MoveChanged, DieselError> {
    connection.immediate_transaction(|connection| {
        if let MoveRequest::Store(..) = change.request {
            // A copy appends all its rows to the log, also while no client writes.
            let trimmed = state.trim(writer, connection);
            trimmed.inspect_err(|error| state.cause = Some(DbErrorKind::of(error)))?;
        }
        let (counters, compared) = (writer.counters, &*writer.slots.compared);
        let request = (change, compared);
        let changed = move_change::change_and_log(connection, counters, request, Utc::now());
        let changed = changed.inspect_err(|error| state.cause = Some(DbErrorKind::of(error)))?;
        let changed = changed.map_err(|reason| {
            *refused = Some(reason);
            DieselError::RollbackTransaction
        })?;
        reach(StopTime::Inside, change.request.name());
        state.begin_commit(writer, &changed.counters, changed.logged > 0);
        if changed.owned.is_some() {
            writer.slots.ownership.begin_change();
        }
        Ok(changed)
    })
}

fn failed(failure: BatchFailure) -> MoveChangeError {
    MoveChangeError::Failed { error: failure.error, outcome: failure.outcome }
}
