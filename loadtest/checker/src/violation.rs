//! Violation: a broken promise, with the records of the history that show it.
//!
//! **Invariant:** evidence consists of indices of records in the history that was checked.
//! **Not here:** counting violations (`findings`), reporting violations (`violation_report`).

use crate::history::Key;
use crate::row::Row;

/// One check of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    /// C1: a change happens once, at a version of its own.
    Identity,
    /// C2: a value that is read was sent to that row.
    Corruption,
    /// C3: each row is linearizable.
    Linearizable,
    /// C4: a session reads its own writes, and never an older state than before.
    Sessions,
    /// C5: a bounded read is no older than its bound.
    Bounded,
    /// C6: at the end each row has its last acknowledged change, or a later one.
    FinalState,
    /// C7: a table has exactly the rows that were written.
    Sets,
    /// C8: transfers do not change the sum of a bank.
    Bank,
    /// C9: counters count every transfer, and conditions of writes are respected.
    Ledger,
}

impl Check {
    /// All checks, in order.
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

    /// Returns the number of the check in documents.
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

    /// Returns the name of the check, which is one word or two.
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

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// A promise that was broken, and the records that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Check that found the violation.
    pub check: Check,
    /// Promise that was broken.
    pub promise: &'static str,
    /// Description of what happened instead.
    pub what: String,
    /// Row of the violation, if it concerns one.
    pub key: Option<Key>,
    /// The records that contradict each other, earliest first.
    pub evidence: Vec<Evidence>,
    /// Start of the operation or record that revealed the violation, in nanoseconds.
    pub at: u64,
}

/// A record of the history, identified by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Index in `operations`.
    Operation(u32),
    /// Index in `totals`.
    Total(u32),
    /// Index in `ledgers`.
    Ledger(u32),
    /// Index in `pages`.
    Page(u32),
}

impl Violation {
    /// Creates a violation with operations of one row as evidence. The fields `check` and `at` are
    /// set when the violation is counted.
    pub(crate) fn of_row(row: &Row<'_>, operations: Vec<u32>) -> Self {
        let evidence = operations.into_iter().map(Evidence::Operation).collect();
        Self { key: Some(row.key), ..Self::of(evidence) }
    }

    /// Creates a violation with any records as evidence.
    pub(crate) fn of(evidence: Vec<Evidence>) -> Self {
        let what = String::new();
        Self { check: Check::Identity, promise: "", what, key: None, evidence, at: 0 }
    }
}
