//! Move change: applies one change of a move's state to the shard, as transactions of the writer.
//!
//! The file has no other writer, and the writer applies one batch after another, so the change sees
//! every write that was accepted before it, and every later write is checked against the changed
//! state.
//!
//! **Invariant:** a change delays writes little longer than a batch does. Work that takes longer is
//! cut short with the error `Busy`, and continues when the mover sends the same change again.
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

/// Longest time for which one change deletes left-over rows before it lets writes proceed.
const DELETION_MAX: Duration = Duration::from_millis(20);

/// Carries out one change of a move.
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

/// Executes one transaction and returns the effect of the change; `None` if the transaction only
/// deleted left-over rows, so that another attempt is needed.
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
                // The writer itself aborted the transaction, so certainly nothing was stored.
                writer.opened = Some(opened);
                return Err(refused);
            }
            // The connection is dropped, and the next batch opens a new one.
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

/// Retains or releases log entries for the move, as the change requires.
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
        // A log above its size limit is trimmed even if a move needs it. The mover then begins a
        // new copy in its next term, and sends that term to this shard before it reads the first
        // round.
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

/// Executes one transaction, including its commit. If the change is refused, the transaction is
/// rolled back and `refused` is set to the reason.
fn transact(
    writer: &SqliteWriter,
    connection: &mut SqliteConnection,
    change: &MoveChange,
    state: &mut Attempt,
    refused: &mut Option<MoveChangeError>,
) -> Result<MoveChanged, DieselError> {
    connection.immediate_transaction(|connection| {
        if let MoveRequest::Store(..) = change.request {
            // Each round of a copy appends its rows to the log, so the log must be trimmed here
            // even if no client writes.
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
