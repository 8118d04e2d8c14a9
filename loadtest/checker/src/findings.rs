//! Findings: violations counted, and the first few of each check kept to be told.
//!
//! **Invariant:** what is kept are the earliest; a broken server cannot fill the memory.
//! **Not here:** how they are told (`violation_report`).

use super::allowed_losses::Excuse;
use super::row::Row;
use crate::history::{Key, OperationHistory};

/// Violations told of each check. Whoever reads ten alike learns nothing from the eleventh.
pub const TOLD_MAX: usize = 10;

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// C1: one write, one version.
    Identity,
    /// C2: what is read was written.
    Corruption,
    /// C3: one order for each row.
    Linearizable,
    /// C4: a session sees what it has seen and written.
    Sessions,
    /// C5: a bounded read is no older than its bound.
    Bounded,
    /// C6: at the end everything acknowledged has been kept.
    FinalState,
    /// C7: exactly the rows that were written are there.
    Sets,
    /// C8: transfers change no total.
    Bank,
    /// C9: counters and conditions count.
    Ledger,
}

impl Check {
    /// All of them, in order.
    pub const ALL: [Self; 9] = [
        Self::Identity,
        Self::Corruption,
        Self::Linearizable,
        Self::Sessions,
        Self::Bounded,
        Self::FinalState,
        Self::Sets,
        Self::Bank,
        Self::Ledger,
    ];

    /// Its number in documents.
    pub fn id(self) -> &'static str {
        match self {
            Self::Identity => "C1",
            Self::Corruption => "C2",
            Self::Linearizable => "C3",
            Self::Sessions => "C4",
            Self::Bounded => "C5",
            Self::FinalState => "C6",
            Self::Sets => "C7",
            Self::Bank => "C8",
            Self::Ledger => "C9",
        }
    }

    /// A word or two.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Corruption => "corruption",
            Self::Linearizable => "linearizability",
            Self::Sessions => "sessions",
            Self::Bounded => "bounded staleness",
            Self::FinalState => "final state",
            Self::Sets => "sets of rows",
            Self::Bank => "bank totals",
            Self::Ledger => "ledgers and conditions",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// A promise that was broken, and the records that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which check found it.
    pub check: Check,
    /// What had been promised.
    pub promise: &'static str,
    /// What happened instead.
    pub what: String,
    /// The row, if it is about one.
    pub key: Option<Key>,
    /// The records that contradict each other, earliest first.
    pub evidence: Vec<Evidence>,
    /// When it showed.
    pub at: u64,
}

/// A record of the history, by its index there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// In `operations`.
    Operation(u32),
    /// In `totals`.
    Total(u32),
    /// In `ledgers`.
    Ledger(u32),
    /// In `pages`.
    Page(u32),
}

impl Violation {
    /// A violation shown by operations of one row; [`Findings::add`] fills in check and time.
    pub(super) fn of_row(row: &Row<'_>, operations: Vec<u32>) -> Self {
        let evidence = operations.into_iter().map(Evidence::Operation).collect();
        Self { key: Some(row.key), ..Self::of(evidence) }
    }

    /// A violation shown by other records.
    pub(super) fn of(evidence: Vec<Evidence>) -> Self {
        let what = String::new();
        Self { check: Check::Identity, promise: "", what, key: None, evidence, at: 0 }
    }
}

/// What was found so far.
#[derive(Debug)]
pub(super) struct Findings<'h> {
    /// By time, at most [`TOLD_MAX`] each.
    told: [Vec<Violation>; Check::ALL.len()],
    counts: [u64; Check::ALL.len()],
    /// What may be gone and is no violation, if anything may.
    excuse: Option<Excuse<'h>>,
    losses: Vec<Violation>,
    lost: u64,
}

/// All that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) counts: [u64; Check::ALL.len()],
    pub(super) violations: Vec<Violation>,
    pub(super) lost: u64,
    pub(super) losses: Vec<Violation>,
}

impl<'h> Findings<'h> {
    pub(super) fn new(history: &'h OperationHistory) -> Self {
        Self {
            told: Default::default(),
            counts: Default::default(),
            excuse: Excuse::of(history),
            losses: Vec::new(),
            lost: 0,
        }
    }

    /// Counts a violation, or a loss, and keeps it if it is among the earliest of its check.
    pub(super) fn add(&mut self, check: Check, at: u64, violation: impl FnOnce() -> Violation) {
        let violation = || Violation { check, at, ..violation() };
        let Some(excuse) = &self.excuse else {
            self.counts[check.index()] += 1;
            keep(&mut self.told[check.index()], at, violation);
            return;
        };
        let violation = violation();
        if excuse.covers(&violation) {
            self.lost += 1;
            keep(&mut self.losses, at, || violation);
        } else {
            self.counts[check.index()] += 1;
            keep(&mut self.told[check.index()], at, || violation);
        }
    }

    /// How many of each, and those to be told.
    pub(super) fn finish(self) -> Found {
        let Self { told, counts, losses, lost, .. } = self;
        Found { counts, violations: told.into_iter().flatten().collect(), lost, losses }
    }
}

/// Keeps one that is among the earliest.
fn keep(told: &mut Vec<Violation>, at: u64, violation: impl FnOnce() -> Violation) {
    let place = told.partition_point(|earlier| earlier.at <= at);
    if place < TOLD_MAX {
        told.truncate(TOLD_MAX - 1);
        told.insert(place, violation());
    }
}
