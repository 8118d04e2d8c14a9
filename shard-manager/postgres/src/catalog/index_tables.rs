//! Index tables: the list of indexes in a catalog that all routers share.
//!
//! **Invariant:** a record is changed only if it is still in the state that the change expects.
//! **Not here:** the rows (`engine::index_record`), building the indexes (`shard_indexes`).

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use engine::index_record::{IndexRecord, IndexRow, IndexState};
use engine::system_tables::tessera_indexes::{self, dsl};
use model::error::Error;

use super::{Catalog, refused};
use crate::db_error::unreadable;

/// Access to the listed indexes of a catalog, over one of its sessions.
#[derive(Clone, Copy)]
pub struct IndexTables<'c>(&'c AsyncPgConnection);

impl<'c> IndexTables<'c> {
    /// Returns the listed indexes of a catalog.
    pub fn of(catalog: &'c Catalog) -> Self {
        Self(&catalog.connection)
    }
}

impl IndexTables<'_> {
    /// Reads the indexes, sorted by table and name.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn list(self) -> Result<Vec<IndexRecord>, Error> {
        let rows: QueryResult<Vec<IndexRow>> = dsl::tessera_indexes
            .select(IndexRow::as_select())
            .order((tessera_indexes::table_name, tessera_indexes::name))
            .load(&mut &*self.0)
            .await;
        let records = rows.and_then(|rows| {
            let records = rows.into_iter().map(IndexRow::record);
            records.collect::<Result<_, _>>().map_err(|damage| unreadable(&damage))
        });
        records.map_err(|error| refused(&error))
    }

    /// Adds an index to the list. Replaces the record of an index with the same table and name.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn add(self, record: &IndexRecord) -> Result<(), Error> {
        let row = diesel::insert_into(dsl::tessera_indexes).values(IndexRow::of(record));
        let row = row
            .on_conflict((tessera_indexes::table_name, tessera_indexes::name))
            .do_update()
            .set(IndexRow::of(record));
        row.execute(&mut &*self.0).await.map(drop).map_err(|error| refused(&error))
    }

    /// Stores a record if the index is listed in the expected state. Returns true if it was.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn change(self, record: &IndexRecord, expected: IndexState) -> Result<bool, Error> {
        let listed = dsl::tessera_indexes
            .filter(tessera_indexes::table_name.eq(&record.table))
            .filter(tessera_indexes::name.eq(&record.name))
            .filter(tessera_indexes::state.eq(expected.name()));
        let changed = diesel::update(listed).set(IndexRow::of(record)).execute(&mut &*self.0);
        changed.await.map(|rows| rows == 1).map_err(|error| refused(&error))
    }

    /// Removes the record of an index that was dropped on all shards.
    ///
    /// # Errors
    /// The error of the catalog.
    pub async fn remove(self, record: &IndexRecord) -> Result<(), Error> {
        let listed = dsl::tessera_indexes
            .filter(tessera_indexes::table_name.eq(&record.table))
            .filter(tessera_indexes::name.eq(&record.name))
            .filter(tessera_indexes::state.eq(IndexState::Dropping.name()));
        let removed = diesel::delete(listed).execute(&mut &*self.0).await;
        removed.map(drop).map_err(|error| refused(&error))
    }
}
