//! Export: all rows of a table, over all shards, as lines.
//!
//! Each shard is read in one snapshot, which its session keeps until the export ends. All snapshots
//! are taken before the first row is written, so their times are nearly the same. The slots that a
//! shard owns are read in the same snapshot as its rows: snapshots between which a slot has changed
//! hands would contain its rows twice or not at all, so they are taken again.
//!
//! **Invariant:** a successful export contains every row of every slot once; rows are streamed and
//! not kept in memory.
//! **Not here:** the lines (`engine::export`), their destination (the caller).

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use diesel::QueryResult;
use diesel::result::Error as DieselError;
use engine::export::{
    BUFFER, ExportError, ExportFormat, ExportLines, ExportedRow, exported_table, unsettled,
};
use engine::open_error::OpenError;
use model::keyspace::Slot;
use model::slot_set::SlotSet;
use model::table::{Registry, Table};
use model::value::ColumnType;

use super::binary_value;
use super::cluster_sessions::{ClusterSessions, ShardSession};
use super::declarations;
use super::node_address::ClusterAddress;
use super::sql;
use super::statement::{RowView, Statement, for_each_row, load};

/// Attempts to take snapshots that show one owner of each slot, and the pause after each.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// The snapshots of all shards that an export reads.
pub struct ServerExport {
    shards: Vec<Snapshot>,
    tables: Registry,
}

/// The snapshot of one shard.
struct Snapshot {
    shard: ShardSession,
    /// Slots that the shard owns.
    owned: Arc<SlotSet>,
    /// Rows of each table, as the server estimates them.
    estimates: Vec<(String, i64)>,
}

impl ServerExport {
    /// Takes a snapshot of every shard's primary.
    ///
    /// # Errors
    /// [`ExportError::Open`] if one cannot be read; [`ExportError::TablesDiffer`];
    /// [`ExportError::SlotsUnsettled`].
    pub async fn begin(address: &ClusterAddress) -> Result<Self, ExportError> {
        let sessions = ClusterSessions::open(address).await?;
        let mut shards: Vec<Snapshot> = Vec::with_capacity(sessions.shards.len());
        for shard in sessions.shards {
            let (owned, estimates) = (Arc::new(SlotSet::empty()), Vec::new());
            shards.push(Snapshot { shard, owned, estimates });
        }
        for tried in 1.. {
            for snapshot in &mut shards {
                snapshot.owned = snapshot.shard.begin().await?;
            }
            let slots = unsettled(shards.iter().map(|snapshot| &*snapshot.owned));
            if slots.is_empty() {
                break;
            }
            if tried == TRIES {
                return Err(ExportError::SlotsUnsettled { slots });
            }
            tokio::time::sleep(PAUSE).await;
        }
        let tables = read_tables(&mut shards).await?;
        Ok(Self { shards, tables })
    }

    /// Returns the tables that can be exported.
    pub fn tables(&self) -> &Registry {
        &self.tables
    }

    /// Returns the number of rows of a table, as the servers estimate it.
    pub fn row_count(&self, table: &str) -> i64 {
        let estimates = self.shards.iter().flat_map(|snapshot| &snapshot.estimates);
        estimates.filter(|(name, _)| name == table).map(|(_, rows)| rows).sum()
    }

    /// Writes all rows of a table that the shards own, with the columns of the system on request,
    /// and returns their number. `progress` receives numbers of rows as they are written.
    ///
    /// # Errors
    /// [`ExportError`]; the output is incomplete then.
    pub async fn write(
        &mut self,
        table: &str,
        (format, system): (ExportFormat, bool),
        out: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<u64, ExportError> {
        let table = exported_table(&self.tables, table)?;
        let mut lines = Writing {
            lines: ExportLines::new(&table, format, system),
            buffer: Vec::with_capacity(BUFFER + BUFFER / 4),
            out,
            progress,
            rows: 0,
            failed: None,
        };
        lines.lines.push_head(&mut lines.buffer);
        for snapshot in &self.shards {
            let read = snapshot.each(&table, |row| lines.push(row)).await;
            if let Some(error) = lines.failed.take() {
                return Err(ExportError::Output(error));
            }
            read.map_err(|error| snapshot.shard.failed(error))?;
        }
        lines.out.write_all(&lines.buffer)?;
        lines.out.flush()?;
        progress(lines.rows);
        Ok(lines.rows)
    }
}

/// Reads the tables and estimates of all snapshots, and returns the tables, which must be the same.
async fn read_tables(shards: &mut [Snapshot]) -> Result<Registry, ExportError> {
    let mut tables: Option<Registry> = None;
    for snapshot in shards {
        let (own, estimates) = snapshot.read().await?;
        snapshot.estimates = estimates;
        let first = tables.get_or_insert_with(|| own.clone());
        if let Some(table) = first.tables().find(|table| own.find(table.name()) != Some(table)) {
            let shard = snapshot.shard.name.clone();
            return Err(ExportError::TablesDiffer { shard, table: table.name().into() });
        }
    }
    Ok(tables.unwrap_or_default())
}

impl Snapshot {
    async fn read(&self) -> Result<(Registry, Vec<(String, i64)>), OpenError> {
        let connection = self.shard.connection();
        let read = async {
            let (tables, _) = declarations::load(connection).await?;
            let estimates = Statement { sql: sql::ROW_ESTIMATES, binds: &[], cached: false };
            let estimates = load(connection, estimates).await?;
            let estimates =
                estimates.iter().filter_map(|row| Some((row.text(0)?, row.bigint(1)?))).collect();
            Ok((Registry::new(tables), estimates))
        };
        let read: QueryResult<_> = read.await;
        read.map_err(|error| self.shard.failed(error))
    }

    /// Hands each row of the slots that the shard owns to `each`, in the order of the primary key.
    async fn each(
        &self,
        table: &Table,
        mut each: impl FnMut(&RowView) -> QueryResult<()>,
    ) -> QueryResult<()> {
        let sql = sql::select_all(table);
        let statement = Statement { sql: &sql, binds: &[], cached: false };
        for_each_row(self.shard.connection(), statement, |row| {
            let slot = row.bigint(Table::SLOT).and_then(|slot| u16::try_from(slot).ok());
            if slot.and_then(Slot::new).is_some_and(|slot| self.owned.contains(slot)) {
                each(row)?;
            }
            Ok(())
        })
        .await
    }
}

/// Rows that are being written to the output.
struct Writing<'o> {
    lines: ExportLines,
    buffer: Vec<u8>,
    out: &'o mut dyn Write,
    progress: &'o dyn Fn(u64),
    rows: u64,
    failed: Option<std::io::Error>,
}

impl Writing<'_> {
    fn push(&mut self, row: &RowView) -> QueryResult<()> {
        self.lines.push_row(&mut self.buffer, row);
        self.rows += 1;
        if self.buffer.len() < BUFFER {
            return Ok(());
        }
        (self.progress)(self.rows);
        if let Err(error) = self.out.write_all(&self.buffer) {
            self.failed = Some(error);
            return Err(DieselError::RollbackTransaction);
        }
        self.buffer.clear();
        Ok(())
    }
}

impl ExportedRow for RowView {
    fn text<T>(&self, column: usize, kind: ColumnType, read: impl FnOnce(&str) -> T) -> Option<T> {
        self.cell(column, |bytes| read(&binary_value::text(kind, bytes)))
    }

    fn bigint(&self, column: usize) -> Option<i64> {
        self.bigint(column)
    }

    fn double(&self, column: usize) -> Option<f64> {
        self.cell(column, binary_value::double)
    }

    fn boolean(&self, column: usize) -> Option<bool> {
        self.boolean(column)
    }
}
