//! Lanes: the lanes to a shard's primary: one, or several if the engine distributes the rows over
//! worker nodes by itself.
//!
//! A transaction on one worker commits there at once, one on several is prepared on each of them
//! first; and a worker that is gone stops the transactions that wait for it. So changes are divided
//! by worker: the engine says how, with its [`WritePartitioner`].
//!
//! **Invariant:** changes of one key take the same lane, as long as the engine does not move it;
//! changes that are applied all or not at all take the first.
//! **Not here:** the work of a lane (`lane`), where a key is (the engines).

use std::sync::Arc;
use std::time::Instant;

use engine::fault_injector::FaultInjector;
use engine::{LaneControls, SchemaChange, WritePartitioner, WriterKind};
use futures_util::future::join_all;
use model::reason::Reasons;
use model::row_change::{RowWrite, WriteRequest};
use model::stats::LaneStats;

use crate::lane::{Applied, Lane, LaneFailure};

/// The lanes of one shard.
pub struct Lanes {
    first: Lane,
    others: Vec<Lane>,
    partitioner: Option<Arc<dyn WritePartitioner>>,
}

impl Lanes {
    /// Starts a lane for each writer, of which there must be one.
    ///
    /// # Errors
    /// The system's, if it cannot start a thread.
    pub fn start(
        shard: &str,
        writers: Vec<WriterKind>,
        partitioner: Option<Arc<dyn WritePartitioner>>,
        controls: &LaneControls,
    ) -> std::io::Result<Self> {
        let lanes = writers.into_iter().map(|writer| Lane::start(shard, writer, controls.clone()));
        let mut lanes = lanes.collect::<std::io::Result<Vec<_>>>()?.into_iter();
        let missing = || std::io::Error::other("the shard has no writer");
        let first = lanes.next().ok_or_else(missing)?;
        Ok(Self { first, others: lanes.collect(), partitioner })
    }

    fn all(&self) -> impl Iterator<Item = &Lane> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Returns the number of the lane for changes of this key.
    pub fn number(&self, key: &str) -> usize {
        match &self.partitioner {
            Some(partitioner) if !self.others.is_empty() => {
                partitioner.lane_of(key, 1 + self.others.len())
            }
            Some(_) | None => 0,
        }
    }

    /// As [`Lane::apply`]. Changes of several lanes that are one operation take the first.
    ///
    /// # Errors
    /// As there.
    pub async fn apply(
        &self,
        request: WriteRequest,
        deadline: Instant,
    ) -> Result<Applied, LaneFailure> {
        let mut numbers = request.rows.iter().map(|row: &RowWrite| self.number(&row.key));
        let number = numbers.next().unwrap_or(0);
        let number = if numbers.all(|other| other == number) { number } else { 0 };
        drop(numbers);
        let lane = number.checked_sub(1).and_then(|index| self.others.get(index));
        lane.unwrap_or(&self.first).apply(request, deadline).await
    }

    /// As [`Lane::change_schema`].
    ///
    /// # Errors
    /// As there.
    pub async fn change_schema(
        &self,
        change: SchemaChange,
        deadline: Instant,
    ) -> Result<u64, LaneFailure> {
        self.first.change_schema(change, deadline).await
    }

    /// Returns true if the engine distributes the shard's rows over nodes by a rule of its own.
    pub fn is_partitioned(&self) -> bool {
        self.partitioner.is_some()
    }

    /// Returns the fault injector of all of them.
    pub fn fault_injector(&self) -> &FaultInjector {
        &self.first.controls().fault_injector
    }

    /// Whether there is no node to write to now, so that what is queued waits for one.
    pub fn waits(&self) -> bool {
        self.first.waits()
    }

    /// Reasons why the lanes make no progress, from what is recorded already.
    pub fn standstill(&self) -> Reasons {
        Reasons::of(self.all().filter_map(Lane::standstill))
    }

    /// Probes all lanes like [`Lane::probe`].
    pub async fn probe(&self, deadline: Instant) {
        join_all(self.all().map(|lane| lane.probe(deadline))).await;
    }

    /// How busy they are together, and what they have done.
    pub fn vitals(&self) -> LaneStats {
        self.all().fold(LaneStats::default(), |sum, lane| sum.with(&lane.vitals()))
    }

    /// Applies what is queued, and ends them. Blocks.
    pub fn stop(&self) {
        self.all().for_each(Lane::stop);
    }
}
