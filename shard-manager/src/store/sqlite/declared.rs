//! Declared: how files spell what a table is: in `tessera_tables`, in the change log, among the intents.
//!
//! **Invariant:** what is read is checked as any other table; what is written reads as the same table.
//! **Not here:** whether the table in the file is as declared (`shard_file`); its SQL (`ddl`).

use std::collections::BTreeSet;

use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use serde::{Deserialize, Serialize};

use super::schema::tessera_tables;
use crate::table::{Column, Table};
use crate::value::ColumnType;

/// A table, as a file declares it.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Declared {
    pub(super) name: String,
    columns: Vec<DeclaredColumn>,
    id: Vec<String>,
    routing: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct DeclaredColumn {
    name: String,
    #[serde(rename = "type")]
    kind: ColumnType,
    null: bool,
}

impl Declared {
    /// The declaration of a table.
    pub(super) fn of(table: &Table) -> Self {
        let name = |column: usize| table.column(column).name.clone();
        let columns = table.own().map(|column| table.column(column)).map(|column| DeclaredColumn {
            name: column.name.clone(),
            kind: column.kind,
            null: column.nullable,
        });
        Self {
            name: table.name().to_owned(),
            columns: columns.collect(),
            id: table.id().iter().map(|column| name(*column)).collect(),
            routing: table.routing().map(name),
        }
    }

    /// The table that it declares, or what is wrong with it.
    pub(super) fn into_table(self) -> Result<Table, String> {
        let columns = self.columns.into_iter().map(|declared| Column {
            name: declared.name,
            kind: declared.kind,
            nullable: declared.null,
        });
        Table::new(&self.name, columns.collect(), &self.id, self.routing.as_deref())
            .map_err(|error| error.to_string())
    }

    /// All of it as one line of JSON.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("names always serialise")
    }

    /// What [`Declared::json`] wrote.
    pub(super) fn parse(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }
}

/// The columns of a declaration in a file.
type Row = (String, String, String, Option<String>);

/// What the file declares, by name.
pub(super) fn load(connection: &mut SqliteConnection) -> QueryResult<Vec<Declared>> {
    let rows: Vec<Row> = columns().order(tessera_tables::name).load(connection)?;
    rows.into_iter().map(read).collect()
}

/// What the file declares under this name.
pub(super) fn find(connection: &mut SqliteConnection, name: &str) -> QueryResult<Option<Declared>> {
    let row: Option<Row> =
        columns().filter(tessera_tables::name.eq(name)).first(connection).optional()?;
    row.map(read).transpose()
}

/// Declares a table that is made at this position of the log.
pub(super) fn store(
    connection: &mut SqliteConnection,
    declared: &Declared,
    made_at: i64,
) -> QueryResult<()> {
    let json = |list: Result<String, _>| list.map_err(|error| unreadable(&error));
    diesel::insert_into(tessera_tables::table)
        .values((
            tessera_tables::name.eq(&declared.name),
            tessera_tables::column_list.eq(json(serde_json::to_string(&declared.columns))?),
            tessera_tables::id.eq(json(serde_json::to_string(&declared.id))?),
            tessera_tables::routing.eq(&declared.routing),
            tessera_tables::made_at.eq(made_at),
        ))
        .execute(connection)
        .map(drop)
}

/// Takes a declaration back.
pub(super) fn remove(connection: &mut SqliteConnection, name: &str) -> QueryResult<()> {
    let row = tessera_tables::table.filter(tessera_tables::name.eq(name));
    diesel::delete(row).execute(connection).map(drop)
}

/// The names of the tables that did not come with the file.
pub(super) fn made_by_clients(connection: &mut SqliteConnection) -> QueryResult<BTreeSet<String>> {
    let later = tessera_tables::table.filter(tessera_tables::made_at.gt(0));
    let names: Vec<String> = later.select(tessera_tables::name).load(connection)?;
    Ok(names.into_iter().collect())
}

/// The position at which the last of the tables was made.
pub(super) fn last_made_at(connection: &mut SqliteConnection) -> QueryResult<u64> {
    let last: Option<i64> = tessera_tables::table
        .select(diesel::dsl::max(tessera_tables::made_at))
        .first(connection)?;
    Ok(last.unwrap_or(0) as u64)
}

#[diesel::dsl::auto_type(no_type_alias)]
fn columns() -> _ {
    tessera_tables::table.select((
        tessera_tables::name,
        tessera_tables::column_list,
        tessera_tables::id,
        tessera_tables::routing,
    ))
}

fn read((name, columns, id, routing): Row) -> QueryResult<Declared> {
    let columns = serde_json::from_str(&columns).map_err(|error| unreadable(&error))?;
    let id = serde_json::from_str(&id).map_err(|error| unreadable(&error))?;
    Ok(Declared { name, columns, id, routing })
}

/// A file says what no table is.
pub(super) fn unreadable(cause: &dyn std::fmt::Display) -> DieselError {
    DieselError::DeserializationError(cause.to_string().into())
}
