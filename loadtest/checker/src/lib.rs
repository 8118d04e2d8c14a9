//! Checker: checks whether a recorded history keeps the guarantees of the router, and names the
//! records that show a violation.
//!
//! Nine checks find violations, and a tenth reports on availability:
//!
//! | | Promise | Module of `checks` |
//! |---|---|---|
//! | C1 | a change happens once, at a version of its own | `identity` |
//! | C2 | a value that is read was sent to that row, and not refused | `corruption` |
//! | C3 | each row is linearizable for changes and strong reads | `linearizable` |
//! | C4 | a session reads its own writes, and never an older state than before | `sessions` |
//! | C5 | a bounded read is no older than its bound | `bounded` |
//! | C6 | at the end each row has its last acknowledged change, or a later one | `lost_writes` |
//! | C7 | at the end a table has exactly the rows that were written, each once | `sets` |
//! | C8 | transfers do not change the sum, and no read sees half of a transfer | `bank` |
//! | C9 | counters count every transfer, and conditions of writes are respected | `ledger` |
//! | C10 | (report only) the longest times without success | `availability` |
//!
//! In doubt there is no violation: if the outcome of a request is unknown because there was no
//! response, a check assumes the outcome that causes no contradiction. Changes that a promotion may
//! lose at level `one` are counted separately (`allowed_losses`). The documentation of each check
//! lists the violations that it therefore cannot detect. Rows of a run must not exist before the
//! run, because a value that was written earlier would be reported as a value that was never sent.
//!
//! **Invariant:** checking takes time O(n log n) in the number of records, and about 30 bytes of
//! memory per operation in addition to the history.
//! **Not here:** recording a history (the load tester), opening files, network access.

#![forbid(unsafe_code)]

mod acknowledged_watermark;
mod allowed_losses;
mod checks;
mod findings;
pub mod history;
mod report;
mod row;
mod version_bound;
mod violation;
mod violation_report;

pub use self::checks::availability::{Availability, Gap, OperationGroup, Outcomes, Summary};
pub use self::findings::REPORTED_MAX;
pub use self::report::Report;
pub use self::violation::{Check, Evidence, Violation};
pub use self::violation_report::lost_text;

use self::checks::sets::Walks;
use self::checks::{
    availability, bank, bounded, corruption, identity, ledger, linearizable, lost_writes, sessions,
    sets,
};
use self::findings::{Findings, Found};
use self::row::{ByKey, Row};
use crate::history::{OperationHistory, Outcome};

/// Checks whether a history keeps all promises.
pub fn check(history: &OperationHistory) -> Report {
    let mut found = Findings::new(history);
    let mut rows_not_read_back = 0;
    let walks = Walks::new(history, &mut found);
    for (key, indices) in ByKey::new(history).rows() {
        let row = Row::new(history, key, indices);
        identity::check(&row, &mut found);
        corruption::check(&row, &mut found);
        linearizable::check(&row, &mut found);
        sessions::check(&row, &mut found);
        bounded::check(&row, &mut found);
        lost_writes::check(&row, &mut found);
        sets::check(&row, &walks, &mut found);
        ledger::check(&row, &mut found);
        rows_not_read_back += u64::from(is_not_read_back(&row, &walks));
    }
    bank::check(history, &mut found);
    ledger::check_counters(history, &mut found);
    let Found { counts, violations, lost, losses } = found.finish();
    let availability = availability::of(history);
    Report { counts, violations, lost, losses, availability, rows_not_read_back }
}

/// Returns true for a row whose final state is unknown. A row that a complete walk over its table
/// did not return is known to be absent (such as the ledger row of a transfer whose outcome stayed
/// unknown), and C7 checks whether it may be absent.
fn is_not_read_back(row: &Row<'_>, walks: &Walks<'_>) -> bool {
    let written =
        row.operations().any(|(_, one)| one.changes() && one.outcome != Outcome::Rejected);
    let read = || row.operations().any(|(_, one)| one.last && one.is_answered_read());
    written && !read() && !walks.has_missed(row)
}
