//! View: an index as routers return it, and the effect that building one would have.
//!
//! **Not here:** the requests (`place`), the output (`index`).

use engine::index_record::{IndexRecord, IndexState};
use serde::{Deserialize, Serialize};

/// Index with its state.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct IndexView {
    /// Name of the index.
    pub(super) name: String,
    /// Names of the columns, in the order of the index.
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
    /// Longest time in milliseconds for which writes of a shard have waited; `None` if writes do
    /// not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pause_ms: Option<u64>,
    /// Limit in milliseconds for the time that writes of a shard may wait.
    pub(super) pause_max_ms: u64,
}

impl IndexView {
    /// Returns the view of a catalog record. `shards` is the number of shards of the cluster.
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

/// Effect that building an index would have.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct IndexPlanView {
    /// The index as it would be listed when the build begins or, if it exists already, as it is
    /// listed now.
    pub(super) index: IndexView,
    /// Effect on each shard; empty if the index exists.
    pub(super) shards: Vec<ShardPauseView>,
}

/// Effect of building an index on one shard.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct ShardPauseView {
    /// Name of the shard.
    pub(super) shard: String,
    /// Number of rows of the table on the shard; `None` if writes do not wait.
    pub(super) rows: Option<u64>,
    /// Estimated time in milliseconds for which writes of the shard would wait.
    pub(super) pause_ms: u64,
}
