//! Lost moves: moves that the catalog has lost, but of which shards still have records.
//!
//! A failover of the catalog may lose the catalog's record of a move that has begun. The shards of
//! such a move still have a copy, recorded changes, or slots that the source has given away and the
//! target does not own yet. Therefore the move is entered in the catalog again, and its mover
//! decides from the records of the shards, as it always does. Its rate limit is lost, and its time
//! of keeping is the default again.
//!
//! **Invariant:** a lost move continues if its slots have left the source. Otherwise its slots
//! return to the origin or stay there, because its cancellation may be among the changes that the
//! catalog has lost. The choice is made from states that a majority of each shard's nodes has
//! confirmed.
//! **Not here:** the search (`left_search`), the steps (`moves::next_step`).

use std::time::Instant;

use chrono::Utc;
use engine::move_catalog::{MoveCatalog, MoveListError};
use engine::move_record::{MovePhase, MoveRecord, NewMove, goal_name};
use model::topology::ShardNumber;
use moves::identity::{MoveLeg, MoveRole, MoveSide};
use moves::limits::KEEP;
use moves::move_row::MoveRow;
use moves::observation::{MoveGoal, MovePlan, ShardObservation, SlotsState};
use moves::request::MoveRequest;

use super::CATALOG_MAX;
use super::copy_cleaner::send;
use super::move_run::{CONFIRM_MAX, random_mover};
use super::move_sides::{MoveSides, SeenMove, look_at};
use crate::manager::Manager;
use crate::shard::Majority;

/// State of a lost move, derived from the records of its shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LostState {
    goal: MoveGoal,
    /// True if the slots have left the source of the leg, so that they may have no owner.
    has_left: bool,
    /// True if the destination owns the slots, or has owned them.
    has_arrived: bool,
}

/// Enters the move of this shard's record in the catalog again. If the catalog lists another open
/// move of the same slots, returns a catalog record that marks the move as cancelled instead, so
/// that its copy is deleted.
///
/// # Errors
/// A sentence, if the state of the move is not known, or the catalog does not accept it.
pub(super) async fn list_again(
    manager: &Manager,
    catalog: &dyn MoveCatalog,
    (shard, row): (ShardNumber, &MoveRow),
) -> Result<Option<MoveRecord>, String> {
    let mut record = record_of(shard, row);
    let state = state_of(manager, &record.plan(), (shard, row)).await?;
    record.goal = state.goal;
    record.owned_at = state.has_arrived.then_some(record.began_at);
    if state.has_left {
        // In this phase it does not wait for other moves: its slots may have no owner.
        record.phase = MovePhase::Activating;
    }
    let epoch = manager.shards().newest_map().epoch();
    let listed = tokio::time::timeout(CATALOG_MAX, catalog.begin(&record, epoch)).await;
    match listed.map_err(|_elapsed| "the catalog does not answer".to_owned())? {
        Ok(()) => {
            let (id, goal) = (record.name(), goal_name(record.goal));
            tracing::warn!(id, goal, "a move that the catalog had lost is listed again");
            Ok(None)
        }
        Err(MoveListError::SlotsMove { .. }) if !state.has_left && !state.has_arrived => {
            Ok(Some(MoveRecord { phase: MovePhase::Cancelled, ..record }))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Determines the state of a move from both of its shards. If one of them cannot be read, the shard
/// that has this record is enough, provided that it owns the slots.
async fn state_of(
    manager: &Manager,
    plan: &MovePlan,
    (shard, row): (ShardNumber, &MoveRow),
) -> Result<LostState, String> {
    let seen = async { MoveSides::find(manager, plan)?.look(plan, row.leg).await }.await;
    let reason = match seen {
        Ok(seen) => return state_of_both(manager, plan, &seen).await,
        Err(reason) => reason,
    };
    let Some(own) = manager.shards().find(shard) else { return Err(reason) };
    let seen = look_at(&own, plan).await?;
    let is_known =
        Majority::of(&own).await_confirmation(seen.position, Instant::now() + CONFIRM_MAX).await;
    owners_state(&seen).filter(|_| is_known).ok_or(reason)
}

/// Determines the state of a move from both shards. Raises the term of the source first, so that a
/// mover that is cut off from the catalog can no longer commit.
async fn state_of_both(
    manager: &Manager,
    plan: &MovePlan,
    seen: &SeenMove,
) -> Result<LostState, String> {
    let sides = MoveSides::find(manager, plan)?;
    let source = seen.leg.source();
    if let Some(row) = &seen.shard(source).row {
        let term = row.term.next(random_mover());
        send(sides.shard(source), MoveRequest::Raise { id: row.id, term }).await?;
    }
    let seen = sides.look(plan, seen.leg).await?;
    for side in [source, source.other()] {
        let (position, limit) = (seen.shard(side).position, Instant::now() + CONFIRM_MAX);
        if !sides.majority(side).await_confirmation(position, limit).await {
            let shard = sides.shard(side).name();
            return Err(format!("a majority of {shard} does not have its changes"));
        }
    }
    joint_state(seen.leg, seen.shard(seen.leg.source()), seen.shard(seen.leg.target()))
}

/// Returns the state of a move in this leg, given what was read from the leg's source and target.
fn joint_state(
    leg: MoveLeg,
    source: &ShardObservation,
    target: &ShardObservation,
) -> Result<LostState, String> {
    let has_left = source.row.is_some() && source.slots == SlotsState::Moved;
    let is_owner = owns(target);
    if has_left && target.row.is_none() && !is_owner && target.slots != SlotsState::Moved {
        // The catalog may have lost a shard as well, and given its number to another one.
        return Err("the shard that should own its slots has never had them".to_owned());
    }
    let has_arrived = leg > MoveLeg::FIRST || is_owner;
    Ok(LostState { goal: goal(leg, has_left), has_left, has_arrived })
}

/// Returns the state of a move if only this one of its shards can be read; `None` if the shard does
/// not own the slots.
fn owners_state(owner: &ShardObservation) -> Option<LostState> {
    let row = owner.row.as_ref().filter(|_| owns(owner))?;
    let has_left = row.role == MoveRole::Target;
    let has_arrived = row.leg > MoveLeg::FIRST || has_left;
    Some(LostState { goal: goal(row.leg, has_left), has_left, has_arrived })
}

fn owns(shard: &ShardObservation) -> bool {
    matches!(shard.slots, SlotsState::Owned | SlotsState::Fenced)
}

/// Returns a new catalog record for a lost move, from this shard's own record of the move.
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

/// Returns the goal of a lost move in this leg. `has_left` is true if the slots have left the
/// source of the leg.
fn goal(leg: MoveLeg, has_left: bool) -> MoveGoal {
    match leg.target() {
        MoveSide::Destination if has_left => MoveGoal::Forward,
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

    fn shard(slots: SlotsState, row: Option<MoveRow>) -> ShardObservation {
        ShardObservation {
            position: Position { timeline: 1, sequence: 9 },
            row,
            slots,
            is_confirmed: true,
            has_majority: true,
            has_rows: true,
        }
    }

    #[test]
    fn a_lost_move_continues_only_if_its_slots_have_left_the_source() {
        let (first, second) = (MoveLeg::FIRST, MoveLeg::FIRST.next());
        let source = |slots, leg| shard(slots, Some(row(MoveRole::Source, leg)));
        let target = |slots, leg| shard(slots, Some(row(MoveRole::Target, leg)));
        let state = |goal, has_left, has_arrived| Ok(LostState { goal, has_left, has_arrived });
        let (back, forward) = (MoveGoal::Back, MoveGoal::Forward);
        use SlotsState::{Fenced, Importing, Moved, Other, Owned};
        for (leg, source, target, expected) in [
            (first, source(Owned, first), target(Importing, first), state(back, false, false)),
            (first, source(Fenced, first), target(Importing, first), state(back, false, false)),
            (first, shard(Owned, None), target(Importing, first), state(back, false, false)),
            (first, source(Owned, first), shard(Other, None), state(back, false, false)),
            (first, source(Moved, first), target(Importing, first), state(forward, true, false)),
            (first, source(Moved, first), target(Owned, first), state(forward, true, true)),
            (first, source(Moved, first), shard(Owned, None), state(forward, true, true)),
            // The slots have gone to the target long ago, or by a later move.
            (first, shard(Moved, None), target(Owned, first), state(back, false, true)),
            (first, shard(Moved, None), target(Importing, first), state(back, false, false)),
            (second, source(Owned, second), target(Importing, second), state(back, false, true)),
            (second, source(Moved, second), target(Importing, second), state(back, true, true)),
        ] {
            assert_eq!(
                joint_state(leg, &source, &target),
                expected,
                "{leg:?} {source:?} {target:?}"
            );
        }
        let other = joint_state(first, &source(Moved, first), &shard(Other, None));
        assert!(other.is_err(), "it may be a shard that got the number of a lost one");
    }

    #[test]
    fn while_the_other_shard_cannot_be_read_only_the_owner_of_the_slots_decides() {
        let (first, second) = (MoveLeg::FIRST, MoveLeg::FIRST.next());
        let state = |slots, role, leg| owners_state(&shard(slots, Some(row(role, leg))));
        let known = |goal, has_left, has_arrived| Some(LostState { goal, has_left, has_arrived });
        let (back, forward) = (MoveGoal::Back, MoveGoal::Forward);
        use SlotsState::{Importing, Moved, Owned};
        assert_eq!(state(Owned, MoveRole::Source, first), known(back, false, false));
        assert_eq!(state(Owned, MoveRole::Target, first), known(forward, true, true));
        assert_eq!(state(Owned, MoveRole::Source, second), known(back, false, true));
        assert_eq!(state(Owned, MoveRole::Target, second), known(back, true, true));
        assert_eq!(state(Moved, MoveRole::Source, first), None);
        assert_eq!(state(Importing, MoveRole::Target, first), None);
    }
}
