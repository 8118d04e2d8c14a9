//! Reads: the interface through which rows of a shard are read, and the choice between a replica
//! and the primary.
//!
//! A read goes to a replica that has applied every change that the read must observe. If there is
//! none, but one is about to catch up, the read waits for it for a short time. Otherwise it uses
//! the primary.
//!
//! **Invariant:** the rows of a response are never older than the read permits.
//! **Not here:** the position that a read must observe (`strong`), the choice of one of the
//! replicas (`replica_set`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use cache::FreshnessBound;
use engine::{KeyRead, NodeReader, NodeRows, ScanRead};
use model::consistency::Level;
use model::error::Error;
use model::fair_share::FairShare;
use model::keyspace::Slot;
use model::query::ReadQuery;
use model::sabotage::{Mutation, is_on};
use model::topology::Role;

use super::Shard;
use super::replica_set::{Chosen, ReplicaRequirements};

/// Longest wait of a read for a replica to catch up before it uses the primary.
pub(super) const CATCH_UP_MAX: Duration = Duration::from_millis(50);
/// Longest wait of a read for a node that responds, if the primary is unreachable.
const GONE_WAIT: Duration = Duration::from_secs(5);
/// Interval at which a read tries an unreachable primary again: another node may have become the
/// primary.
const PRIMARY_RETRY: Duration = Duration::from_millis(250);

/// Interface of a [`Shard`] for reads of its rows.
#[derive(Clone, Copy)]
pub struct Reads<'s>(pub(super) &'s Shard);

/// Requirements that a node and its response to a read must meet.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequirements {
    /// Consistency level.
    pub level: Level,
    /// Position of this shard that the session has seen.
    pub seen: u64,
    /// Maximum staleness: the time since the node last had all changes of the primary.
    pub staleness: Duration,
    /// Moment by which the response is due.
    pub deadline: Instant,
    /// Tenant for whom the rows are read.
    pub share: FairShare,
}

/// Rows, and the role of the node that returned them.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardRows {
    /// The rows, with the position up to which they show changes.
    pub read: NodeRows,
    /// Role of the node that returned the rows.
    pub role: Role,
    /// Lower bound of the freshness of the rows; `None` if another node became the primary during
    /// the read.
    pub stamp: Option<FreshnessBound>,
}

impl ShardRows {
    fn new(read: NodeRows, role: Role, stamp: FreshnessBound) -> Self {
        let stamp = Some(stamp).filter(|stamp| stamp.timeline == read.position.timeline);
        Self { read, role, stamp }
    }
}

impl Reads<'_> {
    /// Reads the rows of one shard key.
    ///
    /// # Errors
    /// [`Error::DeadlinePassed`], [`Error::PoolExhausted`] or [`Error::ShardUnavailable`].
    pub async fn read_key(
        self,
        query: &ReadQuery,
        (slot, key): (Slot, &str),
        requirements: &ReadRequirements,
    ) -> Result<ShardRows, Error> {
        let ReadRequirements { deadline, share, .. } = *requirements;
        self.read(requirements, async |reader, min_position| {
            reader.read_key(KeyRead { query, slot, key, min_position, deadline, share }).await
        })
        .await
    }

    /// Reads rows of all shard keys. Each row comes with the values by which it is merged with the
    /// rows of other shards.
    ///
    /// # Errors
    /// Those of [`Reads::read_key`].
    pub async fn read_all(
        self,
        query: &Arc<ReadQuery>,
        requirements: &ReadRequirements,
    ) -> Result<ShardRows, Error> {
        let ReadRequirements { deadline, share, .. } = *requirements;
        self.read(requirements, async |reader, min_position| {
            let query = Arc::clone(query);
            reader.scan(ScanRead { query, min_position, deadline, share }).await
        })
        .await
    }

    /// Reads from a replica that meets the requirements. If there is none, or the replica fails,
    /// reads from the primary.
    async fn read(
        self,
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
        let gone_until = requirements.deadline.min(Instant::now() + GONE_WAIT);
        loop {
            self.0.primary.check_readable()?;
            let stamp = self.0.primary.freshness();
            let answer = read(&*self.0.primary.reader, 0).await;
            let is_gone = matches!(answer, Err(Error::ShardUnavailable { .. }));
            let may_wait = self.0.replicas.outlive_primary() && Instant::now() < gone_until;
            let Some(min_position) = min_position.filter(|_| is_gone && may_wait) else {
                return self.primary_rows(answer?, requirements, stamp);
            };
            let retried_at = gone_until.min(Instant::now() + PRIMARY_RETRY);
            if let Some(replica) = self.await_replica(min_position, requirements, retried_at).await
                && let Some(answer) = self.read_replica(&replica, min_position, &read).await
            {
                return answer;
            }
            // The replica that has just failed may be about to become the primary, and is then
            // found soon.
            tokio::time::sleep(CATCH_UP_MAX).await;
        }
    }

    /// Returns rows that were read from the primary. After a strong read, first records their
    /// position.
    fn primary_rows(
        self,
        read: NodeRows,
        requirements: &ReadRequirements,
        stamp: FreshnessBound,
    ) -> Result<ShardRows, Error> {
        if requirements.level != Level::One {
            self.0.replication.primary().raise_read_high_watermark(read.position.sequence);
        }
        Ok(ShardRows::new(read, Role::Primary, stamp))
    }

    /// Reads from a replica; returns `None` if another node has to be used.
    async fn read_replica(
        self,
        replica: &Chosen,
        min_position: u64,
        read: &impl AsyncFn(&dyn NodeReader, u64) -> Result<NodeRows, Error>,
    ) -> Option<Result<ShardRows, Error>> {
        let read = tokio::select! {
            biased;
            read = read(&*replica.reader, min_position) => read,
            // A frozen replica would never respond.
            () = self.0.replication.replicas().stopped_following(replica.index), if replica.outlives_primary() => {
                Err(Error::ShardUnavailable { shard: self.0.name.clone() })
            }
        };
        match read {
            // The replica may not have applied the last changes of slots, so the primary decides.
            Err(Error::SlotRefused(_)) => None,
            Err(error) if replica.is_to_blame(&error) => None,
            Err(error) => Some(Err(error)),
            Ok(read) => {
                let mut stamp = replica.stamp;
                // The read has checked that the replica has this position.
                stamp.min_position = stamp.min_position.max(min_position);
                Some(Ok(ShardRows::new(read, Role::Replica, stamp)))
            }
        }
    }

    /// Returns a replica that meets the requirements while the primary is unreachable. Waits for
    /// one until this time, because a replica may be excluded only briefly.
    async fn await_replica(
        self,
        min_position: u64,
        requirements: &ReadRequirements,
        until: Instant,
    ) -> Option<Chosen> {
        let wanted = ReplicaRequirements { min_position, staleness: requirements.staleness };
        let has = || self.0.replicas.has(&wanted).then_some(());
        self.0.replication.waiters().until(until, has).await?;
        self.0.replicas.choose(&wanted)
    }

    async fn choose(self, min_position: u64, requirements: &ReadRequirements) -> Option<Chosen> {
        let unbound = is_on(Mutation::NoStalenessBound);
        let staleness = if unbound { Duration::MAX } else { requirements.staleness };
        let wanted = ReplicaRequirements { min_position, staleness };
        if let Some(chosen) = self.0.replicas.choose(&wanted) {
            return Some(chosen);
        }
        let left = requirements.deadline.saturating_duration_since(Instant::now());
        let wait = CATCH_UP_MAX.min(left / 2);
        if !self.0.replicas.is_near(&wanted, wait) {
            return None;
        }
        let has = || self.0.replicas.has(&wanted).then_some(());
        self.0.replication.waiters().until(Instant::now() + wait, has).await?;
        self.0.replicas.choose(&wanted)
    }
}
