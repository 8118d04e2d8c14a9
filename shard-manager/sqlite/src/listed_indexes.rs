//! Listed indexes: the indexes in the catalog of an embedded cluster.
//!
//! **Invariant:** a change is synced to the disk before it is reported.
//! **Not here:** the rows (`engine::index_record`), building the indexes (`index_ddl`).

use std::path::Path;

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::index_catalog::IndexCatalog;
use engine::index_record::{IndexRecord, IndexRow, IndexState, changes_of_new_shard};
use engine::system_tables::tessera_indexes::{self, dsl};
use engine::{EngineFuture, SchemaChange};
use model::error::Error;
use model::table::Registry;

use super::catalog::MIGRATIONS;
use super::connection::{DbErrorKind, OpenError, open};
use super::data_dir::catalog_file;
use super::declarations::unreadable;
use super::listed_moves::FileMoves;
use super::read_only::open_read_only;

impl IndexCatalog for FileMoves {
    fn list_indexes(&self) -> EngineFuture<'_, Vec<IndexRecord>> {
        self.read(list)
    }

    fn add_index<'a>(&'a self, record: &'a IndexRecord) -> EngineFuture<'a, ()> {
        let record = record.clone();
        self.write(move |connection| add(connection, &record))
    }

    fn change_index<'a>(
        &'a self,
        record: &'a IndexRecord,
        expected: IndexState,
    ) -> EngineFuture<'a, bool> {
        let record = record.clone();
        self.write(move |connection| change(connection, &record, expected))
    }

    fn remove_index<'a>(&'a self, record: &'a IndexRecord) -> EngineFuture<'a, ()> {
        let record = record.clone();
        self.write(move |connection| remove(connection, &record))
    }
}

/// Name of the catalog in errors, in place of a shard.
const CATALOG: &str = "the catalog";

/// Reads the indexes, by table and name.
fn list(connection: &mut SqliteConnection) -> Result<Vec<IndexRecord>, Error> {
    read(connection).map_err(|error| failed(&error))
}

/// Adds an index to the list, in place of a failed one with the same name.
fn add(connection: &mut SqliteConnection, record: &IndexRecord) -> Result<(), Error> {
    let row = diesel::replace_into(dsl::tessera_indexes).values(IndexRow::of(record));
    row.execute(connection).map(drop).map_err(|error| failed(&error))
}

/// Stores a record, if the index is listed in this state. Returns true if it was.
fn change(
    connection: &mut SqliteConnection,
    record: &IndexRecord,
    expected: IndexState,
) -> Result<bool, Error> {
    let listed = dsl::tessera_indexes
        .filter(tessera_indexes::table_name.eq(&record.table))
        .filter(tessera_indexes::name.eq(&record.name))
        .filter(tessera_indexes::state.eq(expected.name()));
    let changed = diesel::update(listed).set(IndexRow::of(record)).execute(connection);
    changed.map(|rows| rows == 1).map_err(|error| failed(&error))
}

/// Removes an index from the list, if it is being dropped: no shard has it any more then.
fn remove(connection: &mut SqliteConnection, record: &IndexRecord) -> Result<(), Error> {
    let listed = dsl::tessera_indexes
        .filter(tessera_indexes::table_name.eq(&record.table))
        .filter(tessera_indexes::name.eq(&record.name))
        .filter(tessera_indexes::state.eq(IndexState::Dropping.name()));
    diesel::delete(listed).execute(connection).map(drop).map_err(|error| failed(&error))
}

/// Returns the changes that build the indexes which a catalog lists for these tables, on a shard
/// without rows.
///
/// # Errors
/// [`OpenError`] if the catalog cannot be read.
pub(super) fn building(catalog: &Path, tables: &Registry) -> Result<Vec<SchemaChange>, OpenError> {
    let records = read(&mut open(catalog, "")?).map_err(|error| OpenError::file(catalog, error))?;
    Ok(changes_of_new_shard(&records, tables))
}

/// Reads the indexes in the catalog of a data directory, by table and name, without changing
/// anything: a router may hold it.
///
/// # Errors
/// [`OpenError`] if the catalog cannot be read.
pub fn indexes_of_dir(data_dir: &Path) -> Result<Vec<IndexRecord>, OpenError> {
    let catalog = catalog_file(data_dir);
    let mut connection = open_read_only(&catalog, &MIGRATIONS)?;
    read(&mut connection).map_err(|error| OpenError::file(&catalog, error))
}

fn read(connection: &mut SqliteConnection) -> QueryResult<Vec<IndexRecord>> {
    let rows: Vec<IndexRow> = dsl::tessera_indexes
        .select(IndexRow::as_select())
        .order((tessera_indexes::table_name, tessera_indexes::name))
        .load(connection)?;
    let records = rows.into_iter().map(IndexRow::record);
    records.collect::<Result<_, _>>().map_err(|damage| unreadable(&damage))
}

fn failed(error: &DieselError) -> Error {
    tracing::error!(%error, "the indexes of the catalog cannot be used");
    DbErrorKind::of(error).error(CATALOG)
}
