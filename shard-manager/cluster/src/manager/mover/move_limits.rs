//! Move limits: the limits on the moves that are under way at the same time. A move that would
//! exceed them waits.
//!
//! **Invariant:** a planned move begins only if no move under way has the same source or the same
//! target, and fewer than [`MOVES_MAX`] moves are under way. Moves in the phase `keeping` do not
//! count: they only wait until the time of keeping is over.
//! **Not here:** the order of moves (the catalog lists them by their beginning).

use std::collections::BTreeSet;

use engine::move_record::{MovePhase, MoveRecord};
use model::topology::ShardNumber;
use moves::identity::MoveId;
use moves::limits::MOVES_MAX;
use moves::observation::MoveGoal;

/// Limits on concurrent moves, and the moves that count towards them: each takes one place.
#[derive(Debug, Default)]
pub(super) struct MoveLimits {
    taken: Vec<(String, ShardNumber, ShardNumber)>,
}

impl MoveLimits {
    /// Returns the limits with the places of the moves that are under way. `running` contains the
    /// moves that have a run in this process, even if the catalog still lists them as planned.
    pub(super) fn of(records: &[MoveRecord], running: &BTreeSet<MoveId>) -> Self {
        let mut limits = Self::default();
        let has_place = |record: &&MoveRecord| {
            let has_begun = record.phase != MovePhase::Planned || running.contains(&record.id);
            !record.phase.has_ended() && record.phase != MovePhase::Keeping && has_begun
        };
        records.iter().filter(has_place).for_each(|record| limits.add(record));
        limits
    }

    /// Takes a place for a planned move. A move that has begun has its place already, and a move
    /// that is to be cancelled needs none.
    ///
    /// # Errors
    /// The reason why the move waits.
    pub(super) fn take(&mut self, record: &MoveRecord) -> Result<(), String> {
        if record.phase != MovePhase::Planned || record.goal != MoveGoal::Forward {
            return Ok(());
        }
        if record.is_paused {
            return Err("it is paused".to_owned());
        }
        let is_rival = |(_, source, target): &&(String, ShardNumber, ShardNumber)| {
            *source == record.new.source || *target == record.new.target
        };
        if let Some((name, ..)) = self.taken.iter().find(is_rival) {
            return Err(format!(
                "it waits for the move {name}: a shard gives one move and takes one at a time"
            ));
        }
        if self.taken.len() >= MOVES_MAX {
            return Err(format!("it waits: {MOVES_MAX} moves are under way already"));
        }
        self.add(record);
        Ok(())
    }

    fn add(&mut self, record: &MoveRecord) {
        self.taken.push((record.name(), record.new.source, record.new.target));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::Utc;
    use engine::move_record::NewMove;
    use model::keyspace::Slot;

    use super::*;

    fn record(slot: u16, source: u16, target: u16) -> MoveRecord {
        let slots = Slot::new(slot).into_iter().collect();
        let (source, target) = (ShardNumber(source), ShardNumber(target));
        let new = NewMove { slots, source, target, rate: None, keep: Duration::ZERO };
        MoveRecord::begin(new, Utc::now())
    }

    #[test]
    fn a_shard_gives_one_move_and_takes_one_at_a_time() {
        let running = record(0, 0, 1);
        let copying = MoveRecord { phase: MovePhase::Copying, ..running };
        let mut limits = MoveLimits::of(std::slice::from_ref(&copying), &BTreeSet::new());
        let name = copying.name();
        for refused in [record(1, 0, 2), record(1, 2, 1)] {
            let reason = limits.take(&refused).expect_err("its shard is busy");
            assert!(reason.contains(&name), "{reason}");
        }
        assert_eq!(limits.take(&record(1, 1, 0)), Ok(()), "both shards have the other part free");
    }

    #[test]
    fn a_kept_move_holds_up_no_other_and_four_run_at_a_time() {
        let kept = MoveRecord { phase: MovePhase::Keeping, ..record(0, 0, 1) };
        let mut limits = MoveLimits::of(&[kept], &BTreeSet::new());
        for shard in 0..4 {
            assert_eq!(limits.take(&record(shard, 2 * shard, 2 * shard + 1)), Ok(()));
        }
        assert!(limits.take(&record(9, 20, 21)).is_err());
        let given_up = MoveRecord { goal: MoveGoal::Back, ..record(9, 20, 21) };
        assert_eq!(limits.take(&given_up), Ok(()), "a move that ends takes no place");
    }
}
