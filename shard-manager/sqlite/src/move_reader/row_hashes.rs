//! Row hashes: reads keys and hashes of the rows of one slot, to find the rows in which a copy
//! differs from its source.
//!
//! **Invariant:** a row has the same hash here and in the digest of its slot (`digests`).
//! **Not here:** comparing the hashes (`cluster`).

use std::collections::BTreeSet;

use diesel::QueryResult;
use engine::copy_key::{CopyKey, format_key};
use engine::row_hashes::{ChangedKeys, RowHashQuery, RowHashes};
use model::slot_set::SlotSet;
use model::table::Table;
use model::value::Value;

use super::Snapshot;
use super::round::id_of_line;
use crate::connection::{Bind, Statement, for_each_row_while};
use crate::log::Line;
use crate::row_hash::row_hash;
use crate::row_json::value;
use crate::{move_log, moving_rows, sql};

/// Reads one page of row hashes; the page is empty if the file has no such table.
pub(super) fn read(snapshot: &mut Snapshot<'_>, query: &RowHashQuery) -> QueryResult<RowHashes> {
    let mut hashes = RowHashes::default();
    let Some(table) = moving_rows::table(snapshot.connection, &query.table)? else {
        return Ok(hashes);
    };
    let slot = query.slot.number();
    let after = bound(query.after.as_deref(), &table)?;
    let until = bound(query.until.as_deref(), &table)?;
    let mut binds = Vec::new();
    for (key, id) in [&after, &until].into_iter().flatten() {
        binds.push(Bind::Text(key));
        binds.extend(id.iter().map(Bind::from));
    }
    let sql = sql::select_slot_range(&table, i64::from(slot), after.is_some(), until.is_some());
    let statement = Statement { sql: &sql, binds: &binds, cached: false };
    let Snapshot { gate, deadline, .. } = *snapshot;
    let mut bytes = Vec::new();
    for_each_row_while(snapshot.connection, statement, |row| {
        super::check_over(gate, deadline)?;
        let key = row.text(Table::SHARD_KEY, str::to_owned).unwrap_or_default();
        let id = table.id().iter().map(|column| value(row, *column, table.column(*column).kind));
        let id: Vec<Value> = id.collect();
        let hash = row_hash(&mut bytes, row, &table);
        let key = format_key((table.name(), slot, &key), &id);
        Ok(hashes.push(key, format!("{hash:032x}")))
    })?;
    hashes.changed = changed(snapshot, &table, query)?;
    Ok(hashes)
}

/// Returns the shard key and the id of the key at which a page begins or ends.
fn bound(key: Option<&str>, table: &Table) -> QueryResult<Option<(String, Vec<Value>)>> {
    let Some(key) = key else { return Ok(None) };
    let key = CopyKey::parse(key)?;
    let id = key.id(table)?;
    Ok(Some((key.key, id)))
}

/// Returns the keys that clients have changed since the state that the copy has; `None` if the log
/// does not have all of these changes, or if there are too many.
fn changed(
    snapshot: &mut Snapshot<'_>,
    table: &Table,
    query: &RowHashQuery,
) -> QueryResult<Option<BTreeSet<String>>> {
    let Some(since) = &query.since else { return Ok(None) };
    let position = snapshot.position()?;
    let Some(stored) = snapshot.stored(query.id)? else { return Ok(None) };
    let Some(after) = snapshot.lacks_after(Some(&stored), since, position)? else {
        return Ok(None);
    };
    let slots: SlotSet = std::iter::once(query.slot).collect();
    let Snapshot { gate, deadline, .. } = *snapshot;
    let (mut changed, mut has_room) = (ChangedKeys::default(), true);
    move_log::each_change(snapshot.connection, &slots, after, |_, lines| {
        super::check_over(gate, deadline)?;
        for raw in lines {
            let line = Line::parse(raw)?;
            if *line.table == *table.name() {
                let id = id_of_line(&line, table)?;
                has_room = changed.push(format_key((table.name(), line.slot, &line.key), &id));
            }
        }
        Ok(has_room)
    })?;
    Ok(changed.finish())
}
