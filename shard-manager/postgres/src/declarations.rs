//! Declarations: the tables in `tessera_tables`, compared with those that the database has.
//!
//! **Not here:** the stored form of a declaration (`engine::table_declaration`); its SQL (`ddl`).

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use engine::system_tables::tessera_tables;
use engine::table_declaration::{Row, TableDeclaration, stored_columns};
use model::table::{Registry, Table};

use super::db_error::unreadable;
use super::sql;
use super::statement::{Statement, load as load_rows};

/// Returns the declared tables, and the names of those that clients created.
pub(super) async fn load(
    mut connection: &AsyncPgConnection,
) -> QueryResult<(Vec<Table>, BTreeSet<String>)> {
    let rows: Vec<Row> = stored_columns().order(tessera_tables::name).load(&mut connection).await?;
    let tables = rows.into_iter().map(read).collect::<QueryResult<_>>()?;
    let later = tessera_tables::table.filter(tessera_tables::made_at.gt(0));
    let names: Vec<String> = later.select(tessera_tables::name).load(&mut connection).await?;
    Ok((tables, names.into_iter().collect()))
}

/// Returns the declaration with this name.
pub(super) async fn find(
    mut connection: &AsyncPgConnection,
    name: &str,
) -> QueryResult<Option<Table>> {
    let row: Option<Row> = stored_columns()
        .filter(tessera_tables::name.eq(name))
        .first(&mut connection)
        .await
        .optional()?;
    row.map(read).transpose()
}

/// Stores the declaration of a new table.
pub(super) async fn store(mut connection: &AsyncPgConnection, table: &Table) -> QueryResult<()> {
    let (name, columns, id, routing, group) = TableDeclaration::of(table).row();
    diesel::insert_into(tessera_tables::table)
        .values((
            tessera_tables::name.eq(name),
            tessera_tables::column_list.eq(columns),
            tessera_tables::id.eq(id),
            tessera_tables::routing.eq(routing),
            tessera_tables::group_number.eq(group),
            tessera_tables::made_at.eq(1_i64),
        ))
        .execute(&mut connection)
        .await
        .map(drop)
}

/// Removes a declaration.
pub(super) async fn remove(mut connection: &AsyncPgConnection, name: &str) -> QueryResult<()> {
    let row = tessera_tables::table.filter(tessera_tables::name.eq(name));
    diesel::delete(row).execute(&mut connection).await.map(drop)
}

fn read(row: Row) -> QueryResult<Table> {
    let declared = TableDeclaration::of_row(row).map_err(|error| unreadable(&error))?;
    declared.into_table().map_err(|cause| unreadable(&cause))
}

/// Columns of all tables in the schemas of Tessera: table, column, type, collation, nullable or
/// not.
const COLUMNS: &str =
    "SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
        coalesce(l.collname::text, ''), NOT a.attnotnull
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_collation l ON l.oid = a.attcollation
    WHERE n.nspname IN ('public', 'tessera') AND c.relkind IN ('r', 'p')
    ORDER BY c.oid, a.attnum";

/// Primary keys of all tables: table, column.
const KEYS: &str = "SELECT c.relname::text, a.attname::text
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (number, place) ON true
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
    WHERE i.indisprimary AND n.nspname IN ('public', 'tessera') ORDER BY c.oid, k.place";

/// Returns the first difference between the database and its declarations; `None` if there is none.
/// Undeclared columns are a difference too: rows would be stored without them, and no error would
/// report it.
pub(super) async fn drift(
    connection: &AsyncPgConnection,
    tables: &Registry,
) -> QueryResult<Option<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let statement = Statement { sql: COLUMNS, binds: &[], cached: false };
    for row in load_rows(connection, statement).await? {
        let text = |column| row.text(column).unwrap_or_default();
        let collation = if text(3) == "C" { " COLLATE \"C\"" } else { "" };
        let null = if row.boolean(4).unwrap_or(true) { "" } else { " NOT NULL" };
        found.entry(text(0)).or_default().push(format!(
            "{} {}{collation}{null}",
            text(1),
            type_of(&text(2))
        ));
    }
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let statement = Statement { sql: KEYS, binds: &[], cached: false };
    for row in load_rows(connection, statement).await? {
        let text = |column| row.text(column).unwrap_or_default();
        keys.entry(text(0)).or_default().push(text(1));
    }
    let difference = tables.tables().find_map(|table| {
        let found = found.get(table.name()).map_or(&[][..], Vec::as_slice);
        let keys = keys.get(table.name()).map_or(&[][..], Vec::as_slice);
        difference(table, found, keys)
    });
    Ok(difference)
}

fn difference(table: &Table, found: &[String], keys: &[String]) -> Option<String> {
    let name = table.name();
    if found.is_empty() {
        return Some(format!("the table {name} is declared and is not there"));
    }
    let declared = sql::columns(table);
    if let Some(column) = declared.iter().find(|column| !found.contains(column)) {
        return Some(format!("the table {name} lacks the column `{column}`"));
    }
    if let Some(column) = found.iter().find(|column| !declared.contains(column)) {
        return Some(format!("the table {name} has a column `{column}` that is not declared"));
    }
    let place: Vec<&str> =
        sql::place(table).into_iter().map(|column| table.column(column).name.as_str()).collect();
    (keys != place).then(|| {
        format!("the primary key of {name} is ({}), not ({})", keys.join(", "), place.join(", "))
    })
}

/// Returns the name of a type as declarations spell it.
fn type_of(name: &str) -> &str {
    match name {
        "timestamp with time zone" => "timestamptz",
        name => name,
    }
}
