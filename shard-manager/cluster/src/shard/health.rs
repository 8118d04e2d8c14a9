//! Health: probes each node, and reports why it is not well.
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

/// Time after which a node that has not answered a probe is down. A little less than the longest
/// probe, so that one is enough to notice.
const NO_ANSWER_AFTER: Duration = Duration::from_millis(1_800);

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
    /// Probes the readers of each node, and the primary's lanes. A node that has not answered by an
    /// early deadline is reported as such, and not as down.
    pub async fn probe(&self, deadline: Instant) -> Vec<NodeHealth> {
        let primary = async {
            let asked = self.answers(Some(&*self.primary), deadline);
            // A node that is cut off needs no probe.
            let lanes =
                async { self.check_reachable().is_err() || self.lanes.probe(deadline).await };
            let ((failure, latency), lanes_answer) = join(asked, lanes).await;
            let known = self.reasons_of_primary();
            // The lanes are not known to stand still, nor to work.
            let is_unknown = known.is_up() && !lanes_answer;
            let found = failure.or(is_unknown.then_some(Reason::NoAnswerInTime));
            let reasons = Reasons::of(found).and(known);
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
            let (failure, latency) = self.answers(reader.as_deref(), deadline).await;
            if failure == Some(Reason::NoAnswer) {
                replica.probe_failed();
            }
            // A replica whose exclusion is over can return now.
            let _ = self.replicas.takes_part(index);
            let reasons = Reasons::of(failure).and(self.reasons_of_replica(index));
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

    /// Returns the reason why a node did not answer, if it did not, and the time that it took.
    async fn answers(
        &self,
        reader: Option<&dyn NodeReader>,
        deadline: Instant,
    ) -> (Option<Reason>, Duration) {
        let Some(reader) = reader else { return (Some(Reason::NoAnswer), Duration::ZERO) };
        let began = Instant::now();
        let probed = reader.probe(deadline).await;
        let latency = began.elapsed();
        let reason = match probed {
            // A busy node is not down.
            Ok(()) | Err(Error::PoolExhausted { .. }) => None,
            Err(Error::DeadlinePassed) if latency < NO_ANSWER_AFTER => Some(Reason::NoAnswerInTime),
            Err(_) => Some(Reason::NoAnswer),
        };
        (reason, latency)
    }
}
