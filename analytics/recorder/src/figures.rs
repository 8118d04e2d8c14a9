//! Figures: the metrics of a window, computed from its frames.
//!
//! **Invariant:** histograms of several intervals, shards and routers are merged, and percentiles
//! are computed from the result; a percentile is never averaged.
//! **Not here:** adding up frames (`window_sums`), choosing frames (`history`).

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat};

use crate::cluster::{CacheNow, ClusterNow, ShardNow};
use crate::curves::{Grid, SHARDS_MAX};
use crate::frame::{Frame, Step};
use crate::histogram::LatencyHistogram;
use crate::history::{Extent, History, Measured, WindowFrames};
use crate::merge::merged_hot;
use crate::metrics::{
    CacheMetrics, ClusterMetrics, FanoutMetrics, HistoryMetrics, HotKey, LatencyMs, LatencyParts,
    Metrics, Named, PartMs, RouteMetrics, ShardMetrics, Skew,
};
use crate::query::MetricsQuery;
use crate::window_sums::{PartSum, RouteSum, ShardSum, WindowSums};

/// Maximum number of keys in a response.
pub(crate) const HOT_KEYS_MAX: usize = 20;
/// Minimum time over which a rate is computed, in ms.
const MEASURED_MIN_MS: u64 = 1;
/// Last millisecond that RFC 3339 can represent, because its years have four digits.
const TIME_MAX_MS: u64 = 253_402_300_799_999;

/// Returns the metrics of the window of `query` that ends at `at_ms` (ms since 1970 UTC), of all
/// `histories` together.
///
/// `now` is the current state of the cluster and becomes part of the response. The response lists
/// its shards first, in their order; shards that occur only in the histories follow. With several
/// routers, the calling function must merge their states into one `now`. The computation takes
/// milliseconds, so it must be called where blocking is allowed.
pub fn figures(
    histories: &[&History],
    query: &MetricsQuery,
    now: &ClusterNow,
    at_ms: u64,
) -> Metrics {
    let window_frames = together(
        histories.iter().map(|history| WindowFrames::of(history, query.window, at_ms)),
        at_ms,
    );
    let coarsest =
        window_frames.frames.iter().map(|frame| frame.step).max().unwrap_or(Step::Second);
    let grid = Grid::new(query.window, at_ms, coarsest);
    let names = now.shards.iter().map(|shard| shard.shard.clone()).collect();
    let measured: Vec<_> = histories.iter().map(|history| Measured::of(history)).collect();
    let counted = Measured::counted_times(&measured, &window_frames, at_ms);
    let sums = WindowSums::of(&window_frames.frames, query, grid, counted.as_ref(), names);
    let measured_ms = Measured::counted_ms(counted.as_ref(), &window_frames, at_ms);
    let seconds = measured_ms.max(MEASURED_MIN_MS) as f64 / 1e3;
    let counts = sums.names.iter().zip(&sums.shards);
    let counts: Vec<_> = counts.map(|(name, sum)| (name.clone(), sum.tally.total())).collect();
    let tally = &sums.tally;
    Metrics {
        total: tally.total(),
        writes: tally.writes,
        reads: tally.reads,
        errors: tally.errors(),
        errors_client: tally.errors_client,
        errors_server: tally.errors_server,
        avg_latency: mean_ms(tally.micros, tally.total()),
        throughput: per_second(tally.total(), seconds),
        unassigned: sums.unassigned.tally.total(),
        latency_ms: LatencyMs::of(&sums.latencies),
        window_s: query.window.length().as_secs_f64(),
        measured_s: rounded(measured_ms as f64 / 1e3, 1e3),
        at: rfc3339(at_ms),
        started: now.started.clone(),
        error_rate: share(tally.errors(), tally.total()),
        in_flight: now.in_flight,
        latency_parts_ms: LatencyParts::of(&sums.parts),
        routes: routes(&sums.routes, seconds),
        shards: shards(&sums, now, seconds),
        read_from: sums.read_from,
        fanout: FanoutMetrics {
            requests: sums.fanout.requests,
            mean: rounded(sums.fanout.shards as f64 / sums.fanout.requests.max(1) as f64, 1e3),
            max: sums.fanout.max,
        },
        skew: Skew {
            requests: skew(counts.iter().map(|(_, count)| *count)),
            rows: skew(now.shards.iter().filter_map(|shard| shard.rows)),
        },
        shard_distribution: Named(counts),
        cache: CacheMetrics::of(&now.cache),
        hot_keys: hot_keys(histories, query, at_ms),
        cluster: ClusterMetrics::of(now),
        history: remembered(histories, at_ms),
        series: {
            let chosen = busiest(&sums.shards);
            sums.curves.series(&sums.names, &chosen, Measured::any_measured(&measured))
        },
    }
}

/// Merges the frames of several histories, ordered by time.
fn together(window_frames: impl Iterator<Item = WindowFrames>, at_ms: u64) -> WindowFrames {
    let mut all = WindowFrames { frames: Vec::new(), from_ms: at_ms };
    for window_frames in window_frames {
        all.from_ms = all.from_ms.min(window_frames.from_ms);
        all.frames.extend(window_frames.frames);
    }
    all.frames.sort_by_key(|frame| frame.start);
    all
}

fn remembered(histories: &[&History], at_ms: u64) -> HistoryMetrics {
    let mut all = Extent { since_ms: at_ms, ..Extent::default() };
    for history in histories {
        let extent = Extent::of(history);
        all.bytes += extent.bytes;
        all.since_ms = all.since_ms.min(extent.since_ms);
        all.dropped += extent.dropped;
    }
    HistoryMetrics { bytes: all.bytes, oldest: all.since_ms / 1_000, dropped: all.dropped }
}

/// Returns the indexes of the at most [`SHARDS_MAX`] shards with the most requests, in the order in
/// which the response lists the shards.
fn busiest(shards: &[ShardSum]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..shards.len()).collect();
    places.sort_by_key(|&place| std::cmp::Reverse(shards[place].tally.total()));
    places.truncate(SHARDS_MAX);
    places.sort_unstable();
    places
}

fn hot_keys(histories: &[&History], query: &MetricsQuery, at_ms: u64) -> Vec<HotKey> {
    let of_shard = MetricsQuery { shard: query.shard.clone(), ..MetricsQuery::default() };
    let window_frames =
        histories.iter().map(|history| WindowFrames::with_keys(history, query.window, at_ms));
    let frames: Vec<Arc<Frame>> = together(window_frames, at_ms).frames;
    let cells = frames.iter().flat_map(|frame| &frame.cells);
    let total: u64 = cells.filter(|cell| of_shard.admits(&cell.label)).map(|cell| cell.total).sum();
    let hot = merged_hot(frames.iter().flat_map(|frame| &frame.hot)).into_iter();
    let of_shard = |shard: Option<&str>| query.shard.is_none() || query.shard.as_deref() == shard;
    let hot = hot.filter(|hot| of_shard(hot.shard.as_deref()));
    let reported = hot.take(HOT_KEYS_MAX).map(|hot| HotKey {
        key: (*hot.key).to_owned(),
        shard: hot.shard.as_deref().map(str::to_owned),
        slot: hot.slot,
        requests: hot.requests,
        error: hot.error,
        share: share(hot.requests, total).min(1.0),
        reads: hot.reads,
        writes: hot.writes,
    });
    reported.collect()
}

fn routes(sums: &[RouteSum], seconds: f64) -> Vec<RouteMetrics> {
    let mut routes: Vec<RouteMetrics> =
        sums.iter().map(|sum| RouteMetrics::of(sum, seconds)).collect();
    routes.sort_by(|a, b| {
        b.total.cmp(&a.total).then_with(|| (&a.route, a.operation).cmp(&(&b.route, b.operation)))
    });
    routes
}

fn shards(sums: &WindowSums<'_>, now: &ClusterNow, seconds: f64) -> Vec<ShardMetrics> {
    let assigned = sums.shards.iter().map(|sum| sum.tally.total()).sum();
    let unknown = ShardNow::default();
    let known = now.shards.iter().chain(std::iter::repeat(&unknown));
    let shards = sums.names.iter().zip(&sums.shards).zip(known);
    shards.map(|((name, sum), now)| ShardMetrics::of(name, sum, now, (assigned, seconds))).collect()
}

impl RouteMetrics {
    fn of(sum: &RouteSum, seconds: f64) -> Self {
        let [p50, p95, p99] = sum.latencies.quantiles([0.50, 0.95, 0.99]).map(ms);
        let tally = &sum.tally;
        Self {
            route: sum.route.clone(),
            operation: sum.operation,
            total: tally.total(),
            ops_per_s: per_second(tally.total(), seconds),
            errors: tally.errors(),
            errors_client: tally.errors_client,
            errors_server: tally.errors_server,
            avg: mean_ms(tally.micros, tally.total()),
            p50,
            p95,
            p99,
            max: ms(sum.latencies.max_micros()),
        }
    }
}

impl ShardMetrics {
    fn of(name: &str, sum: &ShardSum, now: &ShardNow, (assigned, seconds): (u64, f64)) -> Self {
        let [p50, p99] = sum.latencies.quantiles([0.50, 0.99]).map(ms);
        let [queue_p99] = sum.queue.quantiles([0.99]).map(ms);
        let [database_p99] = sum.database.quantiles([0.99]).map(ms);
        let lags = now.nodes.iter().filter(|node| node.role != "primary");
        Self {
            shard: name.to_owned(),
            ops_per_s: per_second(sum.tally.total(), seconds),
            reads: sum.tally.reads,
            writes: sum.tally.writes,
            errors: sum.tally.errors(),
            p50,
            p99,
            share: share(sum.tally.total(), assigned),
            queue_p99,
            database_p99,
            up: now.up,
            weight: now.weight,
            slots: now.slots,
            rows: now.rows,
            bytes: now.bytes,
            lag_ms: lags.filter_map(|node| node.lag_ms).max_by(f64::total_cmp),
            pool: now.pool,
            lane: now.lane,
            nodes: now.nodes.clone(),
        }
    }
}

impl LatencyMs {
    fn of(latencies: &LatencyHistogram) -> Self {
        let quantiles = latencies.quantiles([0.50, 0.90, 0.95, 0.99, 0.999]);
        let [p50, p90, p95, p99, p999] = quantiles.map(ms);
        Self { p50, p90, p95, p99, p999, max: ms(latencies.max_micros()) }
    }
}

impl LatencyParts {
    fn of([queue, database, rest]: &[PartSum; 3]) -> Self {
        let part = |sum: &PartSum| {
            let [p50, p99] = sum.latencies.quantiles([0.50, 0.99]).map(ms);
            PartMs { avg: mean_ms(sum.micros, sum.total), p50, p99 }
        };
        Self { queue: part(queue), database: part(database), rest: part(rest) }
    }
}

impl CacheMetrics {
    fn of(now: &CacheNow) -> Self {
        let hit_rate = rounded(now.hit_rate(), 1e6);
        Self {
            enabled: now.enabled,
            hits: now.hits,
            misses: now.misses,
            stale: now.stale,
            bypass: now.bypass,
            hit_rate,
            fills: now.fills,
            rejected: now.rejected,
            errors: now.errors,
            voids: now.voids,
            near_hits: now.near_hits,
            seldom: now.seldom,
            breaker: now.breaker.clone(),
        }
    }
}

impl ClusterMetrics {
    fn of(now: &ClusterNow) -> Self {
        Self {
            epoch: now.epoch,
            backend: now.backend.clone(),
            version: now.version.clone(),
            uptime_s: now.uptime_s,
            slots: now.slots,
            groups: now.groups.clone(),
            ranges: now.ranges.clone(),
            moves: now.moves.clone(),
            rebalance: now.rebalance.clone(),
        }
    }
}

/// Returns the largest value divided by the mean; 0 if the sum is 0.
fn skew(counts: impl Iterator<Item = u64> + Clone) -> f64 {
    let (sum, number) =
        counts.clone().fold((0, 0), |(sum, number), count| (sum + count, number + 1));
    let largest = counts.max().unwrap_or(0);
    if sum == 0 { 0.0 } else { rounded(largest as f64 * f64::from(number) / sum as f64, 1e3) }
}

/// Converts whole µs to ms: 420 µs becomes 0.42.
fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

fn mean_ms(micros: u64, count: u64) -> f64 {
    rounded(micros as f64 / count.max(1) as f64 / 1e3, 1e3)
}

fn per_second(count: u64, seconds: f64) -> f64 {
    rounded(count as f64 / seconds, 1e6)
}

fn share(part: u64, whole: u64) -> f64 {
    rounded(part as f64 / whole.max(1) as f64, 1e6)
}

/// Rounds to multiples of 1 / `parts`: 1e3 keeps three decimals.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

fn rfc3339(ms: u64) -> String {
    let time = DateTime::from_timestamp_millis(ms.min(TIME_MAX_MS) as i64).unwrap_or_default();
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
