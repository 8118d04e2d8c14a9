//! Recording of changes: enables and disables the triggers that record the keys of changed rows.
//!
//! A slot is followed while its changes are recorded. The triggers of each table are enabled, in a
//! transaction of its own, before the first slot is followed, and disabled when no slot is followed
//! any longer. An enabled trigger records only changes of followed slots.
//!
//! Writes wait while a recording ends, so its recorded changes are not deleted then, but later, in
//! batches.
//!
//! **Invariant:** while a slot is followed, the triggers of all tables are enabled: the transaction
//! that begins to follow a slot checks the triggers, and excludes transactions that create tables
//! or disable triggers.
//! **Not here:** the triggers (`migrations`), recorded changes (`round`).

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use model::idempotency;
use model::keyspace::Slot;
use model::table::Table;
use model::value::ColumnType;
use moves::move_row::CopyCursor;
use moves::request::MoveRequest;

use super::move_metadata::slot_bind;
use super::move_session::MoveSession;
use super::statements;
use crate::db_error::unreadable;
use crate::declarations;
use crate::statement::{Bind, Statement, load, run};

/// Number of recorded changes that one transaction deletes after the end of a recording.
const LEFT_TOGETHER: i64 = 10_000;

/// Returns true if the triggers must be enabled before a change. The target needs the triggers only
/// when it activates the slots, but writes wait during the activation. So its triggers are enabled
/// earlier, before the round that completes the copy.
pub(super) fn is_needed_by(request: &MoveRequest) -> bool {
    if let MoveRequest::Store(_, round) = request {
        return round.cursor == CopyCursor::Whole && round.base_cursor != CopyCursor::Whole;
    }
    begins(request)
}

/// Returns true if recorded changes that an earlier move has left over are deleted in batches
/// before a change. The transaction that begins a recording deletes those that remain while writes
/// wait, so there should be few. Before an activation, writes wait already, so the batches are
/// deleted earlier, when the triggers are enabled.
pub(super) fn deletes_left_before(request: &MoveRequest) -> bool {
    is_needed_by(request) && !matches!(request, MoveRequest::Activate(_))
}

/// Returns true if a change begins the recording of changes of slots.
pub(super) fn begins(request: &MoveRequest) -> bool {
    matches!(request, MoveRequest::Trace(_) | MoveRequest::Activate(_))
}

/// Enables the triggers of all tables. If a lock was not free in time, returns a description of its
/// holder.
pub(super) async fn enable(session: &mut MoveSession) -> QueryResult<Option<String>> {
    let missing = Statement { sql: statements::UNRECORDED, binds: &[], cached: true };
    let missing = load(&session.connection, missing).await?;
    if missing.is_empty() {
        return Ok(None);
    }
    let (mut tables, _) = declarations::load(&session.connection).await?;
    tables.push(Table::clone(&idempotency::TABLE));
    for name in missing.iter().filter_map(|row| row.text(0)) {
        let Some(table) = tables.iter().find(|table| table.name() == name) else { continue };
        let binds = enabling(table);
        let sql = statements::ENABLE_RECORDING;
        let enabled = load(&session.connection, Statement { sql, binds: &binds, cached: true });
        if let Some(holder) = enabled.await?.first().and_then(|row| row.text(0)) {
            return Ok(Some(holder));
        }
    }
    Ok(None)
}

/// Enables the triggers of a new table, in the transaction that creates it, if changes of any slots
/// are being recorded.
pub(crate) async fn record_new_table(
    connection: &AsyncPgConnection,
    table: &Table,
) -> QueryResult<()> {
    let (sql, binds) = (statements::ENABLE_RECORDING_OF_NEW, enabling(table));
    let enabled = load(connection, Statement { sql, binds: &binds, cached: false }).await?;
    match enabled.first().and_then(|row| row.text(0)) {
        None => Ok(()),
        Some(holder) => Err(unreadable(&format!("{holder} holds a lock"))),
    }
}

/// Resumes the recording of changes for the moves of a restored database, because a backup contains
/// no triggers.
pub(crate) async fn record_restored(
    connection: &AsyncPgConnection,
    tables: &[Table],
) -> QueryResult<()> {
    let moves = Statement { sql: RECORDING_MOVES, binds: &[], cached: false };
    if load(connection, moves).await?.is_empty() {
        return Ok(());
    }
    for table in tables.iter().chain([&**idempotency::TABLE]) {
        let (sql, binds) = (statements::ENABLE_RECORDING, enabling(table));
        load(connection, Statement { sql, binds: &binds, cached: false }).await?;
    }
    load(connection, Statement { sql: FOLLOW_AGAIN, binds: &[], cached: false }).await.map(drop)
}

/// Selects the moves that record changes.
const RECORDING_MOVES: &str = "SELECT FROM tessera_slot_moves WHERE traced_after IS NOT NULL";
/// Begins to record changes of the slots of these moves.
const FOLLOW_AGAIN: &str = "SELECT tessera_follow(ARRAY(SELECT number::integer \
    FROM tessera_slot_moves,json_array_elements_text(slots::json) AS number \
    WHERE traced_after IS NOT NULL),true)";

/// Drops the trigger function of a table that was dropped.
pub(crate) async fn drop_recording(
    connection: &AsyncPgConnection,
    table: &Table,
) -> QueryResult<()> {
    let name = table.name();
    run(connection, &format!("DROP FUNCTION IF EXISTS tessera.tessera_record_{name}()")).await
}

/// Returns true if at least `limit` changes of the slots are recorded.
pub(super) async fn has_too_many_changes(
    session: &mut MoveSession,
    (slots, limit): (&[Slot], u64),
) -> QueryResult<bool> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let binds = [slot_bind(slots), Bind::bigint(limit)];
    let sql = statements::HAS_TOO_MANY_CHANGES;
    let statement = Statement { sql, binds: &binds, cached: true };
    let found = load(&session.connection, statement).await?;
    Ok(found.first().and_then(|row| row.boolean(0)) == Some(true))
}

/// Returns the parameters of [`statements::ENABLE_RECORDING`].
fn enabling(table: &Table) -> [Bind; 3] {
    let names = table.id().iter().map(|column| table.column(*column).name.as_str());
    let has = |kind| table.id().iter().any(|column| table.column(*column).kind == kind);
    let mut settings = String::new();
    if has(ColumnType::Timestamp) {
        settings.push_str(" SET DateStyle='ISO, YMD' SET TimeZone='UTC'");
    }
    if has(ColumnType::Double) {
        settings.push_str(" SET extra_float_digits=1");
    }
    [Bind::text(table.name()), Bind::texts(names), Bind::text(&settings)]
}

/// Deletes a batch of the recorded changes of slots that are not followed. Returns false if there
/// are no more.
pub(super) async fn delete_left(session: &mut MoveSession) -> QueryResult<bool> {
    let (sql, binds) = (statements::DELETE_LEFT_CHANGES, [Bind::bigint(LEFT_TOGETHER)]);
    let found = load(&session.connection, Statement { sql, binds: &binds, cached: true }).await?;
    Ok(found.first().and_then(|row| row.bigint(0)).unwrap_or(0) >= LEFT_TOGETHER)
}

/// Disables the triggers of all tables if no slot is followed.
pub(super) async fn disable(session: &mut MoveSession) -> QueryResult<()> {
    let enabled = Statement { sql: statements::NEEDLESSLY_RECORDED, binds: &[], cached: true };
    for row in load(&session.connection, enabled).await? {
        let binds = [Bind::text(&row.text(0).unwrap_or_default())];
        let sql = statements::DISABLE_RECORDING;
        load(&session.connection, Statement { sql, binds: &binds, cached: true }).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use model::position::Position;
    use moves::applied::AppliedRows;
    use moves::cutover::SlotActivation;
    use moves::identity::{MoveId, MoveLeg, MoveTerm, MoveTicket};
    use moves::round::CopyRound;

    use super::*;

    #[test]
    fn left_changes_are_deleted_before_a_recording_but_not_while_writes_wait_for_an_activation() {
        let id = MoveId(7);
        let term = MoveTerm { number: 1, mover: 0 };
        let ticket = MoveTicket { id, leg: MoveLeg::FIRST, term };
        let position = Position { timeline: 1, sequence: 1 };
        let store = |base_cursor| {
            let (base, next) = (AppliedRows::begin(1), AppliedRows::begin(1));
            let cursor = CopyCursor::Whole;
            let round = CopyRound { base, base_cursor, next, cursor, is_comparison: false };
            MoveRequest::Store(ticket, round)
        };
        assert!(deletes_left_before(&store(CopyCursor::Empty)), "the copy is complete");
        assert!(!deletes_left_before(&store(CopyCursor::Whole)), "it was complete before");
        let activation = MoveRequest::Activate(SlotActivation {
            id,
            leg: MoveLeg::FIRST,
            begun: position,
            version: 0,
            signpost_min_position: position,
        });
        assert!(is_needed_by(&activation) && !deletes_left_before(&activation));
        assert!(!deletes_left_before(&MoveRequest::Lift(ticket)));
    }
}
