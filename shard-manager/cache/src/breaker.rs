//! Breaker: the circuit breaker, which decides from the failures and durations of earlier commands
//! whether Redis is used.
//!
//! The breaker opens after several failures in a row, or when responses are slow for a while; then
//! Redis is not used. On a busy machine everything is late, and delays of the router itself must
//! not count against Redis. Therefore a response is slow only if it took longer than half of the
//! patience (the maximum time that a read waits for Redis) and also longer than reads of the shards
//! usually take, or if it took longer than the patience. Slow responses that arrive at the same
//! time count as one. A timeout that the router's thread noticed late counts as a slow response,
//! not as a failure. After a pause there is a trial in the background: if Redis responds in time,
//! it is used again; otherwise the next pause is longer.
//!
//! **Invariant:** while the breaker is open, at most one trial is in progress, and no read waits
//! for it.
//! **Not here:** sending commands (`client`).

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::stats::BreakerState;

/// Number of consecutive failures that open the breaker.
const FAILURES_MAX: u32 = 3;
/// Value of the counter of slow responses that opens the breaker. A slow response adds 1 to the
/// counter, another one subtracts 1; each `SPAN` counts only its first response.
const SLOW_MAX: u32 = 32;
/// Length of a time span. Only the first response in each span is judged, so that many responses
/// delayed by one pause of the machine count once.
const SPAN: Duration = Duration::from_millis(10);
/// Longest delay with which a thread may notice a timeout that still counts as a failure, unless
/// half of the patience is longer. After a longer delay, the timeout counts as a slow response.
const LATE_FROM: Duration = Duration::from_millis(5);
/// Divisor of the moving average: each read of a shard moves the average duration by the difference
/// divided by this number.
const WEIGHT: u64 = 8;
/// First pause of an open breaker.
const OPEN_FIRST: Duration = Duration::from_secs(1);
/// Longest pause of an open breaker.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// Time limit of a trial.
pub(super) const TRIAL_MAX: Duration = Duration::from_secs(2);
/// Time after which another trial may begin if the result of a trial was never reported. It is
/// longer than `TRIAL_MAX`, so the earlier trial has ended by then.
const TRIAL_LOST: Duration = Duration::from_secs(3);

const CLOSED: u8 = 0;
const HALF_OPEN: u8 = 1;
const OPEN: u8 = 2;

/// Circuit breaker in front of Redis.
#[derive(Debug)]
pub(super) struct Breaker {
    state: AtomicU8,
    failures: AtomicU32,
    slow: AtomicU32,
    /// Number of the time span of the last response that was judged.
    span: AtomicU64,
    /// Average duration of reads of the shards, in microseconds.
    shards: AtomicU64,
    epoch: Instant,
    /// End of the pause, in milliseconds since `epoch`.
    until: AtomicU64,
    /// Length of the next pause, in milliseconds.
    pause: AtomicU64,
    /// Half of the patience. A response that took longer is slow, unless reads of the shards
    /// usually take as long.
    slow_from: Duration,
}

/// Instruction of the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Redis may be used.
    Use,
    /// Redis must not be used.
    Avoid,
    /// Redis must not be used by this request. The calling function starts a trial and reports its
    /// result.
    Trial,
}

impl Breaker {
    /// Creates a closed breaker for this patience.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            state: AtomicU8::new(CLOSED),
            failures: AtomicU32::new(0),
            slow: AtomicU32::new(0),
            span: AtomicU64::new(0),
            shards: AtomicU64::new(0),
            epoch: Instant::now(),
            until: AtomicU64::new(0),
            pause: AtomicU64::new(OPEN_FIRST.as_millis() as u64),
            slow_from: patience / 2,
        }
    }

    /// Returns the state of the breaker.
    pub(super) fn state(&self) -> BreakerState {
        match self.state.load(Ordering::Acquire) {
            CLOSED => BreakerState::Closed,
            HALF_OPEN => BreakerState::HalfOpen,
            _ => BreakerState::Open,
        }
    }

    /// Returns true if Redis is used. Does not begin a trial.
    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// Returns the instruction for a request that would use Redis now.
    pub(super) fn advice(&self) -> Advice {
        if self.is_closed() {
            return Advice::Use;
        }
        let (until, now) = (self.until.load(Ordering::Acquire), self.millis());
        // Only the thread whose exchange succeeds begins the trial. The exchange also postpones the
        // next trial, in case the result of this one is never reported.
        let later = now + TRIAL_LOST.as_millis() as u64;
        let (set, seen) = (Ordering::AcqRel, Ordering::Acquire);
        if now < until || self.until.compare_exchange(until, later, set, seen).is_err() {
            return Advice::Avoid;
        }
        match self.state.compare_exchange(OPEN, HALF_OPEN, set, seen) {
            Ok(_) | Err(HALF_OPEN) => Advice::Trial,
            Err(_) => Advice::Avoid,
        }
    }

    /// Records the duration of a read of a shard. It can be compared with the duration of a lookup
    /// in Redis, because the same threads on the same machine measure both.
    pub(super) fn shard_took(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX) / WEIGHT;
        let usual = self.shards.load(Ordering::Relaxed);
        // Concurrent threads may overwrite each other's update; a lost update changes the value
        // only slightly.
        let usual = (usual - usual / WEIGHT).saturating_add(took);
        self.shards.store(usual, Ordering::Relaxed);
    }

    /// Judges a response that arrived at `now` after the duration `took`. Returns true if the
    /// breaker opens, because too many responses were slow.
    pub(super) fn answered(&self, took: Duration, now: Instant) -> bool {
        // A response that took longer than the patience does not end a series of failures.
        if took <= 2 * self.slow_from && self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        self.judge(took, now)
    }

    /// Judges a command that timed out at `until` and whose thread noticed this at `now`. Returns
    /// true if the breaker opens.
    pub(super) fn late(&self, until: Instant, now: Instant) -> bool {
        let own = now.saturating_duration_since(until);
        if own <= LATE_FROM.max(self.slow_from) {
            return self.failed();
        }
        // The response may have arrived before the thread woke up, so this is not a failure of
        // Redis. It counts as slow: if it happens often, using Redis does not help either.
        self.judge(2 * self.slow_from + own, now)
    }

    fn judge(&self, took: Duration, now: Instant) -> bool {
        let span =
            (now.saturating_duration_since(self.epoch).as_millis() / SPAN.as_millis()) as u64 + 1;
        let judged = self.span.load(Ordering::Relaxed);
        let (set, seen) = (Ordering::Relaxed, Ordering::Relaxed);
        if span <= judged || self.span.compare_exchange(judged, span, set, seen).is_err() {
            return false;
        }
        let usual = Duration::from_micros(self.shards.load(Ordering::Relaxed));
        // A response may take as long as reads of the shards usually take, but not longer than the
        // patience.
        if took <= self.slow_from.max(usual.min(2 * self.slow_from)) {
            let slow = self.slow.load(Ordering::Relaxed);
            if slow != 0 {
                // Concurrent threads may overwrite each other's update; a lost update changes the
                // value only slightly.
                self.slow.store(slow - 1, Ordering::Relaxed);
            }
            return false;
        }
        self.slow.fetch_add(1, Ordering::Relaxed) + 1 >= SLOW_MAX && self.open_from(CLOSED)
    }

    /// Counts a failure. Returns true if it opens the breaker.
    pub(super) fn failed(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        failures >= FAILURES_MAX && self.open_from(CLOSED)
    }

    /// Records the result of a trial: closes the breaker if Redis responded in time, and otherwise
    /// begins the next pause.
    pub(super) fn end_trial(&self, is_well: bool) {
        if is_well {
            self.failures.store(0, Ordering::Relaxed);
            self.slow.store(0, Ordering::Relaxed);
            self.pause.store(OPEN_FIRST.as_millis() as u64, Ordering::Relaxed);
            self.state.store(CLOSED, Ordering::Release);
        } else {
            self.open_from(HALF_OPEN);
        }
    }

    fn open_from(&self, state: u8) -> bool {
        let pause = self.pause.load(Ordering::Relaxed);
        // The end of the pause is stored before the state, so that no thread sees an open breaker
        // with the end of an earlier pause.
        self.until.store(self.millis() + pause, Ordering::Release);
        let (set, seen) = (Ordering::AcqRel, Ordering::Acquire);
        let opened = self.state.compare_exchange(state, OPEN, set, seen).is_ok();
        if opened {
            let longer = (2 * pause).min(OPEN_MAX.as_millis() as u64);
            self.pause.store(longer, Ordering::Relaxed);
        }
        opened
    }

    fn millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(20);

    /// Ends the current pause of the breaker.
    fn wait_out(breaker: &Breaker) {
        breaker.until.store(0, Ordering::Release);
    }

    /// Returns the first moment of the span with this number.
    fn span(breaker: &Breaker, number: u32) -> Instant {
        breaker.epoch + number * SPAN
    }

    #[test]
    fn the_breaker_opens_only_after_failures_in_a_row() {
        let breaker = Breaker::new(PATIENCE);
        for number in 0..10 {
            assert!(!breaker.failed() && !breaker.failed());
            assert!(!breaker.answered(Duration::ZERO, span(&breaker, number)));
        }
        assert!(!breaker.failed() && !breaker.failed() && breaker.failed());
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(!breaker.failed(), "only the first failure reports that it opened");
    }

    #[test]
    fn the_breaker_opens_when_answers_are_slow_for_a_while() {
        let breaker = Breaker::new(PATIENCE);
        let slow = Duration::from_millis(11);
        let answered = |took, number| breaker.answered(took, span(&breaker, number));
        for number in 1..SLOW_MAX {
            assert!(!answered(slow, number));
        }
        assert!(!answered(Duration::ZERO, SLOW_MAX), "one in time offsets one late answer");
        assert!(!answered(slow, SLOW_MAX + 1) && answered(slow, SLOW_MAX + 2));
    }

    #[test]
    fn one_pause_that_makes_a_hundred_answers_late_counts_once() {
        let breaker = Breaker::new(PATIENCE);
        for number in 0..SLOW_MAX - 1 {
            for _ in 0..100 {
                assert!(!breaker.answered(Duration::from_millis(15), span(&breaker, number)));
            }
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn redis_is_not_slow_if_the_shards_take_as_long() {
        let breaker = Breaker::new(PATIENCE);
        let (slow, slower) = (Duration::from_millis(15), Duration::from_millis(18));
        (0..50).for_each(|_| breaker.shard_took(Duration::from_millis(17)));
        for number in 0..10 * SLOW_MAX {
            assert!(!breaker.answered(slow, span(&breaker, number)));
        }
        assert!((0..SLOW_MAX).any(|n| breaker.answered(slower, span(&breaker, 1_000 + n))));
    }

    #[test]
    fn slow_shards_do_not_excuse_answers_later_than_the_patience() {
        let breaker = Breaker::new(PATIENCE);
        (0..50).for_each(|_| breaker.shard_took(Duration::from_secs(1)));
        let too_late = PATIENCE + Duration::from_millis(1);
        assert!((0..SLOW_MAX).any(|number| breaker.answered(too_late, span(&breaker, number))));
    }

    #[test]
    fn an_answer_later_than_the_patience_does_not_reset_failures() {
        let breaker = Breaker::new(PATIENCE);
        let too_late = PATIENCE + Duration::from_millis(1);
        for number in 0..2 {
            assert!(!breaker.failed() && !breaker.answered(too_late, span(&breaker, number)));
        }
        assert!(breaker.failed());
    }

    #[test]
    fn redis_is_compared_with_the_current_speed_of_the_shards() {
        let breaker = Breaker::new(PATIENCE);
        (0..50).for_each(|_| breaker.shard_took(Duration::from_secs(10)));
        (0..100).for_each(|_| breaker.shard_took(Duration::from_millis(1)));
        let slow = Duration::from_millis(11);
        assert!((0..SLOW_MAX).any(|number| breaker.answered(slow, span(&breaker, number))));
    }

    #[test]
    fn a_timeout_noticed_late_by_its_thread_is_no_failure() {
        let breaker = Breaker::new(PATIENCE);
        let until = span(&breaker, 10);
        let late = until + Duration::from_millis(30);
        for _ in 0..10 {
            assert!(!breaker.late(until, late));
        }
        let soon = until + Duration::from_millis(2);
        assert!(!breaker.late(until, soon) && !breaker.late(until, soon));
        assert!(breaker.late(until, soon), "this was Redis");
    }

    #[test]
    fn late_threads_open_the_breaker_too_if_redis_never_answers() {
        let breaker = Breaker::new(PATIENCE);
        let until = |number| span(&breaker, 10 * number);
        let late = |number| breaker.late(until(number), until(number) + Duration::from_millis(30));
        assert!((0..SLOW_MAX).any(late));
    }

    #[test]
    fn one_trial_at_a_time_and_longer_pauses_each_time() {
        let breaker = Breaker::new(PATIENCE);
        for _ in 0..3 {
            breaker.failed();
        }
        assert_eq!(breaker.advice(), Advice::Avoid, "the pause has begun");
        for pause in [2_000, 4_000, 8_000, 10_000, 10_000] {
            wait_out(&breaker);
            assert_eq!(breaker.pause.load(Ordering::Relaxed), pause);
            assert_eq!((breaker.advice(), breaker.advice()), (Advice::Trial, Advice::Avoid));
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            breaker.end_trial(false);
            assert_eq!(breaker.advice(), Advice::Avoid);
        }
        wait_out(&breaker);
        assert_eq!(breaker.advice(), Advice::Trial);
        breaker.end_trial(true);
        assert_eq!((breaker.advice(), breaker.state()), (Advice::Use, BreakerState::Closed));
        for _ in 0..3 {
            breaker.failed();
        }
        assert_eq!(breaker.pause.load(Ordering::Relaxed), 2_000, "it starts over");
    }
}
