//! Rebalance tables: the listed rebalances in a catalog that all routers share.
//!
//! New rebalances, orders and reports are stored one after another, under the lock of the cluster's
//! row that new moves and changes of the map take as well.
//!
//! **Invariant:** an order for a rebalance and the orders for its moves are stored in one
//! transaction, and no further move of the rebalance is added to the list meanwhile.
//! **Not here:** the rules (`engine::rebalance_catalog`), the rows (`engine::rebalance_rows`).

use chrono::Utc;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
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

use super::move_tables::BEGIN_LISTING;
use super::{Catalog, refused};
use crate::db_error::unreadable;
use crate::statement::run;

/// Access to the listed rebalances of a catalog, over one of its sessions.
#[derive(Clone, Copy)]
pub struct RebalanceTables<'c>(&'c AsyncPgConnection);

impl<'c> RebalanceTables<'c> {
    /// Returns the listed rebalances of a catalog.
    pub fn of(catalog: &'c Catalog) -> Self {
        Self(&catalog.connection)
    }
}

impl RebalanceTables<'_> {
    /// Reads the rebalances: the one in progress, and the last [`ENDED_MAX`] that have ended.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn list(self) -> Result<Vec<RebalanceRecord>, Error> {
        let rows = listed::tessera_rebalances.select(RebalanceRow::as_select());
        let rows: QueryResult<Vec<RebalanceRow>> = rows.load(&mut &*self.0).await;
        let records =
            rows.and_then(|rows| rebalance_records(rows).map_err(|damage| unreadable(&damage)));
        records.map_err(|error| refused(&error))
    }

    /// Reads the rebalance that has not ended.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn open(self) -> Result<Option<RebalanceRecord>, Error> {
        let open = listed::tessera_rebalances.filter(listed::ended_at.is_null());
        let open = open.select(RebalanceRow::as_select());
        let open: QueryResult<Option<RebalanceRow>> = open.first(&mut &*self.0).await.optional();
        let record = open.and_then(|row| {
            row.map(RebalanceRow::record).transpose().map_err(|damage| unreadable(&damage))
        });
        record.map_err(|error| refused(&error))
    }

    /// Adds a new rebalance to the list. If more than [`ENDED_MAX`] rebalances have ended, removes
    /// the oldest of them.
    ///
    /// # Errors
    /// [`RebalanceListError`].
    pub async fn begin(
        self,
        record: &RebalanceRecord,
        expected_epoch: u64,
    ) -> Result<(), RebalanceListError> {
        let begun = async {
            run(self.0, BEGIN_LISTING).await?;
            self.insert(record, expected_epoch).await?;
            Ok(run(self.0, "COMMIT").await?)
        };
        self.ended(begun.await).await
    }

    /// Changes a rebalance, and gives its moves the corresponding order.
    ///
    /// # Errors
    /// [`RebalanceListError`].
    pub async fn change(
        self,
        id: RebalanceId,
        change: &RebalanceChange,
    ) -> Result<RebalanceRecord, RebalanceListError> {
        let changed = async {
            run(self.0, BEGIN_LISTING).await?;
            let mut record = self.find(id).await?.ok_or(RebalanceListError::NoRebalance)?;
            let before = record.state;
            change.apply(&mut record, Utc::now())?;
            let row = diesel::update(listed::tessera_rebalances.find(id.name()));
            row.set(RebalanceRow::of(&record)).execute(&mut &*self.0).await?;
            if let Some(order) = change.order_of_moves(before, &record) {
                self.order_moves(id, order).await?;
            }
            run(self.0, "COMMIT").await?;
            Ok(record)
        };
        self.ended(changed.await).await
    }

    /// Gives an order to all moves of a rebalance that have not ended, except those whose state
    /// does not permit it. The rows of the moves are locked, so that reports of the mover wait.
    async fn order_moves(self, id: RebalanceId, order: MoveOrder) -> QueryResult<()> {
        let open = moves::tessera_listed_moves.filter(moves::rebalance.eq(id.name()));
        let open = open.filter(moves::ended_at.is_null()).order(moves::id).for_update();
        let rows: Vec<ListedMoveRow> =
            open.select(ListedMoveRow::as_select()).load(&mut &*self.0).await?;
        for row in rows {
            let mut record = row.record().map_err(|damage| unreadable(&damage))?;
            if !record.order_with_rebalance(order) {
                continue;
            }
            let row = diesel::update(moves::tessera_listed_moves.find(record.name()));
            row.set(ListedMoveRow::of(&record)).execute(&mut &*self.0).await?;
        }
        Ok(())
    }

    /// Returns the result of a transaction, and rolls the transaction back first if it failed.
    /// Without the rollback, the next transaction on this session would fail.
    async fn ended<T>(self, ended: Result<T, RebalanceListFault>) -> Result<T, RebalanceListError> {
        if ended.is_err() {
            let _ = run(self.0, "ROLLBACK").await;
        }
        ended.map_err(|fault| match fault {
            RebalanceListFault::Refused(error) => error,
            RebalanceListFault::Database(error) => RebalanceListError::Failed(refused(&error)),
        })
    }

    async fn find(self, id: RebalanceId) -> QueryResult<Option<RebalanceRecord>> {
        let row = listed::tessera_rebalances.find(id.name());
        let row = row.select(RebalanceRow::as_select()).first(&mut &*self.0).await.optional()?;
        row.map(RebalanceRow::record).transpose().map_err(|damage| unreadable(&damage))
    }

    /// Adds a rebalance to the list and removes old ones. Does nothing if the rebalance is listed
    /// already.
    async fn insert(
        self,
        record: &RebalanceRecord,
        expected_epoch: u64,
    ) -> Result<(), RebalanceListFault> {
        if self.find(record.id).await?.is_some() {
            return Ok(());
        }
        let epoch = tessera_cluster::table.select(tessera_cluster::epoch);
        let epoch: i64 = epoch.first(&mut &*self.0).await?;
        let open = listed::tessera_rebalances.filter(listed::ended_at.is_null());
        let open: Option<String> = open.select(listed::id).first(&mut &*self.0).await.optional()?;
        check_new_rebalance((expected_epoch, epoch.cast_unsigned()), open)?;
        let row = diesel::insert_into(listed::tessera_rebalances);
        row.values(RebalanceRow::of(record)).execute(&mut &*self.0).await?;
        Ok(self.remove_old().await?)
    }

    async fn remove_old(self) -> QueryResult<()> {
        let ended = listed::tessera_rebalances.filter(listed::ended_at.is_not_null());
        let old = ended.order((listed::ended_at.desc(), listed::id)).offset(ENDED_MAX as i64);
        let old: Vec<String> = old.select(listed::id).load(&mut &*self.0).await?;
        let old = listed::tessera_rebalances.filter(listed::id.eq_any(old));
        diesel::delete(old).execute(&mut &*self.0).await.map(drop)
    }
}
