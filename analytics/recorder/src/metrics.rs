//! Metrics: the response of `GET /api/analytics/metrics`, as it is serialized.
//!
//! **Invariant:** every number is finite and not negative; a member is null only if its description
//! says so.
//! **Invariant:** `total` = `reads` + `writes` = the sum of `shardDistribution` + `unassigned`.
//! **Not here:** computing the numbers (`figures`).

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use utoipa::ToSchema;

use crate::cluster::{LaneNow, MoveNow, NodeNow, PoolNow, RebalanceNow};
use crate::sample::Operation;

/// Counts and latencies of the requests of a window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Metrics {
    /// Data requests answered, including failed ones.
    pub total: u64,
    /// Writes among these requests. A bulk write counts as one.
    pub writes: u64,
    /// Reads among these requests.
    pub reads: u64,
    /// Responses with status 400 or above.
    pub errors: u64,
    /// Responses with status 400 to 499.
    pub errors_client: u64,
    /// Responses with status 500 or above.
    pub errors_server: u64,
    /// Mean latency in ms; 0 when there was no request.
    #[serde(rename = "avgLatency")]
    pub avg_latency: f64,
    /// Requests per second over `measured_s`.
    pub throughput: f64,
    /// Requests per shard: every shard, in the order configured.
    #[serde(rename = "shardDistribution")]
    #[schema(value_type = std::collections::BTreeMap<String, u64>)]
    pub shard_distribution: Named<u64>,
    /// Requests that belong to no single shard: bulk writes over several, fan-out reads, and those
    /// refused before routing.
    pub unassigned: u64,
    /// Latencies of all requests, in ms.
    pub latency_ms: LatencyMs,
    /// Requested length of the window, in s.
    pub window_s: f64,
    /// Measured time in s: the window rounded up to whole intervals, or less if a shorter time was
    /// measured.
    pub measured_s: f64,
    /// Time of the metrics: RFC 3339.
    pub at: String,
    /// Start of the router: RFC 3339.
    pub started: String,
    /// Share of `errors` in `total`, 0 to 1.
    pub error_rate: f64,
    /// Data requests being answered now.
    pub in_flight: u64,
    /// Time that requests spent in each part of their processing, in ms. Only the filter by shard
    /// applies.
    pub latency_parts_ms: LatencyParts,
    /// Metrics of each route and operation, the busiest first.
    pub routes: Vec<RouteMetrics>,
    /// Metrics of every shard, in the configured order.
    pub shards: Vec<ShardMetrics>,
    /// Reads by the kind of node that answered.
    pub read_from: ReadFrom,
    /// Numbers of shards that requests contacted. No filter applies.
    pub fanout: FanoutMetrics,
    /// Imbalance of the shards: the load of the busiest divided by the mean.
    pub skew: Skew,
    /// Counts of the cache since the start of the router.
    pub cache: CacheMetrics,
    /// The most requested keys of the window (rounded up to intervals of 10 s), at most 20. Only
    /// the filter by shard applies.
    pub hot_keys: Vec<HotKey>,
    /// Curves of the metrics over the window.
    pub series: Series,
    /// Current state of the cluster.
    pub cluster: ClusterMetrics,
    /// Size of the history.
    pub history: HistoryMetrics,
}

/// Percentiles of latency in ms, from merged histograms. All 0 when there was no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct LatencyMs {
    /// Latency that half of all requests did not exceed.
    pub p50: f64,
    /// Latency that 90 % of all requests did not exceed.
    pub p90: f64,
    /// Latency that 95 % of all requests did not exceed.
    pub p95: f64,
    /// Latency that 99 % of all requests did not exceed.
    pub p99: f64,
    /// Latency that 99.9 % of all requests did not exceed.
    pub p999: f64,
    /// Latency of the slowest request, at most 60,000.
    pub max: f64,
}

/// Parts of the time of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct LatencyParts {
    /// Time spent waiting for a lane or a connection.
    pub queue: PartMs,
    /// Time inside the database.
    pub database: PartMs,
    /// Time outside of these: reading the request, routing, merging, writing the response.
    pub rest: PartMs,
}

/// One part of the time, in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct PartMs {
    /// Mean time.
    pub avg: f64,
    /// Time that half of all requests did not exceed.
    pub p50: f64,
    /// Time that 99 % of all requests did not exceed.
    pub p99: f64,
}

/// Requests of one route in the window; reads and writes are separate.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RouteMetrics {
    /// Route as it is declared.
    pub route: String,
    /// Read or write.
    pub operation: Operation,
    /// Requests.
    pub total: u64,
    /// Requests per second.
    pub ops_per_s: f64,
    /// Responses with status 400 or above.
    pub errors: u64,
    /// Responses with status 400 to 499.
    pub errors_client: u64,
    /// Responses with status 500 or above.
    pub errors_server: u64,
    /// Mean latency in ms.
    pub avg: f64,
    /// Median latency in ms.
    pub p50: f64,
    /// 95th percentile in ms.
    pub p95: f64,
    /// 99th percentile in ms.
    pub p99: f64,
    /// The slowest, in ms.
    pub max: f64,
}

/// Requests of one shard in the window, and its current state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ShardMetrics {
    /// Name of the shard.
    pub shard: String,
    /// Requests per second, reads and writes.
    pub ops_per_s: f64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Responses with status 400 or above.
    pub errors: u64,
    /// Median latency in ms.
    pub p50: f64,
    /// 99th percentile of latency in ms.
    pub p99: f64,
    /// Share of the requests to a single shard, 0 to 1.
    pub share: f64,
    /// 99th percentile of waiting for a lane or a connection, in ms.
    pub queue_p99: f64,
    /// 99th percentile of the time inside the database, in ms.
    pub database_p99: f64,
    /// True if the shard takes writes now.
    pub up: bool,
    /// Weight of the shard in the placement.
    pub weight: u32,
    /// Slots that the shard owns.
    pub slots: u32,
    /// Rows that the shard holds; null if unknown.
    pub rows: Option<u64>,
    /// Bytes that the shard holds; null if unknown.
    pub bytes: Option<u64>,
    /// Delay of the replica that is furthest behind, in ms; null if unknown or without replicas.
    pub lag_ms: Option<f64>,
    /// Connections to the shard.
    pub pool: PoolNow,
    /// Writes that wait for the shard.
    pub lane: LaneNow,
    /// Nodes of the shard.
    pub nodes: Vec<NodeNow>,
}

/// Reads of the window by the kind of node that answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReadFrom {
    /// Primaries.
    pub primary: u64,
    /// Replicas.
    pub replica: u64,
    /// The cache.
    pub cache: u64,
}

/// Numbers of shards that requests contacted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct FanoutMetrics {
    /// Requests that contacted any shard.
    pub requests: u64,
    /// Mean number of shards that a request contacted.
    pub mean: f64,
    /// Largest number of shards that one request contacted.
    pub max: u16,
}

/// Load of the busiest shard divided by the mean of all shards. 1 means that the load is even; a
/// value equal to the number of shards means that one shard has all of it; 0 without data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Skew {
    /// By requests of the window.
    pub requests: f64,
    /// By rows held now; shards whose rows are unknown are left out.
    pub rows: f64,
}

/// Counts of the cache since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct CacheMetrics {
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
    /// Share of `hits` in the reads through the cache, 0 to 1.
    pub hit_rate: f64,
    /// Answers that were stored in the cache.
    pub fills: u64,
    /// Answers that the cache refused to store, because the key was written meanwhile or a newer
    /// answer is stored.
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

/// A frequently requested key.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct HotKey {
    /// The key.
    pub key: String,
    /// Shard of the key; null if requests for it contacted several, or none.
    pub shard: Option<String>,
    /// Slot of the key; null if unknown.
    pub slot: Option<u16>,
    /// Requests for the key in the window: an estimate, too high by at most `error`.
    pub requests: u64,
    /// Largest error of `requests`, which is never too low.
    pub error: u64,
    /// Share in all requests of the same time, 0 to 1.
    pub share: f64,
    /// Reads among `requests`.
    pub reads: u64,
    /// Writes among `requests`.
    pub writes: u64,
}

/// The window as curves: one number for each point of time, at most 180 points. There is no point
/// for a time that was not measured, for example because a router was down.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Series {
    /// Length of a point, in s.
    pub step_s: u64,
    /// Start of each point, in s since 1970 UTC.
    pub t: Vec<u64>,
    /// Requests per second.
    pub rps: Vec<f64>,
    /// Reads per second.
    pub reads: Vec<f64>,
    /// Writes per second.
    pub writes: Vec<f64>,
    /// Median latency in ms; 0 without requests.
    pub p50: Vec<f64>,
    /// 99th percentile of latency in ms; 0 without requests.
    pub p99: Vec<f64>,
    /// Responses with status 400 or above, per second.
    pub errors: Vec<f64>,
    /// Curves of each shard, in the order configured.
    #[schema(value_type = std::collections::BTreeMap<String, ShardSeries>)]
    pub shards: Named<ShardSeries>,
    /// Latencies by time.
    pub heatmap: Heatmap,
}

/// The curves of one shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ShardSeries {
    /// Requests per second.
    pub rps: Vec<f64>,
    /// Median latency in ms; 0 without requests.
    pub p50: Vec<f64>,
    /// 99th percentile of latency in ms; 0 without requests.
    pub p99: Vec<f64>,
}

/// Requests by time and latency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Heatmap {
    /// Upper bounds of the buckets in ms, in increasing order; there is one more bucket for slower
    /// requests.
    pub bounds_ms: Vec<f64>,
    /// Requests in each bucket, for each point of time: one count more than there are bounds.
    pub counts: Vec<Vec<u64>>,
}

/// State of the cluster, for the dashboard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ClusterMetrics {
    /// Version of the shard map.
    pub epoch: u64,
    /// `sqlite`, `postgres` or `citus`.
    pub backend: String,
    /// Version of the router.
    pub version: String,
    /// Time since the start of the router, in s.
    pub uptime_s: u64,
    /// Number of slots.
    pub slots: u32,
    /// Names of the table groups, each of which has as many of the slots, in their order; left
    /// out if all tables are one group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// Owners of ranges of slots: first, last (inclusive), shard.
    pub ranges: Vec<(u16, u16, String)>,
    /// Running moves of slots.
    #[schema(value_type = Vec<Object>)]
    pub moves: Vec<MoveNow>,
    /// The running rebalance, or the last one; null if no requested router carries out rebalances,
    /// or there was none.
    #[schema(required, value_type = Option<Object>)]
    pub rebalance: Option<RebalanceNow>,
}

/// Size of the history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct HistoryMetrics {
    /// Bytes of memory that the history takes.
    pub bytes: u64,
    /// Start of the history, in s since 1970 UTC.
    pub oldest: u64,
    /// Number of frames that were removed before their time because memory is bounded.
    pub dropped: u64,
}

/// Values by name; serialized as an object that keeps their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T>(pub Vec<(String, T)>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Named<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            object.serialize_entry(name, value)?;
        }
        object.end()
    }
}
