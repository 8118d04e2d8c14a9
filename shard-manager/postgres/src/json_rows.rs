//! JSON rows: writes the rows of a key into the JSON of the response as they arrive.
//!
//! **Not here:** the statements (`key_reads`, `scan`), pages over several shards.

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use model::error::Error;
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::value::{ColumnType, Value};

use super::binary_value;
use super::statement::RowView;

/// Rows of one key as they arrive.
pub(super) struct JsonRows<'q> {
    query: &'q ReadQuery,
    rows: Rows,
    last: Vec<Value>,
}

impl<'q> JsonRows<'q> {
    pub(super) fn new(query: &'q ReadQuery) -> Self {
        Self { query, rows: Rows::with_capacity(256), last: Vec::new() }
    }

    /// Appends a row with the columns number, outputs, version, id.
    pub(super) fn push(&mut self, row: &RowView) -> QueryResult<()> {
        let Self { query, rows, last } = self;
        if rows.len() == query.limit as usize {
            rows.more_after = Some(std::mem::take(last));
            return Ok(());
        }
        if rows.is_too_large() {
            return Ok(());
        }
        rows.push(|out| {
            push_object(out, row, query, 1);
            Ok::<(), DieselError>(())
        })?;
        let version = 1 + query.outputs.len();
        if rows.len() == 1 {
            rows.version = row.bigint(version);
        }
        if rows.len() == query.limit as usize {
            let id = query.table.id().iter().zip(version + 1..);
            *last =
                id.map(|(column, at)| value(row, at, query.table.column(*column).kind)).collect();
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Rows, Error> {
        if self.rows.is_too_large() { Err(Error::AnswerTooLarge) } else { Ok(self.rows) }
    }
}

/// Appends the outputs of a query, which begin at column `first`, as a JSON object.
pub(super) fn push_object(out: &mut Vec<u8>, row: &RowView, query: &ReadQuery, first: usize) {
    for (at, output) in query.outputs.iter().enumerate() {
        let column = query.table.column(output.column);
        out.extend_from_slice(if at == 0 { b"{\"" } else { b",\"" });
        out.extend_from_slice(output.alias.as_deref().unwrap_or(&column.name).as_bytes());
        out.extend_from_slice(b"\":");
        if row.cell(first + at, |bytes| binary_value::push_json(out, column.kind, bytes)).is_none()
        {
            out.extend_from_slice(b"null");
        }
    }
    out.extend_from_slice(if query.outputs.is_empty() { b"{}" } else { b"}" });
}

/// Returns the value of a column.
pub(super) fn value(row: &RowView, column: usize, kind: ColumnType) -> Value {
    row.cell(column, |bytes| binary_value::decode(kind, bytes)).unwrap_or(Value::Null)
}
