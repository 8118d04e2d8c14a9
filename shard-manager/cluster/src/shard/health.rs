//! Health: probes each node, and reports why it is not well.
//!
//! Beliefs without a probe (`stats`) and the findings of a probe share the rules of `Primary` and
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

/// Health of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeHealth {
    /// Name of the node: `shard1-primary`.
    pub node: String,
    /// Role of the node in the shard.
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
            let asked = probe_reader(Some(&*self.primary.reader), deadline);
            let lanes = async {
                // A node that is cut off needs no probe.
                if self.primary.check_reachable().is_ok() {
                    self.primary.lanes.probe(deadline).await;
                }
            };
            let ((answers, latency), ()) = join(asked, lanes).await;
            let found = Reasons::of((!answers).then_some(Reason::NoAnswer));
            let reasons = found.and(self.primary.reasons());
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
            let (answers, latency) = probe_reader(reader.as_deref(), deadline).await;
            if !answers {
                replica.probe_failed();
            }
            // A replica whose exclusion is over can return now.
            let _ = self.replicas.takes_part(index);
            let found = Reasons::of((!answers).then_some(Reason::NoAnswer));
            let reasons = found.and(self.replicas.reasons(index));
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

/// Returns true if a node answers its readers, and the duration of the probe.
async fn probe_reader(reader: Option<&dyn NodeReader>, deadline: Instant) -> (bool, Duration) {
    let Some(reader) = reader else { return (false, Duration::ZERO) };
    let began = Instant::now();
    let probed = reader.probe(deadline).await;
    // A busy node is not down.
    (matches!(probed, Ok(()) | Err(Error::PoolExhausted { .. })), began.elapsed())
}
