//! Current second: the counts of the second that has not ended yet.
//!
//! A cell holds the counts of one label (route, operation, shard, role, outcome). A label gets a
//! cell when it is first used and keeps the cell; in a second in which the label is not used, it
//! costs nothing.
//!
//! **Invariant:** at most [`CELLS_MAX`] labels have cells of their own; later labels are counted
//! without their route and role.
//! **Invariant:** all histograms together have at most [`PAGES_MAX`] pages (blocks of 64 buckets).
//! Before that limit would be exceeded, the counts are packed and set aside; they are added up when
//! the second ends.
//! **Not here:** locks and clocks; `aggregator` decides when a second ends.

use std::sync::Arc;

use crate::entry::{Entry, Shape};
use crate::frame::{Cell, CellLabel, Fanout, Frame, PartTimes, Parts, Step};
use crate::histogram::LatencyHistogram;
use crate::merge::merged;
use crate::sample::{Operation, Outcome, Role};
use crate::shard_labels::{ShardLabels, index_of, place_of};

/// Maximum number of labels with cells of their own, which is enough for 256 shards with 16 kinds
/// of requests each.
pub(crate) const CELLS_MAX: usize = 4_096;
/// Maximum number of pages of all histograms, which take 16 MiB.
pub(crate) const PAGES_MAX: usize = 32_768;
/// Maximum number of pages that one entry can add: one for its cell, and one for each of its three
/// parts.
const PAGES_EACH: usize = 4;
/// Number of combinations of a role (or none) and an outcome.
const KINDS: usize = 4 * 3;
/// Value in the index that marks a label without a cell.
const NONE: u16 = u16::MAX;
/// Route name for requests to an unlisted route, and for labels beyond [`CELLS_MAX`].
pub(crate) const OTHER: &str = "(other)";

/// Counts of the current second.
#[derive(Debug)]
pub(crate) struct CurrentSecond {
    routes: Vec<&'static str>,
    shape: Shape,
    shards: Arc<ShardLabels>,
    /// Index of each label's cell. The labels of requests to several shards or none come first,
    /// then those of each shard. The vector grows when a shard gets its first request.
    index: Vec<u16>,
    cells: Vec<RunningCell>,
    /// Time that requests spent in queues, in the database and elsewhere. The first element is for
    /// requests to several shards or none, and each further one for one shard.
    parts: Vec<RunningParts>,
    fanout: Fanout,
    pages: usize,
    aside: Vec<Arc<Frame>>,
}

#[derive(Debug)]
struct RunningCell {
    label: Arc<CellLabel>,
    micros: u64,
    latencies: LatencyHistogram,
}

#[derive(Debug, Default)]
struct RunningParts {
    queue: RunningPart,
    database: RunningPart,
    rest: RunningPart,
}

#[derive(Debug, Default)]
struct RunningPart {
    micros: u64,
    latencies: LatencyHistogram,
}

impl CurrentSecond {
    pub(crate) fn new(routes: Vec<&'static str>, shape: Shape, shards: Arc<ShardLabels>) -> Self {
        Self {
            routes,
            shape,
            shards,
            index: Vec::new(),
            cells: Vec::new(),
            parts: Vec::new(),
            fanout: Fanout::default(),
            pages: 0,
            aside: Vec::new(),
        }
    }

    /// Counts an entry in the second that begins at `start`.
    pub(crate) fn count(&mut self, entry: &Entry, start: u64) {
        if self.pages + PAGES_EACH > PAGES_MAX {
            self.set_aside(start);
        }
        let shard = place_of(entry.shard);
        if shard >= self.parts.len() {
            self.grow(shard + 1);
        }
        let place = match self.index[self.number(entry)] {
            NONE => self.cell_for(entry),
            place => place,
        };
        let cell = &mut self.cells[usize::from(place)];
        cell.micros += u64::from(entry.elapsed);
        let mut pages = cell.latencies.record_micros(entry.elapsed);
        let parts = &mut self.parts[shard];
        pages += parts.queue.count(entry.queue);
        pages += parts.database.count(entry.database);
        pages += parts.rest.count(entry.rest());
        self.pages += pages;
        if entry.fanout > 0 {
            self.fanout.requests += 1;
            self.fanout.shards += u64::from(entry.fanout);
            self.fanout.max = self.fanout.max.max(entry.fanout);
        }
    }

    /// Returns the counts as a frame of the second that begins at `start`; `None` without counts.
    pub(crate) fn frame(&self, start: u64) -> Option<Frame> {
        let cells = self.cells.iter().filter(|cell| cell.latencies.count() > 0);
        let cells: Vec<_> = cells.map(RunningCell::cell).collect();
        let shards = self.parts.iter().enumerate().skip(1);
        let parts = shards.chain(self.parts.iter().enumerate().take(1));
        let parts = parts.filter(|(_, parts)| parts.rest.latencies.count() > 0);
        let named = |(place, parts): (usize, &RunningParts)| {
            parts.parts(index_of(place).and_then(|index| self.shards.name(index)).cloned())
        };
        let frame = Frame {
            step: Step::Second,
            start,
            parts: parts.map(named).collect(),
            fanout: self.fanout,
            hot: Vec::new(),
            cells,
        };
        match &*self.aside {
            [] => (!frame.cells.is_empty()).then_some(frame),
            aside => {
                let mut all = aside.to_vec();
                all.push(Arc::new(frame));
                Some(merged(Step::Second, start, &all))
            }
        }
    }

    /// Returns the number of bytes that the counts take.
    pub(crate) fn bytes(&self) -> usize {
        let parts =
            self.parts.iter().flat_map(|parts| [&parts.queue, &parts.database, &parts.rest]);
        let parts: usize = parts.map(|part| part.latencies.counts.bytes()).sum();
        let cells: usize = self.cells.iter().map(|cell| cell.latencies.counts.bytes()).sum();
        let rows = size_of_val(&*self.cells) + size_of_val(&*self.parts);
        size_of_val(&*self.index) + rows + cells + parts
    }

    /// Resets the counts; cells keep their memory.
    pub(crate) fn reset(&mut self) {
        self.each(LatencyHistogram::reset);
        self.aside.clear();
    }

    /// Packs the counts so far, and frees the memory of the histograms.
    fn set_aside(&mut self, start: u64) {
        let aside = std::mem::take(&mut self.aside);
        let frame = self.frame(start).map(Arc::new);
        self.each(|latencies| *latencies = LatencyHistogram::new());
        self.pages = 0;
        self.aside = aside.into_iter().chain(frame).collect();
    }

    fn each(&mut self, mut clear: impl FnMut(&mut LatencyHistogram)) {
        for cell in self.cells.iter_mut() {
            cell.micros = 0;
            clear(&mut cell.latencies);
        }
        for parts in &mut self.parts {
            for part in [&mut parts.queue, &mut parts.database, &mut parts.rest] {
                part.micros = 0;
                clear(&mut part.latencies);
            }
        }
        self.fanout = Fanout::default();
    }

    /// Returns the position of an entry's label in the index.
    fn number(&self, entry: &Entry) -> usize {
        let role = match entry.role {
            None => 0,
            Some(Role::Primary) => 1,
            Some(Role::Replica) => 2,
            Some(Role::Cache) => 3,
        };
        let outcome = match entry.outcome {
            Outcome::Success => 0,
            Outcome::ClientError => 1,
            Outcome::ServerError => 2,
        };
        let operation = match entry.operation {
            Operation::Read => 0,
            Operation::Write => 1,
        };
        let route = usize::from(entry.route) * 2 + operation;
        place_of(entry.shard) * self.kinds_of_shard() + route * KINDS + role * 3 + outcome
    }

    /// Returns the number of labels of one shard.
    fn kinds_of_shard(&self) -> usize {
        (usize::from(self.shape.routes) + 1) * 2 * KINDS
    }

    /// Enlarges the index and the parts for this number of shards, the first of which stands for
    /// requests to several shards or none.
    #[cold]
    fn grow(&mut self, shards: usize) {
        self.parts.resize_with(shards, RunningParts::default);
        self.index.resize(shards * self.kinds_of_shard(), NONE);
    }

    /// Adds a cell for a label that has none.
    #[cold]
    fn cell_for(&mut self, entry: &Entry) -> u16 {
        let mut reported = *entry;
        if self.cells.len() >= CELLS_MAX {
            (reported.route, reported.role) = (self.shape.routes, None);
        }
        let number = self.number(&reported);
        if self.index[number] == NONE {
            let route = self.routes.get(usize::from(reported.route)).unwrap_or(&OTHER);
            let label = CellLabel {
                route: (*route).to_owned(),
                operation: reported.operation,
                shard: self.shards.name(reported.shard).map(ToString::to_string),
                role: reported.role,
                outcome: reported.outcome,
            };
            let latencies = LatencyHistogram::new();
            self.index[number] = self.cells.len() as u16;
            self.cells.push(RunningCell { label: Arc::new(label), micros: 0, latencies });
        }
        self.index[number]
    }
}

impl RunningCell {
    fn cell(&self) -> Cell {
        Cell {
            label: self.label.clone(),
            total: self.latencies.count(),
            micros: self.micros,
            latencies: self.latencies.packed(),
        }
    }
}

impl RunningParts {
    fn parts(&self, shard: Option<Arc<str>>) -> Parts {
        Parts {
            shard,
            queue: self.queue.part(),
            database: self.database.part(),
            rest: self.rest.part(),
        }
    }
}

impl RunningPart {
    fn count(&mut self, micros: u32) -> usize {
        self.micros += u64::from(micros);
        self.latencies.record_micros(micros)
    }

    fn part(&self) -> PartTimes {
        PartTimes {
            total: self.latencies.count(),
            micros: self.micros,
            latencies: self.latencies.packed(),
        }
    }
}
