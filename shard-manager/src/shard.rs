//! Shard: one shard's nodes, and the way to each of them.
//!
//! Writes go through the lane to the primary, and wait for as many replicas as their level asks for. Reads go
//! to a replica that has what they must not miss: they wait a little for one, and then take the primary.
//!
//! **Invariant:** an answer is never older than what its read must not miss.
//! **Not here:** which shard (`manager`), which replica (`replica_set`).

mod doubted;
mod health;
mod session;
mod strong;
mod vitals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::barrier::Gate;
use crate::brake::{Brake, Gear};
use crate::cache::FreshnessBound;
use crate::consistency::Level;
use crate::doubts::Doubts;
use crate::error::{Error, Outcome};
use crate::keyspace::Slot;
use crate::lane::{Applied, LaneFailure};
use crate::lanes::Lanes;
use crate::position::Position;
use crate::progress::Progress;
use crate::query::ReadQuery;
use crate::reason::{Findings, Reason};
use crate::replica_set::{Chosen, Demand, ReplicaSet};
use crate::row_change::WriteRequest;
use crate::sabotage::{Mutation, is_on};
use crate::store::readers::Readers;
use crate::store::replica::Replica;
use crate::store::{CitusNode, NodeRows, SchemaChange, TableSize};
use crate::topology::Role;

pub use health::NodeHealth;

/// How long a read waits for a replica to catch up before it takes the primary.
const CATCH_UP_MAX: Duration = Duration::from_millis(50);

/// How long a read waits for a replica that is out, if the primary is gone as well.
const GONE_WAIT: Duration = Duration::from_secs(5);

/// Called when a file is found damaged.
pub type Suspect = Box<dyn Fn() + Send>;

/// A shard.
pub struct Shard {
    name: String,
    primary_name: String,
    replica_names: Vec<String>,
    lanes: Lanes,
    /// How far its nodes have come.
    pub progress: Arc<Progress>,
    primary: Readers,
    replicas: ReplicaSet,
    sizing: Arc<Semaphore>,
    /// Reasons that were found about the primary and still hold.
    findings: Arc<Findings>,
    doubts: Arc<Doubts>,
}

/// Rows that were applied on the primary.
#[derive(Debug)]
pub struct WriteDone {
    /// What became of them there.
    pub applied: Applied,
    /// [`Error::NotConfirmed`], if replicas did not confirm them in time.
    pub shortfall: Option<Error>,
}

/// What a read asks of the node that answers it.
#[derive(Clone, Copy, Debug)]
pub struct ReadDemand {
    /// The level.
    pub level: Level,
    /// What the session has seen of this shard.
    pub seen: u64,
    /// How long ago the node may have been current.
    pub staleness: Duration,
    /// When the answer is of no use any more.
    pub deadline: Instant,
}

/// Rows, and which kind of node they came from.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardRows {
    /// The rows, and up to where they show the shard's changes.
    pub read: NodeRows,
    /// Who answered.
    pub role: Role,
    /// From when and how far the rows surely are; `None` if another node has become the primary meanwhile.
    pub stamp: Option<FreshnessBound>,
}

impl ShardRows {
    fn new(read: NodeRows, role: Role, stamp: FreshnessBound) -> Self {
        let stamp = Some(stamp).filter(|stamp| stamp.timeline == read.position.timeline);
        Self { read, role, stamp }
    }
}

impl Shard {
    /// A shard of these lanes to its primary, and of these readers and replicas.
    pub fn new(
        name: &str,
        progress: Arc<Progress>,
        lanes: impl Into<Lanes>,
        primary: Readers,
        replicas: Vec<Replica>,
    ) -> Self {
        let replicas = ReplicaSet::new(replicas, &progress);
        // Where any of the nodes may lead, the first is listed as the primary.
        let first = usize::from(progress.leading().is_some());
        let replica_names = replicas.replicas().skip(first);
        Self {
            name: name.to_owned(),
            primary_name: format!("{name}-primary"),
            replica_names: replica_names.map(|replica| replica.node().to_owned()).collect(),
            lanes: lanes.into(),
            progress,
            primary,
            replicas,
            sizing: Arc::new(Semaphore::new(1)),
            findings: Arc::default(),
            doubts: Arc::default(),
        }
    }

    /// The shard's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many replicas take part in writes now.
    pub fn following(&self) -> usize {
        self.replicas.following()
    }

    /// Whether a replica has neither been found to follow nor to be out of reach yet.
    pub fn awaits_replicas(&self) -> bool {
        self.replicas.awaits_any()
    }

    /// What holds the worker of a node back; `None` if the node is not one of this shard.
    pub fn brake(&self, node: &str) -> Option<&Brake> {
        if node == self.primary_name {
            return Some(self.lanes.brake());
        }
        self.replicas.replicas().find(|replica| replica.node() == node).and_then(Replica::brake)
    }

    /// What its writes pass between two batches, where there is a file to look at meanwhile.
    pub fn gate(&self) -> &Arc<Gate> {
        self.lanes.gate()
    }

    /// Reasons that were found about its primary elsewhere and still hold; raising one makes the
    /// shard degraded.
    pub fn findings(&self) -> &Arc<Findings> {
        &self.findings
    }

    /// Reasons that were found about one of its replicas, by its place in the progress.
    pub fn findings_of_replica(&self, index: usize) -> Option<&Arc<Findings>> {
        self.replicas.findings(index)
    }

    /// What to call when the primary's file is found damaged. It is told as down then, and goes on as well as it
    /// can, because what is whole of it may be all there is.
    pub fn primary_suspect(&self) -> Suspect {
        let findings = Arc::clone(&self.findings);
        Box::new(move || {
            findings.raise(Reason::Damaged);
        })
    }

    /// The same for each replica, in order: it is made anew.
    pub fn replica_suspects(&self) -> impl Iterator<Item = Suspect> + '_ {
        self.replicas.replicas().map(|replica| {
            let replica = replica.clone();
            Box::new(move || replica.suspect()) as Suspect
        })
    }

    /// The names of its primary and of its replicas.
    pub fn nodes(&self) -> (&str, &[String]) {
        (&self.primary_name, &self.replica_names)
    }

    /// Applies rows as one operation, and waits until as many replicas have them as the level asks for.
    ///
    /// # Errors
    /// [`LaneFailure`] if nothing is known to be stored.
    pub async fn write(
        &self,
        rows: impl Into<WriteRequest>,
        level: Level,
        deadline: Instant,
    ) -> Result<WriteDone, LaneFailure> {
        let rows = rows.into();
        self.check_writable(&rows)
            .map_err(|error| LaneFailure { error, outcome: Outcome::Rejected })?;
        let replicas = self.progress.replicas();
        let needed = level.replicas_needed(replicas);
        if needed == 0 {
            let applied = self.lanes.apply(rows, deadline).await?;
            return Ok(WriteDone { applied, shortfall: None });
        }
        let mut found = self.replicas.following();
        if found < needed && (self.lanes.waits() || self.progress.is_silent()) {
            // Who leads next brings them along.
            let enough = |_: &Progress| {
                let found = self.replicas.following();
                (found >= needed && !self.progress.is_silent()).then_some(found)
            };
            found = self.progress.until(deadline, enough).await.unwrap_or(found);
        }
        if found < needed {
            let shard = self.name.clone();
            let silent = self.progress.is_silent();
            let error = if silent {
                Error::NoPrimary { shard }
            } else {
                Error::TooFewReplicas { shard, level, needed, found }
            };
            return Err(LaneFailure { error, outcome: Outcome::Rejected });
        }
        // From before the commit, so that replicas sync the first time they see it.
        let _confirmations = self.progress.ask_for_confirmations();
        let applied = self.lanes.apply(rows, deadline).await?;
        let position = applied.position;
        // Another node may have become the primary, with this or without it.
        let confirmed = |progress: &Progress| {
            let kept = progress.history().holds(position);
            (!kept || progress.confirmed(position.sequence) >= needed).then_some(kept)
        };
        let unconfirmed = is_on(Mutation::QuorumWithoutWaiting);
        let ended =
            if unconfirmed { Some(true) } else { self.progress.until(deadline, confirmed).await };
        match ended {
            Some(true) => return Ok(WriteDone { applied, shortfall: None }),
            Some(false) => {
                let error = Error::ShardUnavailable { shard: self.name.clone() };
                return Err(LaneFailure { error, outcome: Outcome::Unknown });
            }
            None => {}
        }
        let achieved = Level::reached(self.progress.confirmed(position.sequence), replicas);
        let shard = self.name.clone();
        let shortfall = Error::NotConfirmed { shard, requested: level, achieved };
        Ok(WriteDone { applied, shortfall: Some(shortfall) })
    }

    /// What a client has seen whose write this position holds.
    pub fn seen_by_writer(&self, Position { timeline, sequence }: Position) -> Position {
        let unseen = u64::from(is_on(Mutation::TokenBeforeCommit));
        Position { timeline, sequence: sequence.saturating_sub(unseen) }
    }

    /// Makes or drops a table on the primary; the replicas learn of it from the log, and are not read before.
    ///
    /// # Errors
    /// [`LaneFailure`] if it is not known to be done.
    pub async fn change_schema(
        &self,
        change: SchemaChange,
        deadline: Instant,
    ) -> Result<u64, LaneFailure> {
        self.lanes.change_schema(change, deadline).await
    }

    /// The rows of one shard key.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`], [`Error::PoolExhausted`] or [`Error::ShardUnavailable`].
    pub async fn read_key(
        &self,
        query: &ReadQuery,
        (slot, key): (Slot, &str),
        demand: &ReadDemand,
    ) -> Result<ShardRows, Error> {
        let deadline = demand.deadline;
        self.read(demand, async |readers, floor| {
            readers.read_key(query, (slot, key), (floor, deadline)).await
        })
        .await
    }

    /// Rows of all keys, each with the values it is merged by.
    ///
    /// # Errors
    /// As [`Shard::read_key`].
    pub async fn read_all(
        &self,
        query: &Arc<ReadQuery>,
        demand: &ReadDemand,
    ) -> Result<ShardRows, Error> {
        let deadline = demand.deadline;
        self.read(demand, async |readers, floor| readers.read_all(query, (floor, deadline)).await)
            .await
    }

    /// Reads from a replica that meets the demand, or from the primary: also if the replica fails.
    async fn read(
        &self,
        demand: &ReadDemand,
        read: impl AsyncFn(&Readers, u64) -> Result<NodeRows, Error>,
    ) -> Result<ShardRows, Error> {
        let floor = self.floor(demand).await?;
        if let Some(floor) = floor
            && let Some(replica) = self.choose(floor, demand).await
            && let Some(answer) = self.read_replica(&replica, floor, &read).await
        {
            return answer;
        }
        self.check_readable()?;
        let stamp = self.stamp_of_primary();
        let answer = read(&self.primary, 0).await;
        let is_gone = matches!(answer, Err(Error::ShardUnavailable { .. }));
        if let Some(floor) = floor
            && is_gone
            && self.progress.is_asked()
            && let Some(replica) = self.await_replica(floor, demand).await
            && let Some(answer) = self.read_replica(&replica, floor, &read).await
        {
            return answer;
        }
        let read = answer?;
        if demand.level != Level::One {
            self.progress.show(read.position.sequence);
        }
        Ok(ShardRows::new(read, Role::Primary, stamp))
    }

    /// What a read of the primary that begins later surely shows. Of a server it is not known: a commit that is flushed, and
    /// so has a position, may still be invisible to a read.
    fn stamp_of_primary(&self) -> FreshnessBound {
        let (timeline, as_of) = (self.progress.life(), Instant::now());
        let floor = if self.progress.is_asked() { 0 } else { self.progress.committed() };
        FreshnessBound { timeline, floor, as_of }
    }

    /// The answer of a replica; `None`, if another node has to be asked.
    async fn read_replica(
        &self,
        replica: &Chosen,
        floor: u64,
        read: &impl AsyncFn(&Readers, u64) -> Result<NodeRows, Error>,
    ) -> Option<Result<ShardRows, Error>> {
        let read = tokio::select! {
            biased;
            read = read(&replica.readers, floor) => read,
            // It may be frozen: then it would never answer.
            () = self.progress.down(replica.index), if self.progress.is_asked() => {
                Err(Error::ShardUnavailable { shard: self.name.clone() })
            }
        };
        match read {
            Err(error) if replica.is_to_blame(&error) => None,
            Err(error) => Some(Err(error)),
            Ok(read) => {
                let mut stamp = replica.stamp;
                // It has been asked whether it has this.
                stamp.floor = stamp.floor.max(floor);
                Some(Ok(ShardRows::new(read, Role::Replica, stamp)))
            }
        }
    }

    /// A replica that meets the demand, while the primary is gone: one that is out for a moment is waited for.
    async fn await_replica(&self, floor: u64, demand: &ReadDemand) -> Option<Chosen> {
        let wanted = Demand { floor, staleness: demand.staleness };
        let until = demand.deadline.min(Instant::now() + GONE_WAIT);
        let has = |_: &Progress| self.replicas.has(&wanted).then_some(());
        self.progress.until(until, has).await?;
        self.replicas.choose(&wanted)
    }

    /// A brake may have cut the primary off.
    fn check_reachable(&self) -> Result<(), Error> {
        if self.lanes.brake().hold().gear == Gear::Cut {
            return Err(Error::ShardUnavailable { shard: self.name.clone() });
        }
        Ok(())
    }

    async fn choose(&self, floor: u64, demand: &ReadDemand) -> Option<Chosen> {
        let unbound = is_on(Mutation::NoStalenessBound);
        let staleness = if unbound { Duration::MAX } else { demand.staleness };
        let wanted = Demand { floor, staleness };
        if let Some(chosen) = self.replicas.choose(&wanted) {
            return Some(chosen);
        }
        let left = demand.deadline.saturating_duration_since(Instant::now());
        let wait = CATCH_UP_MAX.min(left / 2);
        if !self.replicas.is_near(&wanted, wait) {
            return None;
        }
        let has = |_: &Progress| self.replicas.has(&wanted).then_some(());
        self.progress.until(Instant::now() + wait, has).await?;
        self.replicas.choose(&wanted)
    }

    /// Rows and bytes of each table. It visits every page, so one call at a time does; the others wait.
    ///
    /// # Errors
    /// As [`Shard::read_key`].
    pub async fn sizes(&self, deadline: Instant) -> Result<Vec<TableSize>, Error> {
        let turn = Arc::clone(&self.sizing).acquire_owned();
        let turn = tokio::time::timeout_at(deadline.into(), turn).await;
        let Ok(Ok(turn)) = turn else { return Err(Error::DeadlinePassed) };
        self.primary.sizes(turn, deadline).await
    }

    /// The nodes of Citus, if that is what the primary coordinates.
    ///
    /// # Errors
    /// As [`Shard::read_key`].
    pub async fn citus_nodes(&self, deadline: Instant) -> Result<Vec<CitusNode>, Error> {
        self.primary.citus_nodes(deadline).await
    }

    /// Which of its lanes changes of this key take.
    pub fn lane_of(&self, key: &str) -> usize {
        self.lanes.number(key)
    }

    /// Rows of each table.
    ///
    /// # Errors
    /// As [`Shard::read_key`].
    pub async fn counts(&self, deadline: Instant) -> Result<Vec<(String, i64)>, Error> {
        self.primary.counts(deadline).await
    }

    /// Finishes what is queued, lets replicas catch up for a moment, and closes the files. Blocks.
    pub fn close(&self) {
        self.lanes.stop();
        self.replicas.replicas().for_each(|replica| replica.stop());
    }
}

/// Threads of a shard must not outlive the lock of its folder.
impl Drop for Shard {
    fn drop(&mut self) {
        self.close();
    }
}
