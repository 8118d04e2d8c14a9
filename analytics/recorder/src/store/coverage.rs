//! Coverage: when somebody counted, beside the slots of a source: in a row of a source that is named after it.
//!
//! There is one row, which begins where the last time ends; it is replaced when there is more. More rows, or an older one,
//! are there when a clock was wrong, or when a program has written slots that knows of no marks: none is believed alone.
//!
//! **Invariant:** what is of the future was written while a clock was wrong: it does not count, and goes.
//! **Not here:** slots (`store/history_writer`), when whoever counts now does (`history`).

use std::time::{Duration, Instant};

use super::ring_index::{RingIndex, seconds_of};
use super::row::{Row, SHAPE, packed, unpacked};
use super::{Store, unix_now};
use crate::frame::Step;
use crate::history::History;
use crate::measured_intervals::MeasuredIntervals;

/// How often it is written that somebody counts, though nothing happens.
const EVERY: Duration = Duration::from_secs(60);
/// Rows read at once.
const PAGE: i64 = 100;

/// When somebody counted, of one source.
pub(super) struct Coverage {
    /// The source under which they stand.
    source: String,
    /// When they were written, and what; `None` if that is not known.
    written: Option<(Instant, MeasuredIntervals)>,
    /// Where the last row begins, which may be of the future.
    last: i64,
}

impl Coverage {
    /// Those of a source: no router can have the name under which they stand.
    pub(super) fn of(source: &str) -> Self {
        Self { source: format!("{source}/counted"), written: None, last: 0 }
    }

    /// The store may have lost what was written.
    pub(super) fn doubt(&mut self) {
        self.written = None;
    }

    /// Whether it is time to write them again.
    pub(super) fn is_old(&self) -> bool {
        self.written.as_ref().is_none_or(|(at, _)| at.elapsed() >= EVERY)
    }

    /// Learns when somebody counted. Where that was not written, it was from the first slot to the last.
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
            let rows = store.rows(&self.source, seconds_of(Step::Minute), self.last, PAGE)?;
            let Some(last) = rows.last() else { break };
            self.last = last.start;
            for row in rows.iter().filter(|row| row.shape == SHAPE) {
                let told = unpacked::<Vec<(u64, u64)>>(&row.frame).into_iter().flatten();
                told.for_each(|(from, until)| intervals.add((from, until.min(now))));
            }
        }
        let indexes = indexes.iter().zip(Step::ALL).filter(|(index, _)| !index.is_empty());
        let ends = indexes.clone().map(|(index, step)| index.newest() + step.seconds()).max();
        let begins = indexes.map(|(index, _)| index.oldest()).min();
        let told = intervals.as_slice().last().map(|(_, until)| *until);
        if let Some((begin, end)) = told.or(begins).zip(ends) {
            intervals.add((begin, end.min(now)));
        }
        history.know_counted(intervals.as_slice().iter().copied());
        // As long as there is no more, there is nothing to write.
        self.written = Some((Instant::now(), intervals));
        Ok(())
    }

    /// Writes when somebody counted: in place of all that was written of that before.
    pub(super) fn write(&mut self, store: &mut Store, history: &History) -> Result<(), String> {
        let (now, counted) = (unix_now(), history.counted());
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
