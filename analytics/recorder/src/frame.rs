//! Frame: the request counts of one interval, which lasts a second, ten seconds or a minute. A
//! frame never changes.
//!
//! The rings of the history hold frames, the store keeps them over restarts, and analytics services
//! fetch them from routers. Labels are strings, so that frames of several routers can be added up;
//! histograms are sent in the HDR V2 format as base64.
//!
//! **Invariant:** `start` is a multiple of the interval's length; each label occurs at most once in
//! a frame.
//! **Not here:** the end of an interval (`aggregator`), the time for which a frame is kept
//! (`history`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::packed::Packed;
use crate::sample::{Operation, Outcome, Role};

/// Length of the intervals of a ring, each of which has one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub enum Step {
    /// One second.
    Second,
    /// Ten seconds.
    TenSeconds,
    /// A minute.
    Minute,
}

impl Step {
    /// All steps, the shortest first.
    pub const ALL: [Self; 3] = [Self::Second, Self::TenSeconds, Self::Minute];

    /// Returns the length in s.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
        }
    }

    /// Returns the number of intervals that a ring keeps: 15 minutes of seconds, 6 hours of
    /// intervals of ten seconds, 7 days of minutes.
    pub const fn intervals_kept(self) -> u64 {
        match self {
            Self::Second => 900,
            Self::TenSeconds => 2_160,
            Self::Minute => 10_080,
        }
    }

    /// Returns the index of the step in lists with one entry for each step.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Second => 0,
            Self::TenSeconds => 1,
            Self::Minute => 2,
        }
    }
}

/// Error for a number that is not the length of a ring's intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("step must be 1, 10 or 60 (seconds); got {0}")]
pub struct StepError(u64);

impl TryFrom<u64> for Step {
    type Error = StepError;

    fn try_from(seconds: u64) -> Result<Self, StepError> {
        Self::ALL.into_iter().find(|step| step.seconds() == seconds).ok_or(StepError(seconds))
    }
}

impl From<Step> for u64 {
    fn from(step: Step) -> Self {
        step.seconds()
    }
}

/// Counts of one interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Length of the interval.
    pub step: Step,
    /// First second of the interval, in s since 1970 UTC.
    pub start: u64,
    /// Counts and latencies, by label; labels that were not used are left out.
    pub cells: Vec<Cell>,
    /// Time that requests spent in queues, in the database and elsewhere, by shard. The last
    /// element may be for requests to several shards or none.
    pub parts: Vec<Parts>,
    /// Statistics of the number of shards that each request contacted.
    #[serde(default)]
    pub fanout: Fanout,
    /// The most requested keys. A frame of a second has none, except the frame of the current
    /// second: it has the keys of the current interval of ten seconds.
    #[serde(default)]
    pub hot: Vec<HotCount>,
}

/// Label of a count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CellLabel {
    /// Route as it is declared.
    pub route: String,
    /// Read or write.
    pub operation: Operation,
    /// The shard; `None` if several shards took part, or none.
    pub shard: Option<String>,
    /// Kind of node that answered.
    pub role: Option<Role>,
    /// Class of the result.
    pub outcome: Outcome,
}

/// Counts and latencies of one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Label of the counts.
    #[serde(flatten)]
    pub label: Arc<CellLabel>,
    /// Number of requests.
    pub total: u64,
    /// Sum of the latencies in µs.
    pub micros: u64,
    /// Histogram of the latencies.
    pub latencies: Packed,
}

/// Time that a shard's requests spent in queues, in the database and elsewhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// The shard; `None` for requests of several shards or none.
    pub shard: Option<Arc<str>>,
    /// Time spent waiting in the shard's lane (its queue of writes) or for a connection.
    pub queue: PartTimes,
    /// Time inside the database.
    pub database: PartTimes,
    /// Time spent neither in queues nor in the database.
    pub rest: PartTimes,
}

/// Time that requests spent in one of these parts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartTimes {
    /// Number of requests.
    pub total: u64,
    /// Sum of the times in µs.
    pub micros: u64,
    /// Histogram of the times.
    pub latencies: Packed,
}

/// Statistics of the number of shards that each request contacted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fanout {
    /// Number of requests that contacted at least one shard.
    pub requests: u64,
    /// Sum of the numbers of shards that these requests contacted.
    pub shards: u64,
    /// Largest number of shards that one request contacted.
    pub max: u16,
}

/// A frequently requested key, in one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotCount {
    /// The key.
    pub key: Arc<str>,
    /// Shard of the key, if it had a single one.
    pub shard: Option<Arc<str>>,
    /// Slot of the key, if known.
    pub slot: Option<u16>,
    /// Upper bound of the number of requests for the key; the lower bound is this number minus
    /// `error`.
    pub requests: u64,
    /// Maximum number of these requests that may have been for other keys.
    pub error: u64,
    /// Number of reads that were certainly for this key.
    pub reads: u64,
    /// Number of writes that were certainly for this key.
    pub writes: u64,
}

impl Frame {
    /// Creates a frame without requests.
    pub(crate) fn empty(step: Step, start: u64) -> Self {
        let (cells, parts, hot) = (Vec::new(), Vec::new(), Vec::new());
        Self { step, start, cells, parts, fanout: Fanout::default(), hot }
    }

    /// Returns the first second after the interval.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.step.seconds())
    }

    /// Returns the number of requests.
    pub fn total(&self) -> u64 {
        self.cells.iter().map(|cell| cell.total).sum()
    }

    /// Returns the number of bytes that the frame takes, without its labels, which frames share.
    pub fn bytes(&self) -> usize {
        let cells: usize = self.cells.iter().map(|cell| cell.latencies.size_bytes()).sum();
        let parts =
            self.parts.iter().flat_map(|parts| [&parts.queue, &parts.database, &parts.rest]);
        let parts: usize = parts.map(|part| part.latencies.size_bytes()).sum();
        let keys: usize = self.hot.iter().map(|hot| hot.key.len()).sum();
        let rows = size_of_val(&*self.cells) + size_of_val(&*self.parts) + size_of_val(&*self.hot);
        size_of::<Self>() + rows + cells + parts + keys
    }
}

impl Fanout {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { requests, shards, max } = other;
        self.requests += requests;
        self.shards += shards;
        self.max = self.max.max(*max);
    }
}

impl HotCount {
    pub(crate) fn add(&mut self, other: &Self) {
        let Self { key: _, shard, slot, requests, error, reads, writes } = other;
        // The shard and slot of the later frame are kept, because a slot may have moved.
        self.shard.clone_from(shard);
        self.slot = *slot;
        self.requests += requests;
        self.error += error;
        self.reads += reads;
        self.writes += writes;
    }
}
