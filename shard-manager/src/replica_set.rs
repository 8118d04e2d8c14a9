//! Replica set: which replica answers a read, and which are left out of the rotation for a while.
//!
//! Among those that are fresh enough the better of two is taken, by reads in flight ("The Power of Two Choices
//! in Randomized Load Balancing", Mitzenmacher 2001). One that fails leaves the rotation, for twice as long
//! each time, and comes back when a probe of it succeeds.
//!
//! **Invariant:** a replica that is chosen has what the read must not miss.
//! **Not here:** reading, waiting, the primary (`shard`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::cache::FreshnessBound;
use crate::error::Error;
use crate::progress::{Progress, ReplicaState};
use crate::reason::Findings;
use crate::store::readers::Readers;
use crate::store::replica::Replica;

/// A replica that is further behind is out of the rotation.
const STALENESS_MAX: Duration = Duration::from_secs(10);
/// How long a replica is left out after a first failure.
const OUT_FIRST: Duration = Duration::from_millis(100);
/// The longest time it is left out.
const OUT_MAX: Duration = Duration::from_secs(10);
/// How often a replica that does not tell where it stands is asked, and a little more.
const ASKED_EVERY: Duration = Duration::from_millis(150);
/// How long a probe may wait for a connection.
const PROBE_WAIT: Duration = Duration::from_secs(1);

/// The replicas of one shard.
pub struct ReplicaSet {
    members: Vec<Arc<Member>>,
    progress: Arc<Progress>,
    turn: AtomicUsize,
}

/// A replica and how it does.
struct Member {
    replica: Replica,
    /// Reasons that were found about it and still hold.
    findings: Arc<Findings>,
    in_flight: AtomicU32,
    failures: AtomicU32,
    epoch: Instant,
    /// Milliseconds since `epoch` until which it is out; 0: it is in.
    out_until: AtomicU64,
}

/// What a read must not miss, and how old it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The position that it must hold.
    pub floor: u64,
    /// How long ago the node may have been current.
    pub staleness: Duration,
}

/// A replica that answers a read; counted as in flight while it lives.
pub struct Chosen {
    member: Arc<Member>,
    /// Its place in the progress.
    pub index: usize,
    /// What it had before it is read.
    pub stamp: FreshnessBound,
    /// Its connections.
    pub readers: Readers,
}

impl ReplicaSet {
    /// A set of these replicas, in the order of the progress.
    pub fn new(replicas: Vec<Replica>, progress: &Arc<Progress>) -> Self {
        let member = |replica| Member {
            replica,
            findings: Arc::default(),
            in_flight: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            epoch: Instant::now(),
            out_until: AtomicU64::new(0),
        };
        let members = replicas.into_iter().map(|replica| Arc::new(member(replica))).collect();
        Self { members, progress: Arc::clone(progress), turn: AtomicUsize::new(0) }
    }

    /// The replicas, in order.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        self.members.iter().map(|member| &member.replica)
    }

    /// How many take part in writes now.
    pub fn following(&self) -> usize {
        let follows = |(index, member): &(usize, &Arc<Member>)| {
            self.progress.state(*index) == ReplicaState::Following
                && member.replica.is_reachable()
                && member.replica.is_streaming()
        };
        self.members.iter().enumerate().filter(follows).count()
    }

    /// Whether nothing is known yet of one of them.
    pub fn awaits_any(&self) -> bool {
        let is_open = |(index, member): (usize, &Arc<Member>)| {
            let follows = self.progress.state(index) == ReplicaState::Following;
            !follows && self.progress.leading() != Some(index) && member.replica.is_reachable()
        };
        self.members.iter().enumerate().any(is_open)
    }

    /// Whether a replica answers reads, lag aside.
    pub fn takes_part(&self, index: usize) -> bool {
        self.is_in(index)
    }

    /// Reasons that were found about a replica and still hold.
    pub fn findings(&self, index: usize) -> Option<&Arc<Findings>> {
        self.members.get(index).map(|member| &member.findings)
    }

    /// True if a replica is believed to be reachable.
    pub fn is_reachable(&self, index: usize) -> bool {
        self.members[index].replica.is_reachable()
    }

    /// True if failures keep a replica out of the rotation; unlike [`ReplicaSet::takes_part`] this
    /// never lets a read through as a probe.
    pub fn is_left_out(&self, index: usize) -> bool {
        self.members[index].out_until.load(Ordering::Acquire) != 0
    }

    /// True if a replica lags too much for any read.
    pub fn is_behind(&self, index: usize) -> bool {
        self.progress.staleness(index) > self.staleness_max()
    }

    /// The better of two replicas that meet the demand.
    pub fn choose(&self, demand: &Demand) -> Option<Chosen> {
        let count = self.members.len();
        if count == 0 {
            return None;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let (first, second) = pair(turn, count, |index| self.meets(index, demand))?;
        let busy = |index: usize| self.members[index].in_flight.load(Ordering::Relaxed);
        let better = second.filter(|&second| busy(second) < busy(first)).unwrap_or(first);
        let member = Arc::clone(&self.members[better]);
        // Before its connections: those of a file that is made anew lead to one that has more.
        let stamp = self.stamp(better);
        let readers = member.replica.readers()?;
        member.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Chosen { member, index: better, stamp, readers })
    }

    /// What a read of a replica that begins later surely shows.
    fn stamp(&self, index: usize) -> FreshnessBound {
        // In this order: what is told between is more than what is claimed.
        let (timeline, now) = (self.progress.life(), Instant::now());
        let floor = self.progress.applied_by(index);
        let staleness = self.progress.staleness(index);
        FreshnessBound { timeline, floor, as_of: now.checked_sub(staleness).unwrap_or(now) }
    }

    /// Without a primary the lag of a replica is unknown: an old answer is better than none, unless
    /// the client has limited its age.
    fn staleness_max(&self) -> Duration {
        if self.progress.is_silent() { Duration::MAX } else { STALENESS_MAX }
    }

    fn meets(&self, index: usize, demand: &Demand) -> bool {
        self.is_in(index)
            && self.progress.applied_by(index) >= demand.floor
            && self.progress.staleness(index) <= demand.staleness.min(self.staleness_max())
    }

    /// Whether a replica may soon have what it lacks: it is worth a short wait.
    pub fn is_near(&self, demand: &Demand, wait: Duration) -> bool {
        // One that is asked now and then may have come further since.
        let asked = if self.progress.is_asked() { ASKED_EVERY } else { Duration::ZERO };
        let near = |index| self.progress.staleness(index) <= demand.staleness.min(wait) + asked;
        (0..self.members.len()).any(|index| self.is_in(index) && near(index))
    }

    /// Whether some replica has what the read must not miss.
    pub fn has(&self, demand: &Demand) -> bool {
        (0..self.members.len()).any(|index| self.meets(index, demand))
    }

    fn is_in(&self, index: usize) -> bool {
        let member = &self.members[index];
        self.progress.state(index) == ReplicaState::Following
            && member.replica.is_reachable()
            && !member.is_out()
    }
}

impl Member {
    /// Whether failures keep it out. When its time is over, a probe decides; nobody's read has to.
    fn is_out(self: &Arc<Self>) -> bool {
        let until = self.out_until.load(Ordering::Acquire);
        if until == 0 {
            return false;
        }
        let now = self.millis();
        if now >= until {
            // Whoever puts the time off is the one who probes.
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
        let probed = match self.replica.readers() {
            Some(readers) => Some(readers.probe(Instant::now() + PROBE_WAIT).await),
            None => None,
        };
        // Busy is not down.
        if matches!(probed, Some(Ok(()) | Err(Error::PoolExhausted { .. }))) {
            self.failures.store(0, Ordering::Release);
            self.out_until.store(0, Ordering::Release);
            let (node, at) = self.replica.called();
            let at = at.map(tracing::field::display);
            tracing::info!(node, at, "a replica is back in the rotation");
        } else {
            self.fail(true);
        }
    }

    /// Leaves the rotation; if its file may be to blame, that is looked at.
    fn fail(&self, suspect: bool) {
        let failures = self.failures.fetch_add(1, Ordering::AcqRel);
        let out = OUT_FIRST.saturating_mul(1 << failures.min(10)).min(OUT_MAX);
        self.out_until.store(self.millis() + out.as_millis() as u64, Ordering::Release);
        if suspect {
            self.replica.suspect();
        }
        let (node, at) = self.replica.called();
        let at = at.map(tracing::field::display);
        tracing::warn!(node, at, ?out, "a replica leaves the rotation");
    }

    fn millis(&self) -> u64 {
        // Never 0, which means that a replica is in.
        self.epoch.elapsed().as_millis() as u64 + 1
    }
}

impl Chosen {
    /// Told when a read failed; tells whether that is the replica's fault, so that the primary should be asked.
    pub fn is_to_blame(&self, error: &Error) -> bool {
        let unavailable = matches!(error, Error::ShardUnavailable { .. });
        let to_blame = unavailable || *error == Error::Internal;
        if to_blame {
            self.member.fail(unavailable);
        }
        to_blame
    }
}

/// Returns two different indices that fit, or the only one. The distance between the two changes
/// after each round, so that each pair comes as often.
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

    use super::*;

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
