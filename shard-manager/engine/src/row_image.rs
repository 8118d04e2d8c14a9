//! Row image: the values of a row after a change, computed in the same way for every engine.
//!
//! **Invariant:** an image has a value for each returned column of its table, in order.
//! **Not here:** reading and storing rows (the engines), the checks of a request (`row_change`).

use model::error::Error;
use model::row_change::{
    Change, Operation, Precondition, ROW_BYTES_MAX, RowError, RowWrite, UNREAD_BYTES_MAX,
};
use model::sabotage::{Mutation, is_on};
use model::table::Table;
use model::value::{ColumnType, Value, push_json};

use crate::default_values::value_in_new_row;

/// Maximum number of bytes that one byte of a string becomes in JSON; a control character becomes
/// this many.
const ESCAPED_BYTES_MAX: usize = 6;
/// Maximum number of bytes that a value has in JSON in addition to those of its string; for a
/// number, the maximum number of all bytes.
const VALUE_BYTES_MAX: usize = 32;

/// Values of the columns that Tessera itself sets in a row.
#[derive(Clone, Copy, Debug)]
pub struct ServerColumns<'n> {
    /// Version of the row.
    pub version: i64,
    /// Time of the change.
    pub now: &'n str,
}

/// Returns the effect of a change on a row, or the reason to refuse it.
pub fn outcome(change: &RowWrite, current: Option<&[Value]>) -> Result<Change, Error> {
    let precondition = &change.precondition;
    if let Some(precondition) = precondition.as_ref().filter(|_| !is_on(Mutation::IgnoreIfVersion))
    {
        let at = change.table.version() - change.table.answered().start;
        let version = current.and_then(|row| match &row[at] {
            Value::Int(version) => Some(*version),
            Value::Null | Value::Bool(_) | Value::Double(_) | Value::Text(_) => None,
        });
        if !precondition.holds(version) {
            return Err(match precondition {
                Precondition::Absent => Error::Exists,
                Precondition::Present | Precondition::Versions(_) => Error::VersionDiffers,
            });
        }
    }
    match (change.operation, current) {
        (Operation::Upsert | Operation::Update, Some(_)) => Ok(Change::Changed),
        (Operation::Delete, Some(_)) => Ok(Change::Removed),
        (Operation::Insert, Some(_)) => Err(Error::Exists),
        (Operation::Update | Operation::Delete, None) => Err(Error::NoSuchRow),
        (Operation::Upsert | Operation::Insert, None) => match change.missing() {
            None => Ok(Change::Created),
            Some(column) => {
                let (table, column) = (change.table.name().to_owned(), column.to_owned());
                Err(RowError::MissingColumn { table, column }.into())
            }
        },
    }
}

/// Returns the stored row, updated with the columns of the change.
///
/// # Errors
/// [`Error::RowTooLarge`] if a partial change makes the row larger than [`ROW_BYTES_MAX`]. A row
/// that is already larger may become smaller, but its large values may not become larger.
pub fn merged_row(
    change: &RowWrite,
    row: Vec<Value>,
    server_columns: &ServerColumns<'_>,
) -> Result<Vec<Value>, Error> {
    if change.is_partial() {
        check_size(change, &row)?;
    }
    Ok(updated_row(change, row, server_columns))
}

/// Checks the size of the row that results when a partial change is applied to a stored row.
///
/// Changes that skip this check never increase the [`RowSize::excess`] of a row. Neither do changes
/// that pass this check and leave the row above [`ROW_BYTES_MAX`]. The excess of a row therefore
/// never exceeds [`ROW_BYTES_MAX`], and the remaining bytes never exceed [`UNREAD_BYTES_MAX`],
/// which is the sum of the shares of all columns.
fn check_size(change: &RowWrite, row: &[Value]) -> Result<(), Error> {
    let table = &change.table;
    let stored = |column: usize| &row[column - table.answered().start];
    let merged = |column: usize| {
        let set = change.set.binary_search_by_key(&column, |(set, _)| *set);
        set.map_or_else(|_| stored(column), |at| &change.set[at].1)
    };
    let after = large_row_size(table, merged);
    if after.bytes <= ROW_BYTES_MAX {
        return Ok(());
    }
    let before = large_row_size(table, stored);
    let is_larger = after.bytes > before.bytes || after.excess > before.excess;
    if is_larger { Err(Error::RowTooLarge) } else { Ok(()) }
}

/// Returns true if an upsert may be stored without reading the existing row first: it sets all
/// columns, or each of its values is at most as large as the share of a column. All such changes of
/// a row together make it larger by at most [`UNREAD_BYTES_MAX`], because each column keeps only
/// its last value.
pub fn needs_no_size_check(change: &RowWrite) -> bool {
    if !change.is_partial() {
        return true;
    }
    let table = &change.table;
    let share = unread_share(table);
    let ids = table.id().iter().zip(&change.id);
    let mut values = ids.chain(change.set.iter().map(|(column, value)| (column, value)));
    let mut json = Vec::new();
    values.all(|(column, value)| {
        json_bytes_max(value) <= share
            || (json_bytes_min(value) <= share
                && json_bytes(&mut json, table.column(*column).kind, value) <= share)
    })
}

/// Size of the values of a row as JSON, without the columns that Tessera adds.
#[derive(Clone, Copy, Debug, Default)]
struct RowSize {
    /// Number of bytes of all values.
    bytes: usize,
    /// Number of bytes by which values exceed the share of a column, summed over all columns.
    excess: usize,
}

/// Returns the size of a row with these values. It is zero if a quick estimate already shows that
/// the row is not larger than [`ROW_BYTES_MAX`].
fn large_row_size<'v>(table: &Table, value: impl Fn(usize) -> &'v Value) -> RowSize {
    let mut size = RowSize::default();
    if table.own().map(|column| json_bytes_max(value(column))).sum::<usize>() <= ROW_BYTES_MAX {
        return size;
    }
    let share = unread_share(table);
    let mut json = Vec::new();
    for column in table.own() {
        let bytes = json_bytes(&mut json, table.column(column).kind, value(column));
        size.bytes += bytes;
        size.excess += bytes.saturating_sub(share);
    }
    size
}

/// Returns the share of each declared column in [`UNREAD_BYTES_MAX`], less [`VALUE_BYTES_MAX`].
fn unread_share(table: &Table) -> usize {
    (UNREAD_BYTES_MAX / table.own().len().max(1)).saturating_sub(VALUE_BYTES_MAX)
}

/// Returns an upper bound for the size of a value as JSON, in bytes.
fn json_bytes_max(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len() * ESCAPED_BYTES_MAX + VALUE_BYTES_MAX,
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) => VALUE_BYTES_MAX,
    }
}

/// Returns a lower bound for the size of a value as JSON, in bytes.
fn json_bytes_min(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Double(_) => 0,
    }
}

/// Returns the size of a value as JSON, in bytes. The buffer `json` is overwritten.
fn json_bytes(json: &mut Vec<u8>, kind: ColumnType, value: &Value) -> usize {
    json.clear();
    push_value(json, kind, value);
    json.len()
}

/// Returns the row, updated with the columns of the change and of the server.
fn updated_row(
    change: &RowWrite,
    mut row: Vec<Value>,
    server_columns: &ServerColumns<'_>,
) -> Vec<Value> {
    let table = &change.table;
    let at = |column: usize| column - table.answered().start;
    for (column, value) in &change.set {
        row[at(*column)].clone_from(value);
    }
    row[at(table.version())] = Value::Int(server_columns.version);
    row[at(table.version() + 2)] = Value::Text(server_columns.now.to_owned());
    row
}

/// Returns a new row. Columns that the change does not set have their defaults, or are null without
/// one.
pub fn new_row(change: &RowWrite, server_columns: &ServerColumns<'_>) -> Vec<Value> {
    let table = &change.table;
    let mut row = vec![Value::Null; table.answered().len()];
    for (column, value) in table.id().iter().zip(&change.id) {
        row[column - table.answered().start].clone_from(value);
    }
    if change.id.len() + change.set.len() < table.own().len() {
        for column in change.absent() {
            let default = table.column(column).default.as_ref();
            row[column - table.answered().start] = value_in_new_row(default, server_columns.now);
        }
    }
    row[table.version() + 1 - table.answered().start] = Value::Text(server_columns.now.to_owned());
    let mut row = updated_row(change, row, server_columns);
    if is_on(Mutation::VersionFromOne) {
        row[table.version() - table.answered().start] = Value::Int(1);
    }
    row
}

/// Appends a row as a JSON object, from its image.
pub fn push_row(out: &mut Vec<u8>, table: &Table, row: &[Value]) {
    for (index, (column, value)) in table.answered().zip(row).enumerate() {
        let column = table.column(column);
        out.extend_from_slice(if index == 0 { b"{\"" } else { b",\"" });
        out.extend_from_slice(column.name.as_bytes());
        out.extend_from_slice(b"\":");
        push_value(out, column.kind, value);
    }
    out.push(b'}');
}

fn push_value(out: &mut Vec<u8>, kind: ColumnType, value: &Value) {
    match (kind, value) {
        (ColumnType::Json, Value::Text(json)) => out.extend_from_slice(json.as_bytes()),
        (_, value) => push_json(out, value),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::keyspace::Slot;
    use model::table::Column;

    use super::*;

    const SERVER_COLUMNS: ServerColumns<'static> =
        ServerColumns { version: 1_000, now: "2026-01-01T00:00:00.000000Z" };

    /// Returns an upsert that sets these of two columns, counted from 1, to this text.
    fn upsert(columns: &[usize], text: &str) -> RowWrite {
        upsert_of(2, columns, text)
    }

    /// Returns an upsert into a table with this number of columns beside the id.
    fn upsert_of(nullable: usize, columns: &[usize], text: &str) -> RowWrite {
        let column = |name: &str, nullable| Column::new(name, ColumnType::Text, nullable);
        let nullable = (1..=nullable).map(|number| column(&format!("text{number}"), true));
        let own = [column("id", false)].into_iter().chain(nullable).collect();
        let table = Table::new("things", own, &["id".to_owned()], None);
        let table = Arc::new(table.expect("a sound table"));
        let first = table.id()[0];
        let value = |column: &usize| (first + column, Value::Text(text.to_owned()));
        RowWrite {
            set: columns.iter().map(value).collect(),
            table,
            operation: Operation::Upsert,
            slot: Slot::new(1).expect("a slot"),
            key: "ada".to_owned(),
            id: vec![Value::Text("ada".to_owned())],
            precondition: None,
            idempotency_key: None,
            wants_row: false,
        }
    }

    fn merge(row: &[Value], change: &RowWrite) -> Result<Vec<Value>, Error> {
        merged_row(change, row.to_vec(), &SERVER_COLUMNS)
    }

    /// Returns a text that is this many bytes shorter than the limit of a row.
    fn shorter(bytes: usize) -> String {
        "x".repeat(ROW_BYTES_MAX - bytes)
    }

    #[test]
    fn a_partial_change_may_fill_a_row_up_to_its_limit_and_not_beyond() {
        let row = new_row(&upsert(&[1], &shorter(1_000)), &SERVER_COLUMNS);
        // The id and the quotes of all three values.
        let room = 1_000 - "ada".len() - 3 * 2;
        let full = merge(&row, &upsert(&[2], &"y".repeat(room)));
        assert!(full.is_ok(), "{:?}", full.map(drop));
        let refused = merge(&row, &upsert(&[2], &"y".repeat(room + 1)));
        assert_eq!(refused.map(drop), Err(Error::RowTooLarge));
        // A quotation mark is two bytes of JSON.
        let refused = merge(&row, &upsert(&[2], &"\"".repeat(room / 2 + 1)));
        assert_eq!(refused.map(drop), Err(Error::RowTooLarge));
    }

    #[test]
    fn a_row_above_the_limit_may_become_smaller_and_may_be_replaced_as_a_whole() {
        let row = new_row(&upsert(&[1, 2], &shorter(1_000)), &SERVER_COLUMNS);
        for text in [shorter(1_000), shorter(1_001), String::new()] {
            assert!(merge(&row, &upsert(&[1], &text)).is_ok(), "{}", text.len());
        }
        assert_eq!(merge(&row, &upsert(&[1], &shorter(999))).map(drop), Err(Error::RowTooLarge));
        assert!(merge(&row, &upsert(&[1, 2], &shorter(0))).is_ok(), "a row written as a whole");
    }

    #[test]
    fn a_partial_change_goes_without_a_size_check_only_if_all_columns_of_its_size_have_room() {
        assert!(needs_no_size_check(&upsert(&[1, 2], &shorter(0))), "a row written as a whole");
        assert!(needs_no_size_check(&upsert(&[1], "short")));
        let columns = 3;
        let share = UNREAD_BYTES_MAX / columns - VALUE_BYTES_MAX;
        // The quotes are part of a value.
        assert!(needs_no_size_check(&upsert(&[1], &"x".repeat(share - 2))));
        assert!(!needs_no_size_check(&upsert(&[1], &"x".repeat(share - 1))));
        assert!(needs_no_size_check(&upsert(&[1], &"\"".repeat(share / 2 - 1))));
        assert!(!needs_no_size_check(&upsert(&[1], &"\"".repeat(share / 2))));
    }

    #[test]
    fn a_partial_change_of_many_columns_is_measured_by_its_largest_value() {
        let columns: Vec<usize> = (1..=100).collect();
        let mut change = upsert_of(199, &columns, &"x".repeat(5_000));
        assert!(needs_no_size_check(&change));
        change.set[99].1 = Value::Text("x".repeat(6_000));
        assert!(!needs_no_size_check(&change));
    }

    #[test]
    fn a_row_that_unread_changes_have_enlarged_takes_no_larger_values_in_exchange_for_small_ones() {
        let half = "x".repeat(ROW_BYTES_MAX / 2 - 200);
        let row = new_row(&upsert_of(11, &[1, 2], &half), &SERVER_COLUMNS);
        let small: Vec<usize> = (3..=11).collect();
        let share = UNREAD_BYTES_MAX / 12 - VALUE_BYTES_MAX;
        let unread = upsert_of(11, &small, &"y".repeat(share - 2));
        assert!(needs_no_size_check(&unread));
        let row = updated_row(&unread, row, &SERVER_COLUMNS);
        // The row becomes smaller, but the emptied columns could be filled again.
        let mut exchange = upsert_of(11, &[1, 3, 4, 5, 6, 7, 8], "");
        exchange.set[0].1 = Value::Text(format!("{half}{}", "x".repeat(4 * share)));
        assert_eq!(merge(&row, &exchange).map(drop), Err(Error::RowTooLarge));
        exchange.set[0].1 = Value::Text(half);
        assert!(merge(&row, &exchange).is_ok(), "no large value becomes larger");
    }
}
