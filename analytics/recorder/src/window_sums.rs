//! Window sums: adds up the frames of a window by shard, by route, and by point of a chart.
//!
//! **Invariant:** the counts of each label that matches the query are added once to the total, once
//! to the shard of the label, and once to its route.
//! **Not here:** choosing frames (`history`), making the response (`figures`).

use std::collections::HashMap;
use std::sync::Arc;

use crate::curves::{Curves, Grid, PointSum};
use crate::frame::{Cell, CellLabel, Fanout, Frame, PartTimes, Parts};
use crate::histogram::LatencyHistogram;
use crate::history::CountedTimes;
use crate::metrics::ReadFrom;
use crate::query::MetricsQuery;
use crate::sample::{Operation, Outcome, Role};

/// Counts of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    pub(crate) errors_client: u64,
    pub(crate) errors_server: u64,
    /// Sum of all latencies, in µs.
    pub(crate) micros: u64,
}

/// Sums of one shard, or of the requests to several shards or none.
#[derive(Debug, Default)]
pub(crate) struct ShardSum {
    pub(crate) tally: Tally,
    pub(crate) latencies: LatencyHistogram,
    pub(crate) queue: LatencyHistogram,
    pub(crate) database: LatencyHistogram,
    point: PointSum,
}

/// Sums of one route.
#[derive(Debug)]
pub(crate) struct RouteSum {
    pub(crate) route: String,
    pub(crate) operation: Operation,
    pub(crate) tally: Tally,
    pub(crate) latencies: LatencyHistogram,
}

/// Sums of one part of the requests' durations: queue, database or rest.
#[derive(Debug, Default)]
pub(crate) struct PartSum {
    pub(crate) total: u64,
    pub(crate) micros: u64,
    pub(crate) latencies: LatencyHistogram,
}

/// All sums of a window.
#[derive(Debug)]
pub(crate) struct WindowSums<'q> {
    query: &'q MetricsQuery,
    grid: Grid,
    /// Index of the point to which the current frame belongs; `None` if it is outside the chart.
    point: Option<usize>,
    /// Names of the shards, in the order of the response.
    pub(crate) names: Vec<String>,
    /// Shard and route of each label, by the address of the label; `None` if the label does not
    /// match the query. Frames share their labels, so comparing addresses is enough and faster than
    /// comparing strings. An address identifies a label only as long as a frame keeps the label in
    /// memory. This is true while the map is used, because [`WindowSums::of`] borrows all frames.
    series_keys: HashMap<*const CellLabel, Option<SeriesKey>>,
    /// Sums of each shard.
    pub(crate) shards: Vec<ShardSum>,
    /// Sums of requests to several shards, or none.
    pub(crate) unassigned: ShardSum,
    pub(crate) routes: Vec<RouteSum>,
    pub(crate) tally: Tally,
    pub(crate) latencies: LatencyHistogram,
    /// Sums of the parts queue, database and rest, in this order.
    pub(crate) parts: [PartSum; 3],
    pub(crate) read_from: ReadFrom,
    pub(crate) fanout: Fanout,
    whole: PointSum,
    pub(crate) curves: Curves,
}

#[derive(Clone, Copy, Debug)]
struct SeriesKey {
    shard: Option<usize>,
    route: usize,
}

impl Tally {
    pub(crate) fn total(&self) -> u64 {
        self.reads + self.writes
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors_client + self.errors_server
    }

    fn count(&mut self, cell: &Cell) {
        let total = cell.total;
        match cell.label.operation {
            Operation::Read => self.reads += total,
            Operation::Write => self.writes += total,
        }
        match cell.label.outcome {
            Outcome::Success => {}
            Outcome::ClientError => self.errors_client += total,
            Outcome::ServerError => self.errors_server += total,
        }
        self.micros += cell.micros;
    }
}

impl<'q> WindowSums<'q> {
    /// Adds up `frames`, which are sorted by time. The shards in `names` come first, then other
    /// shards that occur in the frames.
    pub(crate) fn of(
        frames: &[Arc<Frame>],
        query: &'q MetricsQuery,
        grid: Grid,
        counted: Option<&CountedTimes>,
        mut names: Vec<String>,
    ) -> Self {
        let mut met: Vec<&String> = frames
            .iter()
            .flat_map(|frame| &frame.cells)
            .filter_map(|c| c.label.shard.as_ref())
            .collect();
        met.sort_unstable();
        met.dedup();
        met.retain(|shard| !names.contains(shard));
        names.extend(met.into_iter().cloned());
        let mut sums = Self {
            query,
            grid,
            point: None,
            series_keys: HashMap::new(),
            shards: names.iter().map(|_| ShardSum::default()).collect(),
            unassigned: ShardSum::default(),
            routes: Vec::new(),
            tally: Tally::default(),
            latencies: LatencyHistogram::new(),
            parts: Default::default(),
            read_from: ReadFrom::default(),
            fanout: Fanout::default(),
            whole: PointSum::default(),
            curves: Curves::new(grid, counted, names.len()),
            names,
        };
        frames.iter().for_each(|frame| sums.add(frame));
        sums.finish_point();
        sums
    }

    fn add(&mut self, frame: &Frame) {
        let point = self.grid.point(frame.start);
        if point != self.point {
            self.finish_point();
            self.point = point;
        }
        frame.cells.iter().for_each(|cell| self.add_cell(cell));
        frame.parts.iter().for_each(|parts| self.add_parts(parts));
        self.fanout.add(&frame.fanout);
    }

    fn add_cell(&mut self, cell: &Cell) {
        let Some(SeriesKey { shard, route }) = self.series_key(&cell.label) else { return };
        let shard = shard.map_or(&mut self.unassigned, |shard| &mut self.shards[shard]);
        let route = &mut self.routes[route];
        shard.tally.count(cell);
        route.tally.count(cell);
        self.tally.count(cell);
        cell.latencies.each(|bucket, count| {
            shard.point.latencies.add(bucket, count);
            route.latencies.add(bucket, count);
        });
        let total = cell.total;
        match cell.label.operation {
            Operation::Read => shard.point.reads += total,
            Operation::Write => shard.point.writes += total,
        }
        if cell.label.outcome.is_error() {
            shard.point.errors += total;
        }
        if cell.label.operation == Operation::Read {
            match cell.label.role {
                Some(Role::Primary) => self.read_from.primary += total,
                Some(Role::Replica) => self.read_from.replica += total,
                Some(Role::Cache) => self.read_from.cache += total,
                None => {}
            }
        }
    }

    fn add_parts(&mut self, parts: &Parts) {
        let shard = parts.shard.as_deref();
        if self.query.shard.as_deref().is_some_and(|wanted| shard != Some(wanted)) {
            return;
        }
        let Parts { shard: _, queue, database, rest } = parts;
        for (sum, part) in self.parts.iter_mut().zip([queue, database, rest]) {
            sum.add(part);
        }
        let found = shard.and_then(|shard| self.names.iter().position(|name| name == shard));
        if let Some(found) = found {
            self.shards[found].queue.absorb(&queue.latencies);
            self.shards[found].database.absorb(&database.latencies);
        }
    }

    /// Adds the current point's sums to the sums of the window and to the curves, and resets the
    /// point's sums.
    fn finish_point(&mut self) {
        for (number, shard) in self.shards.iter_mut().chain([&mut self.unassigned]).enumerate() {
            if shard.point.latencies.count() == 0 {
                continue;
            }
            if let Some(point) = self.point {
                // The last sum is that of unassigned requests, which has no curves.
                self.curves.draw_shard(point, number, &shard.point);
            }
            shard.latencies.merge(&shard.point.latencies);
            self.whole.add(&shard.point);
            shard.point.reset();
        }
        if self.whole.latencies.count() == 0 {
            return;
        }
        if let Some(point) = self.point {
            self.curves.draw(point, &self.whole);
        }
        self.latencies.merge(&self.whole.latencies);
        self.whole.reset();
    }

    /// Returns the shard and the route to whose sums a label's counts are added.
    fn series_key(&mut self, label: &Arc<CellLabel>) -> Option<SeriesKey> {
        let key = Arc::as_ptr(label);
        if let Some(known) = self.series_keys.get(&key) {
            return *known;
        }
        let series_key = self.query.admits(label).then(|| {
            let shard = label.shard.as_ref();
            SeriesKey {
                shard: shard.and_then(|shard| self.names.iter().position(|name| name == shard)),
                route: self.route(label),
            }
        });
        self.series_keys.insert(key, series_key);
        series_key
    }

    fn route(&mut self, label: &CellLabel) -> usize {
        let CellLabel { route, operation, .. } = label;
        let same = |sum: &RouteSum| sum.route == *route && sum.operation == *operation;
        self.routes.iter().position(same).unwrap_or_else(|| {
            self.routes.push(RouteSum {
                route: route.clone(),
                operation: *operation,
                tally: Tally::default(),
                latencies: LatencyHistogram::new(),
            });
            self.routes.len() - 1
        })
    }
}

impl PartSum {
    fn add(&mut self, part: &PartTimes) {
        self.total += part.total;
        self.micros += part.micros;
        self.latencies.absorb(&part.latencies);
    }
}

impl MetricsQuery {
    /// Returns true if the query includes requests of a label.
    pub(crate) fn admits(&self, label: &CellLabel) -> bool {
        self.shard.as_ref().is_none_or(|shard| label.shard.as_ref() == Some(shard))
            && self.route.as_ref().is_none_or(|route| label.route == *route)
            && self.operation.is_none_or(|operation| label.operation == operation)
    }
}
