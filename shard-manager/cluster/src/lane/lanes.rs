//! Lanes: the write queues of a shard's primary. There is one, or there are several if the engine
//! itself distributes the rows over worker nodes.
//!
//! A transaction on one worker node commits in one phase; a transaction on several worker nodes
//! needs a two-phase commit. A worker node that fails blocks every transaction that involves it.
//! Therefore the engine's [`WritePartitioner`] assigns changes to lanes by worker node.
//!
//! **Invariant:** changes of one key are applied in the same lane, as long as the engine does not
//! move the key; an operation on keys of several lanes is applied in the first lane.
//! **Not here:** the work of a lane (`worker`), the worker that holds a key (the engines).

use std::sync::Arc;
use std::time::Instant;

use engine::fault_injector::FaultInjector;
use engine::{LaneControls, WritePartitioner, WriterKind};
use futures_util::future::join_all;
use model::reason::Reasons;
use model::row_change::{RowWrite, WriteRequest};
use model::stats::LaneStats;

use super::{Applied, Lane, LaneFailure, SoloChanges};

/// The lanes of one shard.
pub struct Lanes {
    first: Lane,
    others: Vec<Lane>,
    partitioner: Option<Arc<dyn WritePartitioner>>,
}

impl Lanes {
    /// Starts a lane for each writer; there must be at least one.
    ///
    /// # Errors
    /// The error of the operating system if no thread can be started.
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

    /// Applies rows in the lane of their keys, like [`Lane::apply`]. An operation on keys of
    /// several lanes takes the first lane.
    ///
    /// # Errors
    /// Those of [`Lane::apply`].
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

    /// Returns the interface for solo changes. They are applied in the first lane, while locks in
    /// the database make the writes of the other lanes wait.
    pub fn solo(&self) -> SoloChanges<'_> {
        self.first.solo()
    }

    /// Returns true if the engine distributes the shard's rows over nodes by a rule of its own.
    pub fn is_partitioned(&self) -> bool {
        self.partitioner.is_some()
    }

    /// Returns the fault injector that all lanes share.
    pub fn fault_injector(&self) -> &Arc<FaultInjector> {
        &self.first.controls().fault_injector
    }

    /// Returns true while no node accepts writes and queued operations wait for one.
    pub fn waits(&self) -> bool {
        self.first.waits()
    }

    /// Returns the reasons why lanes make no progress, as far as they are recorded. Sends no probe.
    pub fn standstill(&self) -> Reasons {
        Reasons::of(self.all().filter_map(Lane::standstill))
    }

    /// Probes all lanes, as [`Lane::probe`] does. Returns false if the deadline passed before the
    /// state of each lane was known.
    pub async fn probe(&self, deadline: Instant) -> bool {
        let probes = join_all(self.all().map(|lane| lane.probe(deadline))).await;
        probes.into_iter().all(|answered| answered)
    }

    /// Returns the summed load and counters of all lanes.
    pub fn stats(&self) -> LaneStats {
        self.all().fold(LaneStats::default(), |sum, lane| sum.with(&lane.stats()))
    }

    /// Applies the queued operations and stops all lanes. Blocks.
    pub fn stop(&self) {
        self.all().for_each(Lane::stop);
    }
}
