//! The cluster as it is now: what the router knows beside what it counted.
//!
//! Plain values that travel as JSON: a router fills one in, the service holds one for each router.
//!
//! **Not here:** nothing that was counted over time; nothing is asked of a node for it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a router knows of its cluster and of itself, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ClusterNow {
    /// Version of the shard map.
    pub epoch: u64,
    /// `sqlite`, `postgres` or `citus`.
    pub backend: String,
    /// Version of the router.
    pub version: String,
    /// When the router started: RFC 3339.
    pub started: String,
    /// How long ago that is, in s.
    pub uptime_s: u64,
    /// Data requests being answered.
    pub in_flight: u64,
    /// Who owns which slots: first, last (inclusive), shard.
    pub ranges: Vec<(u16, u16, String)>,
    /// How many slots there are.
    pub slots: u32,
    /// Every shard, in the order configured.
    pub shards: Vec<ShardNow>,
    /// The cache.
    pub cache: CacheNow,
    /// Running moves of slots.
    #[schema(value_type = Vec<Object>)]
    pub moves: Vec<MoveNow>,
}

/// One shard, now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ShardNow {
    /// Its name.
    pub shard: String,
    /// Whether it can be written to.
    pub up: bool,
    /// Its weight in the placement.
    pub weight: u32,
    /// Slots it owns.
    pub slots: u32,
    /// Rows it holds, when known.
    pub rows: Option<u64>,
    /// Bytes it holds, when known.
    pub bytes: Option<u64>,
    /// Connections to it.
    pub pool: PoolNow,
    /// Writes that wait for it.
    pub lane: LaneNow,
    /// What comparing its copies has found.
    pub compared: ComparedNow,
    /// Its nodes.
    pub nodes: Vec<NodeNow>,
}

/// Connections of a shard, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PoolNow {
    /// In use.
    pub in_use: u64,
    /// Allowed.
    pub max: u64,
    /// Requests that wait for one.
    pub waiting: u64,
}

/// The lane that a shard's writes take, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LaneNow {
    /// Writes waiting.
    pub waiting: u64,
    /// Bytes of them.
    pub waiting_bytes: u64,
    /// Batches done since the start.
    pub batches: u64,
    /// Writes done in them.
    pub operations: u64,
    /// Most writes in one batch.
    pub largest_batch: u64,
}

/// What comparing the copies of a shard has found since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ComparedNow {
    /// How often all rows of all copies were compared.
    pub passes: u64,
    /// Rows found to differ, in each of the passes.
    pub differences: u64,
}

/// One node, now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NodeNow {
    /// Its name: `shard1-replica1`.
    pub node: String,
    /// `primary` or `replica`.
    pub role: String,
    /// Whether it does what its role demands: a primary takes writes, a replica is read.
    pub up: bool,
    /// Why it does not, in sentences; empty if it does.
    pub reasons: Vec<String>,
    /// How far it is behind its primary, in ms; null when unknown and for a primary.
    pub lag_ms: Option<f64>,
    /// How long it takes to answer a probe, in ms; null when unknown.
    pub latency_ms: Option<f64>,
}

/// The cache: counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CacheNow {
    /// Whether there is one.
    pub enabled: bool,
    /// Reads it answered.
    pub hits: u64,
    /// Reads it could not answer.
    pub misses: u64,
    /// Reads it held something too old for.
    pub stale: u64,
    /// Reads that were not for it.
    pub bypass: u64,
    /// Answers it was given to keep.
    pub fills: u64,
    /// Answers it did not take.
    pub rejected: u64,
    /// Times it failed.
    pub errors: u64,
    /// Keys it was told to forget, because rows of theirs were written.
    pub voids: u64,
    /// Of the hits, those that the router's own memory answered.
    pub near_hits: u64,
    /// Of the misses, those that were asked too seldom for the cache to be visited.
    pub seldom: u64,
    /// `closed`, `open` or `half_open`; empty without a cache.
    pub breaker: String,
}

/// A move of slots that is under way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MoveNow {
    /// First and last slot.
    pub slots: (u16, u16),
    /// Shard that gives them away.
    pub from: String,
    /// Shard that takes them.
    pub to: String,
    /// What it is doing.
    pub phase: String,
    /// How much is done, 0 to 1.
    pub progress: f64,
}

impl CacheNow {
    /// Share of the reads that came to the cache which it answered, 0 to 1.
    pub fn hit_rate(&self) -> f64 {
        let asked = self.hits + self.misses + self.stale;
        if asked == 0 { 0.0 } else { self.hits as f64 / asked as f64 }
    }
}
