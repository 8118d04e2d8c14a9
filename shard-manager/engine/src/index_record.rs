//! Index record: an index as the catalog lists it, with its state.
//!
//! ```text
//!   building ──every shard has it──▶ ready ──DELETE──▶ dropping ──no shard has it──▶ (removed)
//!      │                              ▲
//!      └─it cannot be built────▶ undoing ──no shard has it──▶ failed
//! ```
//!
//! **Invariant:** an index that is `ready` is on every shard; one that has failed is on none.
//! **Not here:** the steps from one state to the next (`cluster`), the catalogs that store it.

use std::sync::Arc;

use chrono::Utc;
use diesel::prelude::*;
use model::table::Registry;
use model::table_index::TableIndex;
use model::value::format_timestamp;
use serde::Deserialize;

use super::system_tables::tessera_indexes;
use super::{IndexChange, SchemaChange};

/// State of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexState {
    /// The index will be on every shard.
    Building,
    /// The index is on every shard.
    Ready,
    /// The index cannot be built, and is dropped from the shards that have it.
    Undoing,
    /// The index could not be built, and is on no shard.
    Failed,
    /// The index will be on no shard.
    Dropping,
}

impl IndexState {
    const ALL: [Self; 5] =
        [Self::Building, Self::Ready, Self::Undoing, Self::Failed, Self::Dropping];

    /// Returns the name in the catalog and in responses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Building => "building",
            Self::Ready => "ready",
            Self::Undoing => "undoing",
            Self::Failed => "failed",
            Self::Dropping => "dropping",
        }
    }

    /// Returns true if the index is on every shard, or will be.
    pub fn is_wanted(self) -> bool {
        matches!(self, Self::Building | Self::Ready)
    }
}

/// Index as the catalog lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRecord {
    /// Name of the table.
    pub table: String,
    /// Name of the index.
    pub name: String,
    /// Names of its columns.
    pub columns: Vec<String>,
    /// True if it is unique within a shard key.
    pub is_unique: bool,
    /// State of the index.
    pub state: IndexState,
    /// Number of shards that already have the index, while it is being built.
    pub built: usize,
    /// Reason why the build waits or has failed.
    pub reason: Option<String>,
    /// Limit, in milliseconds, for the time that writes of a shard may wait. It applies to the
    /// estimate before a build and to the build itself.
    pub pause_max_ms: u64,
    /// Longest time in milliseconds for which writes of a shard have waited; `None` if writes do
    /// not wait.
    pub pause_ms: Option<u64>,
}

impl IndexRecord {
    /// Creates the record of an index that is to be built.
    pub fn new(index: &TableIndex, pause_max_ms: u64) -> Self {
        Self {
            table: index.table().name().to_owned(),
            name: index.name().to_owned(),
            columns: index.column_names(),
            is_unique: index.is_unique(),
            state: IndexState::Building,
            built: 0,
            reason: None,
            pause_max_ms,
            pause_ms: None,
        }
    }

    /// Returns true if the record describes this index: the same names, columns and uniqueness.
    pub fn has_shape(&self, index: &TableIndex) -> bool {
        self.is_named(index.table().name(), index.name())
            && self.columns == index.column_names()
            && self.is_unique == index.is_unique()
    }

    /// Returns true if the index has this name in this table.
    pub fn is_named(&self, table: &str, name: &str) -> bool {
        self.table == table && self.name == name
    }

    /// Returns the index; `None` if the tables do not have its columns.
    pub fn index(&self, tables: &Registry) -> Option<Arc<TableIndex>> {
        let table = tables.find(&self.table)?;
        TableIndex::new(table, &self.name, &self.columns, self.is_unique).map(Arc::new).ok()
    }
}

/// Returns the changes that build the listed indexes of these tables on a new shard, which has no
/// rows yet.
pub fn changes_of_new_shard(records: &[IndexRecord], tables: &Registry) -> Vec<SchemaChange> {
    let wanted = records.iter().filter(|record| record.state.is_wanted());
    let indexes = wanted.filter_map(|record| record.index(tables));
    indexes.map(|index| SchemaChange::Index(IndexChange::Make(index))).collect()
}

/// Row of an index in a catalog.
#[derive(AsChangeset, Debug, Deserialize, Insertable, Queryable, Selectable)]
#[diesel(table_name = tessera_indexes, primary_key(table_name, name), treat_none_as_null = true)]
pub struct IndexRow {
    table_name: String,
    name: String,
    column_list: String,
    is_unique: i64,
    state: String,
    built: i64,
    reason: Option<String>,
    pause_max_ms: i64,
    pause_ms: Option<i64>,
    changed_at: String,
}

impl IndexRow {
    /// Converts a record to its row, with the present time as the time of the change.
    pub fn of(record: &IndexRecord) -> Self {
        Self {
            table_name: record.table.clone(),
            name: record.name.clone(),
            column_list: record.columns.join(","),
            is_unique: i64::from(record.is_unique),
            state: record.state.name().to_owned(),
            built: record.built as i64,
            reason: record.reason.clone(),
            pause_max_ms: record.pause_max_ms as i64,
            pause_ms: record.pause_ms.map(|pause| pause as i64),
            changed_at: format_timestamp(Utc::now()),
        }
    }

    /// Converts the row to its record.
    ///
    /// # Errors
    /// A description of the damage.
    pub fn record(self) -> Result<IndexRecord, String> {
        let known = IndexState::ALL.into_iter().find(|known| known.name() == self.state);
        let state = known.ok_or_else(|| "an index of an unknown state".to_owned())?;
        Ok(IndexRecord {
            table: self.table_name,
            name: self.name,
            columns: self.column_list.split(',').map(str::to_owned).collect(),
            is_unique: self.is_unique == 1,
            state,
            built: self.built.max(0) as usize,
            reason: self.reason,
            pause_max_ms: self.pause_max_ms.max(0).cast_unsigned(),
            pause_ms: self.pause_ms.map(|pause| pause.max(0).cast_unsigned()),
        })
    }
}
