//! Health: probes each node, and reports the reasons why a node is not well.
//!
//! Beliefs without a probe (`vitals`) and the findings of a probe share the rules of this module.
//!
//! **Not here:** the reasons themselves (`reason`), the HTTP response (the router).

use std::time::{Duration, Instant};

use engine::NodeReader;
use engine::replication::ReplicaState;
use futures_util::future::{join, join_all};
use model::error::Error;
use model::reason::{Reason, Reasons};
use model::topology::Role;

use super::Shard;

/// Health of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHealth {
    /// Name of the node: `shard1-primary`.
    pub node: String,
    /// Its role in the shard.
    pub role: Role,
    /// True if the node fulfils its role.
    pub up: bool,
    /// Reasons why it does not; empty if it does.
    pub reasons: Reasons,
    /// Duration of the probe.
    pub latency: Duration,
    /// Time since the replica was last known to be current; `None` if it never was since this
    /// process began.
    pub lag: Option<Duration>,
}

impl Shard {
    /// Probes the readers of each node, and the primary's lanes.
    pub async fn probe(&self, deadline: Instant) -> Vec<NodeHealth> {
        let primary = async {
            let asked = self.answers(Some(&*self.primary), deadline);
            let lanes = async {
                // A node that is cut off needs no probe.
                if self.check_reachable().is_ok() {
                    self.lanes.probe(deadline).await;
                }
            };
            let ((answers, latency), ()) = join(asked, lanes).await;
            let found = Reasons::of((!answers).then_some(Reason::NoAnswer));
            let reasons = found.and(self.reasons_of_primary());
            NodeHealth {
                node: self.primary_name.clone(),
                role: Role::Primary,
                up: reasons.is_up(),
                reasons,
                latency,
                lag: Some(Duration::ZERO),
            }
        };
        let leading = self.replication.timeline().leader();
        let others = self.replicas.replicas().enumerate();
        let others = others.filter(|(index, _)| Some(*index) != leading);
        let replicas = others.map(async |(index, replica)| {
            let reader = replica.reader();
            let (answers, latency) = self.answers(reader.as_deref(), deadline).await;
            if !answers {
                replica.probe_failed();
            }
            // A replica whose exclusion is over can return now.
            let _ = self.replicas.takes_part(index);
            let found = Reasons::of((!answers).then_some(Reason::NoAnswer));
            let reasons = found.and(self.reasons_of_replica(index));
            NodeHealth {
                node: self.replica_name(index, leading),
                role: Role::Replica,
                up: reasons.is_up(),
                reasons,
                latency,
                lag: self.replication.lag(index),
            }
        });
        let (primary, mut replicas) = join(primary, join_all(replicas)).await;
        replicas.insert(0, primary);
        replicas
    }

    /// Reasons why the primary is believed to accept no writes. Reads may succeed where writes do
    /// not: the lane has a connection of its own.
    pub(super) fn reasons_of_primary(&self) -> Reasons {
        let is_cut = self.check_reachable().is_err() || self.replication.timeline().is_silent();
        let found = Reasons::of(is_cut.then_some(Reason::NoAnswer));
        let lost = Reasons::of(self.primary.loss());
        found.and(self.lanes.standstill()).and(self.findings.now()).and(lost)
    }

    /// Reasons why a replica is believed to be out of the rotation.
    pub(super) fn reasons_of_replica(&self, index: usize) -> Reasons {
        let state = match self.replication.replicas().state(index) {
            ReplicaState::Following => None,
            ReplicaState::Building => Some(Reason::Building),
            ReplicaState::Down => Some(Reason::NotFollowing),
        };
        let set = &self.replicas;
        let found = set.findings(index).map(|findings| findings.now()).unwrap_or_default();
        let is_wrong = found.contains(Reason::CopyWrong);
        let reasons = [
            (!set.is_reachable(index) && !is_wrong).then_some(Reason::NoAnswer),
            state,
            set.is_left_out(index).then_some(Reason::LeftOut),
            (state.is_none() && set.is_behind(index)).then_some(Reason::Behind),
        ];
        Reasons::of(reasons.into_iter().flatten()).and(found)
    }

    /// Returns the name of a node that is a replica now: names belong to roles, so a former primary
    /// takes the name of the replica that replaced it.
    pub(super) fn replica_name(&self, index: usize, leading: Option<usize>) -> String {
        let index = if index == 0 { leading.unwrap_or(0) } else { index };
        let named = self.replicas.replicas().nth(index);
        named.map_or_else(String::new, |replica| replica.opened_name().to_owned())
    }

    async fn answers(
        &self,
        reader: Option<&dyn NodeReader>,
        deadline: Instant,
    ) -> (bool, Duration) {
        let Some(reader) = reader else { return (false, Duration::ZERO) };
        let began = Instant::now();
        let probed = reader.probe(deadline).await;
        // A busy node is not down.
        (matches!(probed, Ok(()) | Err(Error::PoolExhausted { .. })), began.elapsed())
    }
}
