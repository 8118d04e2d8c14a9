//! Change log: the changed rows of each transaction, from which replicas are updated. Each
//! transaction that changes rows has one entry.
//!
//! An entry has one JSON object per line, and contains each row as it is after the change, so that
//! replaying an entry needs neither a clock nor any conditions.
//! ```text
//! {"change":"made","table":"users","slot":9741,"key":"user_123","row":{…}}
//! {"change":"removed","table":"users","slot":9741,"key":"user_123","version":7313,"row":{…}}
//! ```
//! The `row` of a removal has only the id columns. A change of a table has its own kind of line
//! (`ddl`).
//!
//! **Invariant:** entries have consecutive positions; an entry is written in the same transaction
//! as the changes that it describes.
//! **Not here:** replaying the log (`applier`).

use std::borrow::Cow;

use diesel::result::Error as DieselError;
use diesel::sqlite::SqliteConnection;
use diesel::{QueryResult, RunQueryDsl};
use model::keyspace::Slot;
use model::row_change::{Change, RowDone, RowWrite};
use model::table::{Column, Table};
use model::value::{ColumnType, Value, push_json, push_json_number, push_json_string};
use serde::de::{DeserializeSeed, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::connection::{Bind, Statement, for_each_row, for_each_row_while};
use super::log_extent::{TrimLimit, Trimmed};
use super::sql;

/// Appends the line of one change to an entry.
pub(super) fn push_line(log: &mut Vec<u8>, change: &RowWrite, done: &RowDone) {
    log.extend_from_slice(match done.change {
        Change::Created => b"{\"change\":\"made\",\"table\":\"",
        Change::Changed => b"{\"change\":\"changed\",\"table\":\"",
        Change::Removed => b"{\"change\":\"removed\",\"table\":\"",
    });
    log.extend_from_slice(change.table.name().as_bytes());
    log.extend_from_slice(b"\",\"slot\":");
    push_json_number(log, change.slot.number());
    log.extend_from_slice(b",\"key\":");
    push_json_string(log, &change.key);
    if done.change == Change::Removed {
        log.extend_from_slice(b",\"version\":");
        push_json_number(log, done.version);
    }
    log.extend_from_slice(b",\"row\":");
    if done.change == Change::Removed {
        push_id(log, change);
    } else {
        log.extend_from_slice(&done.json);
    }
    log.extend_from_slice(b"}\n");
}

/// Appends the id columns of a row, which are all that its removal needs.
fn push_id(log: &mut Vec<u8>, change: &RowWrite) {
    for (index, (column, value)) in change.table.id().iter().zip(&change.id).enumerate() {
        log.extend_from_slice(if index == 0 { b"{\"" } else { b",\"" });
        log.extend_from_slice(change.table.column(*column).name.as_bytes());
        log.extend_from_slice(b"\":");
        push_json(log, value);
    }
    log.push(b'}');
}

/// One entry of the change log.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) position: u64,
    pub(super) changes: Vec<u8>,
}

/// Maximum number of entries that an applier replays in one transaction: enough to share the cost
/// of a commit, and few enough that the changes become visible soon.
const ENTRIES_MAX: i64 = 64;
/// Number of bytes after which an applier adds no further entry to a transaction.
const ENTRIES_BYTES_MAX: usize = 1 << 20;

/// Returns the entries after `position` up to the position `last`, oldest first, and no more than
/// one transaction takes.
pub(super) fn read_after(
    connection: &mut SqliteConnection,
    position: u64,
    last: Option<u64>,
) -> QueryResult<Vec<Entry>> {
    let last = last.map_or(i64::MAX, |last| last as i64);
    let binds = [Bind::Int(position as i64), Bind::Int(last), Bind::Int(ENTRIES_MAX)];
    let statement = Statement { sql: sql::LOG_AFTER, binds: &binds, cached: true };
    let (mut entries, mut bytes) = (Vec::new(), 0);
    for_each_row_while(connection, statement, |row| {
        let position = row.int(0).unwrap_or(0) as u64;
        let changes = row.blob(1, <[u8]>::to_vec).unwrap_or_default();
        bytes += changes.len();
        entries.push(Entry { position, changes });
        Ok(bytes < ENTRIES_BYTES_MAX)
    })?;
    Ok(entries)
}

/// Returns the position of the oldest entry in the log, `None` if the log is empty, and the total
/// size of all entries in bytes.
pub(super) fn extent(connection: &mut SqliteConnection) -> QueryResult<(Option<u64>, u64)> {
    let mut extent = (None, 0);
    let statement = Statement { sql: sql::LOG_EXTENT, binds: &[], cached: false };
    for_each_row(connection, statement, |row| {
        extent = (row.int(0).map(|position| position as u64), row.int(1).unwrap_or(0) as u64);
        Ok(())
    })?;
    Ok(extent)
}

/// Returns the position of the oldest entry in the log; `None` if the log is empty.
pub(super) fn first_position(connection: &mut SqliteConnection) -> QueryResult<Option<u64>> {
    let statement = Statement { sql: sql::LOG_START, binds: &[], cached: true };
    let mut first = None;
    for_each_row(connection, statement, |row| {
        first = row.int(0).map(|position| position as u64);
        Ok(())
    })?;
    Ok(first)
}

/// Returns true if the log is empty.
pub(super) fn is_empty(connection: &mut SqliteConnection) -> QueryResult<bool> {
    let statement = Statement { sql: sql::LOG_FIRST, binds: &[], cached: true };
    let mut empty = true;
    for_each_row(connection, statement, |_| {
        empty = false;
        Ok(())
    })?;
    Ok(empty)
}

/// Removes the oldest entries within a limit, but at least one. Returns the position and size of
/// what was removed; `None` if the log has no entry up to the position of the limit.
pub(super) fn trim(
    connection: &mut SqliteConnection,
    limit: TrimLimit,
) -> QueryResult<Option<Trimmed>> {
    let binds = [Bind::Int(limit.position as i64)];
    let statement = Statement { sql: sql::LOG_SIZES, binds: &binds, cached: true };
    let mut trimmed = None;
    for_each_row_while(connection, statement, |row| {
        let before = trimmed.map_or(0, |Trimmed { bytes, .. }| bytes);
        let bytes = before + row.int(1).unwrap_or(0) as u64;
        trimmed = Some(Trimmed { position: row.int(0).unwrap_or(0) as u64, bytes });
        Ok(bytes < limit.bytes)
    })?;
    if let Some(Trimmed { position, .. }) = trimmed {
        let binds = [Bind::Int(position as i64)];
        Statement { sql: sql::TRIM_LOG, binds: &binds, cached: true }.execute(connection)?;
    }
    Ok(trimmed)
}

/// One change of a row, read from its line.
#[derive(serde::Deserialize)]
pub(super) struct Line<'l> {
    #[serde(deserialize_with = "change_name")]
    pub(super) change: Change,
    #[serde(borrow)]
    pub(super) table: Cow<'l, str>,
    pub(super) slot: u16,
    #[serde(borrow)]
    pub(super) key: Cow<'l, str>,
    #[serde(borrow)]
    row: &'l RawValue,
    /// Version that a removal has assigned; for other changes, the version is a column of the row.
    #[serde(default)]
    pub(super) version: i64,
}

/// Parses the name of a change, as [`push_line`] writes it.
fn change_name<'de, D: serde::Deserializer<'de>>(json: D) -> Result<Change, D::Error> {
    match <&str as serde::Deserialize>::deserialize(json)? {
        "made" => Ok(Change::Created),
        "changed" => Ok(Change::Changed),
        "removed" => Ok(Change::Removed),
        other => Err(D::Error::custom(format!("{other} is not a change"))),
    }
}

impl<'l> Line<'l> {
    /// Reads a line that [`push_line`] wrote.
    pub(super) fn parse(line: &'l [u8]) -> QueryResult<Self> {
        serde_json::from_slice(line).map_err(unreadable)
    }

    /// Returns the values of the columns that responses contain, in the order of the table; for a
    /// removal, the values of the id columns.
    pub(super) fn values(&self, table: &Table) -> QueryResult<Vec<Value>> {
        let mut json = serde_json::Deserializer::from_str(self.row.get());
        let columns: Vec<usize> = match self.change {
            Change::Removed => table.id().to_vec(),
            Change::Created | Change::Changed => table.answered().collect(),
        };
        RowSeed { table, columns: &columns }.deserialize(&mut json).map_err(unreadable)
    }
}

/// Returns the slot of a line about a row, without parsing the rest of the line; `None` if the
/// number is not that of a slot.
pub(super) fn slot_of(line: &[u8]) -> QueryResult<Option<Slot>> {
    // Names of tables contain no quotation marks, so the first match is the JSON member `slot`.
    const MEMBER: &[u8] = b"\",\"slot\":";
    let found = line.windows(MEMBER.len()).position(|bytes| bytes == MEMBER);
    let digits = found.and_then(|at| line.get(at + MEMBER.len()..)).unwrap_or_default();
    let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    let number = std::str::from_utf8(&digits[..end]).ok().and_then(|digits| digits.parse().ok());
    let unreadable = || DieselError::DeserializationError("a line of the log has no slot".into());
    number.map(Slot::new).ok_or_else(unreadable)
}

/// Iterates over the lines of an entry.
pub(super) fn lines(changes: &[u8]) -> impl Iterator<Item = &[u8]> {
    changes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn unreadable(error: serde_json::Error) -> DieselError {
    DieselError::DeserializationError(Box::new(error))
}

struct RowSeed<'t> {
    table: &'t Table,
    columns: &'t [usize],
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = Vec<Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Vec<Value>, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = Vec<Value>;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a row")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Vec<Value>, A::Error> {
        let mut values = Vec::with_capacity(self.columns.len());
        for index in self.columns {
            let column = self.table.column(*index);
            let name: Option<Cow<'de, str>> = members.next_key()?;
            if name.as_deref() != Some(&*column.name) {
                return Err(A::Error::custom(format!("the row lacks {}", column.name)));
            }
            values.push(members.next_value_seed(ValueSeed(column))?);
        }
        match members.next_key::<Cow<'de, str>>()? {
            Some(name) => Err(A::Error::custom(format!("the row has {name}, the table has not"))),
            None => Ok(values),
        }
    }
}

/// Reads a value that `row_json` wrote. It is not validated again, because it was checked with the
/// request.
struct ValueSeed<'t>(&'t Column);

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<Value, D::Error> {
        use serde::Deserialize as _;
        let value = match self.0.kind {
            ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid => {
                Option::<String>::deserialize(json)?.map(Value::Text)
            }
            ColumnType::Bigint => Option::<i64>::deserialize(json)?.map(Value::Int),
            ColumnType::Double => Option::<f64>::deserialize(json)?.map(Value::Double),
            ColumnType::Boolean => Option::<bool>::deserialize(json)?.map(Value::Bool),
            ColumnType::Json => {
                // In a nullable column, null is the absence of a value; in a JSON column that is
                // not nullable, `null` is a value.
                let raw = <&RawValue>::deserialize(json)?.get();
                Some(raw)
                    .filter(|raw| *raw != "null" || !self.0.nullable)
                    .map(str::to_owned)
                    .map(Value::Text)
            }
        };
        Ok(value.unwrap_or(Value::Null))
    }
}

#[cfg(test)]
mod tests {
    use diesel::connection::SimpleConnection;
    use diesel::{Connection, SqliteConnection};

    use super::*;

    #[test]
    fn the_oldest_entries_are_removed_up_to_a_position_or_a_number_of_bytes() {
        let mut connection = SqliteConnection::establish(":memory:").expect("a database");
        let made = connection.batch_execute(
            "CREATE TABLE tessera_log (position INTEGER PRIMARY KEY, changes BLOB);
             INSERT INTO tessera_log VALUES (3, zeroblob(100)), (4, zeroblob(50)), (5, zeroblob(9)),
             (6, zeroblob(9)), (7, zeroblob(9))",
        );
        made.expect("a log");
        let mut trim = |position, bytes| {
            trim(&mut connection, TrimLimit { position, bytes }).expect("the log is trimmed")
        };
        let removed = |position, bytes| Some(Trimmed { position, bytes });
        assert_eq!(trim(6, 100), removed(3, 100));
        assert_eq!(trim(6, 1), removed(4, 50), "at least one");
        assert_eq!(trim(6, 1_000), removed(6, 18));
        assert_eq!(trim(6, 1_000), None);
        assert_eq!(trim(7, 1_000), removed(7, 9));
    }
}
