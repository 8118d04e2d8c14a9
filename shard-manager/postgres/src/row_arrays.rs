//! Row arrays: rows and keys of a move or a backup, in PostgreSQL's binary form.
//!
//! ```text
//! length of an array | array of the first column | length | array of the second column | …
//! ```
//! Each column is one array, as the statements that store rows take them.
//!
//! **Invariant:** all arrays have as many elements as there are rows.
//! **Not here:** the statements (`statements`, `sql`).

use diesel::QueryResult;
use model::table::Table;
use model::value::ColumnType;

use crate::binary_value;
use crate::db_error::unreadable;
use crate::sql::column_type;
use crate::statement::{Bind, RowView};

/// Type of the elements of an array; `None` stands for whole numbers of 32 bits.
type ElementType = Option<ColumnType>;

/// Columns under construction.
#[derive(Debug)]
pub(super) struct ColumnArrays {
    columns: Vec<(ElementType, Vec<u8>)>,
    rows: usize,
}

impl ColumnArrays {
    /// Creates the columns of a table.
    pub(super) fn of_table(table: &Table) -> Self {
        Self::of(types(table))
    }

    /// Creates the columns of keys with this number of id columns, as texts.
    pub(super) fn of_keys(ids: usize) -> Self {
        Self::of(key_types(ids))
    }

    fn of(types: Vec<ElementType>) -> Self {
        Self { columns: types.into_iter().map(|kind| (kind, Vec::new())).collect(), rows: 0 }
    }

    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Adds a row with the columns of the table, and returns its size in bytes.
    pub(super) fn push_row(&mut self, row: &RowView) -> usize {
        let cells = self.columns.iter_mut().enumerate();
        let bytes = cells.map(|(column, (_, body))| {
            let begun = body.len();
            if row.cell(column, |bytes| push(body, bytes)).is_none() {
                body.extend_from_slice(&u32::MAX.to_be_bytes());
            }
            body.len() - begun
        });
        self.rows += 1;
        bytes.sum()
    }

    /// Adds a key.
    pub(super) fn push_key(&mut self, slot: u16, key: &str, ids: &[String]) {
        let texts = std::iter::once(key).chain(ids.iter().map(String::as_str));
        push(&mut self.columns[0].1, &u32::from(slot).to_be_bytes());
        for ((_, body), text) in self.columns[1..].iter_mut().zip(texts) {
            push(body, text.as_bytes());
        }
        self.rows += 1;
    }

    /// Returns the parameters for a statement on the rows so far.
    pub(super) fn binds(&self) -> Vec<Bind> {
        let columns = self.columns.iter();
        let bind = |(kind, body): &(ElementType, Vec<u8>)| {
            Bind::array(*kind, binary_value::array(*kind, self.rows, body))
        };
        columns.map(bind).collect()
    }

    /// Returns the bytes of all columns; none without rows.
    pub(super) fn finish(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.rows == 0 {
            return bytes;
        }
        for (kind, body) in &self.columns {
            push(&mut bytes, &binary_value::array(*kind, self.rows, body));
        }
        bytes
    }
}

fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Returns the parameters for a statement that stores the rows of a table.
///
/// # Errors
/// The bytes are not those of rows of the table.
pub(super) fn row_binds(table: &Table, bytes: &[u8]) -> QueryResult<Vec<Bind>> {
    read(types(table), bytes)
}

/// Returns the parameters for a statement that removes rows of a table by their keys.
///
/// # Errors
/// The bytes are not those of keys of the table.
pub(super) fn key_binds(table: &Table, bytes: &[u8]) -> QueryResult<Vec<Bind>> {
    read(key_types(table.id().len()), bytes)
}

fn read(types: Vec<ElementType>, bytes: &[u8]) -> QueryResult<Vec<Bind>> {
    let (mut binds, mut left) = (Vec::with_capacity(types.len()), bytes);
    for kind in types {
        let (array, rest) =
            split(left).ok_or_else(|| unreadable(&"rows of a round are damaged"))?;
        binds.push(Bind::array(kind, array.to_vec()));
        left = rest;
    }
    if left.is_empty() {
        Ok(binds)
    } else {
        Err(unreadable(&"rows of a round have more columns than their table"))
    }
}

/// Splits off the first bytes, whose length precedes them.
pub(super) fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

fn types(table: &Table) -> Vec<ElementType> {
    let columns = table.columns().iter().enumerate();
    let kind = |(index, column): (usize, &model::table::Column)| {
        (column_type(table, index) != "integer").then_some(column.kind)
    };
    columns.map(kind).collect()
}

fn key_types(ids: usize) -> Vec<ElementType> {
    std::iter::once(None).chain(std::iter::repeat_n(Some(ColumnType::Text), ids + 1)).collect()
}

#[cfg(test)]
mod tests {
    use model::idempotency;

    use super::*;

    #[test]
    fn keys_are_read_as_they_were_written() {
        let table = &idempotency::TABLE;
        let mut keys = ColumnArrays::of_keys(1);
        assert_eq!(ColumnArrays::of_keys(1).finish(), [0; 0]);
        keys.push_key(7, "ada", &["é".to_owned()]);
        keys.push_key(8, "", &["b".to_owned()]);
        let binds = keys.binds();
        let bytes = keys.finish();
        assert_eq!(key_binds(table, &bytes), Ok(binds));
        assert!(key_binds(table, &bytes[..bytes.len() - 1]).is_err());
        assert!(row_binds(table, &bytes).is_err(), "rows have more columns");
    }
}
