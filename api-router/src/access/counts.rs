//! Counts: the numbers of decisions about requests, for metrics.
//!
//! **Invariant:** no API key, tenant or address is a label, so the number of counters is fixed.
//! **Not here:** the text of `/metrics` (`analytics`).

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use analytics::AccessNow;

/// Kinds of callers, by their credentials, as labels.
const KINDS: [&str; 5] = ["anonymous", "key", "token", "certificate", "other"];

/// Decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessOutcome {
    /// The request was served.
    Allowed,
    /// The credentials were in the wrong place, or were sent more than once.
    Misplaced,
    /// Credentials were required but missing, or were not valid.
    Unauthenticated,
    /// The caller lacked a right.
    Forbidden,
    /// The request exceeded a limit.
    Limited,
    /// The rights of the caller could not be determined, because the router's copy of keys and
    /// roles was too old.
    Unavailable,
}

impl AccessOutcome {
    const ALL: [Self; 6] = [
        Self::Allowed,
        Self::Misplaced,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::Limited,
        Self::Unavailable,
    ];

    /// Returns the name, as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Misplaced => "misplaced",
            Self::Unauthenticated => "unauthenticated",
            Self::Forbidden => "forbidden",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Names of limits, as labels: those of addresses and of the router first, then those of callers.
const LIMITS: [&str; 6] =
    [FAILURES, SIGNATURES, "requests_per_s", "concurrent", "rows_per_s", "rows_per_day"];
/// Limit of the number of failed credentials from one address.
pub const FAILURES: &str = "failures";
/// Limit of the writes of one tenant that wait in a lane, the write queue of a shard: half of it.
const LANE: &str = "lane";
/// Limit of the number of signatures that the router verifies per second.
pub const SIGNATURES: &str = "signatures";

/// Number of groups of threads, each of which has its own counters.
const GROUPS: usize = 16;

/// Counters of decisions since the start of the router.
#[derive(Debug, Default)]
pub struct AccessCounts {
    requests: [RequestCounts; GROUPS],
    limited: [AtomicU64; LIMITS.len()],
}

/// Counters of one group of threads. The alignment gives each group its own cache lines, apart from
/// the data that the access check reads for every request: a cache line that two processors write
/// in turn would cost each of them more than the rest of the check.
#[derive(Debug, Default)]
#[repr(align(128))]
struct RequestCounts([[AtomicU64; AccessOutcome::ALL.len()]; KINDS.len()]);

/// Returns the group of this thread. Groups are assigned to new threads in turn.
fn group() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static GROUP: usize = THREADS.fetch_add(1, Ordering::Relaxed) % GROUPS;
    }
    GROUP.with(|group| *group)
}

impl AccessCounts {
    /// Counts a request by the kind of its caller and its outcome. An unknown kind counts as
    /// `other`.
    pub fn count(&self, kind: &str, outcome: AccessOutcome) {
        let kind = KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len() - 1);
        let RequestCounts(requests) = &self.requests[group()];
        requests[kind][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that exceeded the limit of this name.
    pub fn count_limited(&self, limit: &str) {
        if let Some(index) = LIMITS.iter().position(|known| *known == limit) {
            self.limited[index].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the counts, with two values that are kept elsewhere: the age of this router's copy
    /// of keys and roles in seconds, and the number of writes that were refused because their
    /// tenant had filled half of a shard's write queue.
    pub fn now(&self, age: u64, refused_by_lanes: u64) -> AccessNow {
        let mut requests = Vec::new();
        for (row, kind) in KINDS.into_iter().enumerate() {
            for outcome in AccessOutcome::ALL {
                let of_group = |RequestCounts(counts): &RequestCounts| {
                    counts[row][outcome as usize].load(Ordering::Relaxed)
                };
                requests.push((kind, outcome.name(), self.requests.iter().map(of_group).sum()));
            }
        }
        let limited = LIMITS.into_iter().zip(&self.limited);
        let limited = limited.map(|(name, count)| (name, count.load(Ordering::Relaxed)));
        let limited = limited.chain([(LANE, refused_by_lanes)]);
        AccessNow {
            requests,
            limited: limited.collect(),
            age_seconds: age,
            audit: None,
            issuers: Vec::new(),
        }
    }
}
