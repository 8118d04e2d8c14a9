//! Replica set: chooses the replica that serves a read, and excludes failing replicas for a while.
//!
//! Of two replicas that are fresh enough, the one with fewer reads in flight is chosen ("The Power
//! of Two Choices in Randomized Load Balancing", Mitzenmacher 2001). A replica that fails leaves
//! the rotation, each time for twice as long, and returns when a probe succeeds.
//!
//! **Invariant:** a chosen replica has applied everything that the read must observe.
//! **Not here:** reading, waiting, the primary (`shard`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cache::FreshnessBound;
use engine::replication::{ReplicaState, ReplicationState};
use engine::{NodeLabel, NodeReader, OpenedReplica, ReplicaNode};
use model::error::Error;
use model::reason::{Findings, Reason, Reasons};

/// Maximum lag of a replica that serves reads.
const STALENESS_MAX: Duration = Duration::from_secs(10);
/// Duration of the first exclusion of a replica.
const OUT_FIRST: Duration = Duration::from_millis(100);
/// Longest duration of an exclusion.
const OUT_MAX: Duration = Duration::from_secs(10);
/// Time limit of a probe.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// The replicas of one shard.
pub(super) struct ReplicaSet {
    members: Vec<Arc<Member>>,
    replication: Arc<ReplicationState>,
    turn: AtomicUsize,
}

/// A replica and its state in the rotation.
struct Member {
    node: Arc<dyn ReplicaNode>,
    /// Reasons, found by checks and still valid, why the replica does not fulfil its role.
    findings: Arc<Findings>,
    in_flight: AtomicU32,
    failures: AtomicU32,
    epoch: Instant,
    /// Milliseconds since `epoch` until which the replica is excluded; 0 if it is in the rotation.
    out_until: AtomicU64,
}

/// Requirements that a replica must meet to serve a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplicaRequirements {
    /// Position that the replica must have applied.
    pub(super) min_position: u64,
    /// Maximum staleness: the time since the replica last had all changes of the primary.
    pub(super) staleness: Duration,
}

/// A replica that was chosen for a read. The read counts as in flight until this value is dropped.
pub(super) struct Chosen {
    member: Arc<Member>,
    /// Index of the replica in the set.
    pub(super) index: usize,
    /// Lower bound of the freshness of its rows, determined before the read.
    pub(super) stamp: FreshnessBound,
    /// Connections to the replica.
    pub(super) reader: Arc<dyn NodeReader>,
}

impl ReplicaSet {
    /// Creates the set of these replicas. A replica has the same index here and in `replication`.
    pub(super) fn new(replicas: Vec<OpenedReplica>, replication: &Arc<ReplicationState>) -> Self {
        let member = |OpenedReplica { node, findings }| Member {
            node,
            findings,
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            epoch: Instant::now(),
            out_until: AtomicU64::new(0),
        };
        let members = replicas.into_iter().map(|replica| Arc::new(member(replica))).collect();
        Self { members, replication: Arc::clone(replication), turn: AtomicUsize::new(0) }
    }

    /// Returns the replicas, in order.
    pub(super) fn replicas(&self) -> impl Iterator<Item = &dyn ReplicaNode> {
        self.members.iter().map(|member| &*member.node)
    }

    /// Returns the number of replicas that receive the changes of the primary now.
    pub(super) fn following(&self) -> usize {
        let follows = |(index, member): &(usize, &Arc<Member>)| {
            self.replication.replicas().state(*index) == ReplicaState::Following
                && member.node.is_reachable()
                && member.node.is_streaming()
        };
        self.members.iter().enumerate().filter(follows).count()
    }

    /// Returns true if a replica runs independently of the primary, so that it may respond when the
    /// primary does not. The primary itself may be a member of the set, but does not count.
    pub(super) fn outlive_primary(&self) -> bool {
        let leader = self.replication.timeline().leader();
        let mut others =
            self.members.iter().enumerate().filter(|(index, _)| Some(*index) != leader);
        others.any(|(_, member)| member.node.outlives_primary())
    }

    /// Returns true if a replica is in the rotation, that is, among the replicas that serve reads.
    /// Its lag is not considered. Starts a probe of a replica whose exclusion is over.
    pub(super) fn takes_part(&self, index: usize) -> bool {
        let member = &self.members[index];
        self.replication.replicas().state(index) == ReplicaState::Following
            && member.node.is_reachable()
            && !member.is_out()
    }

    /// Returns the reasons why a replica is believed to be out of the rotation. Unlike
    /// [`ReplicaSet::takes_part`] this never starts a probe.
    pub(super) fn reasons(&self, index: usize) -> Reasons {
        let state = match self.replication.replicas().state(index) {
            ReplicaState::Following => None,
            ReplicaState::Building => Some(Reason::Building),
            ReplicaState::Down => Some(Reason::NotFollowing),
        };
        let member = &self.members[index];
        let found = member.findings.now();
        let is_wrong = found.contains(Reason::CopyWrong);
        let reasons = [
            (!member.node.is_reachable() && !is_wrong).then_some(Reason::NoAnswer),
            state,
            (member.out_until.load(Ordering::Acquire) != 0).then_some(Reason::LeftOut),
            (state.is_none() && self.is_behind(index)).then_some(Reason::Behind),
        ];
        Reasons::of(reasons.into_iter().flatten()).union(found)
    }

    /// Returns the name of a node that is a replica now: names belong to roles, so a former primary
    /// takes the name of the replica that replaced it.
    pub(super) fn present_name(&self, index: usize, leading: Option<usize>) -> String {
        let index = if index == 0 { leading.unwrap_or(0) } else { index };
        let named = self.replicas().nth(index);
        named.map_or_else(String::new, |replica| replica.opened_name().to_owned())
    }

    /// Returns true if a replica lags too much for any read.
    fn is_behind(&self, index: usize) -> bool {
        self.replication.staleness(index) > self.staleness_max()
    }

    /// Chooses the less busy of two replicas that meet the requirements.
    pub(super) fn choose(&self, requirements: &ReplicaRequirements) -> Option<Chosen> {
        let count = self.members.len();
        if count == 0 {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (first, second) = pair(turn, count, |index| self.meets(index, requirements))?;
        let busy = |index: usize| self.members[index].in_flight.load(Ordering::Relaxed);
        let better = second.filter(|&second| busy(second) < busy(first)).unwrap_or(first);
        let member = Arc::clone(&self.members[better]);
        // Determined before the connections are taken: if the replica's file is copied again
        // meanwhile, the connections lead to a file with more changes, for which the bound holds as
        // well.
        let stamp = self.stamp(better);
        let reader = member.node.reader()?;
        member.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Chosen { member, index: better, stamp, reader })
    }

    /// Returns a lower bound of the freshness of the rows that a later read of a replica returns.
    fn stamp(&self, index: usize) -> FreshnessBound {
        // Read in this order, so that concurrent reports can only make the rows newer than the
        // bound.
        let (timeline, now) = (self.replication.timeline().id(), Instant::now());
        let min_position = self.replication.replicas().applied(index);
        let staleness = self.replication.staleness(index);
        FreshnessBound { timeline, min_position, as_of: now.checked_sub(staleness).unwrap_or(now) }
    }

    /// Returns the maximum lag of a replica that may be read. While the primary does not respond,
    /// the lag is unknown, so there is no maximum: old rows are better than none, unless the client
    /// has limited their age.
    fn staleness_max(&self) -> Duration {
        if self.replication.timeline().is_silent() { Duration::MAX } else { STALENESS_MAX }
    }

    fn meets(&self, index: usize, requirements: &ReplicaRequirements) -> bool {
        self.takes_part(index)
            && self.replication.replicas().applied(index) >= requirements.min_position
            && self.replication.staleness(index) <= requirements.staleness.min(self.staleness_max())
    }

    /// Returns true if a replica may soon meet the requirements, so that a short wait is
    /// worthwhile.
    pub(super) fn is_near(&self, requirements: &ReplicaRequirements, wait: Duration) -> bool {
        let near = |index: usize| {
            // The replica may have advanced since its last report.
            let unreported = self.members[index].node.report_interval();
            self.replication.staleness(index) <= requirements.staleness.min(wait) + unreported
        };
        (0..self.members.len()).any(|index| self.takes_part(index) && near(index))
    }

    /// Returns true if some replica meets the requirements.
    pub(super) fn has(&self, requirements: &ReplicaRequirements) -> bool {
        (0..self.members.len()).any(|index| self.meets(index, requirements))
    }
}

impl Member {
    /// Returns true while failures exclude the replica. At the end of that time a probe, not a
    /// read, decides whether the replica returns.
    fn is_out(self: &Arc<Self>) -> bool {
        let until = self.out_until.load(Ordering::Acquire);
        if until == 0 {
            return false;
        }
        let now = self.millis();
        if now >= until {
            // Only the thread that succeeds in postponing the end of the exclusion starts the
            // probe.
            let later = now + 2 * PROBE_WAIT.as_millis() as u64;
            let (set, seen) = (Ordering::AcqRel, Ordering::Acquire);
            if self.out_until.compare_exchange(until, later, set, seen).is_ok() {
                let member = Arc::clone(self);
                tokio::spawn(async move { member.probe().await });
            }
        }
        true
    }

    async fn probe(&self) {
        let probed = match self.node.reader() {
            Some(reader) => Some(reader.probe(Instant::now() + PROBE_WAIT).await),
            None => None,
        };
        // A busy replica is not down.
        if matches!(probed, Some(Ok(()) | Err(Error::PoolExhausted { .. }))) {
            self.failures.store(0, Ordering::Release);
            self.out_until.store(0, Ordering::Release);
            let NodeLabel { name: node, address } = self.node.current();
            let at = address.map(tracing::field::display);
            tracing::info!(node, at, "a replica is back in the rotation");
        } else {
            self.fail(true);
        }
    }

    /// Takes the replica out of the rotation. If `suspect`, the node is checked before it is read
    /// again.
    fn fail(&self, suspect: bool) {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel);
        let out = OUT_FIRST.saturating_mul(1 << failures.min(10)).min(OUT_MAX);
        self.out_until.store(self.millis() + out.as_millis() as u64, Ordering::Release);
        if suspect {
            self.node.read_failed();
        }
        let NodeLabel { name: node, address } = self.node.current();
        let at = address.map(tracing::field::display);
        tracing::warn!(node, at, ?out, "a replica leaves the rotation");
    }

    fn millis(&self) -> u64 {
        // Never 0, which marks a replica in the rotation.
        self.epoch.elapsed().as_millis() as u64 + 1
    }
}

impl Chosen {
    /// Returns true if the replica runs independently of the primary, so that it may stop
    /// responding without an error.
    pub(super) fn outlives_primary(&self) -> bool {
        self.member.node.outlives_primary()
    }

    /// Returns true if the failure of a read is the replica's fault, so that the read should go to
    /// the primary. Such a replica leaves the rotation.
    pub(super) fn is_to_blame(&self, error: &Error) -> bool {
        let unavailable = matches!(error, Error::ShardUnavailable { .. });
        let to_blame = unavailable || *error == Error::Internal;
        if to_blame {
            self.member.fail(unavailable);
        }
        to_blame
    }
}

/// Returns two different indices for which `fits` is true, or the only such index. The distance
/// between the two changes after each round, so that each pair is compared equally often.
fn pair(turn: usize, count: usize, fits: impl Fn(usize) -> bool) -> Option<(usize, Option<usize>)> {
    let find = |start: usize, fits: &dyn Fn(usize) -> bool| {
        (0..count).map(|step| start.wrapping_add(step) % count).find(|&index| fits(index))
    };
    let first = find(turn, &fits)?;
    let distance = 1 + turn / count % (count - 1).max(1);
    Some((first, find(first + distance, &|index| index != first && fits(index))))
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.member.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use engine::fault_injector::FaultInjector;
    use model::position::TimelineHistory;

    use super::*;

    /// Server that does not respond.
    struct DeadServer;

    impl ReplicaNode for DeadServer {
        fn opened_name(&self) -> &str {
            "shard1-primary"
        }

        fn current(&self) -> NodeLabel<'_> {
            NodeLabel { name: self.opened_name(), address: None }
        }

        fn reader(&self) -> Option<Arc<dyn NodeReader>> {
            None
        }

        fn fault_injector(&self) -> Option<&Arc<FaultInjector>> {
            None
        }

        fn is_reachable(&self) -> bool {
            false
        }

        fn is_streaming(&self) -> bool {
            false
        }

        fn read_failed(&self) {}

        fn probe_failed(&self) {}

        fn report_interval(&self) -> Duration {
            Duration::ZERO
        }

        fn outlives_primary(&self) -> bool {
            true
        }

        fn stop(&self) {}
    }

    #[test]
    fn a_primary_without_replicas_does_not_outlive_itself() {
        let servers = |count: usize| {
            let history = TimelineHistory::new(Vec::new()).unwrap();
            let state = Arc::new(ReplicationState::new(history, 0, count).with_shared_writers());
            let server = || OpenedReplica { node: Arc::new(DeadServer), findings: Arc::default() };
            (ReplicaSet::new((0..count).map(|_| server()).collect(), &state), state)
        };
        assert!(!servers(1).0.outlive_primary(), "no read may wait for it");
        let (two, state) = servers(2);
        assert!(two.outlive_primary());
        state.follow(TimelineHistory::new(vec![(1, 0)]).unwrap(), 0, 1);
        assert!(two.outlive_primary(), "the former primary is a replica now");
    }

    #[test]
    fn each_pair_of_replicas_is_compared_equally_often() {
        let mut pairs = BTreeMap::new();
        for turn in 0..5 * 4 {
            let (first, second) = pair(turn, 5, |_| true).unwrap();
            let second = second.unwrap();
            *pairs.entry((first.min(second), first.max(second))).or_insert(0) += 1;
        }
        assert_eq!(pairs.len(), 10, "{pairs:?}");
        assert!(pairs.values().all(|times| *times == 2), "{pairs:?}");
    }

    #[test]
    fn a_replica_that_does_not_fit_is_skipped() {
        let mut seen = BTreeMap::new();
        for turn in 0..5 * 4 {
            let (first, second) = pair(turn, 5, |index| index % 2 == 0).unwrap();
            seen.insert(first, second.unwrap());
            assert!(first % 2 == 0 && second.unwrap() % 2 == 0 && second != Some(first));
        }
        assert_eq!(seen.len(), 3);
        assert_eq!(pair(7, 3, |index| index == 0), Some((0, None)));
        assert_eq!(pair(7, 1, |_| true), Some((0, None)));
        assert_eq!(pair(7, 3, |_| false), None);
    }
}
