//! Report: the result of checking one history.
//!
//! **Invariant:** a report without violations has passed, even if promotions lost changes at level
//! `one`.
//! **Not here:** the text and the JSON of a report (`violation_report`).

use crate::checks::availability::Availability;
use crate::violation::{Check, Violation};

/// Result of checking a history.
#[derive(Clone, Debug)]
pub struct Report {
    /// Number of violations of each check, in the order of [`Check::ALL`].
    pub counts: [u64; Check::ALL.len()],
    /// Earliest violations of each check, at most [`REPORTED_MAX`](crate::REPORTED_MAX) of each.
    pub violations: Vec<Violation>,
    /// Number of contradictions that are explained by the loss of changes at level `one` in a
    /// promotion, which that level allows.
    pub lost: u64,
    /// Earliest losses, at most [`REPORTED_MAX`](crate::REPORTED_MAX).
    pub losses: Vec<Violation>,
    /// Result of C10, availability.
    pub availability: Availability,
    /// Number of rows that were written, but neither read at the end nor known to be absent after a
    /// walk over their whole table. C6 does not check these rows.
    pub rows_not_read_back: u64,
}

impl Report {
    /// Returns true if no guarantee was violated.
    pub fn passed(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
    }

    /// Returns the number of violations of a check.
    pub fn count(&self, check: Check) -> u64 {
        self.counts[check as usize]
    }
}
