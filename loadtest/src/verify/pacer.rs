//! Pacer: limits the rate of the requests of all sessions of a run together (`--rate` with
//! `--verify`).
//!
//! All sessions share one schedule of times, independently of the router. Every request takes the
//! next time of the schedule and is due at that time. Sessions take turns. A session still waits
//! for each response, so the rate is a maximum. The time of a request is measured from the moment
//! at which it is sent, not from the moment at which it was due.
//!
//! **Invariant:** in any period of t seconds at most `rate * (t + CATCH_UP) + 1` requests are sent,
//! even after a router was down.
//! **Not here:** a rate that does not depend on the responses (`load::open`).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Maximum delay that is caught up: a request that is late by at most this time is sent at once,
/// which covers the inexact timers of a busy machine. Times of the schedule that were missed by
/// more are skipped.
const CATCH_UP: Duration = Duration::from_millis(100);

/// Schedule that all sessions of a run share.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Time between two requests.
    interval: Duration,
    /// Longest wait of a session for the start of its next step.
    step_wait_max: Duration,
    /// Time at which the next request is due.
    next: Mutex<Instant>,
}

impl Pacer {
    /// Creates a schedule of `rate` requests per second; `rate` must be at least one. A session
    /// waits at most `step_wait_max` for the start of its next step.
    pub(super) fn new(rate: f64, step_wait_max: Duration) -> Self {
        let interval = Duration::from_secs_f64(rate.recip());
        Self { interval, step_wait_max, next: Mutex::new(Instant::now()) }
    }

    /// Waits for the next time of the schedule, and takes it. If the future is dropped while it
    /// waits, the time is not taken, and another session can take it.
    async fn wait(&self) {
        // This lock is fair, so sessions take turns.
        let mut next = self.next.lock().await;
        let now = Instant::now();
        *next = due(*next, now);
        if *next > now {
            tokio::time::sleep_until(*next).await;
        }
        *next += self.interval;
    }
}

/// Returns the time at which the next request is due, and skips times that were missed by more than
/// [`CATCH_UP`].
fn due(next: Instant, now: Instant) -> Instant {
    now.checked_sub(CATCH_UP).map_or(next, |earliest| next.max(earliest))
}

/// Turns of one session in the schedule. Without a pacer, every request is due at once.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pacer: Option<Arc<Pacer>>,
    /// True if the session has already waited for the time of its next request.
    is_due: bool,
}

impl Turns {
    /// Creates the turns of a session.
    pub(super) fn new(pacer: Option<Arc<Pacer>>) -> Self {
        Self { pacer, is_due: false }
    }

    /// Waits until the first request of a step is due. Returns false if this takes longer than
    /// `step_wait_max`, so that the run can end.
    pub(super) async fn begin_step(&mut self) -> bool {
        if self.is_due {
            return true;
        }
        let Some(pacer) = &self.pacer else { return true };
        self.is_due = tokio::time::timeout(pacer.step_wait_max, pacer.wait()).await.is_ok();
        self.is_due
    }

    /// Waits until the next request is due.
    pub(super) async fn next_request(&mut self) {
        if std::mem::take(&mut self.is_due) {
            return;
        }
        if let Some(pacer) = &self.pacer {
            pacer.wait().await;
        }
    }

    /// Returns turns for another session, which sends the next requests in place of this one.
    pub(super) fn hand_over(&mut self) -> Self {
        Self { pacer: self.pacer.clone(), is_due: std::mem::take(&mut self.is_due) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOREVER: Duration = Duration::MAX;

    /// Returns the turns of a number of sessions.
    fn sessions(rate: f64, step_wait_max: Duration, count: usize) -> Vec<Turns> {
        let pacer = Arc::new(Pacer::new(rate, step_wait_max));
        (0..count).map(|_| Turns::new(Some(Arc::clone(&pacer)))).collect()
    }

    #[tokio::test]
    async fn all_sessions_together_keep_to_the_rate() {
        let began = Instant::now();
        let sessions = sessions(200.0, FOREVER, 4).into_iter().map(|mut turns| {
            tokio::spawn(async move {
                for _ in 0..10 {
                    turns.next_request().await;
                }
            })
        });
        for session in sessions.collect::<Vec<_>>() {
            session.await.unwrap();
        }
        // The last of 40 requests is due 39 intervals of 5 ms after the first.
        assert!(began.elapsed() >= Duration::from_millis(195), "{:?}", began.elapsed());
    }

    #[test]
    fn after_a_stall_only_a_tenth_of_a_second_is_caught_up() {
        let interval = Duration::from_millis(2);
        let began = Instant::now();
        let now = began + Duration::from_secs(10);
        let (mut next, mut at_once) = (began, 0);
        while due(next, now) <= now {
            next = due(next, now) + interval;
            at_once += 1;
        }
        assert_eq!(at_once, 51);
        let soon = now + interval;
        assert_eq!(due(soon, now), soon, "it is not due yet");
    }

    #[tokio::test]
    async fn a_session_whose_step_is_not_due_for_long_can_be_ended() {
        let mut sessions = sessions(1.0, Duration::from_millis(1), 1);
        let turns = &mut sessions[0];
        turns.next_request().await;
        // On a busy machine this may take a second.
        while turns.begin_step().await {
            turns.next_request().await;
        }
    }

    #[tokio::test]
    async fn the_wait_for_a_step_is_that_for_its_first_request() {
        let began = Instant::now();
        let mut sessions = sessions(20.0, FOREVER, 1);
        let turns = &mut sessions[0];
        assert!(turns.begin_step().await && turns.begin_step().await);
        let mut other = turns.hand_over();
        other.next_request().await;
        assert!(!other.is_due && !turns.is_due);
        other.next_request().await;
        assert!(began.elapsed() >= Duration::from_millis(50), "{:?}", began.elapsed());
        let mut without = Turns::default();
        assert!(without.begin_step().await);
        without.next_request().await;
    }
}
