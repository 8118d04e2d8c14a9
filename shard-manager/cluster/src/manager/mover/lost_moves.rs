//! Lost moves: moves of which shards have rows, and which the catalog no longer stores.
//!
//! A failover of the catalog may lose the record of a move that has begun. Its shards still have a
//! copy, recorded changes, or slots that the source has given away and the target does not own yet.
//! So the move is listed again, and its mover decides from the rows of the shards, as it always
//! does. Its rate and its time of keeping are lost.
//!
//! **Invariant:** a move whose slots have left the source continues. Any other is cancelled: the
//! lost changes may include its cancellation.
//! **Not here:** the search (`left_search`), the steps (`moves::next_step`).

use chrono::Utc;
use engine::move_catalog::MoveCatalog;
use engine::move_record::{MoveRecord, NewMove};
use model::topology::ShardNumber;
use moves::identity::{MoveLeg, MoveRole, MoveSide};
use moves::limits::KEEP;
use moves::move_row::MoveRow;
use moves::observation::MoveGoal;

use super::CATALOG_MAX;
use super::move_sides::MoveSides;
use crate::manager::Manager;

/// Lists a move again of which a shard has this row.
///
/// # Errors
/// A sentence, if one of its shards cannot be read, or the catalog does not list it.
pub(super) async fn list_again(
    manager: &Manager,
    catalog: &dyn MoveCatalog,
    (shard, row): (ShardNumber, &MoveRow),
) -> Result<(), String> {
    let mut record = record_of(shard, row);
    let plan = record.plan();
    let seen = MoveSides::find(manager, &plan)?.look(&plan, row.leg).await?;
    record.goal = goal(seen.leg, seen.is_committed());
    let epoch = manager.shards().newest_map().epoch();
    let listed = tokio::time::timeout(CATALOG_MAX, catalog.begin(&record, epoch)).await;
    let listed = listed.map_err(|_elapsed| "the catalog does not answer".to_owned())?;
    listed.map_err(|error| error.to_string())?;
    let (id, goal) = (record.name(), engine::move_record::goal_name(record.goal));
    tracing::warn!(
        id,
        goal,
        "the catalog had lost a move of which shards have rows: it is listed again"
    );
    Ok(())
}

/// Returns the record of the move of this row, which is on this shard.
fn record_of(shard: ShardNumber, row: &MoveRow) -> MoveRecord {
    let side = match row.role {
        MoveRole::Source => row.leg.source(),
        MoveRole::Target => row.leg.target(),
    };
    let (source, target) = match side {
        MoveSide::Origin => (shard, row.other),
        MoveSide::Destination => (row.other, shard),
    };
    let slots = row.slots.iter().copied().collect();
    let new = NewMove { slots, source, target, rate: None, keep: KEEP };
    MoveRecord { id: row.id, ..MoveRecord::begin(new, Utc::now()) }
}

/// Returns the goal of a move in this leg, given whether the source of the leg has given the slots
/// away.
fn goal(leg: MoveLeg, is_committed: bool) -> MoveGoal {
    match leg.target() {
        MoveSide::Destination if is_committed => MoveGoal::Forward,
        MoveSide::Destination | MoveSide::Origin => MoveGoal::Back,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::keyspace::Slot;
    use model::position::Position;
    use moves::applied::AppliedRows;
    use moves::identity::{MoveId, MoveTerm};
    use moves::move_row::CopyCursor;

    use super::*;

    fn row(role: MoveRole, leg: MoveLeg) -> MoveRow {
        MoveRow {
            id: MoveId(7),
            role,
            other: ShardNumber(5),
            slots: Arc::from([Slot::new(3).expect("a slot")]),
            leg,
            term: MoveTerm { number: 2, mover: 1 },
            applied: AppliedRows::default(),
            cursor: CopyCursor::Empty,
            is_traced: true,
            begun: Position { timeline: 1, sequence: 9 },
            version: 0,
            signpost_min_position: None,
        }
    }

    #[test]
    fn source_and_target_of_a_lost_move_are_those_of_its_plan_in_each_leg() {
        let second = MoveLeg::FIRST.next();
        for (role, leg, expected) in [
            (MoveRole::Source, MoveLeg::FIRST, [1, 5]),
            (MoveRole::Target, MoveLeg::FIRST, [5, 1]),
            (MoveRole::Source, second, [5, 1]),
            (MoveRole::Target, second, [1, 5]),
        ] {
            let record = record_of(ShardNumber(1), &row(role, leg));
            assert_eq!(record.plan().shards, expected.map(ShardNumber), "{role:?} {leg:?}");
            assert_eq!((record.id, record.new.slots.len(), record.term), (MoveId(7), 1, 0));
        }
    }

    #[test]
    fn a_lost_move_continues_only_if_its_slots_have_left_the_source() {
        let (first, second) = (MoveLeg::FIRST, MoveLeg::FIRST.next());
        assert_eq!(goal(first, true), MoveGoal::Forward);
        assert_eq!(goal(first, false), MoveGoal::Back);
        assert_eq!(goal(second, true), MoveGoal::Back);
        assert_eq!(goal(second, false), MoveGoal::Back, "it was being rolled back");
    }
}
