//! Indexes: the interface of a manager for the indexes of tables, which are built on every shard or
//! on none.
//!
//! A request only records in the catalog that the index is to be built or dropped. A task
//! (`index_building`) does the work, and no request waits for it.
//!
//! **Invariant:** an index is added to the catalog while the lock of the tables is held, so that a
//! shard which joins at the same time also gets it.
//! **Not here:** building the indexes (`index_building`), the rules for columns
//! (`model::table_index`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use access::scope::AccessScope;
use engine::index_catalog::IndexCatalog;
use engine::index_record::{IndexRecord, IndexState};
use model::error::Error;
use model::table::{Table, closest};
use model::table_index::{IndexError, TableIndex};
use model::topology::ShardNumber;

use super::{Manager, Schema};
use crate::shard::Shard;

/// Maximum number of attempts to change a record that other requests or processes change
/// concurrently.
const TRIES_MAX: usize = 8;

/// Index that a client declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexDraft {
    /// Name of the index: `name` in the request.
    pub name: String,
    /// Names of the columns in their order: `columns` in the request.
    pub columns: Vec<String>,
    /// True if the index is unique within a shard key: `unique` in the request.
    pub is_unique: bool,
    /// Longest time in milliseconds for which writes of a shard may wait, both estimated and
    /// actual: `pause_max_ms` in the request.
    pub pause_max_ms: u64,
}

impl IndexDraft {
    /// Maximum `pause_max_ms` of a request: ten times the longest deadline of a write.
    pub const PAUSE_MAX: Duration = Duration::from_secs(600);
}

/// Result of the creation of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexCreated {
    /// The index is listed now, and will be built.
    Begun(IndexRecord),
    /// The index was listed already.
    Known(IndexRecord),
}

/// Effect that building an index would have on one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexPause {
    /// The shard.
    pub shard: ShardNumber,
    /// Number of rows of the table on the shard; `None` if writes do not wait.
    pub rows: Option<u64>,
    /// Time for which writes would wait.
    pub pause: Duration,
}

/// Reason why the indexes were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexesError {
    /// The declaration cannot be used.
    #[error(transparent)]
    Draft(#[from] IndexError),
    /// An index with this name exists that has other columns, or that differs in being unique or
    /// not.
    #[error("the index `{index}` exists with another definition{}", definition.as_deref().unwrap_or_default())]
    Differs {
        /// The index.
        index: String,
        /// Definition of the existing index after a colon, if the API client may know its columns.
        definition: Option<String>,
    },
    /// The index is being dropped.
    #[error("the index `{index}` is being dropped")]
    Dropping {
        /// The index.
        index: String,
    },
    /// The table already has the maximum number of indexes.
    #[error("the table already has {} indexes, the maximum", TableIndex::PER_TABLE_MAX)]
    TooMany,
    /// Writes of a shard would wait too long.
    #[error(
        "writes of {shard} would wait about {pause_ms} ms for the index, longer than pause_max_ms, \
         which is {pause_max_ms}"
    )]
    PauseTooLong {
        /// The shard.
        shard: String,
        /// Estimated wait in milliseconds.
        pause_ms: u64,
        /// Longest permitted wait in milliseconds.
        pause_max_ms: u64,
    },
    /// The table has no index with this name.
    #[error("the table has no index `{index}`")]
    NoIndex {
        /// The name, cut to 40 characters.
        index: String,
        /// Index with a similar name.
        suggestion: Option<String>,
    },
    /// The engine does not build indexes.
    #[error("Tessera does not build indexes on this engine")]
    Unsupported,
    /// The catalog did not respond, but may have stored the change.
    #[error("{0}")]
    Doubtful(Error),
    /// The table does not exist, the API client lacks a right, or the catalog or a shard does not
    /// respond.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Interface of a [`Manager`] for the indexes of tables.
#[derive(Clone, Copy)]
pub struct Indexes<'m>(Schema<'m>);

impl<'m> Indexes<'m> {
    /// Returns the interface for the indexes of the tables that an API client may know.
    pub fn of(schema: Schema<'m>) -> Self {
        Self(schema)
    }

    fn manager(self) -> &'m Manager {
        self.0.manager
    }

    fn catalog(self) -> Result<&'m dyn IndexCatalog, IndexesError> {
        self.manager().backend.index_catalog().ok_or(IndexesError::Unsupported)
    }

    /// Returns the indexes of a table that the API client may know, ordered by name.
    ///
    /// # Errors
    /// [`IndexesError::Failed`].
    pub async fn list(
        self,
        table: &str,
        deadline: Instant,
    ) -> Result<Vec<IndexRecord>, IndexesError> {
        let table = self.0.table(table)?;
        let Some(catalog) = self.manager().backend.index_catalog() else { return Ok(Vec::new()) };
        let mut records = by(deadline, catalog.list_indexes()).await?;
        records.retain(|record| is_visible(record, &table));
        Ok(records)
    }

    /// Returns the indexes of a table as they were last read, which may be out of date.
    pub fn known(self, table: &Table) -> Vec<IndexRecord> {
        let known = self.manager().index_status.load();
        known.iter().filter(|record| is_visible(record, table)).cloned().collect()
    }

    /// Adds an index to the catalog, to be built on every shard or on none. The API client needs
    /// the scope `tables`.
    ///
    /// Cancel safety: a dropped future may have added the index.
    ///
    /// # Errors
    /// [`IndexesError`].
    pub async fn create(
        self,
        table: &str,
        draft: &IndexDraft,
        deadline: Instant,
    ) -> Result<IndexCreated, IndexesError> {
        let (table, index) = self.declared(table, draft)?;
        let catalog = self.catalog()?;
        let _lock = self.0.lock_schema(deadline).await?;
        let records = by(deadline, catalog.list_indexes()).await?;
        if let Some(known) = check_known(&records, &index, &table)? {
            return Ok(IndexCreated::Known(known));
        }
        self.check_pause(&index, draft.pause_max_ms, deadline).await?;
        let record = IndexRecord::new(&index, draft.pause_max_ms);
        let added = by(deadline, catalog.add_index(&record)).await;
        added.map_err(IndexesError::Doubtful)?;
        tracing::info!(table = table.name(), index = record.name, "an index is being built");
        self.manager().move_announcements.announce();
        Ok(IndexCreated::Begun(record))
    }

    /// Returns the effect that creating an index would have: the record of the index, and the wait
    /// of writes on each shard. Changes nothing.
    ///
    /// # Errors
    /// Those of [`Indexes::create`], except [`IndexesError::PauseTooLong`].
    pub async fn plan(
        self,
        table: &str,
        draft: &IndexDraft,
        deadline: Instant,
    ) -> Result<(IndexCreated, Vec<IndexPause>), IndexesError> {
        let (table, index) = self.declared(table, draft)?;
        let records = by(deadline, self.catalog()?.list_indexes()).await?;
        if let Some(known) = check_known(&records, &index, &table)? {
            return Ok((IndexCreated::Known(known), Vec::new()));
        }
        let pauses = self.pauses(&index, deadline).await?;
        Ok((IndexCreated::Begun(IndexRecord::new(&index, draft.pause_max_ms)), pauses))
    }

    /// Requests that an index is dropped from every shard. The API client needs the scope `tables`.
    ///
    /// # Errors
    /// [`IndexesError`].
    pub async fn remove(
        self,
        table: &str,
        name: &str,
        deadline: Instant,
    ) -> Result<IndexRecord, IndexesError> {
        self.check_scope(table)?;
        let table = self.0.table(table)?;
        let catalog = self.catalog()?;
        for _ in 0..TRIES_MAX {
            let mut records = by(deadline, catalog.list_indexes()).await?;
            records.retain(|record| is_visible(record, &table));
            let Some(found) = records.iter().find(|record| record.name == name) else {
                let names = records.iter().map(|record| record.name.as_str());
                let suggestion = closest(name, names);
                let index = name.chars().take(40).collect();
                return Err(IndexesError::NoIndex { index, suggestion });
            };
            let record = IndexRecord { state: IndexState::Dropping, ..found.clone() };
            let changed = by(deadline, catalog.change_index(&record, found.state)).await;
            if changed.map_err(IndexesError::Doubtful)? {
                tracing::info!(table = table.name(), index = name, "an index is being dropped");
                self.manager().move_announcements.announce();
                return Ok(record);
            }
        }
        Err(IndexesError::Failed(Error::DeadlinePassed))
    }

    /// Returns a table as the API client may know it, and the index that a draft declares on it, if
    /// the client may change tables.
    fn declared(
        self,
        table: &str,
        draft: &IndexDraft,
    ) -> Result<(Arc<Table>, Arc<TableIndex>), IndexesError> {
        self.check_scope(table)?;
        let table = self.0.table(table)?;
        let IndexDraft { name, columns, is_unique, .. } = draft;
        let index = TableIndex::new(&table, name, columns, *is_unique)?;
        Ok((table, Arc::new(index)))
    }

    fn check_scope(self, table: &str) -> Result<(), IndexesError> {
        let allowed = self.0.rights.allow_scope(AccessScope::Tables);
        allowed.map_err(|denied| {
            let (operations, table) = ("index".to_owned(), table.chars().take(40).collect());
            IndexesError::Failed(Error::Forbidden { operations, table, lack: denied.to_string() })
        })
    }

    async fn check_pause(
        self,
        index: &TableIndex,
        pause_max_ms: u64,
        deadline: Instant,
    ) -> Result<(), IndexesError> {
        for IndexPause { shard, pause, .. } in self.pauses(index, deadline).await? {
            let pause_ms = pause.as_millis() as u64;
            if pause_ms > pause_max_ms {
                let shard = self.manager().shard_name(shard).to_owned();
                return Err(IndexesError::PauseTooLong { shard, pause_ms, pause_max_ms });
            }
        }
        Ok(())
    }

    async fn pauses(
        self,
        index: &TableIndex,
        deadline: Instant,
    ) -> Result<Vec<IndexPause>, IndexesError> {
        let mut pauses = Vec::new();
        for (number, shard) in indexed_shards(self.manager()) {
            let estimate = shard.indexes().estimate_pause(index.table().name(), deadline).await?;
            let (rows, pause) =
                estimate.map_or((None, Duration::ZERO), |(rows, pause)| (Some(rows), pause));
            pauses.push(IndexPause { shard: number, rows, pause });
        }
        Ok(pauses)
    }
}

/// Returns the shards that have indexes, which are the open ones that have not retired, in order of
/// their numbers.
pub(super) fn indexed_shards(manager: &Manager) -> Vec<(ShardNumber, Arc<Shard>)> {
    let (shards, retired) = (manager.shards.load_full(), manager.map.open_retired());
    let members = shards.iter().filter(|(number, _)| !retired.contains(number));
    members.map(|(number, shard)| (number, Arc::clone(shard))).collect()
}

/// Returns the listed index of this name, if it has this definition; `None` if the new index may be
/// added. If the definitions differ, the error names the columns of the listed index only if
/// `view`, the table as the API client may know it, has all of them.
fn check_known(
    records: &[IndexRecord],
    index: &TableIndex,
    view: &Table,
) -> Result<Option<IndexRecord>, IndexesError> {
    let of_table = records.iter().filter(|record| record.table == index.table().name());
    let Some(known) = of_table.clone().find(|record| record.name == index.name()) else {
        return match of_table.count() >= TableIndex::PER_TABLE_MAX {
            true => Err(IndexesError::TooMany),
            false => Ok(None),
        };
    };
    let name = known.name.clone();
    if !known.has_shape(index) {
        let unique = if known.is_unique { "unique " } else { "" };
        let definition =
            is_visible(known, view).then(|| format!(": {unique}({})", known.columns.join(", ")));
        return Err(IndexesError::Differs { index: name, definition });
    }
    match known.state {
        IndexState::Building | IndexState::Ready => Ok(Some(known.clone())),
        IndexState::Undoing | IndexState::Dropping => Err(IndexesError::Dropping { index: name }),
        IndexState::Failed => Ok(None),
    }
}

/// Returns true if an index belongs to this table, and the table as the API client may know it has
/// all columns of the index.
fn is_visible(record: &IndexRecord, table: &Table) -> bool {
    record.table == table.name() && record.columns.iter().all(|name| table.find(name).is_some())
}

/// Waits for the catalog, at most until the deadline.
async fn by<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let done = tokio::time::timeout_at(deadline.into(), work).await;
    done.unwrap_or(Err(Error::DeadlinePassed))
}

#[cfg(test)]
mod tests {
    use model::table::Column;
    use model::value::ColumnType;

    use super::*;

    fn table(columns: &[&str]) -> Arc<Table> {
        let column = |name: &&str| Column {
            name: (*name).to_owned(),
            kind: ColumnType::Text,
            nullable: false,
            default: None,
        };
        let columns = columns.iter().map(column).collect();
        Arc::new(Table::new("orders", columns, &["id".to_owned()], Some("id")).expect("good"))
    }

    #[test]
    fn a_refusal_names_the_columns_of_an_index_only_to_callers_who_know_them() {
        let whole = table(&["id", "status", "salary"]);
        let index = |column: &str| {
            TableIndex::new(&whole, "by_pay", &[column.to_owned()], false).expect("good")
        };
        let records = [IndexRecord::new(&index("salary"), 0)];
        let refusal = |view: &Table| {
            check_known(&records, &index("status"), view).expect_err("it differs").to_string()
        };
        let known = "the index `by_pay` exists with another definition";
        assert_eq!(refusal(&whole), format!("{known}: (salary)"));
        assert_eq!(refusal(&table(&["id", "status"])), known);
    }
}
