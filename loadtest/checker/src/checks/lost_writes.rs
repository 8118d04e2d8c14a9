//! C6, lost writes: at the end of a run, each row holds its last acknowledged change or a later
//! one.
//!
//! Only reads marked `last` are checked, which are strong reads after the last write of the run. C2
//! checks that the values of these reads were sent to the row and not rejected.
//!
//! **Invariant:** a row without a read at the end is not checked. [`Report`](crate::Report) counts
//! such rows, except rows that an iteration over the whole table did not return, which `sets`
//! checks.
//! **Not here:** rows that were never deleted and are missing at the end (`sets`).

use crate::acknowledged_watermark::AcknowledgedWatermark;
use crate::findings::Findings;
use crate::row::Row;
use crate::version_bound::VersionBound;
use crate::violation::{Check, Violation};

pub(crate) fn check(row: &Row<'_>, found: &mut Findings) {
    if !row.operations().any(|(_, one)| one.last) {
        return;
    }
    let acknowledged = AcknowledgedWatermark::of(row);
    for (place, read) in row.operations().filter(|(_, one)| one.last && one.is_answered_read()) {
        let low = acknowledged.before(read.start);
        let kept = match row.version(place) {
            Some(version) => VersionBound::at(version) >= low.mark,
            None if read.is_absent_read() && !row.deletes.is_empty() => {
                row.deletes.explain(low.mark, read.end).is_some()
            }
            None => true,
        };
        if kept {
            continue;
        }
        found.add(Check::FinalState, read.start, || {
            let promise = "an acknowledged change is kept";
            let left = match row.version(place) {
                Some(version) => format!("the row is left at version {version}"),
                None => "the row is gone, without a delete after it".to_owned(),
            };
            let what = format!("version {} was acknowledged; {left}", low.mark.version());
            let evidence = row.evidence(low.by.into_iter().chain(row.owner(place)).chain([place]));
            Violation { promise, what, ..Violation::of_row(row, evidence) }
        });
    }
}
