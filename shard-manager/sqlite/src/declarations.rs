//! Declarations: the tables that a file declares, in `tessera_tables`.
//!
//! **Not here:** the stored form of a declaration (`engine::table_declaration`); comparing a
//! declaration with the table in the file (`shard_file`); the SQL that creates the table (`ddl`).

use std::collections::BTreeSet;

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;

use engine::system_tables::tessera_tables;
use engine::table_declaration::{Row, TableDeclaration, stored_columns};

/// Returns the declarations of a file, by name.
pub(super) fn load(connection: &mut SqliteConnection) -> QueryResult<Vec<TableDeclaration>> {
    let rows: Vec<Row> = stored_columns().order(tessera_tables::name).load(connection)?;
    rows.into_iter().map(read).collect()
}

/// Returns the declaration with this name.
pub(super) fn find(
    connection: &mut SqliteConnection,
    name: &str,
) -> QueryResult<Option<TableDeclaration>> {
    let row: Option<Row> =
        stored_columns().filter(tessera_tables::name.eq(name)).first(connection).optional()?;
    row.map(read).transpose()
}

/// Stores the declaration of a table that is created at this position of the log.
pub(super) fn store(
    connection: &mut SqliteConnection,
    declared: &TableDeclaration,
    made_at: i64,
) -> QueryResult<()> {
    let (name, columns, id, routing, group) = declared.row();
    diesel::insert_into(tessera_tables::table)
        .values((
            tessera_tables::name.eq(name),
            tessera_tables::column_list.eq(columns),
            tessera_tables::id.eq(id),
            tessera_tables::routing.eq(routing),
            tessera_tables::group_number.eq(group),
            tessera_tables::made_at.eq(made_at),
        ))
        .execute(connection)
        .map(drop)
}

/// Removes a declaration.
pub(super) fn remove(connection: &mut SqliteConnection, name: &str) -> QueryResult<()> {
    let row = tessera_tables::table.filter(tessera_tables::name.eq(name));
    diesel::delete(row).execute(connection).map(drop)
}

/// Returns the names of the tables that clients created, as opposed to those of every new file.
pub(super) fn made_by_clients(connection: &mut SqliteConnection) -> QueryResult<BTreeSet<String>> {
    let later = tessera_tables::table.filter(tessera_tables::made_at.gt(0));
    let names: Vec<String> = later.select(tessera_tables::name).load(connection)?;
    Ok(names.into_iter().collect())
}

/// Returns the position at which the last of the tables was created.
pub(super) fn last_made_at(connection: &mut SqliteConnection) -> QueryResult<u64> {
    let last: Option<i64> = tessera_tables::table
        .select(diesel::dsl::max(tessera_tables::made_at))
        .first(connection)?;
    Ok(last.unwrap_or(0) as u64)
}

fn read(row: Row) -> QueryResult<TableDeclaration> {
    TableDeclaration::of_row(row).map_err(|error| unreadable(&error))
}

/// Creates the error of a file whose contents are invalid.
pub(super) fn unreadable(cause: &dyn std::fmt::Display) -> DieselError {
    DieselError::DeserializationError(cause.to_string().into())
}
