//! Export: rows of a table as lines of NDJSON or CSV, on every engine.
//!
//! A bulk write accepts an export in either format. In CSV (RFC 4180), an empty field is null, and
//! `""` is the empty string. The rows of a table without a routing column do not contain their
//! shard key, so it is added: NDJSON lines have the form `{"shard_key":…,"data":{…}}`, and CSV has
//! a column `shard_key`.
//!
//! **Invariant:** the lines of a row depend only on its values, not on the engine that stores it.
//! **Not here:** reading the rows (`sqlite::export`, `postgres::export`), the destination of the
//! lines (the calling code).

use std::sync::Arc;

use model::slot_set::SlotSet;
use model::table::{Registry, Table};
use model::table_group::GroupNumber;
use model::value::{ColumnType, push_json_number, push_json_string};

use super::open_error::OpenError;

/// Number of bytes that are written to the output at a time.
pub const BUFFER: usize = 256 << 10;

/// Format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// One JSON object in each line.
    Ndjson,
    /// Comma-separated values; the first line has the names of the columns.
    Csv,
}

/// Reason why an export is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A shard cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The output failed.
    #[error("the output cannot be written: {0}")]
    Output(#[from] std::io::Error),
    /// There is no such table.
    #[error("there is no table `{table}`; there are: {known}")]
    NoSuchTable {
        /// Requested name.
        table: String,
        /// Names of the existing tables.
        known: String,
    },
    /// The shards declare different tables under one name.
    #[error(
        "{shard} declares {table} otherwise than the first shard: run `shard-manager check` for details"
    )]
    TablesDiffer {
        /// The shard.
        shard: String,
        /// The table.
        table: String,
    },
    /// The snapshots show no owner, or more than one, for some slots.
    #[error(
        "the slots {slots} are owned by no shard or by several: they are changing hands. try again, and run \
         `shard-manager check` for details if it fails again"
    )]
    SlotsUnsettled {
        /// Slots without exactly one owner.
        slots: SlotSet,
    },
    /// Some slots were changing hands when the cluster was stopped.
    #[error(
        "the slots {slots} are changing hands in the move {move_name}, which nobody carries on \
         while the cluster is stopped: start a router, or run `shard-manager move wait \
         {move_name} --data-dir {data_dir}`, and export again"
    )]
    MoveRests {
        /// Slots without exactly one owner.
        slots: SlotSet,
        /// Identity of the move.
        move_name: String,
        /// Data directory of the cluster.
        data_dir: String,
    },
    /// The number of rows that were read differs from the number that the shard has counted.
    #[error(
        "{shard} has counted {counted} rows of {table}, but {found} were read: the export is not complete. \
         run `shard-manager check` for details"
    )]
    Short {
        /// The shard.
        shard: String,
        /// The table.
        table: String,
        /// Number that the shard has counted.
        counted: i64,
        /// Number of rows that were read.
        found: u64,
    },
}

/// Returns the table of this name.
///
/// # Errors
/// [`ExportError::NoSuchTable`].
pub fn exported_table(tables: &Registry, name: &str) -> Result<Arc<Table>, ExportError> {
    tables.find(name).cloned().ok_or_else(|| {
        let known: Vec<&str> = tables.tables().map(|table| table.name()).collect();
        ExportError::NoSuchTable { table: name.to_owned(), known: known.join(", ") }
    })
}

/// Row of an engine, as an export reads it: with all columns of its table.
pub trait ExportedRow {
    /// Passes a value as a string to `read`, and returns the result of `read`; `None` if the value
    /// is null. Called only for types of columns whose values are strings.
    fn text<T>(&self, column: usize, kind: ColumnType, read: impl FnOnce(&str) -> T) -> Option<T>;

    /// Returns a whole number; `None` if it is null.
    fn bigint(&self, column: usize) -> Option<i64>;

    /// Returns a number; `None` if it is null.
    fn double(&self, column: usize) -> Option<f64>;

    /// Returns a boolean; `None` if it is null.
    fn boolean(&self, column: usize) -> Option<bool>;
}

/// Returns the slots that none of these shards owns, or that several of them own.
///
/// A table group other than `main` is considered only if at least one of these shards owns some of
/// its slots.
pub fn unsettled<'s>(shards: impl IntoIterator<Item = &'s SlotSet>) -> SlotSet {
    let (mut once, mut several) = (SlotSet::empty(), SlotSet::empty());
    for owned in shards {
        several.unite(&owned.without(&owned.without(&once)));
        once.unite(owned);
    }
    for group in (0..).map_while(GroupNumber::new) {
        let all = SlotSet::of_group(group);
        if group == GroupNumber::MAIN || !once.is_disjoint(&all) {
            several.unite(&all.without(&once));
        }
    }
    several
}

/// Conversion of the rows of a table to lines.
pub struct ExportLines {
    table: Arc<Table>,
    format: ExportFormat,
    columns: Vec<usize>,
    /// True if each row is wrapped in an object that also contains its shard key.
    wrapped: bool,
}

impl ExportLines {
    /// Returns the conversion for a table; with `system`, the lines include the system columns.
    pub fn new(table: &Arc<Table>, format: ExportFormat, system: bool) -> Self {
        let needs_key = table.routing().is_none();
        let wrapped = needs_key && !system && format == ExportFormat::Ndjson;
        let key = (system || (needs_key && !wrapped)).then_some(Table::SHARD_KEY);
        let rest = if system { table.answered() } else { table.own() };
        let columns = key.into_iter().chain(rest).collect();
        Self { table: Arc::clone(table), format, columns, wrapped }
    }

    /// Appends the header of the format, if it has one.
    pub fn push_head(&self, out: &mut Vec<u8>) {
        match self.format {
            ExportFormat::Ndjson => {}
            ExportFormat::Csv => {
                for (index, column) in self.columns.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    out.extend_from_slice(self.table.column(*column).name.as_bytes());
                }
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// Appends a row, which has all columns of the table.
    pub fn push_row(&self, out: &mut Vec<u8>, row: &impl ExportedRow) {
        match self.format {
            ExportFormat::Ndjson => self.push_json(out, row),
            ExportFormat::Csv => {
                for (index, &column) in self.columns.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    push_field(out, row, column, self.table.column(column).kind);
                }
                out.extend_from_slice(b"\r\n");
            }
        }
    }

    fn push_json(&self, out: &mut Vec<u8>, row: &impl ExportedRow) {
        if self.wrapped {
            out.extend_from_slice(b"{\"shard_key\":");
            row.text(Table::SHARD_KEY, ColumnType::Text, |key| push_json_string(out, key));
            out.extend_from_slice(b",\"data\":");
        }
        out.push(b'{');
        for (index, &column) in self.columns.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.push(b'"');
            out.extend_from_slice(self.table.column(column).name.as_bytes());
            out.extend_from_slice(b"\":");
            let kind = self.table.column(column).kind;
            if push_member(out, row, column, kind).is_none() {
                out.extend_from_slice(b"null");
            }
        }
        out.extend_from_slice(if self.wrapped { b"}}\n" } else { b"}\n" });
    }
}

/// Appends a value as JSON; returns `None` without appending if it is null.
fn push_member(
    out: &mut Vec<u8>,
    row: &impl ExportedRow,
    column: usize,
    kind: ColumnType,
) -> Option<()> {
    match kind {
        ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid => {
            row.text(column, kind, |text| push_json_string(out, text))
        }
        ColumnType::Json | ColumnType::Bigint | ColumnType::Double | ColumnType::Boolean => {
            push_plain(out, row, column, kind)
        }
    }
}

/// Appends a value as it is, without quotes; returns `None` if it is null.
fn push_plain(
    out: &mut Vec<u8>,
    row: &impl ExportedRow,
    column: usize,
    kind: ColumnType,
) -> Option<()> {
    match kind {
        ColumnType::Bigint => row.bigint(column).map(|number| push_json_number(out, number)),
        ColumnType::Double => row.double(column).map(|number| push_json_number(out, number)),
        ColumnType::Boolean => row.boolean(column).map(|truth| {
            out.extend_from_slice(if truth { b"true" } else { b"false" });
        }),
        ColumnType::Json | ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid => {
            row.text(column, kind, |text| out.extend_from_slice(text.as_bytes()))
        }
    }
}

/// Appends a field of CSV: nothing for null, and quotes where a reader needs them.
fn push_field(out: &mut Vec<u8>, row: &impl ExportedRow, column: usize, kind: ColumnType) {
    match kind {
        ColumnType::Bigint | ColumnType::Double | ColumnType::Boolean => {
            push_plain(out, row, column, kind);
        }
        ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid | ColumnType::Json => {
            row.text(column, kind, |text| push_quoted(out, text));
        }
    }
}

fn push_quoted(out: &mut Vec<u8>, text: &str) {
    let plain = !text.is_empty() && !text.contains([',', '"', '\r', '\n']) && text.trim() == text;
    if plain {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use model::table::Column;

    use super::*;

    #[test]
    fn a_table_that_does_not_exist_is_reported_with_the_names_of_those_that_do() {
        let table = |name: &str| {
            let columns = vec![Column::new("id", ColumnType::Text, false)];
            let table = Table::new(name, columns, &["id".to_owned()], None);
            Arc::new(table.expect("a sound table"))
        };
        let tables = Registry::default().with(table("orders")).with(table("users"));
        assert_eq!(exported_table(&tables, "users").expect("it exists").name(), "users");
        let error = exported_table(&tables, "order").expect_err("it does not exist");
        assert_eq!(error.to_string(), "there is no table `order`; there are: orders, users");
    }
}
