//! Clients: threads that each send one request after another, and the measured durations of the
//! requests.
//!
//! **Invariant:** a request that failed is counted as failed, and its duration is not recorded.
//! **Not here:** the requests themselves (the experiments).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::experiment_observer::ExperimentObserver;
use crate::lab_cluster::block_on;

/// Maximum number of durations that are kept for each client; further successful requests are only
/// counted.
const TIMES_MAX: usize = 1 << 20;

/// Amount of work of all clients together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// Number of clients, each of which is a thread.
    pub(crate) clients: usize,
    /// Total number of requests.
    pub(crate) requests: u64,
    /// Time after which no further request is sent.
    pub(crate) at_most: Duration,
}

/// Durations of successful requests, and counts of all requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timings {
    /// Durations of requests that succeeded; sorted in ascending order by [`Timings::ended`].
    times: Vec<Duration>,
    /// Number of requests that succeeded, including those whose durations are not kept.
    succeeded: u64,
    /// Number of requests that failed.
    pub(crate) failed: u64,
    /// Reason of the first failure.
    pub(crate) first_failure: Option<String>,
    /// Time from the start of the first request to the end of the last one.
    pub(crate) elapsed: Duration,
}

impl Timings {
    /// Returns the number of requests that succeeded.
    pub(crate) fn count(&self) -> u64 {
        self.succeeded
    }

    /// Returns the quantile of the durations for this share (0.99 for p99), in milliseconds; 0 if
    /// no request succeeded.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let last = self.times.len().saturating_sub(1);
        let index = (share * last as f64).ceil() as usize;
        self.times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
    }

    /// Returns the number of successful requests per second.
    pub(crate) fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.succeeded as f64 / seconds } else { 0.0 }
    }

    pub(crate) fn add(&mut self, began: Instant, done: Result<(), String>) {
        match done {
            Ok(()) => {
                self.succeeded += 1;
                if self.times.len() < TIMES_MAX {
                    self.times.push(began.elapsed());
                }
            }
            Err(cause) => self.fail(cause),
        }
    }

    fn fail(&mut self, cause: String) {
        self.failed += 1;
        self.first_failure.get_or_insert(cause);
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.times.extend(other.times);
        self.succeeded += other.succeeded;
        self.failed += other.failed;
        self.first_failure = self.first_failure.take().or(other.first_failure);
    }

    /// Completes the value after all requests have ended: sorts the durations and sets the elapsed
    /// time.
    pub(crate) fn ended(mut self, elapsed: Duration) -> Self {
        self.times.sort_unstable();
        self.elapsed = elapsed;
        self
    }
}

/// Sends requests, numbered from 0, from all clients, and returns their durations. The clients end
/// early once the experiment is cancelled.
pub(crate) fn send<F: Future<Output = Result<(), String>>>(
    amount: Amount,
    observer: &dyn ExperimentObserver,
    request: impl Fn(u64) -> F + Sync,
) -> Timings {
    let (next, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    let began = Instant::now();
    let client = || {
        block_on(async {
            let mut own = Timings::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let is_late = began.elapsed() >= amount.at_most || stopped.load(Ordering::Relaxed);
                if number >= amount.requests || is_late {
                    return own;
                }
                let sent = Instant::now();
                own.add(sent, request(number).await);
                if observer.is_cancelled() {
                    stopped.store(true, Ordering::Relaxed);
                }
            }
        })
    };
    let mut all = Timings::default();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..amount.clients).map(|_| scope.spawn(client)).collect();
        for client in clients {
            // A panic is a defect of the program. The durations of that client are lost, and the
            // run counts as failed.
            match client.join() {
                Ok(own) => all.merge(own),
                Err(_) => all.fail("a client of the lab has panicked".to_owned()),
            }
        }
    });
    all.ended(began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment_observer::Bar;

    struct SilentObserver(bool);

    impl ExperimentObserver for SilentObserver {
        fn report(&self, _: &str) {}
        fn bar(&self, _: &str, _: u64) -> Box<dyn Bar> {
            unreachable!("clients show no bar")
        }
        fn is_cancelled(&self) -> bool {
            self.0
        }
    }

    fn amount(requests: u64) -> Amount {
        Amount { clients: 3, requests, at_most: Duration::from_secs(600) }
    }

    #[test]
    fn every_request_is_sent_once_and_failures_have_no_time() {
        let sum = AtomicU64::new(0);
        let odd_fail = async |number: u64| {
            sum.fetch_add(number, Ordering::SeqCst);
            if number % 2 == 1 { Err(format!("{number} is odd")) } else { Ok(()) }
        };
        let timings = send(amount(100), &SilentObserver(false), odd_fail);
        assert_eq!((timings.count(), timings.failed, sum.into_inner()), (50, 50, 4_950));
        assert!(timings.first_failure.is_some_and(|cause| cause.ends_with("is odd")));
    }

    #[test]
    fn clients_end_once_the_experiment_is_cancelled() {
        let timings = send(amount(1 << 40), &SilentObserver(true), async |_| Ok(()));
        assert!((1..=3).contains(&timings.count()));
    }

    #[test]
    fn a_client_that_panics_fails_the_run_with_a_reason() {
        let panics_once = async |number: u64| {
            assert_ne!(number, 1, "this client panics");
            Ok(())
        };
        let timings = send(amount(50), &SilentObserver(false), panics_once);
        assert_eq!(timings.failed, 1);
        assert_eq!(timings.first_failure.as_deref(), Some("a client of the lab has panicked"));
    }
}
