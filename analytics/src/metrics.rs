//! The answer of `GET /api/analytics/metrics`, as it is serialized.
//!
//! **Invariant:** every number is finite and not negative; members and shards keep one order.
//! **Invariant:** `total` = `reads` + `writes` = the sum of `shardDistribution` + `unassigned`.
//! **Not here:** which slots count. `recorder` adds them up and passes one sheet.

use std::time::Duration;

use serde::ser::{Serialize, SerializeMap, Serializer};
use utoipa::ToSchema;

use crate::histogram::LatencyHistogram;
use crate::slot::{Cell, Sheet, Tally};
use crate::window::Window;

/// Least time a rate is taken over: a question right after the start gets no absurd rate.
const MEASURED_MIN: Duration = Duration::from_millis(1);

/// What happened in a window, and how fast.
#[derive(Clone, Debug, PartialEq, serde::Serialize, ToSchema)]
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
    pub shard_distribution: ShardCounts,
    /// Requests that belong to no single shard: bulk writes over several, fan-out reads, and those
    /// refused before routing.
    pub unassigned: u64,
    /// Latencies of all requests, in ms.
    pub latency_ms: LatencyMs,
    /// The window asked for, in s.
    pub window_s: f64,
    /// What the figures cover, in s: the window rounded up to whole slots of 5 s, or the time lived
    /// when that is shorter.
    pub measured_s: f64,
    /// Every shard, in the order configured.
    pub shards: Vec<ShardMetrics>,
}

/// Percentiles of latency in ms, from merged histograms. All 0 when there was no request.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, ToSchema)]
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

/// What one shard did in the window.
#[derive(Clone, Debug, PartialEq, serde::Serialize, ToSchema)]
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
}

/// Number of requests per shard; serialized as an object in the order configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardCounts(pub Vec<(String, u64)>);

impl Serialize for ShardCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_map(Some(self.0.len()))?;
        for (shard, count) in &self.0 {
            object.serialize_entry(shard, count)?;
        }
        object.end()
    }
}

impl Metrics {
    /// The figures of `sheet`, which covers `measured` and has one cell more than there are
    /// `shards`.
    pub(crate) fn of(sheet: &Sheet, shards: &[String], window: Window, measured: Duration) -> Self {
        let (sum, latencies) = totals(sheet);
        let Tally { reads, writes, errors_client, errors_server, micros } = sum;
        let labelled = || shards.iter().zip(&sheet.cells);
        let counts = labelled().map(|(shard, cell)| (shard.clone(), cell.tally.total()));
        let unassigned = &sheet.cells[shards.len()].tally;
        Self {
            total: sum.total(),
            writes,
            reads,
            errors: sum.errors(),
            errors_client,
            errors_server,
            avg_latency: mean_ms(micros, sum.total()),
            throughput: per_second(sum.total(), measured),
            shard_distribution: ShardCounts(counts.collect()),
            unassigned: unassigned.total(),
            latency_ms: LatencyMs::of(&latencies),
            window_s: window.length().as_secs_f64(),
            measured_s: rounded(measured.as_secs_f64(), 1e3),
            shards: labelled().map(|(s, cell)| ShardMetrics::of(s, cell, measured)).collect(),
        }
    }
}

impl LatencyMs {
    fn of(latencies: &LatencyHistogram) -> Self {
        Self {
            p50: ms(latencies.quantile(0.50)),
            p90: ms(latencies.quantile(0.90)),
            p95: ms(latencies.quantile(0.95)),
            p99: ms(latencies.quantile(0.99)),
            p999: ms(latencies.quantile(0.999)),
            max: ms(latencies.max()),
        }
    }
}

impl ShardMetrics {
    fn of(shard: &str, cell: &Cell, measured: Duration) -> Self {
        Self {
            shard: shard.to_owned(),
            ops_per_s: per_second(cell.tally.total(), measured),
            reads: cell.tally.reads,
            writes: cell.tally.writes,
            errors: cell.tally.errors(),
            p50: ms(cell.latencies.quantile(0.50)),
            p99: ms(cell.latencies.quantile(0.99)),
        }
    }
}

fn totals(sheet: &Sheet) -> (Tally, LatencyHistogram) {
    let mut sum = Tally::default();
    let mut latencies = LatencyHistogram::new();
    for cell in &sheet.cells {
        sum.add(&cell.tally);
        latencies.merge(&cell.latencies);
    }
    (sum, latencies)
}

/// Whole µs as ms: 420 µs is 0.42.
fn ms(latency: Duration) -> f64 {
    latency.as_micros() as f64 / 1e3
}

fn mean_ms(micros: u64, count: u64) -> f64 {
    rounded(micros as f64 / count.max(1) as f64 / 1e3, 1e3)
}

fn per_second(count: u64, measured: Duration) -> f64 {
    rounded(count as f64 / measured.max(MEASURED_MIN).as_secs_f64(), 1e6)
}

/// Drops digits that say nothing: `parts` 1e3 keeps three decimals.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}
