//! Counts: the decisions about requests, for metrics and the log.
//!
//! **Invariant:** no key, tenant or address is a label, so the number of counters is fixed.
//! **Not here:** the text of `/metrics` (`analytics`).

use std::sync::atomic::{AtomicU64, Ordering};

use analytics::AccessNow;

/// Kinds of credentials, as labels.
const KINDS: [&str; 4] = ["anonymous", "key", "token", "other"];

/// Decision about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessOutcome {
    /// The request was served.
    Allowed,
    /// The credentials stood in a wrong place, or twice.
    Misplaced,
    /// Credentials were needed, or not valid.
    Unauthenticated,
    /// A right was missing.
    Forbidden,
    /// A limit was reached.
    Limited,
    /// The rights were not known.
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

/// Limit that does not belong to one caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SharedLimit {
    /// Failed credentials of an address.
    Failures,
    /// Signatures that are verified in a second.
    Signatures,
}

impl SharedLimit {
    const ALL: [Self; 2] = [Self::Failures, Self::Signatures];

    fn name(self) -> &'static str {
        match self {
            Self::Failures => "failures",
            Self::Signatures => "signatures",
        }
    }
}

/// Counters of decisions since the start.
#[derive(Debug, Default)]
pub struct AccessCounts {
    requests: [[AtomicU64; AccessOutcome::ALL.len()]; KINDS.len()],
    limited: [AtomicU64; SharedLimit::ALL.len()],
}

impl AccessCounts {
    /// Counts a request. A kind that is not known counts as `other`.
    pub fn count(&self, kind: &str, outcome: AccessOutcome) {
        let kind = KINDS.iter().position(|known| *known == kind).unwrap_or(KINDS.len() - 1);
        self.requests[kind][outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that a limit refused.
    pub fn count_limited(&self, limit: SharedLimit) {
        self.limited[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the counts, with the age of keys and roles in seconds.
    pub fn now(&self, age: u64) -> AccessNow {
        let mut requests = Vec::new();
        for (kind, counters) in KINDS.into_iter().zip(&self.requests) {
            for (outcome, counter) in AccessOutcome::ALL.into_iter().zip(counters) {
                requests.push((kind, outcome.name(), counter.load(Ordering::Relaxed)));
            }
        }
        let limited = SharedLimit::ALL.into_iter().zip(&self.limited);
        let limited = limited.map(|(one, count)| (one.name(), count.load(Ordering::Relaxed)));
        AccessNow { requests, limited: limited.collect(), age_seconds: age }
    }
}
