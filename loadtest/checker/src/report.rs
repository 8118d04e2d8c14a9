//! Report: the result of checking one history.
//!
//! **Invariant:** a report without violations has passed, whatever was lost at level `one`.
//! **Not here:** its text and its JSON (`violation_report`).

use crate::availability::Availability;
use crate::violation::{Check, Violation};

/// What the checks found.
#[derive(Clone, Debug)]
pub struct Report {
    /// How many violations each check found, in the order of [`Check::ALL`].
    pub counts: [u64; Check::ALL.len()],
    /// The earliest of each, at most [`TOLD_MAX`](crate::TOLD_MAX).
    pub violations: Vec<Violation>,
    /// What was acknowledged at level `one` and is gone after a promotion, as often as it showed: that level allows it.
    pub lost: u64,
    /// The earliest of these, at most [`TOLD_MAX`](crate::TOLD_MAX).
    pub losses: Vec<Violation>,
    /// C10.
    pub availability: Availability,
    /// Rows that were written but neither read at the end nor known to be absent after a walk over
    /// their whole table: C6 says nothing about them.
    pub rows_not_read_back: u64,
}

impl Report {
    /// Whether no promise was broken.
    pub fn passed(&self) -> bool {
        self.counts.iter().all(|&count| count == 0)
    }

    /// How many violations a check found.
    pub fn count(&self, check: Check) -> u64 {
        self.counts[check as usize]
    }
}
