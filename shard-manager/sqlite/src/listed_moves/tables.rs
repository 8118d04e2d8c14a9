//! Transactions on the listed moves of a catalog file.
//!
//! **Invariant:** the slots of a move are in `tessera_moving` as long as it has not ended.
//! **Not here:** the rules (`engine::move_catalog`), the rows (`engine::move_rows`).

use chrono::Utc;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::move_catalog::change::ListedMoveChange;
use engine::move_catalog::{ENDED_LISTED_MAX, MoveListError};
use engine::move_record::{MovePhase, MoveRecord, move_name};
use engine::move_rows::{
    ENDED_STORED_MAX, ListedMoveRow, MoveListFault, MovingSlotRow, check_new_move,
    check_open_moves, check_rebalance_of_move, listed_records,
};
use engine::rebalance_record::RebalanceId;
use engine::system_tables::tessera_listed_moves::dsl as listed;
use engine::system_tables::{tessera_cluster, tessera_moving, tessera_rebalances};
use model::error::Error;
use moves::identity::MoveId;

use crate::connection::DbErrorKind;
use crate::declarations::unreadable;

/// Name of the catalog in errors, in place of a shard.
pub(super) const CATALOG: &str = "the catalog";

/// Reads the moves, as [`read`] does.
pub(super) fn list(connection: &mut SqliteConnection) -> Result<Vec<MoveRecord>, Error> {
    read(connection).map_err(|error| failed(&error))
}

/// Reads the moves that have not ended, the last ones that have, and those that the rebalance in
/// progress has given up, as of one moment.
pub(in super::super) fn read(connection: &mut SqliteConnection) -> QueryResult<Vec<MoveRecord>> {
    connection.transaction(|connection| {
        let open = listed::tessera_listed_moves.filter(listed::ended_at.is_null());
        let mut rows = open.select(ListedMoveRow::as_select()).load(connection)?;
        let ended = listed::tessera_listed_moves.filter(listed::ended_at.is_not_null());
        let ended =
            ended.order((listed::ended_at.desc(), listed::id)).limit(ENDED_LISTED_MAX as i64);
        rows.extend(ended.select(ListedMoveRow::as_select()).load(connection)?);
        rows.extend(given_up(connection)?);
        listed_records(rows).map_err(|damage| unreadable(&damage))
    })
}

/// Reads a move.
pub(super) fn get(
    connection: &mut SqliteConnection,
    id: MoveId,
) -> Result<Option<MoveRecord>, Error> {
    find(connection, id).map_err(|error| failed(&error))
}

/// Lists a new move, and removes those that have ended long ago, unless the rebalance in progress
/// has given them up.
pub(super) fn begin(
    connection: &mut SqliteConnection,
    record: &MoveRecord,
    expected_epoch: u64,
) -> Result<(), MoveListError> {
    let begun = connection.immediate_transaction(|connection| {
        if find(connection, record.id)?.is_some() {
            return Ok(());
        }
        if let Some(rebalance) = record.rebalance {
            let state = tessera_rebalances::table.find(RebalanceId::name(rebalance));
            let state: Option<String> =
                state.select(tessera_rebalances::state).first(connection).optional()?;
            check_rebalance_of_move(state.as_deref())?;
        }
        let epoch = tessera_cluster::table.select(tessera_cluster::epoch);
        let epoch: i64 = epoch.first(connection)?;
        let moving: Vec<MovingSlotRow> = tessera_moving::table.load(connection)?;
        check_new_move(record, (expected_epoch, epoch.cast_unsigned()), &moving)?;
        if record.rebalance.is_none() {
            let open = listed::tessera_listed_moves.filter(listed::ended_at.is_null());
            let open = open.filter(listed::rebalance.is_null()).count();
            check_open_moves(open.get_result::<i64>(connection)?)?;
        }
        let row =
            diesel::insert_into(listed::tessera_listed_moves).values(ListedMoveRow::of(record));
        row.execute(connection)?;
        let slots = diesel::insert_into(tessera_moving::table).values(MovingSlotRow::of(record));
        slots.execute(connection)?;
        remove_old(connection)?;
        Ok(())
    });
    begun.map_err(error_of)
}

/// Changes a move, and frees its slots once it has ended.
pub(super) fn change(
    connection: &mut SqliteConnection,
    id: MoveId,
    change: &ListedMoveChange,
) -> Result<MoveRecord, MoveListError> {
    let changed = connection.immediate_transaction(|connection| {
        let mut record = find(connection, id)?.ok_or(MoveListError::NoMove)?;
        change.apply(&mut record, Utc::now())?;
        let row = listed::tessera_listed_moves.find(record.name());
        diesel::update(row).set(ListedMoveRow::of(&record)).execute(connection)?;
        if record.ended_at.is_some() {
            let slots = tessera_moving::table.filter(tessera_moving::move_id.eq(record.name()));
            diesel::delete(slots).execute(connection)?;
        }
        Ok(record)
    });
    changed.map_err(error_of)
}

/// Finds a move.
pub(in super::super) fn find(
    connection: &mut SqliteConnection,
    id: MoveId,
) -> QueryResult<Option<MoveRecord>> {
    let row = listed::tessera_listed_moves.find(move_name(id));
    let row = row.select(ListedMoveRow::as_select()).first(connection).optional()?;
    row.map(ListedMoveRow::record).transpose().map_err(|damage| unreadable(&damage))
}

/// Reads the moves of the rebalance in progress that have ended with the slots on their source.
/// Their end times may not be the latest, because the clock may have been set back.
fn given_up(connection: &mut SqliteConnection) -> QueryResult<Vec<ListedMoveRow>> {
    let open = tessera_rebalances::table.filter(tessera_rebalances::ended_at.is_null());
    let open = open.select(tessera_rebalances::id);
    let open: Option<String> = open.first(connection).optional()?;
    let Some(open) = open else { return Ok(Vec::new()) };
    let ended = listed::tessera_listed_moves.filter(listed::rebalance.eq(open));
    let ended = ended.filter(listed::ended_at.is_not_null());
    let ended = ended.filter(listed::phase.ne(MovePhase::Done.name()));
    ended.select(ListedMoveRow::as_select()).load(connection)
}

fn remove_old(connection: &mut SqliteConnection) -> QueryResult<()> {
    let ended = listed::tessera_listed_moves.filter(listed::ended_at.is_not_null());
    let old = ended.order((listed::ended_at.desc(), listed::id));
    let old = old.limit(i64::MAX).offset(ENDED_STORED_MAX).select(listed::id);
    let mut old: Vec<String> = old.load(connection)?;
    if !old.is_empty() {
        let needed = given_up(connection)?;
        old.retain(|id| needed.iter().all(|row| row.id != *id));
    }
    let old = listed::tessera_listed_moves.filter(listed::id.eq_any(old));
    diesel::delete(old).execute(connection).map(drop)
}

fn error_of(fault: MoveListFault) -> MoveListError {
    match fault {
        MoveListFault::Refused(error) => error,
        MoveListFault::Database(error) => MoveListError::Failed(failed(&error)),
    }
}

fn failed(error: &DieselError) -> Error {
    tracing::error!(%error, "the moves of the catalog cannot be used");
    DbErrorKind::of(error).error(CATALOG)
}
