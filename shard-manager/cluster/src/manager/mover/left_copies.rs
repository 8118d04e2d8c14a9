//! Left copies: the cancelled and failed moves that may have left a copy or a record on their
//! shards.
//!
//! A destination that could not be read when its move ended still has its copy. A late request that
//! arrives after the end may create a record on either shard, so both shards are inspected for some
//! time.
//!
//! **Invariant:** a move that may have left something is remembered even after the catalog has
//! ceased to list it, as long as their number is below a limit. The shards of an open move are left
//! to its run.
//! **Not here:** the deletion (`copy_cleaner`), the end without the destination (`lone_side`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use engine::move_record::{MovePhase, MoveRecord};
use moves::identity::MoveId;

/// Pause before shards on which something may be left are inspected again.
const PAUSE: Duration = Duration::from_secs(5);
/// Pause before the shards of a move that has left nothing so far are inspected again.
const LONG_PAUSE: Duration = Duration::from_secs(60);
/// Maximum number of moves that are remembered: as many as a catalog stores.
const LEFT_MAX: usize = 1_000;

/// Moves that may have left something on their shards.
#[derive(Debug, Default)]
pub(super) struct LeftCopies {
    /// Moves whose shards are to be inspected. The catalog may no longer list them.
    left: BTreeMap<MoveId, LeftCopy>,
    /// Moves that the catalog lists and that have left nothing.
    settled: BTreeSet<MoveId>,
    is_busy: bool,
}

/// Move that may have left something.
#[derive(Debug)]
struct LeftCopy {
    record: MoveRecord,
    /// Time of the next inspection of its shards.
    next: Instant,
}

/// Remains of an ended move on its shards, as the last attempt found them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remains {
    /// The shards may have a part of the move.
    Possible,
    /// The shards have nothing of the move, but a late request may still create a record.
    NoneYet,
    /// The shards have nothing of the move, and no request of it can arrive any more.
    Nothing,
}

impl LeftCopies {
    /// Returns the moves whose shards are to be inspected now; `None` if there are none, or the
    /// last attempt is still running.
    pub(super) fn due(&mut self, records: &[MoveRecord], now: Instant) -> Option<Vec<MoveRecord>> {
        self.note(records, now);
        if self.is_busy {
            return None;
        }
        let due = self.left.values().filter(|left| left.next <= now);
        let due: Vec<MoveRecord> = due.map(|left| left.record.clone()).collect();
        self.is_busy = !due.is_empty();
        self.is_busy.then_some(due)
    }

    /// Records the moves that the catalog lists.
    fn note(&mut self, records: &[MoveRecord], now: Instant) {
        let ended = records.iter().filter(|record| may_have_left(record));
        let listed: BTreeSet<MoveId> = ended.map(|record| record.id).collect();
        self.settled.retain(|id| listed.contains(id));
        for record in records {
            if !listed.contains(&record.id) {
                // A move may be open again, because a failover of the catalog has lost the record
                // of its end. Then its run takes care of its shards.
                self.left.remove(&record.id);
            } else if !self.settled.contains(&record.id) {
                self.remember(record, now);
            }
        }
    }

    /// Remembers cancelled and failed moves of which a shard still has a record, even if the
    /// catalog no longer lists them. Returns false if there was no room for some.
    pub(super) fn note_found(&mut self, records: &[MoveRecord], now: Instant) -> bool {
        let mut are_noted = true;
        for record in records.iter().filter(|record| may_have_left(record)) {
            are_noted &= self.remember(record, now);
        }
        are_noted
    }

    /// Remembers a move, and returns false if there is no room for it.
    fn remember(&mut self, record: &MoveRecord, now: Instant) -> bool {
        if self.left.len() >= LEFT_MAX {
            return self.left.contains_key(&record.id);
        }
        let new = || LeftCopy { record: record.clone(), next: now };
        self.left.entry(record.id).or_insert_with(new);
        true
    }

    /// Records the result of an attempt.
    pub(super) fn settle(&mut self, found: Vec<(MoveId, Remains)>, now: Instant) {
        self.is_busy = false;
        for (id, remains) in found {
            let pause = match remains {
                Remains::Possible => PAUSE,
                Remains::NoneYet => LONG_PAUSE,
                Remains::Nothing => {
                    if self.left.remove(&id).is_some() {
                        self.settled.insert(id);
                    }
                    continue;
                }
            };
            if let Some(left) = self.left.get_mut(&id) {
                left.next = now + pause;
            }
        }
    }
}

/// Returns true if a move was cancelled or has failed.
fn may_have_left(record: &MoveRecord) -> bool {
    matches!(record.phase, MovePhase::Cancelled | MovePhase::Failed)
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use engine::move_record::NewMove;
    use model::slot_set::SlotSet;
    use model::topology::ShardNumber;

    use super::*;

    fn record(id: u128, phase: MovePhase) -> MoveRecord {
        let new = NewMove {
            slots: SlotSet::empty(),
            source: ShardNumber(0),
            target: ShardNumber(1),
            rate: None,
            keep: Duration::ZERO,
        };
        MoveRecord { id: MoveId(id), phase, ..MoveRecord::begin(new, Utc::now()) }
    }

    fn ids(due: Option<Vec<MoveRecord>>) -> Vec<u128> {
        due.unwrap_or_default().iter().map(|record| record.id.0).collect()
    }

    #[test]
    fn shards_of_moves_that_ended_on_their_origin_are_looked_at_until_nothing_is_left() {
        let now = Instant::now();
        let records = [
            record(1, MovePhase::Cancelled),
            record(2, MovePhase::Failed),
            record(3, MovePhase::Done),
            record(4, MovePhase::RolledBack),
            record(5, MovePhase::Cleaning),
        ];
        let mut left = LeftCopies::default();
        assert_eq!(ids(left.due(&records, now)), [1, 2]);
        assert_eq!(left.due(&records, now).map(|due| due.len()), None, "one attempt at a time");
        left.settle(vec![(MoveId(1), Remains::Nothing), (MoveId(2), Remains::Possible)], now);
        assert_eq!(left.due(&records, now).map(|due| due.len()), None, "it pauses");
        assert_eq!(ids(left.due(&records, now + PAUSE)), [2]);
        left.settle(vec![(MoveId(2), Remains::NoneYet)], now);
        assert_eq!(left.due(&records, now + PAUSE).map(|due| due.len()), None, "a longer pause");
        assert_eq!(ids(left.due(&records, now + LONG_PAUSE)), [2]);
        left.settle(vec![(MoveId(2), Remains::Nothing)], now);
        assert_eq!(ids(left.due(&records, now + LONG_PAUSE)), [] as [u128; 0]);
    }

    #[test]
    fn a_left_copy_is_remembered_after_the_catalog_has_ceased_to_list_its_move() {
        let (mut left, now) = (LeftCopies::default(), Instant::now());
        assert_eq!(ids(left.due(&[record(1, MovePhase::Cancelled)], now)), [1]);
        left.settle(vec![(MoveId(1), Remains::Possible)], now);
        assert_eq!(ids(left.due(&[], now + PAUSE)), [1]);
        left.settle(vec![(MoveId(1), Remains::Nothing)], now);
        assert_eq!(ids(left.due(&[], now + PAUSE)), [] as [u128; 0]);
        assert!(left.left.is_empty());
        left.note(&[], now);
        assert!(left.settled.is_empty());
    }

    #[test]
    fn a_move_whose_end_was_lost_is_left_to_its_mover() {
        let (mut left, now) = (LeftCopies::default(), Instant::now());
        let ended = [1, 2].map(|id| record(id, MovePhase::Cancelled));
        assert_eq!(ids(left.due(&ended, now)), [1, 2]);
        let open = [1, 2].map(|id| record(id, MovePhase::Copying));
        left.note(&open, now);
        left.settle(vec![(MoveId(1), Remains::Nothing), (MoveId(2), Remains::Possible)], now);
        assert_eq!(ids(left.due(&open, now + PAUSE)), [] as [u128; 0]);
        assert_eq!(ids(left.due(&ended, now + PAUSE)), [1, 2], "both have ended again");
    }

    #[test]
    fn the_number_of_moves_that_are_looked_at_is_bounded() {
        let (mut left, now) = (LeftCopies::default(), Instant::now());
        let cancelled = |id: usize| record(id as u128, MovePhase::Cancelled);
        let records: Vec<MoveRecord> = (0..LEFT_MAX + 5).map(cancelled).collect();
        assert_eq!(ids(left.due(&records, now)).len(), LEFT_MAX);
        assert!(left.note_found(&records[..1], now), "it is remembered already");
        assert!(!left.note_found(&records, now), "there is no room for some of them");
    }
}
