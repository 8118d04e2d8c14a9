//! Frame: what happened in one slot of a ring, finished and never changed again.
//!
//! Frames are what rings hold, what is stored, and what a service pulls from routers. Labels are texts, so that
//! frames of several routers can be added up; histograms travel as HDR V2 in base64.
//!
//! **Invariant:** `start` is a multiple of the step; a label stands in a frame once.
//! **Not here:** when a slot ends (`recorder`), how long a frame is kept (`history`).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::packed::Packed;
use crate::sample::{Operation, Outcome, Role};

/// Length of a ring's slots.
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
    /// All, the shortest first.
    pub const ALL: [Self; 3] = [Self::Second, Self::TenSeconds, Self::Minute];

    /// Its length in s.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::TenSeconds => 10,
            Self::Minute => 60,
        }
    }

    /// Slots kept: 15 minutes, 6 hours, 7 days.
    pub const fn slots_kept(self) -> u64 {
        match self {
            Self::Second => 900,
            Self::TenSeconds => 2_160,
            Self::Minute => 10_080,
        }
    }

    /// Place in lists with one entry for each step.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Second => 0,
            Self::TenSeconds => 1,
            Self::Minute => 2,
        }
    }
}

/// A number that is no step of a ring.
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

/// What was counted in one slot of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Length of the slot.
    pub step: Step,
    /// Its first second, since 1970 UTC.
    pub start: u64,
    /// Counts and latencies, by label; labels that were not used are left out.
    pub cells: Vec<Cell>,
    /// Where the time went, by shard; the last may be of no single shard.
    pub parts: Vec<Parts>,
    /// Shards asked by requests that asked any.
    #[serde(default)]
    pub fanout: Fanout,
    /// The keys asked for most; frames of a second have none.
    #[serde(default)]
    pub hot: Vec<HotCount>,
}

/// What a count is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CellLabel {
    /// Route as it is declared.
    pub route: String,
    /// Read or write.
    pub operation: Operation,
    /// The shard; none when several took part, or none.
    pub shard: Option<String>,
    /// Who answered.
    pub role: Option<Role>,
    /// How it ended.
    pub outcome: Outcome,
}

/// Counts and latencies of one label.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Whose.
    #[serde(flatten)]
    pub label: Arc<CellLabel>,
    /// Requests.
    pub total: u64,
    /// Sum of their latencies in µs.
    pub micros: u64,
    /// Their latencies.
    pub latencies: Packed,
}

/// Where the time of a shard's requests went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parts {
    /// The shard; none for requests of several, or none.
    pub shard: Option<Arc<str>>,
    /// Waiting for a lane or a connection.
    pub queue: Part,
    /// Inside the database.
    pub database: Part,
    /// What is left.
    pub rest: Part,
}

/// One part of the time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Requests.
    pub total: u64,
    /// Sum in µs.
    pub micros: u64,
    /// How it was spread.
    pub latencies: Packed,
}

/// How many shards requests asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fanout {
    /// Requests that asked any shard.
    pub requests: u64,
    /// Shards that they asked, in sum.
    pub shards: u64,
    /// Most shards that one asked.
    pub max: u16,
}

/// A key that was asked for often, in one slot of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HotCount {
    /// The key.
    pub key: Arc<str>,
    /// Its shard, when it had a single one.
    pub shard: Option<Arc<str>>,
    /// Its slot, when told.
    pub slot: Option<u16>,
    /// Requests, at most; at least this less `error`.
    pub requests: u64,
    /// How many of the requests may have been of other keys.
    pub error: u64,
    /// Reads that were surely its own.
    pub reads: u64,
    /// Writes that were surely its own.
    pub writes: u64,
}

impl Frame {
    /// A frame in which nothing happened.
    pub(crate) fn empty(step: Step, start: u64) -> Self {
        let (cells, parts, hot) = (Vec::new(), Vec::new(), Vec::new());
        Self { step, start, cells, parts, fanout: Fanout::default(), hot }
    }

    /// The first second after it.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.step.seconds())
    }

    /// Requests counted.
    pub fn total(&self) -> u64 {
        self.cells.iter().map(|cell| cell.total).sum()
    }

    /// Memory that it takes, without the labels, which frames share.
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
        // Where it was last: a slot may have moved.
        self.shard.clone_from(shard);
        self.slot = *slot;
        self.requests += requests;
        self.error += error;
        self.reads += reads;
        self.writes += writes;
    }
}
