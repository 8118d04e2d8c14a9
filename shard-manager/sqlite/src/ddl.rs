//! DDL: changes the tables of clients and their indexes in a shard's file, and records each change
//! in the change log.
//!
//! A primary creates a table in one transaction, which stores the table itself, its declaration,
//! its row count, a line of the change log, and the position. A replica creates the table when it
//! replays this line:
//! ```text
//! {"schema":"make","table":{"name":"students","columns":[…],"id":["id"],"routing":"id"}}
//! {"schema":"drop","table":{"name":"students",…}}
//! {"schema":"make","table":{"name":"students",…},"index":{"name":"by_grade",…}}
//! ```
//! Such a line is the only line of its entry.
//!
//! **Invariant:** names come from a checked [`Table`]; a change that was already carried out
//! changes nothing, so every change may be retried; a table with rows is never dropped.
//! **Not here:** the SQL of indexes (`index_ddl`), the other shards (`manager`), statements on rows
//! (`sql`).

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use engine::system_tables::tessera_counts;
use engine::table_declaration::TableDeclaration;
use engine::{IndexChange, SchemaChange};
use model::table::{Column, Table};
use model::table_index::TableIndex;
use model::value::{ColumnType, format_timestamp};

use super::batch::{Counters, run};
use super::connection::{Bind, OpenError, open};
use super::declarations::{self, unreadable};
use super::index_ddl::bounded_build::BoundedBuild;
use super::index_ddl::{self, sort_place};
use super::owned_slots::foreign_rows;
use super::sql::{self, declared_type};
use super::timeline;

/// Beginning of a line of the log about a table; lines about rows begin differently.
const LINE_START: &[u8] = b"{\"schema\":";

/// Line of the log about a table.
#[derive(serde::Deserialize, serde::Serialize)]
struct Line {
    schema: Verb,
    table: TableDeclaration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<IndexLine>,
}

/// Index in a line of the log.
#[derive(serde::Deserialize, serde::Serialize)]
struct IndexLine {
    name: String,
    columns: Vec<String>,
    unique: bool,
}

#[derive(serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Make,
    Drop,
}

/// Effects of a change of the tables.
pub(super) struct Changed {
    pub(super) counters: Counters,
    /// Bytes that were appended to the log; 0 if there was nothing to change.
    pub(super) logged: u64,
}

/// Carries out a change on a primary, inside a transaction, and logs it.
pub(super) fn change_and_log(
    connection: &mut SqliteConnection,
    mut counters: Counters,
    change: &SchemaChange,
) -> QueryResult<Changed> {
    if !apply(connection, change, counters.position + 1)? {
        return Ok(Changed { counters, logged: 0 });
    }
    counters.position += 1;
    let Counters { version, position } = counters;
    let line = line(change);
    let now = format_timestamp(Utc::now());
    let entry = [Bind::Int(position), Bind::Text(&now), Bind::Blob(line.as_bytes())];
    run(connection, sql::APPEND_LOG, &entry)?;
    run(connection, sql::SET_COUNTERS, &[Bind::Int(version), Bind::Int(position)])?;
    Ok(Changed { counters, logged: line.len() as u64 })
}

/// Builds an index on a primary within a time limit, and logs it, in a transaction of its own.
/// `before_commit` is called with the new position immediately before the commit.
///
/// # Errors
/// [`DieselError::RollbackTransaction`] if the limit was exceeded; nothing is stored then.
pub(super) fn build_and_log(
    connection: &mut SqliteConnection,
    (file, counters): (&Path, Counters),
    (index, pause_max): (&Arc<TableIndex>, Duration),
    before_commit: impl FnOnce(u64),
) -> QueryResult<Changed> {
    let until = Instant::now().checked_add(pause_max);
    if !has_table(connection, index.table())? {
        return Err(no_table());
    }
    if index_ddl::exists(connection, &index.database_name())? {
        return Ok(Changed { counters, logged: 0 });
    }
    let counters = Counters { position: counters.position + 1, ..counters };
    let line = line(&SchemaChange::Index(IndexChange::Make(Arc::clone(index))));
    let now = format_timestamp(Utc::now());
    let build = BoundedBuild {
        file,
        index,
        sorts_in_file: sort_place::has_room(connection),
        until,
        version: counters.version,
        position: counters.position,
        entry: (now.as_str(), line.as_bytes()),
    };
    build.run(|| before_commit(counters.position as u64))?;
    Ok(Changed { counters, logged: line.len() as u64 })
}

/// Carries out the change at this position of the log, inside a transaction. Returns true if there
/// was anything to do.
pub(super) fn apply(
    connection: &mut SqliteConnection,
    change: &SchemaChange,
    position: i64,
) -> QueryResult<bool> {
    let is_known = has_table(connection, change.table())?;
    match (change, is_known) {
        (SchemaChange::Make(_), true) | (SchemaChange::Drop(_), false) => return Ok(false),
        (SchemaChange::Make(table), false) => make(connection, table, position)?,
        (SchemaChange::Drop(table), true) => drop_empty(connection, table)?,
        (SchemaChange::Index(change), true) => return index_ddl::apply(connection, change),
        (SchemaChange::Index(_), false) => return Err(no_table()),
    }
    Ok(true)
}

/// Returns true if the file has this table.
///
/// # Errors
/// An error if the table exists with a different declaration.
fn has_table(connection: &mut SqliteConnection, table: &Table) -> QueryResult<bool> {
    let known =
        declarations::find(connection, table.name())?.map(TableDeclaration::into_table).transpose();
    let known = known.map_err(|cause| unreadable(&cause))?;
    if known.as_ref().is_some_and(|known| known != table) {
        return Err(unreadable(&"the table exists with another declaration"));
    }
    Ok(known.is_some())
}

fn no_table() -> DieselError {
    unreadable(&"the table of the index does not exist")
}

fn make(connection: &mut SqliteConnection, table: &Table, position: i64) -> QueryResult<()> {
    connection.batch_execute(&create(table))?;
    declarations::store(connection, &TableDeclaration::of(table), position)?;
    diesel::insert_into(tessera_counts::table)
        .values((tessera_counts::name.eq(table.name()), tessera_counts::rows.eq(0)))
        .execute(connection)
        .map(drop)
}

fn drop_empty(connection: &mut SqliteConnection, table: &Table) -> QueryResult<()> {
    let count = || tessera_counts::table.filter(tessera_counts::name.eq(table.name()));
    let rows: Option<i64> = count().select(tessera_counts::rows).first(connection).optional()?;
    let foreign = foreign_rows(connection)?;
    let has_foreign = foreign.iter().any(|(name, _)| name == table.name());
    if has_foreign || rows.is_some_and(|rows| rows > 0) {
        return Err(unreadable(&"the table is not empty"));
    }
    connection.batch_execute(&format!("DROP TABLE {}", table.name()))?;
    declarations::remove(connection, table.name())?;
    run(connection, sql::REMOVE_FOREIGN_COUNT, &[Bind::Text(table.name())])?;
    diesel::delete(count()).execute(connection).map(drop)
}

/// Returns the statement that creates a table of clients in the form that `migrations/README.md`
/// describes.
fn create(table: &Table) -> String {
    let mut sql = format!("CREATE TABLE {} (", table.name());
    for column in table.columns() {
        push_column(&mut sql, column);
    }
    sql.push_str("PRIMARY KEY (slot, shard_key");
    for column in table.id() {
        let _ = write!(sql, ", {}", table.column(*column).name);
    }
    sql.push_str(")) STRICT, WITHOUT ROWID");
    sql
}

fn push_column(sql: &mut String, Column { name, kind, nullable, .. }: &Column) {
    let _ = write!(sql, "{name} {}", declared_type(*kind));
    if !nullable {
        sql.push_str(" NOT NULL");
    }
    if *kind == ColumnType::Json {
        let _ = write!(sql, " CHECK (json_valid({name}))");
    }
    sql.push_str(", ");
}

fn line(change: &SchemaChange) -> String {
    let (schema, index) = match change {
        SchemaChange::Make(_) => (Verb::Make, None),
        SchemaChange::Drop(_) => (Verb::Drop, None),
        SchemaChange::Index(IndexChange::Make(index) | IndexChange::MakeWithin(index, _)) => {
            (Verb::Make, Some(index))
        }
        SchemaChange::Index(IndexChange::Drop(index)) => (Verb::Drop, Some(index)),
    };
    let index = index.map(|index| IndexLine {
        name: index.name().to_owned(),
        columns: index.column_names(),
        unique: index.is_unique(),
    });
    let line = Line { schema, table: TableDeclaration::of(change.table()), index };
    serde_json::to_string(&line).expect("names always serialise") + "\n"
}

/// Returns true if an entry of the log is about a table.
pub(super) fn is_schema(entry: &[u8]) -> bool {
    entry.starts_with(LINE_START)
}

/// Returns the change of the tables in an entry of the log; `None` if the entry is about rows.
pub(super) fn logged(entry: &[u8]) -> QueryResult<Option<SchemaChange>> {
    if !is_schema(entry) {
        return Ok(None);
    }
    let line: Line = serde_json::from_slice(entry).map_err(|error| unreadable(&error))?;
    let table = Arc::new(line.table.into_table().map_err(|cause| unreadable(&cause))?);
    let index = line.index.map(|IndexLine { name, columns, unique }| {
        TableIndex::new(&table, &name, &columns, unique).map(Arc::new)
    });
    let index = index.transpose().map_err(|cause| unreadable(&cause))?;
    Ok(Some(match (line.schema, index) {
        (Verb::Make, None) => SchemaChange::Make(table),
        (Verb::Drop, None) => SchemaChange::Drop(table),
        (Verb::Make, Some(index)) => SchemaChange::Index(IndexChange::Make(index)),
        (Verb::Drop, Some(index)) => SchemaChange::Index(IndexChange::Drop(index)),
    }))
}

/// Carries out the given changes on the file of a primary without a writer, for changes that were
/// interrupted, and returns the position of the file.
///
/// # Errors
/// [`OpenError`] if the file cannot be written, or a change does not fit it.
pub fn settle(path: &Path, changes: &[SchemaChange]) -> Result<u64, OpenError> {
    let mut connection = open(path, "")?;
    let failed = |error| OpenError::file(path, error);
    let mut position = timeline::position(&mut connection).map_err(failed)?.sequence;
    for change in changes {
        let changed = connection.immediate_transaction(|connection| {
            let counters = Counters::load(connection)?;
            change_and_log(connection, counters, change)
        });
        let changed = changed.map_err(|error| {
            OpenError::file(path, format!("table {}: {error}", change.table().name()))
        })?;
        position = changed.counters.position as u64;
    }
    Ok(position)
}
