//! Breaker: whether Redis is asked, judged by how it has answered.
//!
//! It opens after some failures in a row, or when answers are slow for a while; then nobody asks. After a pause one question
//! is put that nobody waits for: if it is answered in time, all ask again, else the next pause is longer.
//!
//! **Invariant:** while it is open, at most one question is on its way, and no read waits for it.
//! **Not here:** asking (`cache`).

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::vitals::BreakerState;

/// Failures in a row that open it.
const FAILURES_MAX: u32 = 3;
/// How many more slow answers than others open it.
const SLOW_MAX: u32 = 32;
/// How long it is open first.
const OPEN_FIRST: Duration = Duration::from_secs(1);
/// The longest time that it is open until Redis is tried again.
const OPEN_MAX: Duration = Duration::from_secs(10);

/// How long a trial may take.
pub(super) const TRIAL_MAX: Duration = Duration::from_secs(2);

const CLOSED: u8 = 0;
const HALF_OPEN: u8 = 1;
const OPEN: u8 = 2;

/// Judges how Redis answers.
#[derive(Debug)]
pub(super) struct Breaker {
    state: AtomicU8,
    failures: AtomicU32,
    slow: AtomicU32,
    epoch: Instant,
    /// Milliseconds since `epoch` at which Redis is tried again.
    until: AtomicU64,
    /// Milliseconds of the next pause.
    pause: AtomicU64,
    /// An answer that took longer is slow.
    slow_from: Duration,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Redis may be asked.
    Ask,
    /// It may not.
    Leave,
    /// It may not, but the caller is to have it tried, and to tell how that ended.
    Try,
}

impl Breaker {
    /// One that finds answers slow that take longer than half of the patience.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            state: AtomicU8::new(CLOSED),
            failures: AtomicU32::new(0),
            slow: AtomicU32::new(0),
            epoch: Instant::now(),
            until: AtomicU64::new(0),
            pause: AtomicU64::new(OPEN_FIRST.as_millis() as u64),
            slow_from: patience / 2,
        }
    }

    /// Whether Redis is asked.
    pub(super) fn state(&self) -> BreakerState {
        match self.state.load(Ordering::Acquire) {
            CLOSED => BreakerState::Closed,
            HALF_OPEN => BreakerState::HalfOpen,
            _ => BreakerState::Open,
        }
    }

    /// Whether Redis is asked, without a part in trying it.
    pub(super) fn is_closed(&self) -> bool {
        self.state.load(Ordering::Acquire) == CLOSED
    }

    /// What to do now.
    pub(super) fn advice(&self) -> Advice {
        if self.is_closed() {
            return Advice::Ask;
        }
        let (until, now) = (self.until.load(Ordering::Acquire), self.millis());
        // Whoever puts the time off is the one who tries; if that is never told to have ended, another does.
        let later = now + TRIAL_MAX.as_millis() as u64;
        let (set, seen) = (Ordering::AcqRel, Ordering::Acquire);
        if now < until || self.until.compare_exchange(until, later, set, seen).is_err() {
            return Advice::Leave;
        }
        match self.state.compare_exchange(OPEN, HALF_OPEN, set, seen) {
            Ok(_) | Err(HALF_OPEN) => Advice::Try,
            Err(_) => Advice::Leave,
        }
    }

    /// Told of an answer; tells whether the breaker opens for it, because too many were slow.
    pub(super) fn answered(&self, took: Duration) -> bool {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if took <= self.slow_from {
            let slow = self.slow.load(Ordering::Relaxed);
            if slow != 0 {
                // What another takes away at the same time makes no difference that matters.
                self.slow.store(slow - 1, Ordering::Relaxed);
            }
            return false;
        }
        self.slow.fetch_add(1, Ordering::Relaxed) + 1 >= SLOW_MAX && self.open_from(CLOSED)
    }

    /// Told of a failure; tells whether the breaker opens for it.
    pub(super) fn failed(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        failures >= FAILURES_MAX && self.open_from(CLOSED)
    }

    /// Told how a trial ended.
    pub(super) fn tried(&self, is_well: bool) {
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
        // Before the state, so that nobody finds it open and its pause over.
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

    /// As if its pause were over.
    fn wait_out(breaker: &Breaker) {
        breaker.until.store(0, Ordering::Release);
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let breaker = Breaker::new(PATIENCE);
        for _ in 0..10 {
            assert!(!breaker.failed() && !breaker.failed());
            assert!(!breaker.answered(Duration::ZERO));
        }
        assert!(!breaker.failed() && !breaker.failed() && breaker.failed());
        assert_eq!(breaker.state(), BreakerState::Open);
        assert!(!breaker.failed(), "it is told once that it opened");
    }

    #[test]
    fn it_opens_when_answers_are_slow_for_a_while() {
        let breaker = Breaker::new(PATIENCE);
        let slow = Duration::from_millis(11);
        for _ in 1..SLOW_MAX {
            assert!(!breaker.answered(slow));
        }
        assert!(!breaker.answered(Duration::ZERO), "one in time makes up for one");
        assert!(!breaker.answered(slow) && breaker.answered(slow));
    }

    #[test]
    fn one_at_a_time_tries_whether_it_is_back_and_the_pauses_grow() {
        let breaker = Breaker::new(PATIENCE);
        for _ in 0..3 {
            breaker.failed();
        }
        assert_eq!(breaker.advice(), Advice::Leave, "the pause has begun");
        for pause in [2_000, 4_000, 8_000, 10_000, 10_000] {
            wait_out(&breaker);
            assert_eq!(breaker.pause.load(Ordering::Relaxed), pause);
            assert_eq!((breaker.advice(), breaker.advice()), (Advice::Try, Advice::Leave));
            assert_eq!(breaker.state(), BreakerState::HalfOpen);
            breaker.tried(false);
            assert_eq!(breaker.advice(), Advice::Leave);
        }
        wait_out(&breaker);
        assert_eq!(breaker.advice(), Advice::Try);
        breaker.tried(true);
        assert_eq!((breaker.advice(), breaker.state()), (Advice::Ask, BreakerState::Closed));
        for _ in 0..3 {
            breaker.failed();
        }
        assert_eq!(breaker.pause.load(Ordering::Relaxed), 2_000, "it began anew");
    }
}
