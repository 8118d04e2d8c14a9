//! Shard: the nodes of one shard, and the routing of requests to them.
//!
//! A write goes through a lane (the queue of writes) to the primary, and then waits until as many
//! replicas have it as its consistency level requires.
//!
//! **Invariant:** a write that is reported as confirmed is durable on as many nodes as its level
//! requires.
//! **Not here:** the choice of the shard (`manager`), reads (`reads`), the state of the primary
//! (`primary`).

mod confirmation;
mod health;
mod indexes;
mod majority;
mod primary;
mod primary_moves;
mod reads;
mod replica_set;
mod session;
mod slot_wait;
mod stats;
mod strong;

use std::sync::Arc;
use std::time::Instant;

use engine::fault_injector::FaultInjector;
use engine::replication::{ReplicationState, Timeline};
use engine::slot_change::{SlotChange, SlotChangeError};
use engine::{OpenedShard, SchemaChange};
use model::consistency::Level;
use model::error::{Error, Outcome};
use model::position::Position;
use model::row_change::{RowDone, WriteRequest};
use model::sabotage::{Mutation, is_on};
use tokio::sync::Semaphore;

use self::confirmation::confirmed;
use self::replica_set::ReplicaSet;
use crate::lane::{Applied, LaneFailure, Lanes};

pub use health::NodeHealth;
pub use indexes::{LockedIndexes, ShardIndexes};
pub use majority::Majority;
pub use primary::Primary;
pub use primary_moves::PrimaryMoves;
pub use reads::{ReadRequirements, Reads, ShardRows};
pub use slot_wait::{LOOK, SlotWaits, SlotWake};

/// Open shard: the lanes and readers of its primary, and its replicas.
pub struct Shard {
    name: String,
    primary_name: String,
    replica_names: Vec<String>,
    /// Replication state of the shard's nodes.
    pub replication: Arc<ReplicationState>,
    primary: Primary,
    replicas: ReplicaSet,
    /// Writes that wait until the shard accepts their slots.
    pub slot_waits: SlotWaits,
}

/// Result of a write that the primary has applied.
#[derive(Debug)]
pub struct WriteDone {
    /// Results of the rows on the primary.
    pub applied: Applied,
    /// [`Error::NotConfirmed`], if replicas did not confirm the rows in time.
    pub shortfall: Option<Error>,
}

impl WriteDone {
    /// Returns the position that the session of the writing client has seen.
    pub fn seen(&self) -> Position {
        let Position { timeline, sequence } = self.applied.position;
        let unseen = u64::from(is_on(Mutation::TokenBeforeCommit));
        Position { timeline, sequence: sequence.saturating_sub(unseen) }
    }
}

impl Shard {
    /// Starts the lanes of a shard that was opened. On an error the shard's replicas are stopped.
    ///
    /// # Errors
    /// The error of the operating system if no thread can be started.
    pub fn start(opened: OpenedShard) -> std::io::Result<Self> {
        let OpenedShard { name, replication, writers, partitioner, controls, .. } = opened;
        let OpenedShard { primary, findings, copy_faults, replicas, slot_news, .. } = opened;
        let OpenedShard { moves, indexes, .. } = opened;
        let lanes = Lanes::start(&name, writers, partitioner, &controls).inspect_err(|_| {
            replicas.iter().for_each(|replica| replica.node.stop());
        })?;
        let replicas = ReplicaSet::new(replicas, &replication);
        // If any node may become the primary, the list begins with the node that is named after the
        // primary, which is skipped here.
        let first = usize::from(replication.timeline().leader().is_some());
        let replica_names = replicas.replicas().skip(first);
        Ok(Self {
            primary_name: format!("{name}-primary"),
            replica_names: replica_names.map(|replica| replica.opened_name().to_owned()).collect(),
            primary: Primary {
                shard: name.clone(),
                lanes,
                replication: Arc::clone(&replication),
                reader: primary,
                sizing: Arc::new(Semaphore::new(1)),
                findings,
                copy_faults,
                moves,
                indexes,
            },
            name,
            replication,
            replicas,
            slot_waits: SlotWaits::new(slot_news),
        })
    }

    /// Returns the shard's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the primary.
    pub fn primary(&self) -> &Primary {
        &self.primary
    }

    /// Returns the interface for reads.
    pub fn reads(&self) -> Reads<'_> {
        Reads(self)
    }

    /// Returns the fault injector of a node; `None` if the node does not belong to this shard, or
    /// is a replica on a server.
    pub fn fault_injector(&self, node: &str) -> Option<&Arc<FaultInjector>> {
        if node == self.primary_name {
            return Some(self.primary.lanes.fault_injector());
        }
        let mut replicas = self.replicas.replicas();
        replicas.find(|replica| replica.opened_name() == node)?.fault_injector()
    }

    /// Returns the names of the primary and of the replicas.
    pub fn nodes(&self) -> (&str, &[String]) {
        (&self.primary_name, &self.replica_names)
    }

    /// Writes rows as one operation, and waits until the rows are durable on as many replicas as
    /// `level` requires.
    ///
    /// # Errors
    /// [`LaneFailure`] if the rows are not known to be stored.
    pub async fn write(
        &self,
        rows: impl Into<WriteRequest>,
        level: Level,
        deadline: Instant,
    ) -> Result<WriteDone, LaneFailure> {
        let rows = rows.into();
        self.primary
            .check_writable(&rows)
            .map_err(|error| LaneFailure { error, outcome: Outcome::Rejected })?;
        let replicas = self.replication.timeline().replica_count();
        let needed = level.replicas_needed(replicas);
        if needed == 0 {
            let applied = self.primary.lanes.apply(rows, deadline).await?;
            return Ok(WriteDone { applied, shortfall: None });
        }
        let mut found = self.replicas.following();
        if found < needed && (self.primary.lanes.waits() || self.replication.timeline().is_silent())
        {
            // Waits, because replicas follow again once there is a new primary.
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
        // Confirmations are requested before the commit, so that replicas sync the commit to disk
        // as soon as they apply it.
        let _confirmations = self.replication.waiters().request_confirmations();
        let applied = self.primary.lanes.apply(rows, deadline).await?;
        if applied.refused.is_some() && applied.rows.iter().all(is_untouched) {
            // Nothing was read or stored, so there is nothing to confirm.
            return Ok(WriteDone { applied, shortfall: None });
        }
        let position = applied.position;
        // Another node may have become the primary, with or without this change.
        let is_kept = |timeline: &Timeline| timeline.holds(position);
        let ended = || confirmed(&self.replication, (position.sequence, needed), is_kept);
        let unconfirmed = is_on(Mutation::QuorumWithoutWaiting);
        let ended = if unconfirmed {
            Some(true)
        } else {
            self.replication.waiters().until(deadline, ended).await
        };
        if ended == Some(true) {
            return Ok(WriteDone { applied, shortfall: None });
        }
        let shard = self.name.clone();
        let achieved = Level::reached(self.replication.confirmations(position.sequence), replicas);
        // The timeline is compared after the replicas were counted, because they may follow another
        // primary by now.
        if ended == Some(false) || !is_kept(self.replication.timeline()) {
            let error = Error::ShardUnavailable { shard };
            return Err(LaneFailure { error, outcome: Outcome::Unknown });
        }
        let shortfall = Error::NotConfirmed { shard, requested: level, achieved };
        Ok(WriteDone { applied, shortfall: Some(shortfall) })
    }

    /// Creates or drops a table or an index on the primary. Replicas receive the change through
    /// replication, and are not read before they have all tables.
    ///
    /// # Errors
    /// [`LaneFailure`] if the change is not known to be stored.
    pub async fn change_schema(
        &self,
        change: SchemaChange,
        deadline: Instant,
    ) -> Result<u64, LaneFailure> {
        self.primary.lanes.solo().change_schema(change, deadline).await
    }

    /// Changes the slots that the shard owns, on its primary. Replicas receive the change through
    /// replication.
    ///
    /// # Errors
    /// [`SlotChangeError`] if the change is not known to be stored.
    pub async fn change_slots(
        &self,
        change: SlotChange,
        deadline: Instant,
    ) -> Result<u64, SlotChangeError> {
        self.primary.lanes.solo().change_slots(change, deadline).await
    }

    /// Returns the interface for indexes.
    pub fn indexes(&self) -> ShardIndexes<'_> {
        ShardIndexes(self)
    }

    /// Returns the number of the lane in which changes of this key are applied.
    pub fn lane_of(&self, key: &str) -> usize {
        self.primary.lanes.number(key)
    }

    /// Applies the queued writes, lets the replicas catch up for a short time, and closes the
    /// files. Blocks.
    pub fn close(&self) {
        self.primary.lanes.stop();
        self.replicas.replicas().for_each(|replica| replica.stop());
    }
}

/// Returns true if a row was not applied because its slot was refused, or because another row of
/// its transaction failed.
fn is_untouched(row: &Result<RowDone, Error>) -> bool {
    matches!(row, Err(Error::SlotRefused(_) | Error::Undone { .. }))
}

/// Stops the threads of a shard that is dropped: they must not outlive the lock of its folder.
impl Drop for Shard {
    fn drop(&mut self) {
        self.close();
    }
}
