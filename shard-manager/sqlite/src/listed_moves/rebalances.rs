//! Transactions on the listed rebalances of a catalog file.
//!
//! **Invariant:** an order for a rebalance and those for its moves are stored together.
//! **Not here:** the rules (`engine::rebalance_catalog`), the rows (`engine::rebalance_rows`).

use chrono::Utc;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::move_record::MoveOrder;
use engine::move_rows::ListedMoveRow;
use engine::rebalance_catalog::change::RebalanceChange;
use engine::rebalance_catalog::{ENDED_MAX, RebalanceListError};
use engine::rebalance_record::{RebalanceId, RebalanceRecord};
use engine::rebalance_rows::{
    RebalanceListFault, RebalanceRow, check_new_rebalance, rebalance_records,
};
use engine::system_tables::tessera_cluster;
use engine::system_tables::tessera_listed_moves::dsl as moves;
use engine::system_tables::tessera_rebalances::dsl as listed;
use model::error::Error;

use super::tables::CATALOG;
use crate::connection::DbErrorKind;
use crate::declarations::unreadable;

/// Reads the rebalances, as [`read`] does.
pub(super) fn list(connection: &mut SqliteConnection) -> Result<Vec<RebalanceRecord>, Error> {
    read(connection).map_err(|error| failed(&error))
}

/// Reads the rebalances. Older ones than the last [`ENDED_MAX`] are not stored.
pub(in super::super) fn read(
    connection: &mut SqliteConnection,
) -> QueryResult<Vec<RebalanceRecord>> {
    let rows: Vec<RebalanceRow> =
        listed::tessera_rebalances.select(RebalanceRow::as_select()).load(connection)?;
    rebalance_records(rows).map_err(|damage| unreadable(&damage))
}

/// Reads the rebalance that has not ended.
pub(super) fn open(connection: &mut SqliteConnection) -> Result<Option<RebalanceRecord>, Error> {
    let open = listed::tessera_rebalances.filter(listed::ended_at.is_null());
    let open = open.select(RebalanceRow::as_select()).first(connection).optional();
    let record = open.and_then(|row| {
        row.map(RebalanceRow::record).transpose().map_err(|damage| unreadable(&damage))
    });
    record.map_err(|error| failed(&error))
}

/// Lists a new rebalance, and removes those that have ended long ago.
pub(super) fn begin(
    connection: &mut SqliteConnection,
    record: &RebalanceRecord,
    expected_epoch: u64,
) -> Result<(), RebalanceListError> {
    let begun = connection.immediate_transaction(|connection| {
        if find(connection, record.id)?.is_some() {
            return Ok(());
        }
        let epoch = tessera_cluster::table.select(tessera_cluster::epoch);
        let epoch: i64 = epoch.first(connection)?;
        let open = listed::tessera_rebalances.filter(listed::ended_at.is_null());
        let open: Option<String> = open.select(listed::id).first(connection).optional()?;
        check_new_rebalance((expected_epoch, epoch.cast_unsigned()), open)?;
        let row = diesel::insert_into(listed::tessera_rebalances);
        row.values(RebalanceRow::of(record)).execute(connection)?;
        remove_old(connection)?;
        Ok(())
    });
    begun.map_err(error_of)
}

/// Changes a rebalance, and gives its moves the order that goes with it.
pub(super) fn change(
    connection: &mut SqliteConnection,
    id: RebalanceId,
    change: &RebalanceChange,
) -> Result<RebalanceRecord, RebalanceListError> {
    let changed = connection.immediate_transaction(|connection| {
        let mut record = find(connection, id)?.ok_or(RebalanceListError::NoRebalance)?;
        let before = record.state;
        change.apply(&mut record, Utc::now())?;
        let row = listed::tessera_rebalances.find(id.name());
        diesel::update(row).set(RebalanceRow::of(&record)).execute(connection)?;
        if let Some(order) = change.order_of_moves(before, &record) {
            order_moves(connection, id, order)?;
        }
        Ok(record)
    });
    changed.map_err(error_of)
}

/// Gives the moves of a rebalance an order, except those whose state does not permit it.
fn order_moves(
    connection: &mut SqliteConnection,
    id: RebalanceId,
    order: MoveOrder,
) -> QueryResult<()> {
    let open = moves::tessera_listed_moves.filter(moves::rebalance.eq(id.name()));
    let open = open.filter(moves::ended_at.is_null()).select(ListedMoveRow::as_select());
    let rows: Vec<ListedMoveRow> = open.load(connection)?;
    for row in rows {
        let mut record = row.record().map_err(|damage| unreadable(&damage))?;
        if !record.order_with_rebalance(order) {
            continue;
        }
        let row = moves::tessera_listed_moves.find(record.name());
        diesel::update(row).set(ListedMoveRow::of(&record)).execute(connection)?;
    }
    Ok(())
}

/// Finds a rebalance.
pub(in super::super) fn find(
    connection: &mut SqliteConnection,
    id: RebalanceId,
) -> QueryResult<Option<RebalanceRecord>> {
    let row = listed::tessera_rebalances.find(id.name());
    let row = row.select(RebalanceRow::as_select()).first(connection).optional()?;
    row.map(RebalanceRow::record).transpose().map_err(|damage| unreadable(&damage))
}

fn remove_old(connection: &mut SqliteConnection) -> QueryResult<()> {
    let ended = listed::tessera_rebalances.filter(listed::ended_at.is_not_null());
    let old = ended.order((listed::ended_at.desc(), listed::id));
    let old = old.limit(i64::MAX).offset(ENDED_MAX as i64).select(listed::id);
    let old: Vec<String> = old.load(connection)?;
    let old = listed::tessera_rebalances.filter(listed::id.eq_any(old));
    diesel::delete(old).execute(connection).map(drop)
}

fn error_of(fault: RebalanceListFault) -> RebalanceListError {
    match fault {
        RebalanceListFault::Refused(error) => error,
        RebalanceListFault::Database(error) => RebalanceListError::Failed(failed(&error)),
    }
}

fn failed(error: &DieselError) -> Error {
    tracing::error!(%error, "the rebalances of the catalog cannot be used");
    DbErrorKind::of(error).error(CATALOG)
}
