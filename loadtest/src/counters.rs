//! Counters: adds up the requests, response times and failures of all users.
//!
//! **Invariant:** the use of memory is bounded, even if the responses contain unexpected values.
//! **Not here:** checking a response (`response_check`), computing rates and percentages
//! (`report`).

mod failures;
mod series;
mod times;

pub(crate) use failures::Failures;
pub(crate) use series::{Second, Series, class_end_ms};
pub(crate) use times::Times;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::http_client::Answer;
use crate::response_check::{Failure, printable};

/// Maximum number of sources of responses. A source is a combination of a shard, a role and a state
/// of the cache.
const SOURCES_MAX: usize = 1_024;
/// Name under which all sources or failures beyond a limit are counted together.
const OTHERS: &str = "others";

/// Operation of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// An upsert of one row.
    Write,
    /// A read of one row by key.
    Read,
    /// An insert of a new row.
    Insert,
    /// A read of a page in key order over all shards.
    Scan,
    /// A read and a conditional write of the same row.
    Modify,
    /// A bulk write of many rows.
    Bulk,
    /// A write of a value by key.
    KvPut,
    /// A read of a value by key.
    KvGet,
    /// A read of all shards.
    Scatter,
    /// A delete of a row.
    Delete,
    /// An acknowledged write that is sent again.
    Replay,
    /// A change of several rows of one shard key in one transaction.
    Transfer,
    /// A request of a tenant for rows of other tenants.
    Probe,
}

impl Operation {
    /// Returns the name of the operation in the report and in goose's metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Insert => "insert",
            Self::Scan => "scan",
            Self::Modify => "modify",
            Self::Bulk => "bulk",
            Self::KvPut => "kv-put",
            Self::KvGet => "kv-get",
            Self::Scatter => "scatter",
            Self::Delete => "delete",
            Self::Replay => "replay",
            Self::Transfer => "transfer",
            Self::Probe => "probe",
        }
    }

    /// Returns the HTTP method by which goose groups its metrics.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Write
            | Self::Insert
            | Self::Bulk
            | Self::Modify
            | Self::Delete
            | Self::Replay
            | Self::Transfer => "POST",
            Self::Read | Self::Scan | Self::KvGet | Self::Scatter | Self::Probe => "GET",
            Self::KvPut => "PUT",
        }
    }
}

/// Source of a response, as the headers of the response name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Source {
    pub(crate) shard: Option<String>,
    /// `primary`, `replica` or `cache`.
    pub(crate) served_by: Option<String>,
    /// `hit`, `miss` or `bypass`.
    pub(crate) cache: Option<String>,
}

impl Source {
    pub(crate) fn of(answer: &Answer) -> Self {
        let text = |text: Option<&str>| text.map(printable);
        Self {
            shard: text(answer.shard()),
            served_by: text(answer.served_by()),
            cache: text(answer.cache()),
        }
    }

    fn others() -> Self {
        Self { shard: Some(OTHERS.to_owned()), ..Self::default() }
    }
}

/// Times and result of an operation that has ended.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) operation: Operation,
    /// Time at which the operation was due; in the closed model, the time at which it began.
    pub(crate) intended: Instant,
    pub(crate) sent: Instant,
    pub(crate) ended: Instant,
    pub(crate) source: Option<Source>,
    pub(crate) verdict: Result<(), Failure>,
}

impl Sample {
    /// Returns the time from the moment at which the operation was due to the last byte of the
    /// response.
    pub(crate) fn response(&self) -> Duration {
        self.ended.saturating_duration_since(self.intended)
    }

    /// Returns the time from the moment at which the operation was sent to the last byte of the
    /// response.
    fn service(&self) -> Duration {
        self.ended.saturating_duration_since(self.sent)
    }

    /// Returns the time from the moment at which the operation was due to the moment at which it
    /// was sent.
    fn lateness(&self) -> Duration {
        self.sent.saturating_duration_since(self.intended)
    }
}

/// All counts of a run so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    started: Option<Instant>,
    last: Option<Instant>,
    /// Response times by operation, including failed operations.
    pub(crate) operations: BTreeMap<Operation, Times>,
    /// Times of all operations, each measured from the moment at which it was sent.
    pub(crate) service: Times,
    /// Delays of all operations, each measured from the moment at which it was due to the moment at
    /// which it was sent.
    pub(crate) lateness: Times,
    pub(crate) failed: u64,
    /// Number of operations that were never sent, because too many were in progress (open model).
    pub(crate) dropped: u64,
    pub(crate) sources: BTreeMap<Source, Times>,
    pub(crate) failures: Failures,
    pub(crate) series: Series,
}

impl Counts {
    /// Returns the time from the first user's start to the last response.
    pub(crate) fn elapsed(&self) -> Duration {
        match (self.started, self.last) {
            (Some(started), Some(last)) => last.saturating_duration_since(started),
            (Some(_), None) | (None, Some(_) | None) => Duration::ZERO,
        }
    }

    /// Returns the number of operations that have ended.
    pub(crate) fn requests(&self) -> u64 {
        self.operations.values().map(Times::count).sum()
    }

    fn add(&mut self, sample: Sample) {
        let response = sample.response();
        self.operations.entry(sample.operation).or_default().add(response);
        self.service.add(sample.service());
        self.lateness.add(sample.lateness());
        self.last = self.last.max(Some(sample.ended));
        let started = *self.started.get_or_insert(sample.intended);
        let second = sample.ended.saturating_duration_since(started).as_secs();
        self.series.add(second, response, sample.verdict.is_err());
        if let Some(source) = sample.source {
            let known = self.sources.contains_key(&source) || self.sources.len() < SOURCES_MAX;
            let source = if known { source } else { Source::others() };
            self.sources.entry(source).or_insert_with(Times::coarse).add(response);
        }
        if let Err(failure) = sample.verdict {
            self.failed += 1;
            self.failures.add(sample.operation, failure);
        }
    }
}

/// Progress of a run at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    pub(crate) dropped: u64,
    /// 99th percentile of the response times of the last whole second; `None` if no operation ended
    /// in it.
    pub(crate) p99_ms: Option<f64>,
}

/// Counts that all users share. An operation is counted once, when it has ended and its response
/// was checked.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Counts>);

impl Counters {
    /// Records the start of the run, which is the start of the first user or the moment at which
    /// the first operation is due. Later calls change nothing.
    pub(crate) fn start(&self, now: Instant) {
        self.lock().started.get_or_insert(now);
    }

    /// Returns the time at which the first user started.
    pub(crate) fn started(&self) -> Option<Instant> {
        self.lock().started
    }

    /// Counts an operation that has ended.
    pub(crate) fn add(&self, sample: Sample) {
        self.lock().add(sample);
    }

    /// Counts operations that were due but will never be sent.
    pub(crate) fn drop_due(&self, count: u64) {
        self.lock().dropped += count;
    }

    /// Returns the numbers that a progress line shows.
    pub(crate) fn standing(&self) -> Standing {
        let counts = self.lock();
        Standing {
            requests: counts.requests(),
            failed: counts.failed,
            dropped: counts.dropped,
            p99_ms: counts.series.last_whole_p99_ms(),
        }
    }

    /// Returns a copy of all counts.
    pub(crate) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    /// Locks the counts. The counts stay usable if a user panics while holding the lock, because
    /// each change only adds to them.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(operation: Operation, shard: &str, verdict: Result<(), Failure>) -> Sample {
        let intended = Instant::now();
        let sent = intended + Duration::from_millis(3);
        let source = Some(Source { shard: Some(shard.to_owned()), ..Source::default() });
        let ended = sent + Duration::from_millis(2);
        Sample { operation, intended, sent, ended, source, verdict }
    }

    #[test]
    fn a_server_cannot_make_it_grow_without_end() {
        let counters = Counters::default();
        for n in 0..2_000 {
            let failure = Failure { status: Some(500), code: n.to_string(), detail: String::new() };
            counters.add(sample(Operation::Read, &format!("shard{n}"), Err(failure)));
        }
        let counts = counters.counts();
        assert_eq!((counts.requests(), counts.failed), (2_000, 2_000));
        assert!(counts.sources.len() <= SOURCES_MAX + 1);
        assert_eq!(counts.sources.values().map(Times::count).sum::<u64>(), 2_000);
    }

    #[test]
    fn a_late_request_is_counted_from_when_it_was_due() {
        let counters = Counters::default();
        counters.add(sample(Operation::Write, "shard1", Ok(())));
        let counts = counters.counts();
        let near = |times: &Times, ms: f64| (times.quantile_ms(0.5) - ms).abs() < 0.01;
        assert!(near(&counts.operations[&Operation::Write], 5.0));
        assert!(near(&counts.service, 2.0));
        assert!(near(&counts.lateness, 3.0));
    }
}
