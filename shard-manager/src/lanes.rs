//! Lanes: the ways to a shard's primary: one, or one to each group of workers behind a coordinator of Citus.
//!
//! A transaction of one worker commits there at once, one of several is prepared on each of them first; and a worker
//! that is gone stops whoever waits for it. So each group has a lane of its own, and what lies there takes it.
//!
//! **Invariant:** changes of one key take the same lane, as long as Citus does not move it; what is all or nothing takes
//! the first, wherever it lies.
//! **Not here:** what a lane does (`lane`), where a key lies (`store`).

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;

use crate::barrier::Gate;
use crate::brake::Brake;
use crate::lane::{Applied, Lane, LaneFailure};
use crate::reason::Reasons;
use crate::row_change::{RowWrite, WriteRequest};
use crate::stats::LaneStats;
use crate::store::SchemaChange;
use crate::store::postgres::citus::Citus;

/// The lanes of one shard.
pub struct Lanes {
    first: Lane,
    /// Those to the other groups of workers.
    others: Vec<Lane>,
    citus: Option<Arc<Citus>>,
}

impl From<Lane> for Lanes {
    fn from(first: Lane) -> Self {
        Self { first, others: Vec::new(), citus: None }
    }
}

impl Lanes {
    /// Most lanes of one shard: each is a connection.
    pub const MAX: usize = 8;

    /// A lane to each group of workers; groups share them where there are more.
    pub fn of_groups(first: Lane, others: Vec<Lane>, citus: Arc<Citus>) -> Self {
        Self { first, others, citus: Some(citus) }
    }

    fn all(&self) -> impl Iterator<Item = &Lane> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Which lane changes of this key take.
    pub fn number(&self, key: &str) -> usize {
        match &self.citus {
            Some(citus) if !self.others.is_empty() => {
                citus.parts().group_number(key) % (1 + self.others.len())
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

    /// Whether the primary is a coordinator of Citus.
    pub fn is_of_citus(&self) -> bool {
        self.citus.is_some()
    }

    /// What holds all of them back.
    pub fn brake(&self) -> &Brake {
        &self.first.holds().brake
    }

    /// What they pass between two batches.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.first.holds().gate
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
