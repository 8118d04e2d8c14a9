//! Export source: the snapshots of all shards from which an export reads, in files or on servers.
//!
//! **Not here:** taking the snapshots, writing the lines (the engines).

use std::io::Write;

use engine::export::{ExportError, ExportFormat, exported_table};
use sqlite::offline_view::DirView;
use tokio::runtime::Runtime;

use super::super::CommandError;
use super::super::cluster_place::ClusterPlace;
use super::command_error;

/// Snapshots of all shards.
pub(super) enum ExportSource {
    /// Snapshots of files.
    Files(sqlite::export::Export),
    /// Snapshots of servers. The runtime drives their sessions and ends them when it is dropped.
    Servers(Runtime, postgres::export::ServerExport),
}

impl ExportSource {
    /// Takes a snapshot of each shard. In files, first checks that the table exists, if one is
    /// named.
    pub(super) fn open(place: &ClusterPlace, table: Option<&str>) -> Result<Self, CommandError> {
        match place {
            ClusterPlace::Files(data_dir) => {
                let view = DirView::open(data_dir)?;
                if let Some(table) = table {
                    exported_table(&view.tables()?, table).map_err(command_error)?;
                }
                Ok(Self::Files(sqlite::export::Export::begin(&view).map_err(command_error)?))
            }
            ClusterPlace::Servers(address) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(|error| CommandError::Refused(error.to_string()))?;
                let export = runtime.block_on(postgres::export::ServerExport::begin(address));
                Ok(Self::Servers(runtime, export.map_err(command_error)?))
            }
        }
    }

    /// Returns the names of the tables.
    pub(super) fn tables(&self) -> Vec<String> {
        let tables = match self {
            Self::Files(export) => export.tables(),
            Self::Servers(_, export) => export.tables(),
        };
        tables.tables().map(|table| table.name().to_owned()).collect()
    }

    /// Returns the expected number of rows of a table, which is exact enough for a progress bar.
    pub(super) fn row_count(&self, table: &str) -> i64 {
        match self {
            Self::Files(export) => export.row_count(table),
            Self::Servers(_, export) => export.row_count(table),
        }
    }

    /// Writes all rows of a table, and returns their number.
    pub(super) fn write(
        &mut self,
        table: &str,
        format: (ExportFormat, bool),
        out: &mut dyn Write,
        progress: &dyn Fn(u64),
    ) -> Result<u64, ExportError> {
        match self {
            Self::Files(export) => export.write(table, format, out, progress),
            Self::Servers(runtime, export) => {
                runtime.block_on(export.write(table, format, out, progress))
            }
        }
    }
}
