//! Listed moves: reads and changes the moves of slots and the rebalances that are stored in the
//! catalog of an embedded cluster. The list of indexes uses the same access to the catalog.
//!
//! Only the process that holds the data directory carries out moves, so it remains the leader until
//! it ends.
//!
//! **Invariant:** a change is synced to the disk before it is reported.
//! **Not here:** the rules of changes (`engine::move_catalog`, `engine::rebalance_catalog`), the
//! rows (`engine::move_rows`, `engine::rebalance_rows`).

mod rebalances;
mod tables;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use diesel::sqlite::SqliteConnection;
use engine::EngineFuture;
use engine::move_catalog::change::ListedMoveChange;
use engine::move_catalog::{MoveCatalog, MoveListError, MoveReport};
use engine::move_record::{MoveOrder, MoveRecord};
use engine::rebalance_catalog::change::RebalanceChange;
use engine::rebalance_catalog::{RebalanceCatalog, RebalanceListError, RebalanceReport};
use engine::rebalance_record::{RebalanceId, RebalanceOrder, RebalanceRecord};
use futures_util::future::{BoxFuture, ready};
use model::error::Error;
use moves::identity::MoveId;

use super::catalog_failure::not_opened;
use super::connection::open;
use super::file_watch::FileChecks;
use super::intents::ending;
use super::threads::run_to_end;

pub(super) use rebalances::{find as find_rebalance, read as read_rebalances};
pub(super) use tables::{find as find_move, read as read_moves};

/// Lists of moves, rebalances and indexes in the catalog of an open cluster.
#[derive(Clone)]
pub(super) struct FileMoves {
    catalog: PathBuf,
    /// Checks that the files are still those of this process.
    file_checks: Arc<FileChecks>,
    /// True once this process is closing its files, so that another process may already own the
    /// catalog.
    closed: Arc<AtomicBool>,
}

impl FileMoves {
    /// Creates the access to the lists of a catalog.
    pub(super) fn new(
        catalog: PathBuf,
        file_checks: &Arc<FileChecks>,
        closed: &Arc<AtomicBool>,
    ) -> Self {
        let (file_checks, closed) = (Arc::clone(file_checks), Arc::clone(closed));
        Self { catalog, file_checks, closed }
    }

    fn connect(&self) -> Result<SqliteConnection, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ending());
        }
        open(&self.catalog, "").map_err(|error| not_opened(&self.catalog, error))
    }

    /// Reads the catalog on a thread that may block.
    pub(super) fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, Error> + Send + 'static,
    ) -> EngineFuture<'_, T> {
        let moves = self.clone();
        Box::pin(run_to_end(move || work(&mut moves.connect()?)))
    }

    /// Changes the catalog on a thread that may block.
    pub(super) fn write<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, E> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, E>> {
        let moves = self.clone();
        Box::pin(run_to_end(move || {
            moves.file_checks.check_writable()?;
            work(&mut moves.connect()?)
        }))
    }

    fn change(
        &self,
        id: MoveId,
        change: ListedMoveChange,
    ) -> BoxFuture<'_, Result<MoveRecord, MoveListError>> {
        self.write(move |connection| tables::change(connection, id, &change))
    }
}

impl MoveCatalog for FileMoves {
    fn lead(&self) -> EngineFuture<'_, bool> {
        let is_open = !self.closed.load(Ordering::Acquire);
        Box::pin(ready(self.file_checks.check_writable().map(|()| is_open)))
    }

    fn older_routers(&self) -> EngineFuture<'_, u64> {
        // A data directory admits one process.
        Box::pin(ready(Ok(0)))
    }

    fn list(&self) -> EngineFuture<'_, Vec<MoveRecord>> {
        self.read(tables::list)
    }

    fn get(&self, id: MoveId) -> EngineFuture<'_, Option<MoveRecord>> {
        self.read(move |connection| tables::get(connection, id))
    }

    fn begin<'a>(
        &'a self,
        record: &'a MoveRecord,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), MoveListError>> {
        let record = record.clone();
        self.write(move |connection| tables::begin(connection, &record, epoch))
    }

    fn order(
        &self,
        id: MoveId,
        order: MoveOrder,
    ) -> BoxFuture<'_, Result<MoveRecord, MoveListError>> {
        self.change(id, ListedMoveChange::Order(order))
    }

    fn take_over(&self, id: MoveId, known: u64) -> BoxFuture<'_, Result<u64, MoveListError>> {
        let changed = self.change(id, ListedMoveChange::TakeOver { known });
        Box::pin(async move { changed.await.map(|record| record.term) })
    }

    fn report<'a>(
        &'a self,
        id: MoveId,
        term: u64,
        report: &'a MoveReport,
    ) -> BoxFuture<'a, Result<MoveRecord, MoveListError>> {
        self.change(id, ListedMoveChange::Report { term, report: report.clone() })
    }
}

impl FileMoves {
    fn change_rebalance(
        &self,
        id: RebalanceId,
        change: RebalanceChange,
    ) -> BoxFuture<'_, Result<RebalanceRecord, RebalanceListError>> {
        self.write(move |connection| rebalances::change(connection, id, &change))
    }
}

impl RebalanceCatalog for FileMoves {
    fn list_rebalances(&self) -> EngineFuture<'_, Vec<RebalanceRecord>> {
        self.read(rebalances::list)
    }

    fn open_rebalance(&self) -> EngineFuture<'_, Option<RebalanceRecord>> {
        self.read(rebalances::open)
    }

    fn begin_rebalance<'a>(
        &'a self,
        record: &'a RebalanceRecord,
        epoch: u64,
    ) -> BoxFuture<'a, Result<(), RebalanceListError>> {
        let record = record.clone();
        self.write(move |connection| rebalances::begin(connection, &record, epoch))
    }

    fn order_rebalance(
        &self,
        id: RebalanceId,
        order: RebalanceOrder,
    ) -> BoxFuture<'_, Result<RebalanceRecord, RebalanceListError>> {
        self.change_rebalance(id, RebalanceChange::Order(order))
    }

    fn report_rebalance<'a>(
        &'a self,
        id: RebalanceId,
        report: &'a RebalanceReport,
    ) -> BoxFuture<'a, Result<RebalanceRecord, RebalanceListError>> {
        self.change_rebalance(id, RebalanceChange::Report(report.clone()))
    }
}
