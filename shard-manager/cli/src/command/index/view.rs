//! View: an index as routers return it, and the plan of a new one.
//!
//! **Not here:** the requests (`place`), the output (`index`).

use engine::index_record::{IndexRecord, IndexState};
use serde::{Deserialize, Serialize};

/// Index with its state.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct IndexView {
    /// Name of the index.
    pub(super) name: String,
    /// Columns, in their order.
    pub(super) columns: Vec<String>,
    /// True if rows of one shard key differ in the columns.
    pub(super) unique: bool,
    /// Name of the state.
    pub(super) state: String,
    /// Number of shards that have the index, while it is being built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) built: Option<u64>,
    /// Number of shards that will have the index, while it is being built.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shards: Option<u64>,
    /// Reason why the index waits or has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// Longest time for which writes of a shard have waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pause_ms: Option<u64>,
    /// Longest time for which writes of a shard may wait.
    pub(super) pause_max_ms: u64,
}

impl IndexView {
    /// Returns the view of a record of a catalog whose cluster has this number of shards.
    pub(super) fn of(record: IndexRecord, shards: usize) -> Self {
        let is_building = record.state == IndexState::Building;
        Self {
            name: record.name,
            columns: record.columns,
            unique: record.is_unique,
            state: record.state.name().to_owned(),
            built: is_building.then_some(record.built as u64),
            shards: is_building.then_some(shards as u64),
            reason: record.reason,
            pause_ms: record.pause_ms,
            pause_max_ms: record.pause_max_ms,
        }
    }

    /// Returns true if every shard has the index.
    pub(super) fn is_ready(&self) -> bool {
        self.state == IndexState::Ready.name()
    }

    /// Returns true if the index will not be built, because it has failed or is being dropped.
    pub(super) fn is_lost(&self) -> bool {
        [IndexState::Failed, IndexState::Dropping].iter().any(|lost| self.state == lost.name())
    }
}

/// Effect that the creation of an index would have.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct IndexPlanView {
    /// The index as it would be listed at first, or as it exists.
    pub(super) index: IndexView,
    /// Effect on each shard; empty if the index exists.
    pub(super) shards: Vec<ShardPauseView>,
}

/// Effect of an index that is built on a shard.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct ShardPauseView {
    /// The shard.
    pub(super) shard: String,
    /// Rows of the table; `None` if writes do not wait.
    pub(super) rows: Option<u64>,
    /// Estimated time for which writes of the shard would wait.
    pub(super) pause_ms: u64,
}
