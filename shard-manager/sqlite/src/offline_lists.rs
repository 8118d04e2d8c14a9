//! Offline lists: the moves and rebalances in the catalog of a data directory, read as they are.
//!
//! **Invariant:** no file is changed. In particular no shard is opened, which would begin a
//! timeline.
//! **Not here:** the lists of an open cluster (`listed_moves`).

use chrono::Utc;
use diesel::result::QueryResult;
use diesel::sqlite::SqliteConnection;
use engine::move_record::MoveRecord;
use engine::move_view::MoveView;
use engine::rebalance_record::{RebalanceId, RebalanceRecord};
use engine::rebalance_view::RebalanceView;
use model::slot_set::SlotSet;
use model::topology::ShardNumber;
use moves::identity::MoveId;

use super::OpenError;
use super::catalog::MIGRATIONS;
use super::data_dir::catalog_file;
use super::listed_moves::{find_move, find_rebalance, read_moves, read_rebalances};
use super::offline_view::DirView;
use super::read_only::open_read_only;

/// Returns the moves that have not ended and the latest ones that have.
///
/// # Errors
/// [`OpenError`] if the catalog cannot be read.
pub fn listed_moves(view: &DirView) -> Result<Vec<MoveView>, OpenError> {
    let records = read(view, read_moves)?;
    Ok(records.iter().map(|record| shown_move(view, record)).collect())
}

/// Returns the identity of the first move that has not ended and has some of these slots; `None` if
/// there is none.
///
/// # Errors
/// [`OpenError`] if the catalog cannot be read.
pub(super) fn open_move_of(view: &DirView, slots: &SlotSet) -> Result<Option<String>, OpenError> {
    let records = read(view, read_moves)?;
    let is_open = |record: &&MoveRecord| record.ended_at.is_none();
    let mut open = records.iter().filter(is_open);
    let found = open.find(|record| !record.new.slots.is_disjoint(slots));
    Ok(found.map(MoveRecord::name))
}

/// Returns a move; `None` if the catalog has none with this identity.
///
/// # Errors
/// [`OpenError`] if the catalog cannot be read.
pub fn listed_move(view: &DirView, id: MoveId) -> Result<Option<MoveView>, OpenError> {
    let record = read(view, |connection| find_move(connection, id))?;
    Ok(record.map(|record| shown_move(view, &record)))
}

/// Returns the rebalance in progress and the latest ones that have ended, without their moves.
///
/// # Errors
/// [`OpenError`] if the catalog cannot be read.
pub fn listed_rebalances(view: &DirView) -> Result<Vec<RebalanceView>, OpenError> {
    let records = read(view, read_rebalances)?;
    Ok(records.iter().map(|record| shown_rebalance(view, record)).collect())
}

/// Returns a rebalance with its moves; `None` if the catalog has none with this identity.
///
/// # Errors
/// [`OpenError`] if the catalog cannot be read.
pub fn listed_rebalance(
    view: &DirView,
    id: RebalanceId,
) -> Result<Option<RebalanceView>, OpenError> {
    let record = read(view, |connection| find_rebalance(connection, id))?;
    let shown = |record: RebalanceRecord| {
        shown_rebalance(view, &record).with_moves(&record, |shard| name_of(view, shard))
    };
    Ok(record.map(shown))
}

fn read<T>(
    view: &DirView,
    work: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
) -> Result<T, OpenError> {
    let catalog = catalog_file(view.path());
    let mut connection = open_read_only(&catalog, &MIGRATIONS)?;
    work(&mut connection).map_err(|error| OpenError::file(&catalog, error))
}

fn shown_move(view: &DirView, record: &MoveRecord) -> MoveView {
    MoveView::of(record, |shard| name_of(view, shard), Utc::now())
}

fn shown_rebalance(view: &DirView, record: &RebalanceRecord) -> RebalanceView {
    RebalanceView::in_map(record, &view.map, |shard| name_of(view, shard), Utc::now())
}

/// Returns the name of a shard; empty for a number that no shard has had.
fn name_of(view: &DirView, shard: ShardNumber) -> String {
    let spec = view.map.topology().shards().get(shard.index());
    spec.map(|spec| spec.name.clone()).unwrap_or_default()
}
