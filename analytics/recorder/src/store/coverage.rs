//! Coverage: the intervals in which the recorder of a source ran. They are stored as one row under
//! a second source name, which is derived from the name of the first.
//!
//! Usually there is one such row. Its `start` is the end of the last interval, and the next row
//! replaces it. There may be several rows, or an outdated one, if a clock was wrong or if a version
//! of the program without coverage has written frames. Then all rows are combined, and the time up
//! to the end of the last frame is added.
//!
//! **Invariant:** a row with a start in the future was written while a clock was wrong. It is
//! ignored and removed.
//! **Not here:** frames (`store/history_writer`), the intervals of running recorders (`history`).

use std::time::{Duration, Instant};

use super::ring_index::{RingIndex, seconds_of};
use super::row::{Row, SHAPE, packed, unpacked};
use super::{NextRows, Store, unix_now};
use crate::frame::Step;
use crate::history::History;
use crate::measured_intervals::MeasuredIntervals;

/// Time after which the coverage is written again even if there were no requests.
const EVERY: Duration = Duration::from_secs(60);
/// Maximum number of rows read at once.
const PAGE: i64 = 100;

/// Returns the source under which the measured intervals of a source are stored.
pub(super) fn row_source(source: &str) -> String {
    format!("{source}/counted")
}

/// Measured intervals of one source in the store.
pub(super) struct Coverage {
    /// Name of the source of the row.
    source: String,
    /// Time of the last write and the written intervals; `None` if unknown.
    written: Option<(Instant, MeasuredIntervals)>,
    /// Start of the last row, which may lie in the future.
    last: i64,
}

impl Coverage {
    /// Creates the coverage of a source. Its row has a source name that no router can have.
    pub(super) fn of(source: &str) -> Self {
        Self { source: row_source(source), written: None, last: 0 }
    }

    /// Marks the written intervals as unknown, because the store may have lost them.
    pub(super) fn doubt(&mut self) {
        self.written = None;
    }

    /// Returns true if the coverage must be written again: the last write is unknown, or was
    /// [`EVERY`] ago.
    pub(super) fn is_old(&self) -> bool {
        self.written.as_ref().is_none_or(|(at, _)| at.elapsed() >= EVERY)
    }

    /// Reads the intervals, and adds the time from the end of the last one to the end of the last
    /// frame. Without stored intervals, the added time starts with the first frame.
    pub(super) fn recall(
        &mut self,
        store: &mut Store,
        indexes: &[RingIndex; 3],
        history: &History,
        now: u64,
    ) -> diesel::QueryResult<()> {
        let mut intervals = MeasuredIntervals::default();
        self.last = 0;
        loop {
            let (source, step) = (&*self.source, seconds_of(Step::Minute));
            let next = NextRows { source, step, after: self.last, most: PAGE };
            let rows = store.rows(next)?;
            let Some(last) = rows.last() else { break };
            self.last = last.start;
            for row in rows.iter().filter(|row| row.shape == SHAPE) {
                let reported = unpacked::<Vec<(u64, u64)>>(&row.frame).into_iter().flatten();
                reported.for_each(|(from, until)| intervals.add((from, until.min(now))));
            }
        }
        let indexes = indexes.iter().zip(Step::ALL).filter(|(index, _)| !index.is_empty());
        let ends = indexes.clone().map(|(index, step)| index.newest() + step.seconds()).max();
        let begins = indexes.map(|(index, _)| index.oldest()).min();
        let reported = intervals.as_slice().last().map(|(_, until)| *until);
        if let Some((begin, end)) = reported.or(begins).zip(ends) {
            intervals.add((begin, end.min(now)));
        }
        history.know_counted(intervals.as_slice().iter().copied());
        // Nothing needs to be written until more time has been measured.
        self.written = Some((Instant::now(), intervals));
        Ok(())
    }

    /// Writes the intervals, which replace those written before.
    pub(super) fn write(&mut self, store: &mut Store, history: &History) -> Result<(), String> {
        let (now, counted) = (unix_now(), history.counted_times());
        let past = counted.as_slice().iter().map(|(from, until)| (*from, now.min(*until)));
        let past: MeasuredIntervals = past.collect();
        let Some((_, until)) = past.as_slice().last().copied() else { return Ok(()) };
        if self.written.as_ref().is_some_and(|(_, written)| *written == past) {
            return Ok(());
        }
        let (source, step, start) = (self.source.clone(), seconds_of(Step::Minute), until as i64);
        let frame = packed(&past.as_slice()).map_err(|error| error.to_string())?;
        let row = Row { source: source.clone(), step, start, shape: SHAPE, frame };
        store.write(&[row], &[(source, step, start)]).map_err(|error| error.to_string())?;
        if self.last > start {
            let forgotten = store.forget_new(&self.source, step, start);
            forgotten.map_err(|error| error.to_string())?;
        }
        self.last = start;
        self.written = Some((Instant::now(), past));
        Ok(())
    }
}
