//! C2, corruption: a read returns only a value that a client sent to this row and that was not
//! rejected.
//!
//! **Invariant:** apart from one sort, a check takes time linear in the number of operations of a
//! row.
//! **Not here:** a value that is read at two versions, which is a change that was applied twice
//! (`identity`).

use crate::findings::Findings;
use crate::history::{Kind, Operation, Outcome, Value};
use crate::row::Row;
use crate::version_bound::OperationIndex;
use crate::violation::{Check, Violation};

pub(crate) fn check(row: &Row<'_>, found: &mut Findings) {
    for (place, read) in row.operations() {
        if read.is_answered_read() && read.value != Value::NONE {
            value_was_sent(row, place, found);
        }
    }
    one_value_at_a_version(row, found);
}

/// Checks that the value of a read was sent to this row before the read ended, and that it was not
/// refused.
fn value_was_sent(row: &Row<'_>, place: OperationIndex, found: &mut Findings) {
    let read = row.at(place);
    let Some(owner) = row.owner(place) else {
        found.add(Check::Corruption, read.start, || never_sent(row, place));
        return;
    };
    let write = row.at(owner);
    let (promise, what) = if write.kind == Kind::Delete {
        ("a value that is read was sent to that row", "the value is the name of a delete")
    } else if write.outcome == Outcome::Rejected {
        ("a change that was refused did not happen", "the value of a refused write was read")
    } else if read.end < write.start && !read.is_strong_read() {
        // For strong reads, C3 reports this.
        ("nothing is read before it was sent", "the value was read before it was sent")
    } else {
        return;
    };
    found.add(Check::Corruption, read.start, || {
        let evidence = row.evidence([owner, place]);
        Violation { promise, what: what.to_owned(), ..Violation::of_row(row, evidence) }
    });
}

/// Returns the violation of a read of a value that no write sent to this row.
fn never_sent(row: &Row<'_>, place: OperationIndex) -> Violation {
    let value = row.at(place).value;
    // The whole history is searched. Usually this is done only for violations that are reported; in
    // a history with a promotion, it is done for every violation.
    let elsewhere = |one: &Operation| one.value == value && one.changes();
    let mut evidence = row.evidence([place]);
    let what = match row.history.operations.iter().position(elsewhere) {
        Some(other) => {
            evidence.insert(0, other as u32);
            let key = row.history.keys.name(row.history.operations[other].key);
            format!("the value {value} was read, which was sent to {key}")
        }
        None => format!("the value {value} was read, which was never sent"),
    };
    let promise = "a value that is read was sent to that row";
    Violation { promise, what, ..Violation::of_row(row, evidence) }
}

/// Finds versions at which two different values were read. C1 reports two writes with the same
/// version.
fn one_value_at_a_version(row: &Row<'_>, found: &mut Findings) {
    let reported = |one: &Operation| {
        one.version != 0
            && (one.is_acknowledged() || one.is_answered_read() && !one.is_absent_read())
    };
    let mut reported: Vec<(u64, Value, OperationIndex)> = row
        .operations()
        .filter(|(_, one)| reported(one))
        .map(|(place, one)| (one.version, one.value, place))
        .collect();
    reported.sort_unstable();
    for version in reported.chunk_by(|one, other| one.0 == other.0) {
        let changes = |place: OperationIndex| row.at(place).changes();
        let contradicts = |pair: &&[(u64, Value, OperationIndex)]| {
            pair[0].1 != pair[1].1 && !(changes(pair[0].2) && changes(pair[1].2))
        };
        let Some(pair) = version.windows(2).find(contradicts) else { continue };
        let (first, second) = (pair[0], pair[1]);
        let at = row.at(first.2).start.max(row.at(second.2).start);
        found.add(Check::Corruption, at, || {
            let what = format!("version {} was {} and {}", first.0, first.1, second.1);
            let owners = [first.2, second.2].into_iter().filter_map(|place| row.owner(place));
            let evidence = row.evidence([first.2, second.2].into_iter().chain(owners));
            let promise = "a row has one value at one version";
            Violation { promise, what, ..Violation::of_row(row, evidence) }
        });
    }
}
