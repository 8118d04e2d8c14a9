//! Schema: the JSON of requests and responses about indexes.
//!
//! **Not here:** the routes (`indexes`).

use serde::Serialize;
use shard_manager::engine::index_record::{IndexRecord, IndexState};
use shard_manager::manager::{IndexCreated, IndexPause};
use utoipa::ToSchema;

use crate::app::App;

/// The body that creates an index.
#[derive(ToSchema)]
#[schema(example = json!({"name": "by_status", "columns": ["status", "amount"]}))]
pub struct IndexRequest {
    /// Name of the index, with the same rules as a table's name. Indexes of other tables may have
    /// the same name.
    #[schema(max_length = 40, pattern = "^[a-z][a-z0-9_]{0,39}$")]
    #[expect(dead_code, reason = "describes the body; the members are read without building it")]
    name: String,
    /// Columns in order: first those with equality filters, then those of ranges and orders. Not
    /// json; `shard_key`, `version`, `created_at` and `updated_at` may be among them.
    #[schema(min_items = 1, max_items = 8)]
    #[expect(dead_code, reason = "as above")]
    columns: Vec<String>,
    /// True if rows of one shard key must differ in the columns; a row with null in one of them
    /// differs from all others. False by default.
    #[schema(value_type = bool, required = false)]
    #[expect(dead_code, reason = "as above")]
    unique: Option<bool>,
    /// Longest time in milliseconds for which writes of a shard may wait while its index is built,
    /// on files; 2000 by default. The build is refused if it is estimated to take longer, and
    /// stopped if it does.
    #[schema(value_type = u32, required = false, maximum = 600_000)]
    #[expect(dead_code, reason = "as above")]
    pause_max_ms: Option<u32>,
}

/// The indexes of a table.
#[derive(Serialize, ToSchema)]
pub struct IndexesAnswer {
    /// Always true.
    pub(super) success: bool,
    /// The table.
    pub(super) table: String,
    /// The indexes, by name.
    pub(super) indexes: Vec<IndexShape>,
}

/// An index that was requested.
#[derive(Serialize, ToSchema)]
pub struct IndexAnswer {
    /// Always true.
    success: bool,
    /// The index.
    index: IndexShape,
}

/// Effect that the creation of an index would have.
#[derive(Serialize, ToSchema)]
pub struct IndexPlanAnswer {
    /// Always true.
    success: bool,
    /// The index as it would be listed at first, or as it exists.
    index: IndexShape,
    /// Effect on each shard; empty if the index exists.
    shards: Vec<IndexPauseShape>,
}

/// Effect of an index that is built on a shard.
#[derive(Serialize, ToSchema)]
pub(super) struct IndexPauseShape {
    /// The shard.
    shard: String,
    /// Rows of the table; null if writes do not wait.
    #[schema(required)]
    rows: Option<u64>,
    /// Estimated time in milliseconds for which writes of the shard would wait.
    pause_ms: u64,
}

/// An index and its state.
#[derive(Serialize, ToSchema)]
pub struct IndexShape {
    /// The table; only in the list of all tables.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    /// Name of the index.
    name: String,
    /// Columns, in their order.
    columns: Vec<String>,
    /// True if rows of one shard key differ in the columns.
    unique: bool,
    /// `building`, `ready`, `undoing`, `failed` or `dropping`.
    state: &'static str,
    /// Number of shards that have it; while it is being built.
    #[schema(value_type = usize, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    built: Option<usize>,
    /// Number of shards that will have it; while it is being built.
    #[schema(value_type = usize, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<usize>,
    /// Reason why it waits or has failed.
    #[schema(value_type = String, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Longest time in milliseconds for which writes of a shard have waited; absent if they do not
    /// wait.
    #[schema(value_type = u64, required = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_ms: Option<u64>,
    /// Longest time in milliseconds for which writes of a shard may wait.
    pause_max_ms: u64,
}

impl IndexShape {
    /// Converts the record of an index.
    pub fn of(record: IndexRecord, app: &App) -> Self {
        let is_building = record.state == IndexState::Building;
        let shards = || app.manager.map().topology().members().count();
        Self {
            table: None,
            name: record.name,
            columns: record.columns,
            unique: record.is_unique,
            state: record.state.name(),
            built: is_building.then_some(record.built),
            shards: is_building.then(shards),
            reason: record.reason,
            pause_ms: record.pause_ms,
            pause_max_ms: record.pause_max_ms,
        }
    }
}

impl IndexShape {
    /// Converts the record of an index, and adds the name of its table.
    pub fn with_table(record: IndexRecord, app: &App) -> Self {
        Self { table: Some(record.table.clone()), ..Self::of(record, app) }
    }
}

impl IndexAnswer {
    pub(super) fn of(index: IndexShape) -> Self {
        Self { success: true, index }
    }
}

impl IndexPlanAnswer {
    pub(super) fn of(created: IndexCreated, pauses: &[IndexPause], app: &App) -> Self {
        let (IndexCreated::Begun(record) | IndexCreated::Known(record)) = created;
        let shards = pauses.iter().map(|IndexPause { shard, rows, pause }| IndexPauseShape {
            shard: app.manager.shard_name(*shard).to_owned(),
            rows: *rows,
            pause_ms: pause.as_millis() as u64,
        });
        let shards = shards.collect();
        Self { success: true, index: IndexShape::of(record, app), shards }
    }
}
