//! Export: all rows of a table, over all shards, as lines.
//!
//! Each shard is read in one snapshot. All snapshots are taken before the first row is written, so
//! their times are nearly the same. A bulk write accepts the lines of NDJSON, and CSV (RFC 4180;
//! null is an empty field, the empty text `""`). A table without a routing column needs the key
//! beside its row: its lines are wrapped as `{"shard_key":…,"data":{…}}`, and its CSV has a column
//! `shard_key`.
//!
//! Each shard exports the rows of the slots that it owns. Snapshots between which a slot has
//! changed hands would contain its rows twice or not at all, so they are taken again.
//!
//! **Invariant:** a successful export contains every row of every slot once, as many as the shards
//! have counted; rows are streamed and not kept in memory.
//! **Not here:** the destination of the lines (the caller).

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use diesel::result::Error as DieselError;
use model::slot_set::SlotSet;
use model::table::{Registry, Table};
use model::value::{ColumnType, push_json_number, push_json_string};

use super::OpenError;
use super::connection::RowView;
use super::node_view::NodeView;
use super::offline_view::DirView;
use super::{owned_slots, sql};

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
    /// A file cannot be read.
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
    /// The snapshots do not show one owner of each slot.
    #[error(
        "the slots {slots} are owned by no shard or by several: they are changing hands. try again, and run \
         `shard-manager check` for details if it fails again"
    )]
    SlotsUnsettled {
        /// These slots.
        slots: SlotSet,
    },
    /// A shard has another number of rows than it has counted.
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
        /// Number in the file.
        found: u64,
    },
}

/// The snapshots of all shards that an export reads.
pub struct Export {
    shards: Vec<Snapshot>,
    tables: Registry,
}

/// The snapshot of one shard.
struct Snapshot {
    shard: String,
    node: NodeView,
    /// Slots that the shard owns.
    owned: Arc<SlotSet>,
    /// Rows of each table, as its writer counted them.
    counts: Vec<(String, i64)>,
}

/// Attempts to take snapshots that show one owner of each slot, and the pause after each.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

impl Export {
    /// Takes a snapshot of every shard's primary.
    ///
    /// # Errors
    /// [`ExportError::Open`] if one cannot be read; [`ExportError::TablesDiffer`];
    /// [`ExportError::SlotsUnsettled`].
    pub fn begin(view: &DirView) -> Result<Self, ExportError> {
        for _ in 1..TRIES {
            let export = Self::take(view)?;
            if export.unsettled().is_empty() {
                return Ok(export);
            }
            std::thread::sleep(PAUSE);
        }
        let export = Self::take(view)?;
        let slots = export.unsettled();
        if slots.is_empty() { Ok(export) } else { Err(ExportError::SlotsUnsettled { slots }) }
    }

    /// Returns the slots that are owned by no shard or by several.
    fn unsettled(&self) -> SlotSet {
        let (mut once, mut several) = (SlotSet::empty(), SlotSet::empty());
        for Snapshot { owned, .. } in &self.shards {
            several.unite(&owned.without(&owned.without(&once)));
            once.unite(owned);
        }
        several.unite(&SlotSet::full().without(&once));
        several
    }

    fn take(view: &DirView) -> Result<Self, ExportError> {
        let mut shards = Vec::with_capacity(view.map.topology().len());
        let mut tables: Option<Registry> = None;
        for shard in view.map.topology().numbers().filter(|shard| !view.is_joining(*shard)) {
            let name = view.map.topology().name(shard).to_owned();
            let mut node = view.node(&view.nodes(shard)[0])?;
            node.begin()?;
            let (standing, owned) = (node.standing()?, node.owned_slots()?);
            let own = node.tables()?;
            let first = tables.get_or_insert_with(|| own.clone());
            if let Some(table) = first.tables().find(|table| own.find(table.name()) != Some(table))
            {
                return Err(ExportError::TablesDiffer { shard: name, table: table.name().into() });
            }
            shards.push(Snapshot { shard: name, node, owned, counts: standing.counts });
        }
        Ok(Self { shards, tables: tables.unwrap_or_default() })
    }

    /// Returns the tables that can be exported.
    pub fn tables(&self) -> &Registry {
        &self.tables
    }

    /// Returns the number of rows of a table, as the shards have counted them.
    pub fn row_count(&self, table: &str) -> i64 {
        let counts = self.shards.iter().flat_map(|snapshot| &snapshot.counts);
        counts.filter(|(name, _)| name == table).map(|(_, rows)| rows).sum()
    }

    /// Writes all rows of a table that the shards own, with the columns of the system on request,
    /// and returns their number. `progress` receives numbers of rows as they are written. Blocks.
    ///
    /// # Errors
    /// [`ExportError`]; the output is incomplete then.
    pub fn write(
        &mut self,
        table: &str,
        (format, system): (ExportFormat, bool),
        out: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<u64, ExportError> {
        let known =
            || self.tables.tables().map(|table| table.name()).collect::<Vec<_>>().join(", ");
        let table = self
            .tables
            .find(table)
            .cloned()
            .ok_or_else(|| ExportError::NoSuchTable { table: table.to_owned(), known: known() })?;
        let lines = Lines::new(&table, format, system);
        let mut buffer = Vec::with_capacity(BUFFER + BUFFER / 4);
        lines.push_head(&mut buffer);
        let mut total = 0;
        for Snapshot { shard, node, owned, counts } in &mut self.shards {
            let mut rows = 0;
            let mut failed = None;
            let read = node.each(&sql::select_all(&table), |row| {
                if !owned_slots::slot(row).is_some_and(|slot| owned.contains(slot)) {
                    return Ok(());
                }
                lines.push_row(&mut buffer, row);
                rows += 1;
                if buffer.len() >= BUFFER {
                    progress(total + rows);
                    out.write_all(&buffer).map_err(|error| {
                        failed = Some(error);
                        DieselError::RollbackTransaction
                    })?;
                    buffer.clear();
                }
                Ok(())
            });
            if let Some(error) = failed {
                return Err(ExportError::Output(error));
            }
            read?;
            let counted = counts.iter().find(|(name, _)| name == table.name());
            let counted = counted.map_or(0, |(_, rows)| *rows);
            if counted != rows as i64 {
                let (shard, table) = (shard.clone(), table.name().to_owned());
                return Err(ExportError::Short { shard, table, counted, found: rows });
            }
            total += rows;
        }
        out.write_all(&buffer)?;
        out.flush()?;
        progress(total);
        Ok(total)
    }
}

/// Size of one write to the output.
const BUFFER: usize = 256 << 10;

/// Conversion of the rows of a table to lines.
struct Lines {
    table: Arc<Table>,
    format: ExportFormat,
    columns: Vec<usize>,
    /// True if the row is wrapped in an object with its key.
    wrapped: bool,
}

impl Lines {
    fn new(table: &Arc<Table>, format: ExportFormat, system: bool) -> Self {
        let needs_key = table.routing().is_none();
        let wrapped = needs_key && !system && format == ExportFormat::Ndjson;
        let key = (system || (needs_key && !wrapped)).then_some(Table::SHARD_KEY);
        let rest = if system { table.answered() } else { table.own() };
        let columns = key.into_iter().chain(rest).collect();
        Self { table: Arc::clone(table), format, columns, wrapped }
    }

    fn push_head(&self, out: &mut Vec<u8>) {
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

    fn push_row(&self, out: &mut Vec<u8>, row: &RowView<'_, '_>) {
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

    fn push_json(&self, out: &mut Vec<u8>, row: &RowView<'_, '_>) {
        if self.wrapped {
            out.extend_from_slice(b"{\"shard_key\":");
            row.text(Table::SHARD_KEY, |key| push_json_string(out, key));
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

/// Appends a value as JSON; `None` if it is null.
fn push_member(
    out: &mut Vec<u8>,
    row: &RowView<'_, '_>,
    column: usize,
    kind: ColumnType,
) -> Option<()> {
    match kind {
        ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid => {
            row.text(column, |text| push_json_string(out, text))
        }
        ColumnType::Json | ColumnType::Bigint | ColumnType::Double | ColumnType::Boolean => {
            push_plain(out, row, column, kind)
        }
    }
}

/// Appends a value that is not a text, in the form of both formats; `None` if it is null.
fn push_plain(
    out: &mut Vec<u8>,
    row: &RowView<'_, '_>,
    column: usize,
    kind: ColumnType,
) -> Option<()> {
    match kind {
        ColumnType::Bigint => row.int(column).map(|number| push_json_number(out, number)),
        ColumnType::Double => row.double(column).map(|number| push_json_number(out, number)),
        ColumnType::Boolean => row.int(column).map(|truth| {
            out.extend_from_slice(if truth == 0 { b"false" } else { b"true" });
        }),
        ColumnType::Json | ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid => {
            row.text(column, |text| out.extend_from_slice(text.as_bytes()))
        }
    }
}

/// Appends a field of CSV: nothing for null, and quotes where a reader needs them.
fn push_field(out: &mut Vec<u8>, row: &RowView<'_, '_>, column: usize, kind: ColumnType) {
    match kind {
        ColumnType::Bigint | ColumnType::Double | ColumnType::Boolean => {
            push_plain(out, row, column, kind);
        }
        ColumnType::Text | ColumnType::Timestamp | ColumnType::Uuid | ColumnType::Json => {
            row.text(column, |text| push_quoted(out, text));
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
