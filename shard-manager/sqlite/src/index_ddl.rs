//! Index DDL: builds and drops the indexes of the tables of clients in a shard's file.
//!
//! An index has no declaration in the file, because its name identifies it (`model::table_index`).
//! SQLite builds an index in one transaction, and no other write to the file can begin meanwhile.
//! On a primary with clients, whose writes must wait, `bounded_build` limits the time. On replicas
//! and files without clients, the build has no limit.
//!
//! **Invariant:** names come from a checked [`TableIndex`]; a change that was already carried out
//! changes nothing, so every change may be retried.
//! **Not here:** the entry of the change log (`ddl`), the list of indexes (`listed_indexes`).

pub(super) mod bounded_build;
pub(super) mod sort_place;

use std::collections::BTreeSet;

use diesel::QueryResult;
use diesel::connection::SimpleConnection;
use diesel::sqlite::SqliteConnection;
use engine::IndexChange;
use model::table::Table;
use model::table_index::TableIndex;

use super::connection::{Bind, Statement, for_each_row};
use super::sql;

/// Carries out a change, inside a transaction and without a time limit. Returns true if there was
/// anything to do.
pub(super) fn apply(connection: &mut SqliteConnection, change: &IndexChange) -> QueryResult<bool> {
    let name = change.index().database_name();
    match (change, exists(connection, &name)?) {
        (IndexChange::Make(_) | IndexChange::MakeWithin(..), true)
        | (IndexChange::Drop(_), false) => return Ok(false),
        (IndexChange::Make(index) | IndexChange::MakeWithin(index, _), false) => {
            make(connection, index, &name)?;
        }
        (IndexChange::Drop(_), true) => connection.batch_execute(&format!("DROP INDEX {name}"))?,
    }
    Ok(true)
}

fn make(connection: &mut SqliteConnection, index: &TableIndex, name: &str) -> QueryResult<()> {
    let is_in_file = sort_place::use_file(connection);
    let made = connection.batch_execute(&create(index, name));
    if is_in_file {
        sort_place::use_memory(connection);
    }
    made
}

/// Beginning of SQLite's error message about a row that a unique index refuses. The columns of the
/// index follow, such as `users.slot, users.shard_key, users.email`.
const BROKEN_UNIQUE: &str = "UNIQUE constraint failed: ";

/// Returns the columns of the unique index that a row violates, without slot and shard key. Returns
/// `None` if SQLite's message does not list columns, or if the index does not begin with slot and
/// shard key.
pub(super) fn broken_columns(table: &Table, message: &str) -> Option<Vec<usize>> {
    let (_, columns) = message.split_once(BROKEN_UNIQUE)?;
    let own = format!("{}.", table.name());
    let place = |name: &str| table.columns().iter().position(|column| column.name == name);
    let columns = columns.split(", ").map(|column| place(column.strip_prefix(&own)?));
    let columns: Vec<usize> = columns.collect::<Option<_>>()?;
    columns.strip_prefix(&Table::PLACE).map(<[usize]>::to_vec)
}

/// Returns the name of the unique index that a row violates, if the message of SQLite lists the
/// columns of that index.
pub(super) fn broken_unique(
    connection: &mut SqliteConnection,
    message: &str,
) -> QueryResult<Option<String>> {
    let listed = message.split_once(BROKEN_UNIQUE).map(|(_, columns)| columns);
    let Some((columns, (table, _))) = listed.and_then(|list| Some((list, list.split_once('.')?)))
    else {
        return Ok(None);
    };
    let own = format!("{table}.");
    let columns = columns.split(", ").map(|column| column.strip_prefix(&own).unwrap_or(column));
    let end = format!("({})", columns.collect::<Vec<_>>().join(","));
    let mut broken = None;
    let statement = Statement { sql: sql::INDEXES_OF, binds: &[Bind::Text(table)], cached: false };
    for_each_row(connection, statement, |row| {
        let name = row.text(0, |name| TableIndex::name_in(name).map(str::to_owned)).flatten();
        if row.text(1, |sql| sql.ends_with(&end)) == Some(true) && name.is_some() {
            broken = name;
        }
        Ok(())
    })?;
    Ok(broken)
}

/// Returns the names of the tables with a unique index.
pub(super) fn tables_with_unique(
    connection: &mut SqliteConnection,
) -> QueryResult<BTreeSet<String>> {
    let mut tables = BTreeSet::new();
    let statement = Statement { sql: sql::UNIQUE_INDEXES, binds: &[], cached: true };
    for_each_row(connection, statement, |row| {
        tables.extend(row.text(0, str::to_owned));
        Ok(())
    })?;
    Ok(tables)
}

/// Returns true if the file has an index of this name.
pub(super) fn exists(connection: &mut SqliteConnection, name: &str) -> QueryResult<bool> {
    let mut exists = false;
    let statement = Statement { sql: sql::INDEX_NAMED, binds: &[Bind::Text(name)], cached: false };
    for_each_row(connection, statement, |_| {
        exists = true;
        Ok(())
    })?;
    Ok(exists)
}

fn create(index: &TableIndex, name: &str) -> String {
    let unique = if index.is_unique() { "UNIQUE " } else { "" };
    format!("CREATE {unique}INDEX {name} ON {} ({})", index.table().name(), index.key_list())
}

#[cfg(test)]
mod tests {
    use model::idempotency::TABLE;

    use super::*;

    #[test]
    fn the_columns_of_a_broken_index_are_known_only_if_it_begins_with_slot_and_shard_key() {
        let (table, value) = (TABLE.name(), &TABLE.column(2).name);
        let broken = |columns: &str| broken_columns(&TABLE, &format!("{BROKEN_UNIQUE}{columns}"));
        let own = format!("{table}.slot, {table}.shard_key, {table}.{value}");
        assert_eq!(broken(&own), Some(vec![2]));
        for other in [format!("{table}.{value}"), "index 'lower_mail'".to_owned()] {
            assert_eq!(broken(&other), None, "{other}");
        }
        assert_eq!(broken_columns(&TABLE, "FOREIGN KEY constraint failed"), None);
    }
}
