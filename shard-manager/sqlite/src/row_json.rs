//! Row to JSON: writes SQLite's columns directly into the buffer of the response.
//!
//! **Invariant:** the result is one JSON object whose members have the order of the outputs.
//! **Not here:** reading JSON (`value`).

use diesel::QueryResult;
use model::value::{ColumnType, Value, push_json_number, push_json_string};

use super::connection::RowView;

/// Appends `{"name":value,…}` for the outputs, which are the row's first columns.
pub(super) fn push_object<'n>(
    out: &mut Vec<u8>,
    row: &RowView<'_, '_>,
    outputs: impl Iterator<Item = (&'n str, ColumnType)>,
) -> QueryResult<()> {
    out.push(b'{');
    for (column, (name, kind)) in outputs.enumerate() {
        if column > 0 {
            out.push(b',');
        }
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\":");
        push_value(out, row, column, kind);
    }
    out.push(b'}');
    Ok(())
}

fn push_value(out: &mut Vec<u8>, row: &RowView<'_, '_>, column: usize, kind: ColumnType) {
    let written = match kind {
        ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid => {
            row.text(column, |text| push_json_string(out, text))
        }
        ColumnType::Json => row.text(column, |text| out.extend_from_slice(text.as_bytes())),
        ColumnType::Bigint => row.int(column).map(|number| push_json_number(out, number)),
        ColumnType::Double => row.double(column).map(|number| push_json_number(out, number)),
        ColumnType::Boolean => row.int(column).map(|truth| {
            out.extend_from_slice(if truth == 0 { b"false" } else { b"true" });
        }),
    };
    if written.is_none() {
        out.extend_from_slice(b"null");
    }
}

/// Returns the value of a column, for merging.
pub(super) fn value(row: &RowView<'_, '_>, column: usize, kind: ColumnType) -> Value {
    let value = match kind {
        ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid | ColumnType::Json => {
            row.text(column, |text| Value::Text(text.to_owned()))
        }
        ColumnType::Bigint => row.int(column).map(Value::Int),
        ColumnType::Double => row.double(column).map(Value::Double),
        ColumnType::Boolean => row.int(column).map(|truth| Value::Bool(truth != 0)),
    };
    value.unwrap_or(Value::Null)
}
