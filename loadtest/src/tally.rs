//! Tally: what the users have met so far.
//!
//! **Invariant:** memory is bounded, whatever a server answers.
//! **Not here:** judging an answer (`verdict`), and rates and shares (`report`).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::verdict::Failure;

/// Shards told apart. A server that names more is counted under [`OTHERS`].
const SHARDS_MAX: usize = 256;
/// Groups of failures told apart; the same.
const FAILURE_GROUPS_MAX: usize = 64;
/// Longest time told apart from longer ones, in microseconds: well above the client's patience.
const TIME_US_MAX: u64 = 60_000_000;
/// Digits kept of a time: 0.1 % is finer than two runs ever agree.
const TIME_DIGITS: u8 = 3;
/// The name of what has no place of its own.
const OTHERS: &str = "others";

/// What a user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    /// `POST /api/write`.
    Write,
    /// `GET /api/read` by key.
    Read,
}

impl Operation {
    /// Its name in goose's words and in ours.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
        }
    }
}

/// Failures are the same when these are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FailureGroup {
    pub(crate) operation: Operation,
    pub(crate) status: Option<u16>,
    pub(crate) code: String,
}

/// How often, and what the first one said.
#[derive(Clone, Debug)]
pub(crate) struct FailureCount {
    pub(crate) count: u64,
    pub(crate) example: String,
}

/// How long requests took, failed ones included.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        let empty = Histogram::new_with_bounds(1, TIME_US_MAX, TIME_DIGITS);
        Self(empty.expect("the bounds are constants within what a histogram takes"))
    }
}

impl Times {
    fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(TIME_US_MAX));
    }

    /// How many requests.
    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The time within which this share (0.0 to 1.0) was over, in milliseconds; 0 without requests.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        self.0.value_at_quantile(share) as f64 / 1_000.0
    }
}

/// Everything counted, as it is at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    started: Option<Instant>,
    last: Option<Instant>,
    pub(crate) writes: Times,
    pub(crate) reads: Times,
    pub(crate) failed: u64,
    /// Answers per shard, by the header `x-shard`.
    pub(crate) shards: BTreeMap<String, u64>,
    pub(crate) failures: BTreeMap<FailureGroup, FailureCount>,
}

impl Counts {
    /// From the first user's start to the last answer.
    pub(crate) fn elapsed(&self) -> Duration {
        match (self.started, self.last) {
            (Some(started), Some(last)) => last.saturating_duration_since(started),
            (Some(_), None) | (None, Some(_) | None) => Duration::ZERO,
        }
    }

    /// Requests that are over, of both kinds.
    pub(crate) fn requests(&self) -> u64 {
        self.writes.count() + self.reads.count()
    }

    fn add_shard(&mut self, shard: String) {
        let known = self.shards.contains_key(&shard) || self.shards.len() < SHARDS_MAX;
        let name = if known { shard } else { OTHERS.to_owned() };
        *self.shards.entry(name).or_default() += 1;
    }

    fn add_failure(&mut self, operation: Operation, failure: Failure) {
        self.failed += 1;
        let Failure { status, code, detail } = failure;
        let mut group = FailureGroup { operation, status, code };
        if !self.failures.contains_key(&group) && self.failures.len() >= FAILURE_GROUPS_MAX {
            group = FailureGroup { operation, status: None, code: OTHERS.to_owned() };
        }
        let fresh = FailureCount { count: 0, example: detail };
        self.failures.entry(group).or_insert(fresh).count += 1;
    }
}

/// The counts all users share. A request is counted once, when its verdict is known.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counts>);

impl Tally {
    /// A user starts; the first one starts the clock.
    pub(crate) fn user_started(&self) {
        self.lock().started.get_or_insert_with(Instant::now);
    }

    /// One request is over.
    pub(crate) fn add(
        &self,
        operation: Operation,
        time: Duration,
        shard: Option<String>,
        verdict: Result<(), Failure>,
    ) {
        let mut counts = self.lock();
        match operation {
            Operation::Write => counts.writes.add(time),
            Operation::Read => counts.reads.add(time),
        }
        counts.last = Some(Instant::now());
        if let Some(shard) = shard {
            counts.add_shard(shard);
        }
        if let Err(failure) = verdict {
            counts.add_failure(operation, failure);
        }
    }

    /// How many requests so far, and how many of them failed.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let counts = self.lock();
        (counts.requests(), counts.failed)
    }

    /// A copy of everything.
    pub(crate) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    /// Counts stay true when a user panics while holding them: each change is one addition.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(2);

    #[test]
    fn a_server_cannot_make_it_grow_without_end() {
        let tally = Tally::default();
        for n in 0..1_000 {
            let failure = Failure { status: Some(500), code: n.to_string(), detail: String::new() };
            tally.add(Operation::Read, TIME, Some(format!("shard{n}")), Err(failure));
        }
        let counts = tally.counts();
        assert_eq!((counts.requests(), counts.failed), (1_000, 1_000));
        assert!(counts.shards.len() <= SHARDS_MAX + 1);
        // One group of others for each operation.
        assert!(counts.failures.len() <= FAILURE_GROUPS_MAX + 2);
        assert_eq!(counts.shards.values().sum::<u64>(), 1_000);
        assert_eq!(counts.failures.values().map(|group| group.count).sum::<u64>(), 1_000);
    }

    #[test]
    fn the_first_example_of_a_group_stays() {
        let tally = Tally::default();
        for detail in ["first", "second"] {
            tally.add(Operation::Write, TIME, None, Err(Failure::new(None, "no answer", detail)));
        }
        let counts = tally.counts();
        let group = counts.failures.values().next().unwrap();
        assert_eq!((group.count, group.example.as_str()), (2, "first"));
        assert_eq!(counts.elapsed(), Duration::ZERO);
    }

    #[test]
    fn times_are_kept_to_a_thousandth_and_never_refused() {
        let mut times = Times::default();
        assert_eq!((times.count(), times.quantile_ms(0.5)), (0, 0.0));
        for time in [Duration::ZERO, TIME, Duration::MAX] {
            times.add(time);
        }
        assert_eq!(times.count(), 3);
        assert!((1.998..2.002).contains(&times.quantile_ms(0.5)));
        assert!(times.quantile_ms(1.0) > 59_000.0);
    }
}
