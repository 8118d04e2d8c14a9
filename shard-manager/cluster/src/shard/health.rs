//! Health: probes each node, and reports the reasons why a node does not fulfil its role.
//!
//! `stats` reports the state that is known without a probe. Both use the rules of `Primary` and
//! `ReplicaSet`.
//!
//! **Not here:** the reasons themselves (`reason`), the HTTP response (the router).

use std::time::{Duration, Instant};

use engine::NodeReader;
use futures_util::future::{join, join_all};
use model::error::Error;
use model::reason::{Reason, Reasons};
use model::topology::Role;

use super::Shard;

/// Time after which a node that has not responded to a probe counts as down. It is slightly shorter
/// than the longest probe, so that a single probe detects it.
const NO_ANSWER_AFTER: Duration = Duration::from_millis(1_800);

/// Health of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHealth {
    /// Name of the node, for example `shard1-primary`.
    pub node: String,
    /// Role of the node in the shard.
    pub role: Role,
    /// True if the node fulfils its role.
    pub up: bool,
    /// Reasons why the node does not fulfil its role; empty if it does.
    pub reasons: Reasons,
    /// Duration of the probe.
    pub latency: Duration,
    /// Time since the replica was last known to have all changes of the primary; `None` if that was
    /// never known since this process began. Zero for the primary.
    pub lag: Option<Duration>,
}

impl Shard {
    /// Probes the readers of each node, and the primary's lanes. If the deadline passes before
    /// `NO_ANSWER_AFTER`, a node that has not responded is reported with
    /// [`Reason::NoAnswerInTime`], which does not mean that the node is down.
    pub async fn probe(&self, deadline: Instant) -> Vec<NodeHealth> {
        let primary = async {
            let asked = probe_reader(Some(&*self.primary.reader), deadline);
            // The lanes of a primary that an injected fault cuts off need no probe.
            let lanes = async {
                self.primary.check_reachable().is_err() || self.primary.lanes.probe(deadline).await
            };
            let ((failure, latency), lanes_answer) = join(asked, lanes).await;
            let known = self.primary.reasons();
            // No reason is known why the lanes would be stalled, but they did not respond to the
            // probe either.
            let is_unknown = known.is_up() && !lanes_answer;
            let found = failure.or(is_unknown.then_some(Reason::NoAnswerInTime));
            let reasons = Reasons::of(found).union(known);
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
            let (failure, latency) = probe_reader(reader.as_deref(), deadline).await;
            if failure == Some(Reason::NoAnswer) {
                replica.probe_failed();
            }
            // This call also starts a probe of a replica whose exclusion is over, so that the
            // replica can return.
            let _ = self.replicas.takes_part(index);
            let reasons = Reasons::of(failure).union(self.replicas.reasons(index));
            NodeHealth {
                node: self.replicas.present_name(index, leading),
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
}

/// Probes a reader. Returns the reason if the node did not respond, and the duration of the probe.
async fn probe_reader(
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
