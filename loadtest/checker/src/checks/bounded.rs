//! C5, bounded staleness: a read with `x-max-staleness-ms` returns every change that had been
//! acknowledged at least that many milliseconds before the read began.
//!
//! All times are those of the history's clock. The server measures staleness from the arrival of
//! the request, which is later than the recorded start. Therefore the check never accuses a correct
//! server.
//!
//! **Invariant:** only answered reads with a bound are checked.
//! **Not here:** reads without a bound, to which level `one` promises nothing.

use crate::acknowledged_watermark::AcknowledgedWatermark;
use crate::findings::Findings;
use crate::history::Operation;
use crate::row::Row;
use crate::version_bound::{OperationIndex, VersionBound};
use crate::violation::{Check, Violation};

const NANOS_PER_MS: u64 = 1_000_000;

pub(crate) fn check(row: &Row<'_>, found: &mut Findings) {
    let bounded = |one: &Operation| one.bound_ms > 0 && one.is_answered_read();
    if !row.operations().any(|(_, one)| bounded(one)) {
        return;
    }
    let acknowledged = AcknowledgedWatermark::of(row);
    for (place, read) in row.operations().filter(|(_, one)| bounded(one)) {
        let bound = u64::from(read.bound_ms) * NANOS_PER_MS;
        if let Some(moment) = read.start.checked_sub(bound) {
            judge(row, place, acknowledged.before(moment), found);
        }
    }
}

fn judge(
    row: &Row<'_>,
    place: OperationIndex,
    low: crate::version_bound::LowWatermark,
    found: &mut Findings,
) {
    let read = row.at(place);
    let fresh = match row.version(place) {
        Some(version) => VersionBound::at(version) >= low.mark,
        None if read.is_absent_read() => row.deletes.explain(low.mark, read.end).is_some(),
        None => true,
    };
    if fresh {
        return;
    }
    found.add(Check::Bounded, read.start, || {
        let promise = "a read with a bound is no older than the bound";
        let shown = match row.version(place) {
            Some(version) => format!("version {version} was read"),
            None => "no row was found".to_owned(),
        };
        let what = format!(
            "{shown} with a bound of {} ms, although version {} had been acknowledged before that",
            read.bound_ms,
            low.mark.version()
        );
        let evidence = row.evidence(low.by.into_iter().chain([place]));
        Violation { promise, what, ..Violation::of_row(row, evidence) }
    });
}
