//! C4, sessions: a session that sends its token sees its own writes, and never a state older than
//! one that it has seen before.
//!
//! The guarantees are those of Terry et al. 1994: read your writes, monotonic reads, and writes
//! follow reads. An operation is checked only if it was sent with the session's token and the
//! session kept the token of the response. It does not constrain operations that were sent before
//! its response arrived.
//!
//! **Invariant:** an operation is checked only against responses that its session received before
//! the operation was sent.
//! **Not here:** operations of other sessions, which C3 checks for strong reads.
//!
//! Not detected: violations that the module `deletes` lists, and violations across several rows,
//! although a token's guarantees include these.

use crate::findings::Findings;
use crate::history::Operation;
use crate::row::Row;
use crate::version_bound::{
    IntervalEdge, LowWatermark, OperationIndex, VersionBound, interval_edges,
};
use crate::violation::{Check, Violation};

pub(crate) fn check(row: &Row<'_>, found: &mut Findings) {
    let binds = |one: &Operation| one.token && (one.is_answered_read() || one.is_acknowledged());
    let mut places: Vec<OperationIndex> =
        row.operations().filter(|(_, one)| binds(one)).map(|(place, _)| place).collect();
    // The sort is stable, so that the operations of a session stay in order of their start.
    places.sort_by_key(|&place| row.at(place).session);
    for session in places.chunk_by(|&one, &other| row.at(one).session == row.at(other).session) {
        if session.len() > 1 {
            check_session(row, session, found);
        }
    }
}

/// Checks the operations of one session on one row in one sweep over time, as in C3.
fn check_session(row: &Row<'_>, session: &[OperationIndex], found: &mut Findings) {
    let mut low = LowWatermark::default();
    let mut began = vec![LowWatermark::default(); session.len()];
    let intervals = session.iter().map(|&place| (row.at(place).start, row.at(place).end));
    for (_, moment) in interval_edges(intervals) {
        match moment {
            IntervalEdge::Began(number) => began[number as usize] = low,
            IntervalEdge::Ended(number) => {
                let (place, before) = (session[number as usize], began[number as usize]);
                if let Some(mark) = judge(row, place, before, found) {
                    low.raise(mark, place);
                }
            }
        }
    }
}

/// Returns the mark of the operation, or adds a violation if this mark is not allowed.
fn judge(
    row: &Row<'_>,
    place: OperationIndex,
    before: LowWatermark,
    found: &mut Findings,
) -> Option<VersionBound> {
    let one = row.at(place);
    let mark = match row.version(place) {
        Some(version) => Some(VersionBound::at(version)),
        None if one.is_absent_read() => {
            row.deletes.explain(before.mark, one.end).map(|(mark, _)| mark)
        }
        // A change of unknown version (such as a row of a bulk write) is placed above everything
        // that its session had seen. A read of unknown version may be anywhere, so it is not
        // checked.
        None => return one.changes().then(|| before.mark.after()),
    };
    let fits = |mark: VersionBound| mark > before.mark || mark == before.mark && !one.changes();
    if mark.is_some_and(fits) {
        return mark;
    }
    found.add(Check::Sessions, one.start, || {
        let (promise, seen) = match before.by {
            _ if one.changes() => ("writes follow reads in a session", "seen or written"),
            Some(by) if row.at(by).changes() => ("a session reads its own writes", "written"),
            Some(_) | None => ("a session's reads are monotonic", "read"),
        };
        let known = before.mark.version();
        let got = match row.version(place) {
            Some(version) if one.changes() => format!("its write got version {version}"),
            Some(version) => format!("it then read version {version}"),
            None => "it then found no row, and no delete explains it".to_owned(),
        };
        let since =
            if mark == Some(before.mark.before()) { "a change after version" } else { "version" };
        let what = format!("the session had {seen} {since} {known}; {got}");
        let evidence = row.evidence(before.by.into_iter().chain([place]));
        Violation { promise, what, ..Violation::of_row(row, evidence) }
    });
    None
}
