//! Curves: the points of a chart. Each point covers one interval of the window.
//!
//! **Invariant:** there are at most [`POINTS_MAX`] points, and no frame counts in two of them. The
//! current second is not part of any point, because its count is incomplete and every curve would
//! end in a dip. A point in which nothing was measured is left out, because it is unknown and not
//! zero.
//! **Not here:** adding up the requests of a point (`window_sums`).

use crate::frame::Step;
use crate::histogram::LatencyHistogram;
use crate::history::CountedTimes;
use crate::metrics::{Heatmap, Named, Series, ShardSeries};
use crate::packed::Buckets;
use crate::window::Window;

/// Maximum number of points of a curve; a chart cannot show more.
pub(crate) const POINTS_MAX: u64 = 180;
/// Maximum number of shards with their own curves. If there are more shards, the busiest ones get
/// them.
pub(crate) const SHARDS_MAX: usize = 32;
/// Possible lengths of a point's interval, in s.
const STEPS: [u64; 14] = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 1_800, 3_600, 7_200];
/// Upper bounds of the heatmap's buckets in µs.
const HEAT_BOUNDS: [u32; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

/// Points of a window: their start, their number and the length of their intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) step: u64,
    /// Start of the first point, in s since 1970 UTC.
    first: u64,
    points: usize,
    /// First second after the last point, which may be shorter than the others.
    end: u64,
}

/// Curves to which points are being added.
#[derive(Debug)]
pub(crate) struct Curves {
    grid: Grid,
    series: Series,
    /// Curves of each shard.
    shards: Vec<ShardSeries>,
    heat_buckets: [usize; HEAT_BOUNDS.len()],
    /// True for each point with requests. This is kept separately, because a low rate may be
    /// rounded to 0.
    has_requests: Vec<bool>,
    /// Number of seconds of each point in which a recorder was running.
    counted_seconds: Vec<f64>,
}

/// Sums of the requests of one point, for all shards or for one.
#[derive(Clone, Debug, Default)]
pub(crate) struct PointSum {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) errors: u64,
    pub(crate) latencies: LatencyHistogram,
}

impl Grid {
    /// Returns the points of a window that ends at `at_ms` and whose longest frames are `coarsest`.
    pub(crate) fn new(window: Window, at_ms: u64, coarsest: Step) -> Self {
        let seconds = (window.length().as_millis() as u64).div_ceil(1_000);
        let fits = |step: &u64| {
            step.is_multiple_of(coarsest.seconds()) && seconds.div_ceil(*step) <= POINTS_MAX
        };
        let step = STEPS.into_iter().find(fits).unwrap_or(STEPS[STEPS.len() - 1]);
        let points = seconds.div_ceil(step).min(POINTS_MAX);
        let end = at_ms / 1_000;
        // The last point contains the last second that has ended.
        let last = end.saturating_sub(1) / step * step;
        let first = last.saturating_sub((points - 1) * step);
        Self { step, first, points: ((last - first) / step + 1) as usize, end }
    }

    /// Returns the index of the point for an interval that begins at `start`; `None` if the
    /// interval lies outside the window.
    pub(crate) fn point(&self, start: u64) -> Option<usize> {
        let inside = start >= self.first && start < self.end;
        inside.then(|| ((start - self.first) / self.step) as usize)
    }

    fn starts(&self, point: usize) -> u64 {
        self.first + point as u64 * self.step
    }

    /// Returns the first second after a point. The last point may still be growing.
    fn ends(&self, point: usize) -> u64 {
        let start = self.starts(point);
        (start + self.step).min(self.end.max(start + 1))
    }

    /// Returns the number of seconds of a point in which a recorder was running, or the number of
    /// all its seconds if that is unknown. The rates of a point are computed over these seconds,
    /// because a router may have started within the point.
    fn counted_seconds(&self, point: usize, counted: Option<&CountedTimes>) -> f64 {
        let (start, end) = (self.starts(point), self.ends(point));
        let seconds = counted.and_then(|counted| counted.seconds_within(start, end));
        seconds.unwrap_or(end - start) as f64
    }
}

impl Curves {
    /// Creates curves without requests; `counted` holds the times in which any recorder was
    /// running.
    pub(crate) fn new(grid: Grid, counted: Option<&CountedTimes>, shards: usize) -> Self {
        let zeros = || vec![0.0; grid.points];
        let shard = ShardSeries { rps: zeros(), p50: zeros(), p99: zeros() };
        let bounds_ms = HEAT_BOUNDS.iter().map(|bound| f64::from(*bound) / 1e3).collect();
        let counts = vec![vec![0; HEAT_BOUNDS.len() + 1]; grid.points];
        let series = Series {
            step_s: grid.step,
            t: (0..grid.points).map(|point| grid.starts(point)).collect(),
            rps: zeros(),
            reads: zeros(),
            writes: zeros(),
            p50: zeros(),
            p99: zeros(),
            errors: zeros(),
            shards: Named::default(),
            heatmap: Heatmap { bounds_ms, counts },
        };
        let heat_buckets = HEAT_BOUNDS.map(|bound| Buckets::FINE.of(bound));
        let has_requests = vec![false; grid.points];
        let counted_seconds =
            (0..grid.points).map(|point| grid.counted_seconds(point, counted)).collect();
        let shards = vec![shard; shards];
        Self { grid, series, shards, heat_buckets, has_requests, counted_seconds }
    }

    /// Adds a point of one shard.
    pub(crate) fn draw_shard(&mut self, point: usize, shard: usize, sum: &PointSum) {
        let seconds = self.counted_seconds[point];
        let Some(curves) = self.shards.get_mut(shard) else { return };
        let [p50, p99] = sum.latencies.quantiles([0.50, 0.99]);
        curves.rps[point] = rate(sum.reads + sum.writes, seconds);
        curves.p50[point] = p50 as f64 / 1e3;
        curves.p99[point] = p99 as f64 / 1e3;
    }

    /// Adds a point of all shards.
    pub(crate) fn draw(&mut self, point: usize, sum: &PointSum) {
        let seconds = self.counted_seconds[point];
        let [p50, p99] = sum.latencies.quantiles([0.50, 0.99]);
        self.has_requests[point] = sum.reads + sum.writes > 0;
        let series = &mut self.series;
        series.rps[point] = rate(sum.reads + sum.writes, seconds);
        series.reads[point] = rate(sum.reads, seconds);
        series.writes[point] = rate(sum.writes, seconds);
        series.errors[point] = rate(sum.errors, seconds);
        series.p50[point] = p50 as f64 / 1e3;
        series.p99[point] = p99 as f64 / 1e3;
        let heat = &mut series.heatmap.counts[point];
        let mut place = 0;
        for (bucket, count) in sum.latencies.counts.used() {
            while place < HEAT_BOUNDS.len() && bucket > self.heat_buckets[place] {
                place += 1;
            }
            heat[place] += count;
        }
    }

    /// Returns the curves of all shards together, and those of the `chosen` shards in this order. A
    /// point without requests is left out unless `is_measured` is true for its time.
    pub(crate) fn series(
        mut self,
        names: &[String],
        chosen: &[usize],
        is_measured: impl Fn(u64, u64) -> bool,
    ) -> Series {
        let shards = chosen.iter().filter_map(|&shard| {
            Some((names.get(shard)?.clone(), std::mem::take(self.shards.get_mut(shard)?)))
        });
        let shards = Named(shards.collect());
        let stays: Vec<bool> = (0..self.grid.points)
            .map(|point| {
                let from = self.grid.starts(point);
                self.has_requests[point] || is_measured(from, self.grid.ends(point))
            })
            .collect();
        Series { shards, ..self.series }.only(&stays)
    }
}

impl Series {
    /// Keeps only the points for which `stays` is true.
    fn only(self, stays: &[bool]) -> Self {
        if stays.iter().all(|stays| *stays) {
            return self;
        }
        let Heatmap { bounds_ms, counts } = self.heatmap;
        let of_shard = |(name, shard): (String, ShardSeries)| {
            let ShardSeries { rps, p50, p99 } = shard;
            let [rps, p50, p99] = [rps, p50, p99].map(|curve| only(curve, stays));
            (name, ShardSeries { rps, p50, p99 })
        };
        Self {
            step_s: self.step_s,
            t: only(self.t, stays),
            rps: only(self.rps, stays),
            reads: only(self.reads, stays),
            writes: only(self.writes, stays),
            p50: only(self.p50, stays),
            p99: only(self.p99, stays),
            errors: only(self.errors, stays),
            shards: Named(self.shards.0.into_iter().map(of_shard).collect()),
            heatmap: Heatmap { bounds_ms, counts: only(counts, stays) },
        }
    }
}

fn only<T>(points: Vec<T>, stays: &[bool]) -> Vec<T> {
    points.into_iter().zip(stays).filter_map(|(point, stays)| stays.then_some(point)).collect()
}

impl PointSum {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { reads, writes, errors, latencies } = other;
        self.reads += reads;
        self.writes += writes;
        self.errors += errors;
        self.latencies.merge(latencies);
    }

    pub(crate) fn reset(&mut self) {
        (self.reads, self.writes, self.errors) = (0, 0, 0);
        self.latencies.reset();
    }
}

/// Returns requests per second, rounded to three decimals.
fn rate(count: u64, seconds: f64) -> f64 {
    (count as f64 / seconds * 1e3).round() / 1e3
}
