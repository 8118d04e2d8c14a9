//! C3, linearizability of each row: all that was acknowledged, and all strong reads, happened in
//! one order in which each took effect between its start and its end.
//!
//! In general this is a search (Herlihy & Wing 1990 define it; Gibbons & Korach 1997 show that it
//! is NP-complete for a register, and easy once the order of writes is known). Here the server
//! tells the order: every write of a row has a version, and versions grow.
//!
//! **Theorem.** Take the operations of one row, each with start *s* and end *e* (*e* = ∞ when never
//! answered). Each write owns a version of its own, each read returns the version of some write.
//! They are linearizable if and only if for every operation *b*
//!
//! > ver(*b*) ≥ max { ver(*a*) : e(*a*) < s(*b*) }, and strictly greater when *b* is a write.
//!
//! *Proof.* Needed: *a* ended before *b* began, so *a* comes first in any order, and versions never
//! fall along an order; a write raises the version above all before it. Enough: put operations in
//! order of version, at one version the write first and its reads by start. If *a* ended before *b*
//! began, then ver(*b*) ≥ ver(*a*); where the versions are equal, *b* is not a write, and two reads
//! stand by start: so *a* stands before *b*. Real time is kept, and each read stands after its
//! write with no other write between. ∎ (That a read did not end before its write was sent is the
//! case of *a* the read and *b* the write.)
//!
//! So one sweep decides: keep the highest version of all that ended, look at it whenever something
//! begins. Four kinds of operations tell no version, and are placed:
//!
//! * **Unknown writes.** One whose value was read has the version it was read at, and e = ∞. One
//!   whose value was never read is left out: it may have happened last of all, or never.
//! * **Acknowledged changes without a version** (rows of a bulk) whose value was never read. Such a
//!   *w* happened after all that ended before it, at a mark just above their highest: one it may
//!   share with no read, since reads of a version follow their write at once. Placing it lower is
//!   impossible, and placing it higher only makes it harder for whatever comes later.
//! * **Absent reads** of a row with deletes of known versions. Let L be the highest mark that ended
//!   before the read began. The read takes the lowest version, L or above, of a delete sent before
//!   the read ended (or the time before the first write, if L is that). *Lowest is right:* suppose
//!   some linearization places absent reads elsewhere. By induction in order of ends, ours is never
//!   above it: our L is not above its L, because the reads that make up L ended earlier and were
//!   placed not above; and its choice is among those that ours was taken from. Every condition says
//!   that a mark which ended is not above a later one, so it holds for ours too. If no delete
//!   qualifies, there is no linearization.
//! * **Absent reads explained by a delete of unknown version.** Just above L is not above where any
//!   linearization has it, by the same induction.
//!
//! **Invariant:** a history that can be linearized is never accused; one that cannot is, unless it
//! has deletes of unknown version. That every write owns one version and each read returns its
//! write's is what C1 and C2 check.
//! **Not here:** order over several rows (C8 looks at banks), and reads at level `one`, which only
//! teach versions.
//!
//! Two kinds of violation are not detected: those that `deletes` lists, and a third write that must
//! lie between versions 7 and 8, because versions are drawn from one counter for many rows.

use crate::findings::Findings;
use crate::history::{NEVER, Operation};
use crate::row::Row;
use crate::version_bound::{
    IntervalEdge, LowWatermark, OperationIndex, VersionBound, interval_edges,
};
use crate::violation::{Check, Violation};

pub(crate) fn check(row: &Row<'_>, found: &mut Findings) {
    let places: Vec<OperationIndex> =
        row.operations().filter(|(place, _)| counts(row, *place)).map(|(place, _)| place).collect();
    if places.len() < 2 {
        return;
    }
    let mut low = LowWatermark::default();
    let mut began = vec![LowWatermark::default(); row.indices.len()];
    let intervals = places.iter().map(|&place| (row.at(place).start, settled(row.at(place))));
    for (_, moment) in interval_edges(intervals) {
        match moment {
            IntervalEdge::Began(number) => {
                let place = places[number as usize];
                began[place as usize] = low;
                begin(row, place, &began, found);
            }
            IntervalEdge::Ended(number) => {
                let place = places[number as usize];
                if let Some(mark) = mark_of(row, place, began[place as usize]) {
                    low.raise(mark, place);
                } else {
                    vanished(row, place, &began, found);
                }
            }
        }
    }
}

/// Returns whether an operation has a place in the one order of its row.
fn counts(row: &Row<'_>, place: OperationIndex) -> bool {
    let one = row.at(place);
    if one.changes() {
        return one.is_acknowledged() || row.version(place).is_some();
    }
    one.is_absent_read() && one.is_strong_read()
        || one.is_strong_read() && row.version(place).is_some()
}

/// Returns the time by which an operation certainly took effect.
fn settled(one: &Operation) -> u64 {
    if one.changes() && !one.is_acknowledged() { NEVER } else { one.end }
}

/// Returns the lowest place of an operation; `None` for an absent read without explanation.
fn mark_of(row: &Row<'_>, place: OperationIndex, began: LowWatermark) -> Option<VersionBound> {
    let one = row.at(place);
    match row.version(place) {
        Some(version) => Some(VersionBound::at(version)),
        None if one.is_absent_read() => {
            row.deletes.explain(began.mark, one.end).map(|(mark, _)| mark)
        }
        None => Some(began.mark.after()),
    }
}

/// The condition of the theorem, at the beginning of an operation of known version.
fn begin(row: &Row<'_>, place: OperationIndex, began: &[LowWatermark], found: &mut Findings) {
    let (one, low) = (row.at(place), began[place as usize]);
    let Some(version) = row.version(place) else { return };
    let mark = VersionBound::at(version);
    if mark > low.mark || (mark == low.mark && !one.changes()) {
        return;
    }
    found.add(Check::Linearizable, one.start, || {
        let known = low.mark.version();
        let (promise, what) = if !one.changes() && mark == low.mark.before() {
            (
                "a strong read shows every change that was acknowledged before it began",
                format!("version {version} was read although a change after it was known before"),
            )
        } else if !one.changes() {
            (
                "a strong read shows all that was acknowledged or strongly read before it began",
                format!("version {version} was read although version {known} was known before"),
            )
        } else if mark == low.mark {
            (
                "nothing is read before it was sent",
                format!("version {version} was known before the change that made it was sent"),
            )
        } else {
            (
                "a change comes after all that was acknowledged or strongly read before it was sent",
                format!("version {version} was given to a change sent when {known} was known"),
            )
        };
        let evidence = row.evidence(chain(row, low.by, began).into_iter().chain([place]));
        Violation { promise, what, ..Violation::of_row(row, evidence) }
    });
}

/// A strong read found no row, and no delete can be the reason.
fn vanished(row: &Row<'_>, place: OperationIndex, began: &[LowWatermark], found: &mut Findings) {
    let low = began[place as usize];
    found.add(Check::Linearizable, row.at(place).start, || {
        let what = format!(
            "no row was found although version {} was known before, and no delete at or after \
             that version had been sent",
            low.mark.version()
        );
        let evidence = row.evidence(chain(row, low.by, began).into_iter().chain([place]));
        let promise = "a row is absent only before its first write and after a delete";
        Violation { promise, what, ..Violation::of_row(row, evidence) }
    });
}

/// Returns the operation that set a mark and, if it told no version, those it was placed after.
fn chain(row: &Row<'_>, by: Option<OperationIndex>, began: &[LowWatermark]) -> Vec<OperationIndex> {
    let mut places = Vec::new();
    let mut next = by;
    while let Some(place) = next.filter(|_| places.len() < 3) {
        places.push(place);
        let before = began[place as usize];
        next = match row.version(place) {
            Some(_) => None,
            None => match row.deletes.explain(before.mark, row.at(place).end) {
                Some((_, Some(delete))) if row.at(place).is_absent_read() => Some(delete),
                Some(_) | None => before.by,
            },
        };
    }
    places
}
