//! Shard: the nodes of one shard, and the routing of requests to them.
//!
//! Writes go through the lane to the primary, and wait for as many replicas as their level
//! requires. Reads go to a replica that has applied everything they must observe: they wait briefly
//! for one, and otherwise use the primary.
//!
//! **Invariant:** an answer is never older than its read requires.
//! **Not here:** the choice of the shard (`manager`) and of the replica (`replica_set`).

mod doubted;
mod health;
mod session;
mod strong;
mod vitals;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cache::FreshnessBound;
use engine::doubts::Doubts;
use engine::fault_injector::{FaultInjector, NodeMode};
use engine::replication::ReplicationState;
use engine::{
    KeyRead, NodeReader, NodeRows, OpenedShard, PrimaryReader, ScanRead, SchemaChange, TableRows,
    TableSize, WorkerNode,
};
use model::consistency::Level;
use model::error::{Error, Outcome};
use model::keyspace::Slot;
use model::position::Position;
use model::query::ReadQuery;
use model::reason::Findings;
use model::row_change::WriteRequest;
use model::sabotage::{Mutation, is_on};
use model::topology::Role;
use tokio::sync::Semaphore;

use crate::lane::{Applied, LaneFailure};
use crate::lanes::Lanes;
use crate::replica_set::{Chosen, ReplicaRequirements, ReplicaSet};

pub use health::NodeHealth;

/// Longest wait of a read for a replica to catch up before it uses the primary.
const CATCH_UP_MAX: Duration = Duration::from_millis(50);

/// Longest wait of a read for an excluded replica, if the primary is gone as well.
const GONE_WAIT: Duration = Duration::from_secs(5);

/// A shard.
pub struct Shard {
    name: String,
    primary_name: String,
    replica_names: Vec<String>,
    lanes: Lanes,
    /// Replication state of its nodes.
    pub replication: Arc<ReplicationState>,
    primary: Arc<dyn PrimaryReader>,
    replicas: ReplicaSet,
    sizing: Arc<Semaphore>,
    /// Reasons that were found about the primary and still hold.
    findings: Arc<Findings>,
    doubts: Arc<Doubts>,
}

/// Result of a write that the primary has applied.
#[derive(Debug)]
pub struct WriteDone {
    /// Results of the rows on the primary.
    pub applied: Applied,
    /// [`Error::NotConfirmed`], if replicas did not confirm the rows in time.
    pub shortfall: Option<Error>,
}

/// Requirements of a read on the node that answers it.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequirements {
    /// Consistency level.
    pub level: Level,
    /// Position of this shard that the session has seen.
    pub seen: u64,
    /// Longest time since the node was current.
    pub staleness: Duration,
    /// Time after which the answer is useless.
    pub deadline: Instant,
}

/// Rows, and the role of the node that returned them.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardRows {
    /// The rows, with the position up to which they show changes.
    pub read: NodeRows,
    /// Role of the node that answered.
    pub role: Role,
    /// Lower bound of how new the rows are; `None` if another node became the primary during the
    /// read.
    pub stamp: Option<FreshnessBound>,
}

impl ShardRows {
    fn new(read: NodeRows, role: Role, stamp: FreshnessBound) -> Self {
        let stamp = Some(stamp).filter(|stamp| stamp.timeline == read.position.timeline);
        Self { read, role, stamp }
    }
}

impl Shard {
    /// Starts the lanes of a shard that was opened. On an error the shard's replicas are stopped.
    ///
    /// # Errors
    /// The error of the system, if no thread can be started.
    pub fn start(opened: OpenedShard) -> std::io::Result<Self> {
        let OpenedShard { name, replication, writers, partitioner, controls, .. } = opened;
        let OpenedShard { primary, findings, doubts, replicas, .. } = opened;
        let lanes = Lanes::start(&name, writers, partitioner, &controls).inspect_err(|_| {
            replicas.iter().for_each(|replica| replica.node.stop());
        })?;
        let replicas = ReplicaSet::new(replicas, &replication);
        // If any node may become primary, the list of nodes begins with the one named primary.
        let first = usize::from(replication.timeline().leader().is_some());
        let replica_names = replicas.replicas().skip(first);
        Ok(Self {
            primary_name: format!("{name}-primary"),
            replica_names: replica_names.map(|replica| replica.opened_name().to_owned()).collect(),
            name,
            lanes,
            replication,
            primary,
            replicas,
            sizing: Arc::new(Semaphore::new(1)),
            findings,
            doubts,
        })
    }

    /// Returns the shard's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the fault injector of a node; `None` if the node is not one of this shard, or is a
    /// server.
    pub fn fault_injector(&self, node: &str) -> Option<&FaultInjector> {
        if node == self.primary_name {
            return Some(self.lanes.fault_injector());
        }
        let mut replicas = self.replicas.replicas();
        replicas.find(|replica| replica.opened_name() == node)?.fault_injector()
    }

    /// Returns the names of the primary and of the replicas.
    pub fn nodes(&self) -> (&str, &[String]) {
        (&self.primary_name, &self.replica_names)
    }

    /// Applies rows as one operation, and waits until as many replicas have them as the level
    /// requires.
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
        let replicas = self.replication.timeline().replica_count();
        let needed = level.replicas_needed(replicas);
        if needed == 0 {
            let applied = self.lanes.apply(rows, deadline).await?;
            return Ok(WriteDone { applied, shortfall: None });
        }
        let mut found = self.replicas.following();
        if found < needed && (self.lanes.waits() || self.replication.timeline().is_silent()) {
            // The next primary brings its replicas along.
            let enough = || {
                let found = self.replicas.following();
                (found >= needed && !self.replication.timeline().is_silent()).then_some(found)
            };
            found = self.replication.waiters().until(deadline, enough).await.unwrap_or(found);
        }
        if found < needed {
            let shard = self.name.clone();
            let silent = self.replication.timeline().is_silent();
            let error = if silent {
                Error::NoPrimary { shard }
            } else {
                Error::TooFewReplicas { shard, level, needed, found }
            };
            return Err(LaneFailure { error, outcome: Outcome::Rejected });
        }
        // Requested before the commit, so that replicas sync when they first see it.
        let _confirmations = self.replication.waiters().request_confirmations();
        let applied = self.lanes.apply(rows, deadline).await?;
        let position = applied.position;
        // Another node may have become the primary, with or without this change.
        let confirmed = || {
            let kept = self.replication.timeline().history().holds(position);
            (!kept || self.replication.confirmations(position.sequence) >= needed).then_some(kept)
        };
        let unconfirmed = is_on(Mutation::QuorumWithoutWaiting);
        let ended = if unconfirmed {
            Some(true)
        } else {
            self.replication.waiters().until(deadline, confirmed).await
        };
        match ended {
            Some(true) => return Ok(WriteDone { applied, shortfall: None }),
            Some(false) => {
                let error = Error::ShardUnavailable { shard: self.name.clone() };
                return Err(LaneFailure { error, outcome: Outcome::Unknown });
            }
            None => {}
        }
        let achieved = Level::reached(self.replication.confirmations(position.sequence), replicas);
        let shard = self.name.clone();
        let shortfall = Error::NotConfirmed { shard, requested: level, achieved };
        Ok(WriteDone { applied, shortfall: Some(shortfall) })
    }

    /// Returns the position that the writer of this position has seen.
    pub fn seen_by_writer(&self, Position { timeline, sequence }: Position) -> Position {
        let unseen = u64::from(is_on(Mutation::TokenBeforeCommit));
        Position { timeline, sequence: sequence.saturating_sub(unseen) }
    }

    /// Creates or drops a table on the primary. Replicas learn of it from the log, and are not read
    /// before that.
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

    /// Reads the rows of one shard key.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`], [`Error::PoolExhausted`] or [`Error::ShardUnavailable`].
    pub async fn read_key(
        &self,
        query: &ReadQuery,
        (slot, key): (Slot, &str),
        requirements: &ReadRequirements,
    ) -> Result<ShardRows, Error> {
        let deadline = requirements.deadline;
        self.read(requirements, async |reader, min_position| {
            reader.read_key(KeyRead { query, slot, key, min_position, deadline }).await
        })
        .await
    }

    /// Reads rows of all keys, each with the values by which it is merged.
    ///
    /// # Errors
    /// Those of [`Shard::read_key`].
    pub async fn read_all(
        &self,
        query: &Arc<ReadQuery>,
        requirements: &ReadRequirements,
    ) -> Result<ShardRows, Error> {
        let deadline = requirements.deadline;
        self.read(requirements, async |reader, min_position| {
            reader.scan(ScanRead { query: Arc::clone(query), min_position, deadline }).await
        })
        .await
    }

    /// Reads from a replica that meets the requirements. Without one, or if it fails, reads from
    /// the primary.
    async fn read(
        &self,
        requirements: &ReadRequirements,
        read: impl AsyncFn(&dyn NodeReader, u64) -> Result<NodeRows, Error>,
    ) -> Result<ShardRows, Error> {
        let min_position = self.min_position(requirements).await?;
        if let Some(min_position) = min_position
            && let Some(replica) = self.choose(min_position, requirements).await
            && let Some(answer) = self.read_replica(&replica, min_position, &read).await
        {
            return answer;
        }
        self.check_readable()?;
        let stamp = self.stamp_of_primary();
        let answer = read(&*self.primary, 0).await;
        let is_gone = matches!(answer, Err(Error::ShardUnavailable { .. }));
        if let Some(min_position) = min_position
            && is_gone
            && self.replicas.outlive_primary()
            && let Some(replica) = self.await_replica(min_position, requirements).await
            && let Some(answer) = self.read_replica(&replica, min_position, &read).await
        {
            return answer;
        }
        let read = answer?;
        if requirements.level != Level::One {
            self.replication.primary().raise_read_high_watermark(read.position.sequence);
        }
        Ok(ShardRows::new(read, Role::Primary, stamp))
    }

    /// Returns a lower bound of how new the rows of a later read of the primary are.
    fn stamp_of_primary(&self) -> FreshnessBound {
        let (timeline, as_of) = (self.replication.timeline().id(), Instant::now());
        FreshnessBound { timeline, floor: self.primary.visible_position(), as_of }
    }

    /// Reads from a replica; returns `None` if another node has to be used.
    async fn read_replica(
        &self,
        replica: &Chosen,
        min_position: u64,
        read: &impl AsyncFn(&dyn NodeReader, u64) -> Result<NodeRows, Error>,
    ) -> Option<Result<ShardRows, Error>> {
        let read = tokio::select! {
            biased;
            read = read(&*replica.reader, min_position) => read,
            // A frozen replica would never answer.
            () = self.replication.replicas().stopped_following(replica.index), if replica.outlives_primary() => {
                Err(Error::ShardUnavailable { shard: self.name.clone() })
            }
        };
        match read {
            Err(error) if replica.is_to_blame(&error) => None,
            Err(error) => Some(Err(error)),
            Ok(read) => {
                let mut stamp = replica.stamp;
                // The read has checked that the replica has this position.
                stamp.floor = stamp.floor.max(min_position);
                Some(Ok(ShardRows::new(read, Role::Replica, stamp)))
            }
        }
    }

    /// Returns a replica that meets the requirements while the primary is gone; waits for one that
    /// is excluded briefly.
    async fn await_replica(
        &self,
        min_position: u64,
        requirements: &ReadRequirements,
    ) -> Option<Chosen> {
        let wanted = ReplicaRequirements { min_position, staleness: requirements.staleness };
        let until = requirements.deadline.min(Instant::now() + GONE_WAIT);
        let has = || self.replicas.has(&wanted).then_some(());
        self.replication.waiters().until(until, has).await?;
        self.replicas.choose(&wanted)
    }

    /// Refuses requests while an injected fault cuts off the primary.
    fn check_reachable(&self) -> Result<(), Error> {
        if self.lanes.fault_injector().fault().mode == NodeMode::Cut {
            return Err(Error::ShardUnavailable { shard: self.name.clone() });
        }
        Ok(())
    }

    async fn choose(&self, min_position: u64, requirements: &ReadRequirements) -> Option<Chosen> {
        let unbound = is_on(Mutation::NoStalenessBound);
        let staleness = if unbound { Duration::MAX } else { requirements.staleness };
        let wanted = ReplicaRequirements { min_position, staleness };
        if let Some(chosen) = self.replicas.choose(&wanted) {
            return Some(chosen);
        }
        let left = requirements.deadline.saturating_duration_since(Instant::now());
        let wait = CATCH_UP_MAX.min(left / 2);
        if !self.replicas.is_near(&wanted, wait) {
            return None;
        }
        let has = || self.replicas.has(&wanted).then_some(());
        self.replication.waiters().until(Instant::now() + wait, has).await?;
        self.replicas.choose(&wanted)
    }

    /// Returns rows and bytes of each table. It reads every page, so only one call runs at a time;
    /// others wait.
    ///
    /// # Errors
    /// Those of [`Shard::read_key`].
    pub async fn sizes(&self, deadline: Instant) -> Result<Vec<TableSize>, Error> {
        let turn = Arc::clone(&self.sizing).acquire_owned();
        let turn = tokio::time::timeout_at(deadline.into(), turn).await;
        let Ok(Ok(turn)) = turn else { return Err(Error::DeadlinePassed) };
        self.primary.table_sizes(turn, deadline).await
    }

    /// Returns the nodes over which the engine itself distributes the shard's rows; none if it does
    /// not.
    ///
    /// # Errors
    /// Those of [`Shard::read_key`].
    pub async fn worker_nodes(&self, deadline: Instant) -> Result<Vec<WorkerNode>, Error> {
        self.primary.worker_nodes(deadline).await
    }

    /// Returns the index of the lane that changes of this key take.
    pub fn lane_of(&self, key: &str) -> usize {
        self.lanes.number(key)
    }

    /// Returns the number of rows of each table.
    ///
    /// # Errors
    /// Those of [`Shard::read_key`].
    pub async fn row_counts(&self, deadline: Instant) -> Result<Vec<TableRows>, Error> {
        self.primary.row_counts(deadline).await
    }

    /// Applies what is queued, lets replicas catch up briefly, and closes the files. Blocks.
    pub fn close(&self) {
        self.lanes.stop();
        self.replicas.replicas().for_each(|replica| replica.stop());
    }
}

/// Stops the threads of a shard that is dropped: they must not outlive the lock of its folder.
impl Drop for Shard {
    fn drop(&mut self) {
        self.close();
    }
}
