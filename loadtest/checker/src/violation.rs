//! Violation: a broken promise, with the records of the history that show it.
//!
//! **Invariant:** evidence names records of the history that was checked.
//! **Not here:** counting violations (`findings`), reporting violations (`violation_report`).

use crate::history::Key;
use crate::row::Row;

/// One check of a history.
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
    /// C9: counters are right, and conditional writes hold.
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

    /// Returns the name of the check, a word or two.
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
    /// Check that found it.
    pub check: Check,
    /// Promise that was broken.
    pub promise: &'static str,
    /// Description of what happened instead.
    pub what: String,
    /// Row of the violation, if it concerns one.
    pub key: Option<Key>,
    /// The records that contradict each other, earliest first.
    pub evidence: Vec<Evidence>,
    /// Start of the operation or record that revealed it, in nanoseconds.
    pub at: u64,
}

/// A record of the history, by its index there.
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
    /// Creates a violation that operations of one row show; its check and time are filled in when
    /// it is counted.
    pub(crate) fn of_row(row: &Row<'_>, operations: Vec<u32>) -> Self {
        let evidence = operations.into_iter().map(Evidence::Operation).collect();
        Self { key: Some(row.key), ..Self::of(evidence) }
    }

    /// Creates a violation that other records show.
    pub(crate) fn of(evidence: Vec<Evidence>) -> Self {
        let what = String::new();
        Self { check: Check::Identity, promise: "", what, key: None, evidence, at: 0 }
    }
}
