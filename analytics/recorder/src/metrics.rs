//! The answer of `GET /api/analytics/metrics`, as it is serialized.
//!
//! **Invariant:** every number is finite and not negative; null stands only where a member says so.
//! **Invariant:** `total` = `reads` + `writes` = the sum of `shardDistribution` + `unassigned`.
//! **Not here:** how the numbers come about. That is `figures`.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use utoipa::ToSchema;

use crate::cluster::{LaneNow, MoveNow, NodeNow, PoolNow};
use crate::sample::Operation;

/// What happened in a window, and how fast.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Metrics {
    /// Data requests answered, failed ones too.
    pub total: u64,
    /// Of these, writes. A bulk write is one.
    pub writes: u64,
    /// Of these, reads.
    pub reads: u64,
    /// Answers with status 400 or above.
    pub errors: u64,
    /// Answers with status 400 to 499.
    pub errors_client: u64,
    /// Answers with status 500 or above.
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
    /// The window asked for, in s.
    pub window_s: f64,
    /// What the figures cover, in s: the window rounded up to whole slots, or the time that is remembered when that
    /// is shorter.
    pub measured_s: f64,
    /// When the figures were taken: RFC 3339.
    pub at: String,
    /// When the router started: RFC 3339.
    pub started: String,
    /// Share of `errors` in `total`, 0 to 1.
    pub error_rate: f64,
    /// Data requests being answered now.
    pub in_flight: u64,
    /// Where the time went, in ms. Narrowed by a shard only.
    pub latency_parts_ms: LatencyParts,
    /// By route and operation, the busiest first.
    pub routes: Vec<RouteMetrics>,
    /// Every shard, in the order configured.
    pub shards: Vec<ShardMetrics>,
    /// Who answered the reads.
    pub read_from: ReadFrom,
    /// Shards asked by requests that asked any. Never narrowed.
    pub fanout: FanoutMetrics,
    /// How unevenly the shards are used: the busiest over the mean.
    pub skew: Skew,
    /// The cache, since the start.
    pub cache: CacheMetrics,
    /// The keys asked for most in the window (rounded up to slots of 10 s), at most 20. Narrowed by a shard only.
    pub hot_keys: Vec<HotKey>,
    /// The window as curves.
    pub series: Series,
    /// The cluster as it is now.
    pub cluster: ClusterMetrics,
    /// What is remembered.
    pub history: HistoryMetrics,
}

/// Percentiles of latency in ms, from merged histograms. All 0 when there was no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct LatencyMs {
    /// Half of all requests took no longer.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
    /// The slowest; at most 60,000.
    pub max: f64,
}

/// Where the time of requests went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct LatencyParts {
    /// Waiting for a lane or a connection.
    pub queue: PartMs,
    /// Inside the database.
    pub database: PartMs,
    /// What is left: reading the request, routing, merging, writing the answer.
    pub rest: PartMs,
}

/// One part of the time, in ms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct PartMs {
    /// The mean.
    pub avg: f64,
    /// Half of all requests spent no more.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
}

/// What one route did in the window, reads and writes apart.
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
    /// Answers with status 400 or above.
    pub errors: u64,
    /// Answers with status 400 to 499.
    pub errors_client: u64,
    /// Answers with status 500 or above.
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

/// What one shard did in the window, and how it is now.
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
    /// Answers with status 400 or above.
    pub errors: u64,
    /// Median latency in ms.
    pub p50: f64,
    /// 99th percentile of latency in ms.
    pub p99: f64,
    /// Its share of the requests that met one shard, 0 to 1.
    pub share: f64,
    /// 99th percentile of waiting for a lane or a connection, in ms.
    pub queue_p99: f64,
    /// 99th percentile of the time inside the database, in ms.
    pub database_p99: f64,
    /// Whether it can be written to, now.
    pub up: bool,
    /// Its weight in the placement.
    pub weight: u32,
    /// Slots it owns.
    pub slots: u32,
    /// Rows it holds; null when unknown.
    pub rows: Option<u64>,
    /// Bytes it holds; null when unknown.
    pub bytes: Option<u64>,
    /// How far its worst replica is behind, in ms; null when unknown or without replicas.
    pub lag_ms: Option<f64>,
    /// Connections to it.
    pub pool: PoolNow,
    /// Writes that wait for it.
    pub lane: LaneNow,
    /// Its nodes.
    pub nodes: Vec<NodeNow>,
}

/// Who answered the reads of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReadFrom {
    /// Primaries.
    pub primary: u64,
    /// Replicas.
    pub replica: u64,
    /// The cache.
    pub cache: u64,
}

/// How many shards requests asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct FanoutMetrics {
    /// Requests that asked any.
    pub requests: u64,
    /// Shards asked by one, in the mean.
    pub mean: f64,
    /// Most shards that one asked.
    pub max: u16,
}

/// The busiest shard over the mean of all: 1 is even, the number of shards is all on one; 0 without data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Skew {
    /// By requests of the window.
    pub requests: f64,
    /// By rows held now; shards whose rows are unknown are left out.
    pub rows: f64,
}

/// The cache: counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct CacheMetrics {
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
    /// Share of `hits` in those that came to it, 0 to 1.
    pub hit_rate: f64,
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

/// A key that is asked for often.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct HotKey {
    /// The key.
    pub key: String,
    /// Its shard; null when requests for it met several, or none.
    pub shard: Option<String>,
    /// Its slot; null when unknown.
    pub slot: Option<u16>,
    /// Requests for it in the window: an estimate, too high by at most `error`.
    pub requests: u64,
    /// How much too high `requests` may be.
    pub error: u64,
    /// Its share of all requests of the same time, 0 to 1.
    pub share: f64,
    /// Of `requests`, reads.
    pub reads: u64,
    /// Of `requests`, writes.
    pub writes: u64,
}

/// The window as curves: one number for each point of time, at most 180 points. Where nobody counted, such as while a
/// router was down, there is no point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Series {
    /// Length of a point, in s.
    pub step_s: u64,
    /// When each point begins, in s since 1970 UTC.
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
    /// Answers with status 400 or above, per second.
    pub errors: Vec<f64>,
    /// The same for each shard, in the order configured.
    #[schema(value_type = std::collections::BTreeMap<String, ShardSeries>)]
    pub shards: Named<ShardSeries>,
    /// How latencies were spread over time.
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
    /// Upper bounds of the buckets in ms, growing; what is slower than the last has one bucket more.
    pub bounds_ms: Vec<f64>,
    /// For each point of time, requests in each bucket: one more than there are bounds.
    pub counts: Vec<Vec<u64>>,
}

/// The cluster, as the page draws it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct ClusterMetrics {
    /// Version of the shard map.
    pub epoch: u64,
    /// `sqlite`, `postgres` or `citus`.
    pub backend: String,
    /// Version of the router.
    pub version: String,
    /// How long the router has been running, in s.
    pub uptime_s: u64,
    /// How many slots there are.
    pub slots: u32,
    /// Who owns which slots: first, last (inclusive), shard.
    pub ranges: Vec<(u16, u16, String)>,
    /// Running moves of slots.
    #[schema(value_type = Vec<Object>)]
    pub moves: Vec<MoveNow>,
}

/// What is remembered of the past.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct HistoryMetrics {
    /// Memory that it takes.
    pub bytes: u64,
    /// Since when something is remembered, in s since 1970 UTC.
    pub oldest: u64,
    /// Slots that were forgotten before their time, for memory is bounded.
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
