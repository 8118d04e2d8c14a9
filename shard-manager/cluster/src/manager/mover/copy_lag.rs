//! Copy lag: the number and age of the changes that the receiving side of a move lacks, as far as
//! the mover knows.
//!
//! An inspection of both shards shows whether the copy lacks changes. A round shows how many
//! changes there were when it was read. If the copy lacks nothing, it is as current as the source
//! was at the inspection. After a round with all changes, it is as current as the source was when
//! that round was read.
//!
//! **Invariant:** no change that the copy lacks is older than the reported lag.
//! **Not here:** the pace of rounds (`move_round`), replicas.

use chrono::{DateTime, Utc};
use engine::move_record::{MoveLag, MoveRecord, listed_time};

use super::move_sides::SeenMove;

/// Lag of one copy.
#[derive(Debug)]
pub(super) struct CopyLag {
    /// Number of changes that were missing when the source was last read.
    changes: u64,
    is_behind: bool,
    /// Time of the latest state of the source that the copy is known to contain completely.
    current_at: DateTime<Utc>,
}

impl CopyLag {
    /// Starts from the lag that an earlier mover has reported. If it reported none, the copy may
    /// lack changes since the record of the move last changed.
    pub(super) fn of(record: &MoveRecord) -> Self {
        let since = record.progress.lag.and_then(|lag| lag.since);
        Self { changes: 0, is_behind: false, current_at: since.unwrap_or(record.changed_at) }
    }

    /// Records an inspection of both shards that began at `begun_at`, and returns the lag for
    /// reports; `None` if no copy is kept current.
    pub(super) fn look(
        &mut self,
        seen: &SeenMove,
        begun_at: DateTime<Utc>,
        follows_back: bool,
    ) -> Option<MoveLag> {
        let has_copy = seen.receiver().row.as_ref().is_some_and(|copy| !copy.applied.is_empty());
        let is_current = follows_back || !seen.is_committed();
        if !has_copy || !is_current || seen.has_lost_changes {
            return None;
        }
        self.note_look(seen.is_behind, begun_at);
        Some(self.report())
    }

    fn note_look(&mut self, is_behind: bool, begun_at: DateTime<Utc>) {
        self.is_behind = is_behind;
        if is_behind {
            self.changes = self.changes.max(1);
        } else {
            (self.changes, self.current_at) = (0, begun_at);
        }
    }

    /// Records a round that was stored and whose read began at `begun_at`. `has_all` is true if the
    /// round has every change up to that time.
    pub(super) fn note_round(&mut self, changes: usize, has_all: bool, begun_at: DateTime<Utc>) {
        (self.changes, self.is_behind) = (changes as u64, changes > 0);
        if has_all {
            self.current_at = begun_at;
        }
    }

    /// Returns true if the last round or inspection has found no changes.
    pub(super) fn is_zero(&self) -> bool {
        !self.is_behind
    }

    /// Returns the lag for reports.
    pub(super) fn report(&self) -> MoveLag {
        let since = self.is_behind.then(|| listed_time(self.current_at));
        MoveLag { changes: self.changes, since }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::move_record::NewMove;
    use model::keyspace::Slot;
    use model::topology::ShardNumber;

    use super::*;

    fn lag() -> (CopyLag, DateTime<Utc>) {
        let slots = [Slot::new(3).expect("a slot")].into_iter().collect();
        let (source, target) = (ShardNumber(0), ShardNumber(1));
        let new = NewMove { slots, source, target, rate: None, keep: Duration::ZERO };
        let record = MoveRecord::begin(new, Utc::now());
        (CopyLag::of(&record), record.changed_at)
    }

    #[test]
    fn a_copy_that_lacks_changes_is_as_old_as_the_last_state_that_it_had_whole() {
        let (mut lag, begun) = lag();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let shown = |lag: &CopyLag| (lag.report().changes, lag.report().since);
        lag.note_look(true, at(1));
        assert_eq!(shown(&lag), (1, Some(begun)), "nothing newer is known");
        lag.note_look(false, at(2));
        assert_eq!(shown(&lag), (0, None));
        lag.note_look(true, at(3));
        assert_eq!(shown(&lag), (1, Some(at(2))));
        lag.note_round(2_000, false, at(4));
        assert_eq!(shown(&lag), (2_000, Some(at(2))), "the round had not all of them");
        lag.note_round(30, true, at(5));
        lag.note_look(true, at(6));
        assert_eq!(shown(&lag), (30, Some(at(5))));
        lag.note_round(0, true, at(7));
        assert_eq!(shown(&lag), (0, None));
    }

    #[test]
    fn a_mover_that_takes_over_goes_on_with_the_lag_that_was_reported() {
        let (_, begun) = lag();
        let since = begun - Duration::from_secs(60);
        let slots = [Slot::new(3).expect("a slot")].into_iter().collect();
        let (source, target) = (ShardNumber(0), ShardNumber(1));
        let new = NewMove { slots, source, target, rate: None, keep: Duration::ZERO };
        let mut record = MoveRecord::begin(new, begun);
        record.progress.lag = Some(MoveLag { changes: 9, since: Some(since) });
        let mut lag = CopyLag::of(&record);
        lag.note_look(true, begun);
        assert_eq!(lag.report().since, Some(since));
    }
}
