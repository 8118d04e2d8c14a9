//! C1, identity: an acknowledged change happened exactly once, at a version that no other change
//! has.
//!
//! **Invariant:** apart from one sort, a check takes time linear in the number of operations of a
//! row.
//! **Not here:** values that were never sent (`corruption`).
//!
//! Not detected: a change applied twice whose second version was never read.

use crate::findings::Findings;
use crate::history::{Kind, Outcome};
use crate::row::Row;
use crate::version_bound::OperationIndex;
use crate::violation::{Check, Violation};

pub(crate) fn check(row: &Row<'_>, found: &mut Findings) {
    one_change_at_a_version(row, found);
    one_version_of_a_change(row, found);
}

/// Finds acknowledged changes whose responses contain the same version.
fn one_change_at_a_version(row: &Row<'_>, found: &mut Findings) {
    let reported = row.operations().filter(|(_, one)| one.is_acknowledged() && one.version != 0);
    let mut reported: Vec<(u64, OperationIndex)> =
        reported.map(|(place, one)| (one.version, place)).collect();
    reported.sort_unstable();
    for pair in reported.windows(2).filter(|pair| pair[0].0 == pair[1].0) {
        let [(version, first), (_, second)] = [pair[0], pair[1]];
        found.add(Check::Identity, row.at(second).start, || {
            let promise = "every acknowledged change of a row has a version of its own";
            let what = format!("two acknowledged changes were answered with version {version}");
            Violation { promise, what, ..Violation::of_row(row, row.evidence([first, second])) }
        });
    }
}

/// Finds changes for which two versions are known: from their response, from reads, or from a
/// replay.
fn one_version_of_a_change(row: &Row<'_>, found: &mut Findings) {
    // `known` holds the first known version of each change, and the operation that revealed it.
    let mut known: Vec<Option<(u64, OperationIndex)>> = vec![None; row.indices.len()];
    for (place, change) in row.operations().filter(|(_, one)| one.changes()) {
        if change.is_acknowledged() && change.version != 0 {
            known[place as usize] = Some((change.version, place));
        }
    }
    let mut accused = vec![false; row.indices.len()];
    for (place, one) in row.operations() {
        let Some(owner) = row.owner(place) else { continue };
        if one.version == 0 || one.outcome != Outcome::Ok {
            continue;
        }
        let (version, from) = *known[owner as usize].get_or_insert((one.version, place));
        // Every read of a change that was applied twice is a contradiction, but only the first one
        // is reported.
        if version == one.version || accused[owner as usize] {
            continue;
        }
        accused[owner as usize] = true;
        found.add(Check::Identity, one.start, || {
            let now = one.version;
            let (promise, what) = if one.kind == Kind::Replay {
                (
                    "a change sent again with its idempotency key gets the first answer again",
                    format!("it was answered with version {version}, sent again with {now}"),
                )
            } else {
                (
                    "a change happens once",
                    format!("one value was at version {version} and at version {now}"),
                )
            };
            let evidence = row.evidence([owner, from, place]);
            Violation { promise, what, ..Violation::of_row(row, evidence) }
        });
    }
}
