//! Row hashes: keys and hashes of the rows of one slot, to find the rows in which a copy differs.
//!
//! **Invariant:** a row has the same hash here and in the digest of its slot (`digests`).
//! **Not here:** comparing them (`cluster`).

use std::collections::BTreeSet;

use diesel::QueryResult;
use engine::copy_key::{CopyKey, format_key};
use engine::row_hashes::{ChangedKeys, PAGE_KEYS_MAX, RowHashQuery, RowHashes};
use engine::slot_move::recorded_feed;
use model::table::Table;
use model::value::Value;

use super::chunk::id_binds;
use super::facts::ONE_SNAPSHOT;
use super::move_change::tables;
use super::move_session::{MoveSession, end};
use super::{round, snapshot_mark, statements};
use crate::binary_value;
use crate::statement::{Bind, RowView, Statement, for_each_row, run};

/// Reads a page of keys and hashes. The page is empty if the server does not have the table.
pub(super) async fn read(
    session: &mut MoveSession,
    query: &RowHashQuery,
) -> QueryResult<RowHashes> {
    run(&session.connection, ONE_SNAPSHOT).await?;
    let hashes = read_in_snapshot(session, query).await?;
    end(session, hashes).await
}

async fn read_in_snapshot(session: &MoveSession, query: &RowHashQuery) -> QueryResult<RowHashes> {
    let mut hashes = RowHashes::default();
    let tables = tables(session).await?;
    let Some(table) = tables.iter().find(|table| table.name() == query.table) else {
        return Ok(hashes);
    };
    let (after, until) = (query.after.as_deref(), query.until.as_deref());
    let sql = statements::row_hashes(table, after.is_some(), until.is_some());
    let mut binds =
        vec![Bind::integer(i32::from(query.slot.number())), Bind::bigint(PAGE_KEYS_MAX as i64)];
    for key in [after, until].into_iter().flatten() {
        let key = CopyKey::parse(key)?;
        binds.push(Bind::text(&key.key));
        binds.extend(id_binds(table, &key.id(table)?));
    }
    let statement = Statement { sql: &sql, binds: &binds, cached: true };
    let hash = table.id().len() + 1;
    for_each_row(&session.connection, statement, |row| {
        hashes.push(key_of(row, table, query), row.text(hash).unwrap_or_default());
        Ok(())
    })
    .await?;
    hashes.changed = changed(session, table, query).await?;
    Ok(hashes)
}

/// Returns the keys that clients have changed since the state that the copy has; `None` if these
/// changes are not recorded, or are too many.
async fn changed(
    session: &MoveSession,
    table: &Table,
    query: &RowHashQuery,
) -> QueryResult<Option<BTreeSet<String>>> {
    let Some(since) = &query.since else { return Ok(None) };
    let row = round::row(session, query.id).await?;
    let feed = row.as_ref().and_then(|row| recorded_feed(row, session.timeline));
    if feed != Some(since.feed) {
        return Ok(None);
    }
    let Some(seen) = snapshot_mark::shown(&since.mark) else { return Ok(None) };
    let sql = statements::changed_keys(table);
    let binds = [
        Bind::integer(i32::from(query.slot.number())),
        Bind::text(table.name()),
        Bind::text(&seen),
        Bind::bigint(PAGE_KEYS_MAX as i64),
    ];
    let statement = Statement { sql: &sql, binds: &binds, cached: true };
    let mut changed = ChangedKeys::default();
    for_each_row(&session.connection, statement, |row| {
        changed.push(key_of(row, table, query));
        Ok(())
    })
    .await?;
    Ok(changed.finish())
}

/// Returns the key of a row whose first columns are shard key and id.
fn key_of(row: &RowView, table: &Table, query: &RowHashQuery) -> String {
    let id = table.id().iter().zip(1..).map(|(column, place)| {
        let kind = table.column(*column).kind;
        row.cell(place, |bytes| binary_value::decode(kind, bytes)).unwrap_or(Value::Null)
    });
    let id: Vec<Value> = id.collect();
    let key = row.text(0).unwrap_or_default();
    format_key((table.name(), query.slot.number(), &key), &id)
}
