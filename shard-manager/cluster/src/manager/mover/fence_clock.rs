//! Fence clock: the times at which the fences of a move begin and end, and the gaps between the
//! fences of a shard. A fence makes the writes of the slots wait while they are handed over.
//!
//! **Invariant:** the clock assumes that a fence lasts no longer than its shard maintains it. Only
//! waits depend on these times. Whether a commit is accepted depends on the recorded changes.
//! **Not here:** the fence of a shard (`moves::cutover`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::topology::ShardNumber;
use moves::limits::{FENCE_GAP, FENCE_HOLD};

/// Number of consecutive fences without a commit after which the pauses between them grow.
const TRIES: u32 = 3;
/// First of the growing pauses between fences; each further pause is twice as long.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two fences of a move.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Time at which the last fence of each shard has ended, or will end by itself.
#[derive(Debug, Default)]
pub(super) struct FenceTimes(Mutex<BTreeMap<ShardNumber, Instant>>);

impl FenceTimes {
    fn note_end(&self, shard: ShardNumber, end: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(shard, end);
    }

    fn end(&self, shard: ShardNumber) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&shard).copied()
    }
}

/// Fences of one move.
#[derive(Debug)]
pub(super) struct FenceClock {
    shards: Arc<FenceTimes>,
    lasting: Option<Fence>,
    /// Beginning of the fence that an earlier mover may have left; `None` after the first look at
    /// the source.
    inherited: Option<Instant>,
    /// Number of consecutive fences without a commit.
    failed_fences: u32,
    /// Time before which no fence is begun.
    next: Instant,
}

/// Fence that is believed to be in force.
#[derive(Clone, Copy, Debug)]
struct Fence {
    shard: ShardNumber,
    begun: Instant,
    /// Time of its last renewal, or of its beginning.
    renewed: Instant,
}

impl FenceClock {
    /// Creates the clock of a move. If an earlier mover has left a fence, it began `age` ago.
    pub(super) fn new(shards: Arc<FenceTimes>, age: Duration) -> Self {
        let now = Instant::now();
        let inherited = now.checked_sub(age);
        Self { shards, lasting: None, inherited, failed_fences: 0, next: now }
    }

    /// Records, at the first look at the source, the fence of an earlier mover if `waits` is true,
    /// so that the time before this mover counts as well. Returns the time for which writes have
    /// waited.
    pub(super) fn inherit(&mut self, shard: ShardNumber, waits: bool) -> Option<Duration> {
        let begun = self.inherited.take().filter(|_| waits && self.lasting.is_none())?;
        self.lasting = Some(Fence { shard, begun, renewed: begun });
        Some(begun.elapsed())
    }

    /// Returns the time until a shard may be fenced.
    pub(super) fn wait(&self, shard: ShardNumber, now: Instant) -> Duration {
        let is_renewal = self.lasting.is_some_and(|fence| fence.shard == shard);
        if is_renewal && self.failed_fences < TRIES {
            return Duration::ZERO;
        }
        let free = self.shards.end(shard).map_or(now, |end| end + FENCE_GAP);
        free.max(self.next).saturating_duration_since(now)
    }

    /// Records that this mover requests a fence of a shard, or the renewal of one.
    pub(super) fn begin(&mut self, shard: ShardNumber, now: Instant) {
        let begun = self.lasting.map_or(now, |fence| fence.begun);
        if self.lasting.is_some() {
            self.count_failed_fence(now);
        }
        self.lasting = Some(Fence { shard, begun, renewed: now });
        self.shards.note_end(shard, now + FENCE_HOLD);
    }

    /// Records that the shard did not carry out a request for a fence. Returns true if this was the
    /// first request for that fence, and not a renewal, so that no fence is in force.
    pub(super) fn withdraw(&mut self, now: Instant) -> bool {
        let fence = self.lasting.take_if(|fence| fence.begun == fence.renewed);
        if let Some(fence) = fence {
            self.shards.note_end(fence.shard, now);
        }
        fence.is_some()
    }

    /// Returns true if the fence has ended by itself.
    pub(super) fn has_run_out(&self, now: Instant) -> bool {
        let age = |fence: Fence| now.saturating_duration_since(fence.renewed);
        self.lasting.is_some_and(|fence| age(fence) >= FENCE_HOLD)
    }

    /// Records the end of the fence, and returns the time for which writes waited; `None` if there
    /// was no fence. `is_uncommitted` is true if the slots still have the same owner.
    pub(super) fn end(&mut self, is_uncommitted: bool, now: Instant) -> Option<Duration> {
        let Fence { shard, begun, renewed } = self.lasting.take()?;
        let end = if is_uncommitted { now.min(renewed + FENCE_HOLD) } else { now };
        self.shards.note_end(shard, end);
        if is_uncommitted {
            self.count_failed_fence(now);
        } else {
            self.failed_fences = 0;
        }
        Some(end.saturating_duration_since(begun))
    }

    fn count_failed_fence(&mut self, now: Instant) {
        self.failed_fences += 1;
        if self.failed_fences >= TRIES {
            let pause = PAUSE.saturating_mul(1 << (self.failed_fences - TRIES).min(5));
            self.next = now + pause.min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardNumber = ShardNumber(3);

    #[test]
    fn the_writes_that_waited_go_on_between_two_fences_of_a_shard() {
        let (times, now) = (Arc::<FenceTimes>::default(), Instant::now());
        let mut first = FenceClock::new(Arc::clone(&times), Duration::ZERO);
        first.begin(SHARD, now);
        let end = now + Duration::from_millis(30);
        assert_eq!(first.end(false, end), Some(Duration::from_millis(30)));
        let second = FenceClock::new(times, Duration::ZERO);
        assert_eq!(second.wait(SHARD, end), FENCE_GAP);
        assert_eq!(second.wait(ShardNumber(4), end + FENCE_GAP), Duration::ZERO);
    }

    #[test]
    fn the_wait_of_an_inherited_fence_counts_from_its_beginning() {
        let age = Duration::from_secs(9);
        let clock = || FenceClock::new(Arc::default(), age);
        let mut committed = clock();
        committed.inherit(SHARD, true);
        assert!(committed.end(false, Instant::now()).is_some_and(|hold| hold >= age));
        let mut uncommitted = clock();
        uncommitted.inherit(SHARD, true);
        assert_eq!(uncommitted.end(true, Instant::now()), Some(FENCE_HOLD), "it ended by itself");
        let mut unfenced = clock();
        unfenced.inherit(SHARD, false);
        unfenced.inherit(SHARD, true);
        assert_eq!(unfenced.end(false, Instant::now()), None, "a later fence is its own");
    }

    #[test]
    fn fences_in_vain_come_less_and_less_often() {
        let mut clock = FenceClock::new(Arc::default(), Duration::ZERO);
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..5 {
            now += clock.wait(SHARD, now);
            clock.begin(SHARD, now);
            assert!(!clock.has_run_out(now) && clock.has_run_out(now + FENCE_HOLD));
            now += FENCE_HOLD;
            clock.end(true, now);
            waits.push(clock.wait(SHARD, now));
        }
        assert_eq!(waits[1], FENCE_GAP);
        assert_eq!(waits[2..], [PAUSE, PAUSE * 2, PAUSE * 4]);
    }
}
