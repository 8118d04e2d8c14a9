//! Row image: the values of a row after a change, the same for every engine.
//!
//! **Invariant:** an image has a value for each returned column of its table, in order.
//! **Not here:** reading and storing rows (the engines), the checks of a request (`row_change`).

use model::error::Error;
use model::row_change::{Change, Operation, Precondition, RowError, RowWrite};
use model::sabotage::{Mutation, is_on};
use model::table::Table;
use model::value::{ColumnType, Value, push_json};

use crate::default_values::value_in_new_row;

/// Columns that the server sets in a row.
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

/// Returns the row with the columns of the change.
pub fn updated_row(
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

/// Returns a new row, in which columns that the change does not set have their defaults, or are
/// null.
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
        match (column.kind, value) {
            (ColumnType::Json, Value::Text(json)) => out.extend_from_slice(json.as_bytes()),
            (_, value) => push_json(out, value),
        }
    }
    out.push(b'}');
}
