//! Export: writes all rows of a table, from all shards, as lines of text.
//!
//! Each shard is read in one snapshot. All snapshots are taken before the first row is written, so
//! their times are nearly the same.
//!
//! Each shard exports the rows of the slots that it owns. If a slot changes its owner between two
//! snapshots, they contain its rows twice or not at all. The snapshots are therefore taken again
//! until each slot has exactly one owner.
//!
//! **Invariant:** a successful export contains every row of every slot exactly once, and the number
//! of rows equals the one that the shards have counted; rows are streamed and not kept in memory.
//! **Not here:** the format of the lines (`engine::export`), their destination (the command line).

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use diesel::result::Error as DieselError;
use engine::export::{
    BUFFER, ExportError, ExportFormat, ExportLines, ExportedRow, exported_table, unsettled,
};
use engine::open_error::OpenError;
use model::slot_set::SlotSet;
use model::table::Registry;
use model::value::ColumnType;

use super::connection::RowView;
use super::node_view::NodeView;
use super::offline_lists::open_move_of;
use super::offline_view::{DirView, Holder};
use super::{owned_slots, sql};

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
    /// Number of rows of each table, as counted by the shard's writer.
    counts: Vec<(String, i64)>,
}

/// Maximum number of attempts to take snapshots in which each slot has exactly one owner; a pause
/// follows each attempt.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

impl Export {
    /// Takes a snapshot of every shard's primary.
    ///
    /// # Errors
    /// [`ExportError::Open`] if one cannot be read; [`ExportError::TablesDiffer`];
    /// [`ExportError::SlotsUnsettled`], or [`ExportError::MoveRests`] if no process holds the
    /// directory and an open move has the slots.
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
        if slots.is_empty() { Ok(export) } else { Err(not_settled(view, slots)?) }
    }

    /// Returns the slots that no shard owns, or more than one.
    fn unsettled(&self) -> SlotSet {
        unsettled(self.shards.iter().map(|snapshot| &*snapshot.owned))
    }

    fn take(view: &DirView) -> Result<Self, ExportError> {
        let mut shards = Vec::with_capacity(view.map.topology().len());
        let mut tables: Option<Registry> = None;
        for shard in view.map.topology().numbers().filter(|shard| !view.is_joining(*shard)) {
            let name = view.map.topology().name(shard).to_owned();
            let mut node = view.node(&view.nodes(shard)[0])?;
            node.begin()?;
            let (file_state, owned) = (node.file_state()?, node.owned_slots()?);
            let own = node.tables()?;
            let first = tables.get_or_insert_with(|| own.clone());
            if let Some(table) = first.tables().find(|table| own.find(table.name()) != Some(table))
            {
                return Err(ExportError::TablesDiffer { shard: name, table: table.name().into() });
            }
            shards.push(Snapshot { shard: name, node, owned, counts: file_state.counts });
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

    /// Writes all rows of a table that the shards own and returns their number. If `system` is
    /// true, the rows include Tessera's own columns. `progress` is called with numbers of written
    /// rows. Blocks.
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
        let table = exported_table(&self.tables, table)?;
        let lines = ExportLines::new(&table, format, system);
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

/// Returns the error for slots without exactly one owner. If no process holds the directory,
/// another attempt fails as well.
fn not_settled(view: &DirView, slots: SlotSet) -> Result<ExportError, OpenError> {
    let open_move = match view.holder()? {
        Holder::Process { .. } => None,
        Holder::Free | Holder::Crashed => open_move_of(view, &slots)?,
    };
    Ok(match open_move {
        Some(move_name) => {
            let data_dir = view.path().display().to_string();
            ExportError::MoveRests { slots, move_name, data_dir }
        }
        None => ExportError::SlotsUnsettled { slots },
    })
}

impl ExportedRow for RowView<'_, '_> {
    fn text<T>(&self, column: usize, _kind: ColumnType, read: impl FnOnce(&str) -> T) -> Option<T> {
        self.text(column, read)
    }

    fn bigint(&self, column: usize) -> Option<i64> {
        self.int(column)
    }

    fn double(&self, column: usize) -> Option<f64> {
        self.double(column)
    }

    fn boolean(&self, column: usize) -> Option<bool> {
        self.int(column).map(|truth| truth != 0)
    }
}
