//! C3, linearizability of each row: all acknowledged changes and all strong reads happened in one
//! order, in which each took effect between its start and its end.
//!
//! In general this is a search (Herlihy & Wing 1990 define it; Gibbons & Korach 1997 show that it
//! is NP-complete for a register, and easy once the order of writes is known). Here the server
//! reports the order: every write of a row has a version, and versions grow.
//!
//! **Theorem.** Take the operations of one row, each with start *s* and end *e* (*e* = ∞ if it was
//! never answered). Each write has a version of its own, and each read returns the version of some
//! write. They are linearizable if and only if for every operation *b*
//!
//! > ver(*b*) ≥ max { ver(*a*) : e(*a*) < s(*b*) }, and strictly greater when *b* is a write.
//!
//! *Proof.* Necessary: if *a* ended before *b* began, *a* comes first in any order, and versions
//! never fall along an order; a write raises the version above all before it. Sufficient: put the
//! operations in order of version, and at one version put the write first and then its reads in
//! order of start. If *a* ended before *b* began, then ver(*b*) ≥ ver(*a*). If the versions are
//! equal, *b* is not a write, and two reads are in order of start, so *a* comes before *b*. Real
//! time is respected, and each read comes after its write with no other write between them. ∎ (The
//! case that *a* is a read and *b* its write shows that no read ends before its write was sent.)
//!
//! So one sweep over time is enough: it keeps the highest version of all operations that have
//! ended, and compares it with each operation that begins. Four kinds of operations have no version
//! in their own response, and get a mark (a position in the order of the row's versions, see
//! `version_bound`) as follows:
//!
//! * **Unknown writes.** A write whose value was read has the version at which it was read, and e =
//!   ∞. A write whose value was never read is left out, because it may have happened after all
//!   other operations or not at all.
//! * **Acknowledged changes without a version** (rows of a bulk write) whose value was never read.
//!   Such a change happened after all operations that ended before it began, so it is placed at a
//!   mark just above the highest mark of these. No read shares this mark, since the reads of a
//!   version directly follow its write. A lower place is impossible, and a higher one only makes
//!   later operations harder to place.
//! * **Absent reads** of a row with deletes of known versions. Let L be the highest mark of all
//!   operations that ended before the read began. The read gets the lowest version, L or above, of
//!   a delete sent before the read ended (or the time before the first write, if that is L). *The
//!   lowest is right:* suppose some linearization places absent reads elsewhere. By induction in
//!   order of ends, our place is never above the place in that linearization: our L is not above
//!   its L, because the reads that determine L ended earlier and were placed no higher; and our
//!   place is the lowest of several, of which the place in the linearization is one. Every
//!   condition of the theorem demands that an operation that has ended is not placed above a later
//!   one, so the conditions hold for our places too. If no delete qualifies, there is no
//!   linearization.
//! * **Absent reads explained by a delete of unknown version.** They are placed just above L, which
//!   by the same induction is no higher than in any linearization.
//!
//! **Invariant:** no violation is reported for a history that can be linearized. A violation is
//! reported for every history that cannot be linearized, unless it has deletes of unknown version.
//! C1 and C2 check that every write has one version, and that each read returns the version of its
//! write.
//! **Not here:** the order of operations on different rows (C8 checks banks), and reads at level
//! `one`, which are only used to find versions of writes.
//!
//! Two kinds of violation are not detected: those that the module `deletes` lists, and a write of
//! unknown version that must lie between two successive versions such as 7 and 8, where no version
//! is free (versions are drawn from one counter for many rows).

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

/// Returns true if an operation must have a place in the order of its row.
fn counts(row: &Row<'_>, place: OperationIndex) -> bool {
    let one = row.at(place);
    if one.changes() {
        return one.is_acknowledged() || row.version(place).is_some();
    }
    one.is_absent_read() && one.is_strong_read()
        || one.is_strong_read() && row.version(place).is_some()
}

/// Returns the time by which an operation certainly took effect; [`NEVER`] for a change that was
/// not acknowledged.
fn settled(one: &Operation) -> u64 {
    if one.changes() && !one.is_acknowledged() { NEVER } else { one.end }
}

/// Returns the lowest mark that an operation can have; `None` for a read that found no row although
/// no delete can be the reason.
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

/// Checks the condition of the theorem at the beginning of an operation of known version.
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

/// Adds the violation of a strong read that found no row although no delete can be the reason.
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

/// Returns the operation that set a mark and, if its version is unknown, the operations after which
/// it was placed.
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
