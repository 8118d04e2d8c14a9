//! C9, ledgers and conditions: a counter that is incremented in the same transaction in which a row
//! is inserted equals the number of these rows, and a conditional write replaces exactly the
//! version that it was based on.
//!
//! The row must have no other change between the version that a conditional write was based on and
//! the version of the write itself. Otherwise a client has overwritten a change that it had not
//! read, which is a lost update (Adya 1999 calls the cycle G-single).
//!
//! **Invariant:** of all conditional writes based on the same version, at most one is acknowledged.
//! **Not here:** conditional writes that were refused, because a refusal is always allowed.
//!
//! Not detected: a change between the two versions whose own version stayed unknown, unless it was
//! based on the same version.

use crate::findings::Findings;
use crate::history::{Ledger, OperationHistory};
use crate::row::Row;
use crate::version_bound::OperationIndex;
use crate::violation::{Check, Evidence, Violation};

const PROMISE: &str = "a write under a condition replaces exactly the version it was based on";

/// Checks the counters of all banks.
pub(crate) fn check_counters(history: &OperationHistory, found: &mut Findings) {
    for (index, ledger) in history.ledgers.iter().enumerate() {
        let Some((promise, what)) = broken(ledger) else { continue };
        found.add(Check::Ledger, ledger.start, || {
            let evidence = vec![Evidence::Ledger(index as u32)];
            let what = format!("bank {}: {what}", ledger.bank);
            Violation { promise, what, ..Violation::of(evidence) }
        });
    }
}

fn broken(ledger: &Ledger) -> Option<(&'static str, String)> {
    let Ledger { counter, rows, acknowledged, attempted, .. } = ledger;
    if counter != rows {
        let what = format!("the counter says {counter}, the ledger has {rows} rows");
        return Some(("what changes in one transaction changes together", what));
    }
    if rows < acknowledged {
        let what = format!("{acknowledged} entries were acknowledged, {rows} are there");
        return Some(("an acknowledged change is kept", what));
    }
    if rows > attempted {
        let what = format!("{attempted} entries were sent, {rows} are there");
        return Some(("a change happens once", what));
    }
    None
}

/// Checks the conditional writes of a row.
pub(crate) fn check(row: &Row<'_>, found: &mut Findings) {
    if row.operations().all(|(_, one)| one.based_on == 0) {
        return;
    }
    one_write_on_a_version(row, found);
    nothing_in_between(row, found);
}

/// Returns true if a change certainly happened.
fn happened(row: &Row<'_>, place: OperationIndex) -> bool {
    let one = row.at(place);
    one.changes() && (one.is_acknowledged() || row.version(place).is_some())
}

fn one_write_on_a_version(row: &Row<'_>, found: &mut Findings) {
    let mut based: Vec<(u64, OperationIndex)> = row
        .operations()
        .filter(|(place, one)| one.based_on != 0 && happened(row, *place))
        .map(|(place, one)| (one.based_on, place))
        .collect();
    based.sort_unstable();
    for pair in based.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let (version, first, second) = (pair[0].0, pair[0].1, pair[1].1);
        found.add(Check::Ledger, row.at(second).start, || {
            let what = format!("two writes were both stored on top of version {version}");
            let evidence = row.evidence([first, second]);
            Violation { promise: PROMISE, what, ..Violation::of_row(row, evidence) }
        });
    }
}

fn nothing_in_between(row: &Row<'_>, found: &mut Findings) {
    let mut known: Vec<(u64, OperationIndex)> = row
        .operations()
        .filter(|(_, one)| one.changes())
        .filter_map(|(place, _)| Some((row.version(place)?, place)))
        .collect();
    known.sort_unstable();
    for (index, &(version, place)) in known.iter().enumerate() {
        let based_on = row.at(place).based_on;
        if based_on == 0 {
            continue;
        }
        // C1 reports equal versions, so only changes at strictly lower versions are considered
        // here.
        let below = known[..index].iter().rev().find(|(below, _)| *below < version);
        let between = below.filter(|(between, _)| *between > based_on);
        // Two writes based on one version have been reported already.
        let between = between.filter(|(_, other)| row.at(*other).based_on != based_on);
        let what = match between {
            _ if version <= based_on => {
                format!("a write based on version {based_on} got version {version}")
            }
            Some((between, _)) => format!(
                "a write based on version {based_on} got version {version}, over version {between}"
            ),
            None => continue,
        };
        found.add(Check::Ledger, row.at(place).start, || {
            let base = known.iter().find(|(base, _)| *base == based_on);
            let others = base.into_iter().chain(between).map(|(_, other)| *other);
            let evidence = row.evidence(others.chain([place]));
            Violation { promise: PROMISE, what, ..Violation::of_row(row, evidence) }
        });
    }
}
