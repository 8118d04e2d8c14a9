//! Short helpers to change and read rows through a manager of either engine.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::declaration::Declaration;
use shard_manager::error::{Error, Failure, Outcome};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{
    BulkRow, BulkRowDone, Data, Manager, RequestOptions, TableCreated, WriteReceipt,
};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::{Operation, RowDone, RowWrite};
use shard_manager::shard_map::KeyLocation;
use shard_manager::table::{Column, Table};
use shard_manager::value::ColumnType;

/// Result of one row of several.
pub(crate) type RowOutcome = Result<RowDone, (Error, Outcome)>;

/// Deadline of requests. Generous: a test that reaches it has found a defect.
pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

pub(crate) fn options() -> RequestOptions {
    RequestOptions::by(deadline())
}

/// A table with these columns; those before `null` are never null.
pub(crate) fn table(
    name: &str,
    columns: &[(&str, ColumnType)],
    nullable_from: usize,
    id: &[&str],
    routing: Option<&str>,
) -> Table {
    let column = |(at, (name, kind)): (usize, &(&str, ColumnType))| Column {
        name: (*name).to_owned(),
        kind: *kind,
        nullable: at >= nullable_from,
        default: None,
    };
    let declaration = Declaration {
        name: name.to_owned(),
        columns: columns.iter().enumerate().map(column).collect(),
        id: id.iter().map(|name| (*name).to_owned()).collect(),
        routing: routing.map(str::to_owned),
    };
    declaration.check().unwrap()
}

pub(crate) async fn make(manager: &Manager, table: &Table) -> TableCreated {
    manager.schema(Rights::ALL).create_table(table.clone(), deadline()).await.unwrap()
}

/// Checks and routes a change of the row given as a JSON object.
pub(crate) fn prepare(
    manager: &Manager,
    table: &str,
    operation: Operation,
    key: &str,
    json: &str,
) -> (KeyLocation, RowWrite) {
    let table = manager.schema(Rights::ALL).table(table).unwrap();
    let key = ShardKey::parse(key).unwrap();
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(json).unwrap();
    let fields: Vec<_> = members.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
    let prepared = Data::prepare(&manager.map(), &table, operation, key, &fields);
    prepared.unwrap_or_else(|error| panic!("{json}: {error}"))
}

pub(crate) async fn write(
    manager: &Manager,
    table: &str,
    operation: Operation,
    key: &str,
    json: &str,
) -> Result<WriteReceipt, Failure> {
    let (place, row) = prepare(manager, table, operation, key, json);
    manager.data(Rights::ALL).write(place, row, &options()).await
}

/// Writes rows at once, either independently or as one transaction per shard; returns their
/// outcomes in the order given.
pub(crate) async fn write_all(
    manager: &Manager,
    rows: Vec<(KeyLocation, RowWrite)>,
    whole: bool,
) -> Vec<RowOutcome> {
    write_all_by(manager, rows, whole, &options()).await
}

/// Writes rows like [`write_all`], with these options.
pub(crate) async fn write_all_by(
    manager: &Manager,
    rows: Vec<(KeyLocation, RowWrite)>,
    whole: bool,
    options: &RequestOptions,
) -> Vec<RowOutcome> {
    let numbered = rows.into_iter().enumerate();
    let rows = numbered.map(|(index, (place, row))| BulkRow { index, place, row }).collect();
    let done = match whole {
        true => manager.data(Rights::ALL).write_bulk_atomic(rows, options).await,
        false => manager.data(Rights::ALL).write_bulk(rows, options).await,
    };
    let mut rows: Vec<BulkRowDone> = done.rows;
    rows.sort_by_key(|row| row.index);
    rows.into_iter().map(|row| row.outcome).collect()
}

/// The rows of a table, up to a thousand of them, as returned.
pub(crate) async fn rows(manager: &Manager, table: &str, key: Option<&str>) -> Vec<String> {
    rows_by(manager, table, key, &options()).await
}

/// The rows of a table like [`rows`], with every acknowledged write, whichever node answers.
pub(crate) async fn acknowledged_rows(
    manager: &Manager,
    table: &str,
    key: Option<&str>,
) -> Vec<String> {
    let options = RequestOptions { level: Level::Quorum, ..options() };
    rows_by(manager, table, key, &options).await
}

async fn rows_by(
    manager: &Manager,
    table: &str,
    key: Option<&str>,
    options: &RequestOptions,
) -> Vec<String> {
    let table = manager.schema(Rights::ALL).table(table).unwrap();
    let query = ReadQuery { limit: ReadQuery::LIMIT_MAX, ..ReadQuery::all(&table) };
    let key = key.map(|key| ShardKey::parse(key).unwrap());
    let read = manager.data(Rights::ALL).read(query, key, options).await.unwrap();
    (0..read.rows.len())
        .map(|row| String::from_utf8(read.rows.row(row).to_vec()).unwrap())
        .collect()
}
