//! Cluster: the current state of the cluster and of the router, which responses show beside the
//! counts of requests.
//!
//! These types are sent as JSON: a router fills in one [`ClusterNow`], and the analytics service
//! holds one for each router.
//!
//! **Not here:** counts over time. No node is contacted to fill in these values.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// State of a rebalance that has ended without moving all slots.
const FAILED_STATE: &str = "failed";

/// The cluster and the router at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ClusterNow {
    /// Version of the shard map.
    pub epoch: u64,
    /// `sqlite`, `postgres` or `citus`.
    pub backend: String,
    /// Version of the router.
    pub version: String,
    /// Start of the router: RFC 3339.
    pub started: String,
    /// Time since the start of the router, in s.
    pub uptime_s: u64,
    /// Data requests that are being answered.
    pub in_flight: u64,
    /// Owners of ranges of slots: first, last (inclusive), shard.
    pub ranges: Vec<(u16, u16, String)>,
    /// Number of slots.
    pub slots: u32,
    /// Names of the table groups, each of which has as many of the slots, in their order; left
    /// out if all tables are one group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Every shard, in the order configured.
    pub shards: Vec<ShardNow>,
    /// The cache.
    pub cache: CacheNow,
    /// Writes that wait until a shard accepts their slots.
    pub parked: ParkedNow,
    /// Running moves of slots.
    #[schema(value_type = Vec<Object>)]
    pub moves: Vec<MoveNow>,
    /// Work for moves of slots.
    pub moved: MoveTotalsNow,
    /// The running rebalance, or the last one; null if this router does not carry out rebalances,
    /// or there was none.
    pub rebalance: Option<RebalanceNow>,
}

/// State of one shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ShardNow {
    /// Name of the shard.
    pub shard: String,
    /// True if the shard takes writes.
    pub up: bool,
    /// Weight of the shard in the placement.
    pub weight: u32,
    /// Slots that the shard owns.
    pub slots: u32,
    /// Rows that the shard holds, if known.
    pub rows: Option<u64>,
    /// Bytes that the shard holds, if known.
    pub bytes: Option<u64>,
    /// Connections to the shard.
    pub pool: PoolNow,
    /// Writes that wait for the shard.
    pub lane: LaneNow,
    /// Results of comparing the copies of the shard.
    pub compared: ComparedNow,
    /// Nodes of the shard.
    pub nodes: Vec<NodeNow>,
}

/// Connections of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PoolNow {
    /// Connections in use.
    pub in_use: u64,
    /// Connections allowed.
    pub max: u64,
    /// Requests that wait for a connection.
    pub waiting: u64,
}

/// The lane of a shard's writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LaneNow {
    /// Writes that wait.
    pub waiting: u64,
    /// Bytes of the writes that wait.
    pub waiting_bytes: u64,
    /// Batches written since the start.
    pub batches: u64,
    /// Writes in those batches.
    pub operations: u64,
    /// Largest number of writes in one batch so far.
    pub largest_batch: u64,
}

/// Results of comparing the copies of a shard since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ComparedNow {
    /// Number of times that all rows of all copies were compared.
    pub passes: u64,
    /// Rows that differed in every pass.
    pub differences: u64,
}

/// State of one node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NodeNow {
    /// Name of the node: `shard1-replica1`.
    pub node: String,
    /// `primary` or `replica`.
    pub role: String,
    /// True if the node fulfils its role: a primary takes writes, a replica is read.
    pub up: bool,
    /// Reasons why the node does not fulfil its role, in sentences; empty if it does.
    pub reasons: Vec<String>,
    /// Delay of a replica behind its primary, in ms; null if unknown and for a primary.
    pub lag_ms: Option<f64>,
    /// Duration of a probe of the node, in ms; null if unknown.
    pub latency_ms: Option<f64>,
}

/// Counts of the cache since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct CacheNow {
    /// True if there is a cache.
    pub enabled: bool,
    /// Reads that the cache answered.
    pub hits: u64,
    /// Reads that the cache could not answer.
    pub misses: u64,
    /// Reads for which the cache held only an entry that was too old.
    pub stale: u64,
    /// Reads that did not use the cache.
    pub bypass: u64,
    /// Answers that were stored in the cache.
    pub fills: u64,
    /// Answers that the cache refused to store.
    pub rejected: u64,
    /// Failures of the cache.
    pub errors: u64,
    /// Keys that were invalidated because their rows were written.
    pub voids: u64,
    /// Hits that the router's own memory answered.
    pub near_hits: u64,
    /// Reads that did not contact the cache because their query is too infrequent.
    pub seldom: u64,
    /// `closed`, `open` or `half_open`; empty without a cache.
    pub breaker: String,
}

/// Writes that wait until a shard accepts their slots, which are fenced or move.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ParkedNow {
    /// Rows that wait.
    pub rows: u64,
    /// Bytes of these rows.
    pub bytes: u64,
    /// Rows that have waited or wait, since the start.
    pub total: u64,
    /// Rows for which there was no room, since the start.
    pub refused: u64,
    /// Longest wait that has ended, in s.
    pub longest_s: f64,
    /// Rows whose wait has ended, by its length, the shortest first.
    pub waits: Vec<WaitBucket>,
    /// Sum of these waits, in s.
    pub waited_s: f64,
}

/// Bucket of a histogram: rows whose wait was at most `up_to_ms` and longer than the bound of the
/// bucket before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct WaitBucket {
    /// Longest wait that is counted here, in ms; null for all longer ones.
    pub up_to_ms: Option<u32>,
    /// Number of rows.
    pub rows: u64,
}

/// A move of slots in progress.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MoveNow {
    /// Identity of the move.
    pub id: String,
    /// Slots, as ranges.
    pub slots: String,
    /// Number of slots.
    pub slot_count: usize,
    /// Shard that the slots leave.
    pub from: String,
    /// Shard that receives the slots.
    pub to: String,
    /// Current phase of the move.
    pub phase: String,
    /// Rows that were copied, and copied again.
    pub rows: u64,
    /// Changed rows that the receiving shard lacked when the other one was last read; null while no
    /// copy is kept current.
    pub changes_behind: Option<u64>,
    /// Upper limit of the age of the oldest change that the receiving shard lacks, in ms; 0 if it
    /// lacks none.
    pub lag_ms: Option<f64>,
    /// True if nothing has changed for some time although work is left.
    pub stalled: bool,
    /// Reason why the move waits, if it does.
    pub reason: Option<String>,
}

/// Work for moves of slots since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct MoveTotalsNow {
    /// Rows that were copied, and copied again.
    pub rows: u64,
    /// Bytes of these rows.
    pub bytes: u64,
    /// Moves that ended with the slots on their new shard.
    pub done: u64,
    /// Moves that were cancelled before the new shard owned the slots.
    pub cancelled: u64,
    /// Moves that were rolled back: their slots are on the old shard again.
    pub rolled_back: u64,
    /// Moves that could not be carried out.
    pub failed: u64,
    /// Longest time for which writes of slots waited, in s.
    pub longest_hold_s: f64,
}

/// The running rebalance, or the last one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RebalanceNow {
    /// Identity of the rebalance.
    pub id: String,
    /// Goal: `slots`, `size` or `load`, which shards share by weight; `placement`; or `drain`.
    pub by: String,
    /// `running`, `paused`, `cancelling`, or how it has ended: `done`, `cancelled` or `failed`.
    pub state: String,
    /// True if nothing has changed for some time although work is left.
    pub stalled: bool,
    /// Reason why it waits or has ended without success.
    pub reason: Option<String>,
    /// Moves of its plan.
    pub moves: u64,
    /// Moves whose slots are on their new shard.
    pub moves_done: u64,
    /// Moves that have ended in another way.
    pub moves_failed: u64,
    /// Rows that were copied, and copied again.
    pub rows: u64,
    /// Approximate rows of its plan, if known.
    pub planned_rows: Option<u64>,
    /// Skew before its first move: the most that a shard has, as a multiple of its fair share.
    pub skew_before: f64,
    /// Skew after its last move, as planned.
    pub skew_planned: f64,
    /// Skew as measured at its end, if it was.
    pub skew_measured: Option<f64>,
    /// Time from its order to its end, or until now, in s.
    pub seconds: f64,
    /// Time since its end, in s; null while it runs.
    pub ended_s: Option<u64>,
}

impl RebalanceNow {
    /// States of a rebalance.
    pub const STATES: [&str; 6] =
        ["running", "paused", "cancelling", "done", "cancelled", FAILED_STATE];
    /// Time for which a failure is reported, in s. It is limited so that no operator has to begin
    /// another rebalance only to end an alert.
    const NEWS_S: u64 = 24 * 60 * 60;

    /// Returns true if the rebalance failed less than a day ago: some slots could not be moved.
    pub fn has_failed(&self) -> bool {
        self.state == FAILED_STATE && self.ended_s.is_none_or(|ended| ended < Self::NEWS_S)
    }
}

impl CacheNow {
    /// Returns the share of cache hits among the reads that used the cache, from 0 to 1.
    pub fn hit_rate(&self) -> f64 {
        let reads = self.hits + self.misses + self.stale;
        if reads == 0 { 0.0 } else { self.hits as f64 / reads as f64 }
    }
}
