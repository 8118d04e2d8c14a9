//! Readers: the reading half of one node.
//!
//! **Invariant:** a node sees at most [`Readers::CONNECTIONS`] connections for reads, however many clients there are.
//! **Not here:** how reads run (`point`, `scan`), which node (`shard`).

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::oneshot;

use super::node::Target;
use super::point::{PointRead, Points};
use super::proof::Proof;
use super::scan::Scans;
use crate::error::Error;
use crate::home::Homes;
use crate::keyspace::Slot;
use crate::position::Position;
use crate::progress::Progress;
use crate::query::ReadQuery;
use crate::stats::{PoolStats, SizeEstimate};
use crate::store::{CitusNode, NodeRows, TableSize};

/// Rows of a read by key that shares a statement with others; for more they would wait too long.
const POINT_ROWS_MAX: u32 = 100;
/// Connections for such reads, of a replica and of a primary, which is read seldom.
const POINTS: usize = 2;
const POINTS_OF_PRIMARY: usize = 1;
/// The same of a coordinator of Citus, which answers all reads, each by a statement of its own.
const POINTS_OF_COORDINATOR: usize = 4;

/// Connections to one node.
pub struct Readers {
    shard: String,
    target: Target,
    points: Points,
    scans: Scans,
    /// That the node leads, if it should.
    proof: Option<Proof>,
}

impl Readers {
    /// Connections of one node, those for short reads and those for long ones.
    pub const CONNECTIONS: usize = POINTS + 2;

    /// Readers of a node; what takes long runs on the runtime that this is called in.
    pub fn start(target: &Target, shard: &str, progress: &Arc<Progress>, homes: &Homes) -> Self {
        let (points, proof) = match target {
            Target::Leader(leader) => {
                let coordinates = leader.citus().is_some();
                let points = if coordinates { POINTS_OF_COORDINATOR } else { POINTS_OF_PRIMARY };
                (points, Some(Proof::start(leader, shard)))
            }
            Target::Replica(..) => (POINTS, None),
        };
        Self {
            shard: shard.to_owned(),
            target: target.clone(),
            points: Points::start(target, (shard, progress), points, homes),
            scans: Scans::new(target, shard, progress),
            proof,
        }
    }

    /// The rows of one shard key.
    pub(in crate::store) async fn read_key(
        &self,
        query: &ReadQuery,
        (slot, key): (Slot, &str),
        (floor, deadline): (u64, Instant),
    ) -> Result<NodeRows, Error> {
        let is_point = query.is_point_read()
            && query.after.is_none()
            && (1..=POINT_ROWS_MAX).contains(&query.limit);
        if !is_point {
            let key = Some((slot, key.to_owned()));
            return self.scans.read(Arc::new(query.clone()), key, (floor, deadline)).await;
        }
        let (reply, answer) = oneshot::channel();
        let (query, key) = (query.clone(), key.to_owned());
        if !self.points.send(PointRead { query, slot, key, deadline, floor, reply }) {
            return Err(Error::PoolExhausted { shard: self.shard.clone() });
        }
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(Ok(rows)) => rows,
            Ok(Err(_gone)) => Err(Error::ShardUnavailable { shard: self.shard.clone() }),
            Err(_elapsed) => Err(Error::DeadlinePassed),
        }
    }

    /// Rows of all keys.
    pub(in crate::store) async fn read_all(
        &self,
        query: &Arc<ReadQuery>,
        (floor, deadline): (u64, Instant),
    ) -> Result<NodeRows, Error> {
        self.scans.read(Arc::clone(query), None, (floor, deadline)).await
    }

    /// A position of the leader, committed after this was called: that a majority has it on disk proves that nobody else
    /// leads.
    pub(in crate::store) async fn mark(&self, deadline: Instant) -> Result<Position, Error> {
        let gone = || Error::ShardUnavailable { shard: self.shard.clone() };
        let proof = self.proof.as_ref().ok_or_else(gone)?;
        match tokio::time::timeout_at(deadline.into(), proof.mark()).await {
            Ok(marked) => marked.ok_or_else(gone),
            Err(_elapsed) => Err(Error::DeadlinePassed),
        }
    }

    /// Calls [`super::leader::Leader::is_ahead`].
    pub(in crate::store) fn is_ahead(&self, life: u32) -> bool {
        let (Target::Leader(leader) | Target::Replica(leader, _)) = &self.target;
        leader.is_ahead(life)
    }

    /// Calls [`super::leader::Leader::look`].
    pub(in crate::store) async fn look(&self) {
        let (Target::Leader(leader) | Target::Replica(leader, _)) = &self.target;
        leader.look().await;
    }

    /// Asks for nothing.
    pub(in crate::store) async fn probe(&self, deadline: Instant) -> Result<(), Error> {
        self.scans.probe(deadline).await
    }

    /// How many connections there are, and how many of them read now.
    pub(in crate::store) fn vitals(&self) -> PoolStats {
        self.points.vitals().with(&self.scans.vitals())
    }

    /// The nodes of Citus, if that is what the server is.
    pub(in crate::store) async fn citus_nodes(
        &self,
        deadline: Instant,
    ) -> Result<Vec<CitusNode>, Error> {
        self.scans.citus_nodes(deadline).await
    }

    /// About how much it holds.
    pub(in crate::store) async fn size_estimate(
        &self,
        deadline: Instant,
    ) -> Result<SizeEstimate, Error> {
        self.scans.size_estimate(deadline).await
    }

    /// Rows and bytes of each table.
    pub(in crate::store) async fn sizes<K: Send + 'static>(
        &self,
        kept: K,
        deadline: Instant,
    ) -> Result<Vec<TableSize>, Error> {
        self.scans.sizes(kept, deadline).await
    }
}
