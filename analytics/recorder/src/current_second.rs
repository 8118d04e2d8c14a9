//! Current second: the counts of the second that is running.
//!
//! A cell holds the counts of one label (route, operation, shard, role, outcome). A label gets its
//! cell when it is first used and keeps it; a label that is not used in a second costs nothing in
//! that second.
//!
//! **Invariant:** at most [`CELLS_MAX`] labels have cells of their own; later labels are counted
//! without their route and role.
//! **Invariant:** histograms have at most [`PAGES_MAX`] pages together: before that limit would be
//! exceeded, the counts are packed and set aside, and they are added up when the second ends.
//! **Not here:** locks and clocks; `aggregator` decides when a second ends.

use std::sync::Arc;

use crate::entry::{Entry, Shape};
use crate::frame::{Cell, CellLabel, Fanout, Frame, PartTimes, Parts, Step};
use crate::histogram::LatencyHistogram;
use crate::merge::merged;
use crate::sample::{Labels, Operation, Outcome, Role};

/// Maximum number of labels with cells of their own: 256 shards with 16 kinds of requests each.
pub(crate) const CELLS_MAX: usize = 4_096;
/// Maximum number of pages of all histograms: 16 MiB.
pub(crate) const PAGES_MAX: usize = 32_768;
/// Maximum number of pages that one entry can add: for its cell and its three parts.
const PAGES_EACH: usize = 4;
/// Roles times outcomes.
const KINDS: usize = 4 * 3;
/// Marks a label without a cell in the index.
const NONE: u16 = u16::MAX;
/// Route of requests for none of the given routes, and of folded labels.
pub(crate) const OTHER: &str = "(other)";

/// Counts of the running second.
#[derive(Debug)]
pub(crate) struct CurrentSecond {
    labels: Labels,
    shape: Shape,
    /// Cell of each label.
    index: Box<[u16]>,
    cells: Vec<RunningCell>,
    /// Parts of each shard, and of requests of several shards or none.
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

#[derive(Debug)]
struct RunningParts {
    shard: Option<Arc<str>>,
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
    pub(crate) fn new(labels: Labels) -> Self {
        let shape = Shape::of(&labels);
        let kinds = (labels.routes.len() + 1) * 2 * (labels.shards.len() + 1) * KINDS;
        let shards = labels.shards.iter().map(|shard| Some(Arc::from(&**shard)));
        let parts = shards.chain([None]).map(RunningParts::new).collect();
        Self {
            labels,
            shape,
            index: vec![NONE; kinds].into(),
            cells: Vec::new(),
            parts,
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
        let place = match self.index[self.number(entry)] {
            NONE => self.cell_for(entry),
            place => place,
        };
        let cell = &mut self.cells[usize::from(place)];
        cell.micros += u64::from(entry.elapsed);
        let mut pages = cell.latencies.record_micros(entry.elapsed);
        let parts = &mut self.parts[usize::from(entry.shard)];
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

    /// Returns the counts as a frame of the second that begins at `start`; none if there are none.
    pub(crate) fn frame(&self, start: u64) -> Option<Frame> {
        let cells = self.cells.iter().filter(|cell| cell.latencies.count() > 0);
        let cells: Vec<_> = cells.map(RunningCell::cell).collect();
        let parts = self.parts.iter().filter(|parts| parts.rest.latencies.count() > 0);
        let frame = Frame {
            step: Step::Second,
            start,
            parts: parts.map(RunningParts::parts).collect(),
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

    /// Returns the bytes that the counts take.
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

    /// Returns the number of an entry's label.
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
        let shards = usize::from(self.shape.shards) + 1;
        let route = usize::from(entry.route) * 2 + operation;
        (route * shards + usize::from(entry.shard)) * KINDS + role * 3 + outcome
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
            let route = self.labels.routes.get(usize::from(reported.route)).unwrap_or(&OTHER);
            let label = CellLabel {
                route: (*route).to_owned(),
                operation: reported.operation,
                shard: self.labels.shards.get(usize::from(reported.shard)).cloned(),
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
    fn new(shard: Option<Arc<str>>) -> Self {
        let part = RunningPart::default;
        Self { shard, queue: part(), database: part(), rest: part() }
    }

    fn parts(&self) -> Parts {
        Parts {
            shard: self.shard.clone(),
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
