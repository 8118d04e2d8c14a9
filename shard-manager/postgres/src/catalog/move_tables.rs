//! Move tables: the listed moves of slots in a catalog that all routers share.
//!
//! New moves are listed one after another, under the lock of the cluster's row that changes of the
//! map take as well; a change of a listed move locks only the row of that move.
//!
//! **Invariant:** the slots of a move are in `tessera_moving` as long as it has not ended.
//! **Not here:** the rules (`engine::move_catalog`), the rows (`engine::move_rows`).

use chrono::Utc;
use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
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

use super::{Catalog, or_rollback, refused};
use crate::db_error::unreadable;
use crate::statement::run;

/// Begins a transaction whose statements see one snapshot.
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// Begins a transaction that excludes other new moves and changes of the map.
pub(super) const BEGIN_LISTING: &str = "BEGIN; SELECT FROM tessera_cluster FOR UPDATE";

/// Access to the listed moves of a catalog, over one of its sessions.
#[derive(Clone, Copy)]
pub struct MoveTables<'c>(&'c AsyncPgConnection);

impl<'c> MoveTables<'c> {
    /// Returns the listed moves of a catalog.
    pub fn of(catalog: &'c Catalog) -> Self {
        Self(&catalog.connection)
    }
}

impl MoveTables<'_> {
    /// Reads, in one snapshot, the moves that have not ended, the moves that ended last, and the
    /// moves that the rebalance in progress has given up.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn list(self) -> Result<Vec<MoveRecord>, Error> {
        let read = async {
            run(self.0, BEGIN_READING).await?;
            let open = listed::tessera_listed_moves.filter(listed::ended_at.is_null());
            let open = open.select(ListedMoveRow::as_select());
            let mut rows = open.load(&mut &*self.0).await?;
            let ended = listed::tessera_listed_moves.filter(listed::ended_at.is_not_null());
            let ended = ended.order((listed::ended_at.desc(), listed::id));
            let ended = ended.limit(ENDED_LISTED_MAX as i64).select(ListedMoveRow::as_select());
            rows.extend(ended.load(&mut &*self.0).await?);
            rows.extend(self.given_up().await?);
            run(self.0, "COMMIT").await?;
            listed_records(rows).map_err(|damage| unreadable(&damage))
        };
        or_rollback(self.0, read.await).await.map_err(|error| refused(&error))
    }

    /// Reads a move.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn get(self, id: MoveId) -> Result<Option<MoveRecord>, Error> {
        self.find(id).await.map_err(|error| refused(&error))
    }

    /// Adds a new move to the list. If more than [`ENDED_STORED_MAX`] moves have ended, removes the
    /// oldest of them, except those that the rebalance in progress has given up.
    ///
    /// # Errors
    /// [`MoveListError`].
    pub async fn begin(
        self,
        record: &MoveRecord,
        expected_epoch: u64,
    ) -> Result<(), MoveListError> {
        let begun = async {
            run(self.0, BEGIN_LISTING).await?;
            self.insert(record, expected_epoch).await?;
            Ok(run(self.0, "COMMIT").await?)
        };
        self.ended(begun.await).await
    }

    /// Changes a move, and frees its slots once it has ended.
    ///
    /// # Errors
    /// [`MoveListError`].
    pub async fn change(
        self,
        id: MoveId,
        change: &ListedMoveChange,
    ) -> Result<MoveRecord, MoveListError> {
        let changed = async {
            run(self.0, "BEGIN").await?;
            let locked = listed::tessera_listed_moves.find(move_name(id)).for_update();
            let locked: Option<String> =
                locked.select(listed::id).first(&mut &*self.0).await.optional()?;
            locked.ok_or(MoveListError::NoMove)?;
            let mut record = self.find(id).await?.ok_or(MoveListError::NoMove)?;
            change.apply(&mut record, Utc::now())?;
            self.store(&record).await?;
            run(self.0, "COMMIT").await?;
            Ok(record)
        };
        self.ended(changed.await).await
    }

    /// Returns the result of a transaction, and rolls the transaction back first if it failed.
    /// Without the rollback, the next transaction on this session would fail.
    async fn ended<T>(self, ended: Result<T, MoveListFault>) -> Result<T, MoveListError> {
        if ended.is_err() {
            let _ = run(self.0, "ROLLBACK").await;
        }
        ended.map_err(|fault| match fault {
            MoveListFault::Refused(error) => error,
            MoveListFault::Database(error) => MoveListError::Failed(refused(&error)),
        })
    }

    async fn find(self, id: MoveId) -> QueryResult<Option<MoveRecord>> {
        let row = listed::tessera_listed_moves.find(move_name(id));
        let row = row.select(ListedMoveRow::as_select()).first(&mut &*self.0).await.optional()?;
        row.map(ListedMoveRow::record).transpose().map_err(|damage| unreadable(&damage))
    }

    /// Adds a move to the list and removes old ones. Does nothing if the move is listed already.
    async fn insert(self, record: &MoveRecord, expected_epoch: u64) -> Result<(), MoveListFault> {
        if self.find(record.id).await?.is_some() {
            return Ok(());
        }
        if let Some(rebalance) = record.rebalance {
            let state = tessera_rebalances::table.find(RebalanceId::name(rebalance));
            let state = state.select(tessera_rebalances::state);
            let state: Option<String> = state.first(&mut &*self.0).await.optional()?;
            check_rebalance_of_move(state.as_deref())?;
        }
        let epoch = tessera_cluster::table.select(tessera_cluster::epoch);
        let epoch: i64 = epoch.first(&mut &*self.0).await?;
        let moving: Vec<MovingSlotRow> = tessera_moving::table.load(&mut &*self.0).await?;
        check_new_move(record, (expected_epoch, epoch.cast_unsigned()), &moving)?;
        if record.rebalance.is_none() {
            let open = listed::tessera_listed_moves.filter(listed::ended_at.is_null());
            let open = open.filter(listed::rebalance.is_null()).count();
            let open: i64 = open.get_result(&mut &*self.0).await?;
            check_open_moves(open)?;
        }
        let row = diesel::insert_into(listed::tessera_listed_moves);
        row.values(ListedMoveRow::of(record)).execute(&mut &*self.0).await?;
        let slots = diesel::insert_into(tessera_moving::table).values(MovingSlotRow::of(record));
        slots.execute(&mut &*self.0).await?;
        Ok(self.remove_old().await?)
    }

    async fn store(self, record: &MoveRecord) -> QueryResult<()> {
        let row = diesel::update(listed::tessera_listed_moves.find(record.name()));
        row.set(ListedMoveRow::of(record)).execute(&mut &*self.0).await?;
        if record.ended_at.is_some() {
            let slots = tessera_moving::table.filter(tessera_moving::move_id.eq(record.name()));
            diesel::delete(slots).execute(&mut &*self.0).await?;
        }
        Ok(())
    }

    /// Reads the moves of the rebalance in progress that have ended with the slots on their source.
    /// They are not always among the moves that ended last, because the clock may have been set
    /// back.
    async fn given_up(self) -> QueryResult<Vec<ListedMoveRow>> {
        let open = tessera_rebalances::table.filter(tessera_rebalances::ended_at.is_null());
        let open = open.select(tessera_rebalances::id);
        let open: Option<String> = open.first(&mut &*self.0).await.optional()?;
        let Some(open) = open else { return Ok(Vec::new()) };
        let ended = listed::tessera_listed_moves.filter(listed::rebalance.eq(open));
        let ended = ended.filter(listed::ended_at.is_not_null());
        let ended = ended.filter(listed::phase.ne(MovePhase::Done.name()));
        ended.select(ListedMoveRow::as_select()).load(&mut &*self.0).await
    }

    async fn remove_old(self) -> QueryResult<()> {
        let ended = listed::tessera_listed_moves.filter(listed::ended_at.is_not_null());
        let old = ended.order((listed::ended_at.desc(), listed::id)).offset(ENDED_STORED_MAX);
        let mut old: Vec<String> = old.select(listed::id).load(&mut &*self.0).await?;
        if !old.is_empty() {
            let needed = self.given_up().await?;
            old.retain(|id| needed.iter().all(|row| row.id != *id));
        }
        let old = listed::tessera_listed_moves.filter(listed::id.eq_any(old));
        diesel::delete(old).execute(&mut &*self.0).await.map(drop)
    }
}
