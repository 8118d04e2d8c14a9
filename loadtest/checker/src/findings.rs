//! Findings: counts the violations, and keeps the earliest few of each check for the report.
//!
//! **Invariant:** the violations that are kept are the earliest of each check. Their number is
//! limited, so that a broken server cannot fill the memory.
//! **Not here:** the text of the report (`violation_report`).

use crate::allowed_losses::AllowedLosses;
use crate::history::OperationHistory;
use crate::violation::{Check, Violation};

/// Maximum number of violations that are reported for each check, and maximum number of losses that
/// are reported. More would reveal nothing new.
pub const REPORTED_MAX: usize = 10;

/// Violations and losses found so far.
#[derive(Debug)]
pub(crate) struct Findings<'h> {
    /// Violations of each check in order of time, at most [`REPORTED_MAX`] of each.
    violations: [Vec<Violation>; Check::ALL.len()],
    counts: [u64; Check::ALL.len()],
    /// Changes whose loss is not a violation; `None` if the history has no promotion.
    allowed: Option<AllowedLosses<'h>>,
    losses: Vec<Violation>,
    lost: u64,
}

/// Result of all checks.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) counts: [u64; Check::ALL.len()],
    pub(crate) violations: Vec<Violation>,
    pub(crate) lost: u64,
    pub(crate) losses: Vec<Violation>,
}

impl<'h> Findings<'h> {
    pub(crate) fn new(history: &'h OperationHistory) -> Self {
        Self {
            violations: Default::default(),
            counts: Default::default(),
            allowed: AllowedLosses::of(history),
            losses: Vec::new(),
            lost: 0,
        }
    }

    /// Counts a violation or a loss, and keeps it if it is among the earliest ones.
    pub(crate) fn add(&mut self, check: Check, at: u64, violation: impl FnOnce() -> Violation) {
        let violation = || Violation { check, at, ..violation() };
        let Some(allowed) = &self.allowed else {
            self.counts[check.index()] += 1;
            keep(&mut self.violations[check.index()], at, violation);
            return;
        };
        let violation = violation();
        if allowed.covers(&violation) {
            self.lost += 1;
            keep(&mut self.losses, at, || violation);
        } else {
            self.counts[check.index()] += 1;
            keep(&mut self.violations[check.index()], at, || violation);
        }
    }

    /// Returns the counts, and the violations to report.
    pub(crate) fn finish(self) -> Found {
        let Self { violations, counts, losses, lost, .. } = self;
        Found { counts, violations: violations.into_iter().flatten().collect(), lost, losses }
    }
}

/// Keeps a violation if it is among the earliest of its list.
fn keep(kept: &mut Vec<Violation>, at: u64, violation: impl FnOnce() -> Violation) {
    let place = kept.partition_point(|earlier| earlier.at <= at);
    if place < REPORTED_MAX {
        kept.truncate(REPORTED_MAX - 1);
        kept.insert(place, violation());
    }
}
