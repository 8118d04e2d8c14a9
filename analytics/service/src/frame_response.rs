//! Frame response: parses and checks a router's response that contains frames.
//!
//! A router may be faulty, of another version, or another program, so a response is used only if it
//! passes all checks.
//!
//! **Invariant:** a response that [`FrameResponse::parse`] accepts has a bounded size, and its
//! counts can be added up over any window and any number of routers without overflow.
//! **Not here:** requests to routers (`collector`).

use serde::Deserialize;

use recorder::ClusterNow;
use recorder::ErrorEvent;
use recorder::MeasuredIntervals;
use recorder::{Cell, Frame, Parts, Step};

/// Maximum number of labels of a frame, which is enough for every route, shard, role and outcome of
/// a large cluster.
const CELLS_MAX: usize = 65_536;
/// Maximum number of shards of a cluster, and of nodes of a shard.
const SHARDS_MAX: usize = 1_024;
const NODES_MAX: usize = 64;
const RANGES_MAX: usize = 16_384;
/// Maximum number of hot keys of a frame.
const HOT_MAX: usize = 1_024;
/// Maximum length of a string in a label.
const TEXT_MAX: usize = 512;
/// Maximum number of requests of one label in one interval, and maximum sum of their durations in
/// µs. Both are far above what a real router can count.
const COUNT_MAX: u64 = 1 << 32;
const MICROS_MAX: u64 = 1 << 42;
/// Maximum time, in s, by which a frame may lie before or after the router's clock.
const PAST_MAX_S: u64 = 8 * 86_400;
pub(crate) const FUTURE_MAX_S: u64 = 5;
/// Last millisecond of the year 9999, the last year that RFC 3339 can represent.
const CLOCK_MAX_MS: u64 = 253_402_300_799_999;
/// Maximum value of a count since the start of a router.
const SINCE_START_MAX: u64 = 1 << 53;

/// A router's response with its new frames.
#[derive(Debug, Deserialize)]
pub(crate) struct FrameResponse {
    /// Start time of the router process. Each process numbers its errors from 1.
    pub(crate) started: String,
    /// Clock of the router, in ms since 1970.
    pub(crate) at_ms: u64,
    /// The cluster as the router reports it.
    pub(crate) now: ClusterNow,
    /// Frames of finished intervals.
    pub(crate) frames: Vec<Frame>,
    /// Intervals in which the router counted requests, in s since 1970, including those of earlier
    /// processes with the same store.
    #[serde(default)]
    pub(crate) counted: Vec<(u64, u64)>,
    /// New errors, oldest first.
    pub(crate) errors: Vec<ErrorEvent>,
    /// Number of the last error in `errors`.
    pub(crate) errors_seq: u64,
    /// True if the router has more frames than fitted into this response.
    #[serde(default)]
    pub(crate) more: bool,
}

impl FrameResponse {
    /// Parses a response; the error states why the response cannot be used.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, String> {
        let response: Self = serde_json::from_slice(body).map_err(|error| {
            // The error contains only the position and no part of the body, which may contain
            // anything.
            format!("its answer cannot be read (line {}, column {})", error.line(), error.column())
        })?;
        match response.fault() {
            None => Ok(response),
            Some(fault) => Err(format!("its answer cannot be taken in: {fault}")),
        }
    }

    fn fault(&self) -> Option<&'static str> {
        if self.at_ms > CLOCK_MAX_MS {
            return Some(
                "its clock has an impossible time: set it by NTP, and start the router again",
            );
        }
        let at_s = self.at_ms / 1_000;
        if self.started.len() > TEXT_MAX || is_invalid_cluster(&self.now) {
            return Some("it has an impossible cluster");
        }
        let is_past = |(from, until): &(u64, u64)| {
            from <= until && *until <= at_s.saturating_add(FUTURE_MAX_S)
        };
        if self.counted.len() > MeasuredIntervals::MAX || !self.counted.iter().all(is_past) {
            return Some("it has impossible times");
        }
        let is_invalid = |frame: &Frame| {
            let of_time = frame.start.is_multiple_of(frame.step.seconds())
                && frame.start.saturating_add(PAST_MAX_S) >= at_s
                && frame.start.saturating_add(frame.step.seconds())
                    <= at_s.saturating_add(FUTURE_MAX_S);
            !of_time || is_invalid_frame(frame)
        };
        self.frames.iter().any(is_invalid).then_some("a frame contains impossible values")
    }

    /// Returns the start of the last frame of this step.
    pub(crate) fn last(&self, step: Step) -> Option<u64> {
        self.frames.iter().filter(|frame| frame.step == step).map(|frame| frame.start).max()
    }
}

fn is_invalid_frame(frame: &Frame) -> bool {
    let long = |text: &str| text.len() > TEXT_MAX;
    let cell = |cell: &Cell| {
        let label = &cell.label;
        long(&label.route)
            || label.shard.as_deref().is_some_and(long)
            || cell.total > COUNT_MAX
            || cell.micros > MICROS_MAX
    };
    let parts = |parts: &Parts| {
        let counts = [&parts.queue, &parts.database, &parts.rest];
        parts.shard.as_deref().is_some_and(long)
            || counts.iter().any(|part| part.total > COUNT_MAX || part.micros > MICROS_MAX)
    };
    frame.cells.len() > CELLS_MAX
        || frame.parts.len() > SHARDS_MAX
        || frame.hot.len() > HOT_MAX
        || frame.cells.iter().any(cell)
        || frame.parts.iter().any(parts)
        || frame.fanout.requests > COUNT_MAX
        || frame.fanout.shards > COUNT_MAX * SHARDS_MAX as u64
        || frame.hot.iter().any(|hot| long(&hot.key) || hot.requests > COUNT_MAX)
}

fn is_invalid_cluster(now: &ClusterNow) -> bool {
    let long = |text: &str| text.len() > TEXT_MAX;
    let negative = |ms: Option<f64>| ms.is_some_and(|ms| !(ms >= 0.0 && ms.is_finite()));
    let cache = &now.cache;
    let of_cache = [
        cache.hits,
        cache.misses,
        cache.stale,
        cache.bypass,
        cache.fills,
        cache.rejected,
        cache.errors,
        cache.voids,
        cache.near_hits,
        cache.seldom,
    ];
    let many = |count: u64| count > SINCE_START_MAX;
    now.shards.len() > SHARDS_MAX
        || of_cache.into_iter().any(many)
        || now.ranges.len() > RANGES_MAX
        || now.groups.len() > RANGES_MAX
        || now.moves.len() > RANGES_MAX
        || [&now.backend, &now.version, &now.started].into_iter().any(|text| long(text))
        || now.ranges.iter().any(|(_, _, shard)| long(shard))
        || now.groups.iter().any(|group| long(group))
        || now.uptime_s > COUNT_MAX
        || now.in_flight > COUNT_MAX
        || now.shards.iter().any(|shard| {
            let counts =
                [shard.pool.in_use, shard.pool.max, shard.pool.waiting, shard.lane.waiting];
            let lane = &shard.lane;
            long(&shard.shard)
                || [lane.waiting_bytes, lane.batches, lane.operations].into_iter().any(many)
                || shard.nodes.len() > NODES_MAX
                || counts.iter().any(|count| *count > COUNT_MAX)
                || shard.nodes.iter().any(|node| {
                    long(&node.node)
                        || long(&node.role)
                        || negative(node.lag_ms)
                        || negative(node.latency_ms)
                })
        })
}
