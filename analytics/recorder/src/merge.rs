//! Merge: combines the frames of several intervals into the frame of one longer interval, such as
//! sixty seconds into a minute.
//!
//! **Invariant:** counts are added, and histograms are merged, never averaged. The histograms in
//! frames of a minute have two significant digits.
//! **Not here:** computing metrics from frames (`figures`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::frame::{Cell, CellLabel, Fanout, Frame, HotCount, PartTimes, Parts, Step};
use crate::histogram::LatencyHistogram;

/// Maximum number of hot keys that a frame keeps.
pub(crate) const HOT_MAX: usize = 16;

/// Returns the sum of `frames` as one frame.
pub fn merged(step: Step, start: u64, frames: &[Arc<Frame>]) -> Frame {
    let mut cells: BTreeMap<&Arc<CellLabel>, Sum> = BTreeMap::new();
    let mut parts: BTreeMap<&Option<Arc<str>>, [Sum; 3]> = BTreeMap::new();
    let mut fanout = Fanout::default();
    for frame in frames {
        for Cell { label, micros, latencies, .. } in &frame.cells {
            let sum = cells.entry(label).or_default();
            sum.micros += micros;
            sum.latencies.absorb(latencies);
        }
        for Parts { shard, queue, database, rest } in &frame.parts {
            let sums = parts.entry(shard).or_default();
            for (sum, part) in sums.iter_mut().zip([queue, database, rest]) {
                sum.micros += part.micros;
                sum.latencies.absorb(&part.latencies);
            }
        }
        fanout.add(&frame.fanout);
    }
    let cells = cells.into_iter().map(|(label, sum)| sum.cell(label.clone(), step));
    let parts = parts.into_iter().map(|(shard, [queue, database, rest])| Parts {
        shard: shard.clone(),
        queue: queue.part(step),
        database: database.part(step),
        rest: rest.part(step),
    });
    let mut hot = merged_hot(frames.iter().flat_map(|frame| &frame.hot));
    hot.truncate(HOT_MAX);
    Frame { step, start, cells: cells.collect(), parts: parts.collect(), fanout, hot }
}

/// Returns the hot keys of several frames, each with the sum of its counts; the most requested key
/// comes first.
pub(crate) fn merged_hot<'f>(counts: impl Iterator<Item = &'f HotCount>) -> Vec<HotCount> {
    let mut sums: BTreeMap<&str, HotCount> = BTreeMap::new();
    for count in counts {
        match sums.get_mut(&*count.key) {
            Some(sum) => sum.add(count),
            None => {
                sums.insert(&count.key, count.clone());
            }
        }
    }
    let mut hot: Vec<HotCount> = sums.into_values().collect();
    hot.sort_by(|a, b| b.requests.cmp(&a.requests).then_with(|| a.key.cmp(&b.key)));
    hot
}

#[derive(Default)]
struct Sum {
    micros: u64,
    latencies: LatencyHistogram,
}

impl Sum {
    fn cell(self, label: Arc<CellLabel>, step: Step) -> Cell {
        let PartTimes { total, micros, latencies } = self.part(step);
        Cell { label, total, micros, latencies }
    }

    fn part(self, step: Step) -> PartTimes {
        let latencies = match step {
            Step::Second | Step::TenSeconds => self.latencies.packed(),
            Step::Minute => self.latencies.packed_coarse(),
        };
        PartTimes { total: self.latencies.count(), micros: self.micros, latencies }
    }
}
