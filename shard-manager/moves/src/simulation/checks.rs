//! Checks of the simulated world: after every event, and at the end of a move.

use crate::identity::{MoveRole, MoveSide};
use crate::move_row::MoveRow;
use crate::observation::{SlotsState, state_of};
use crate::slot_state::SlotState;

use super::database::STAYING_KEY;
use super::world::{MOVE, Violation, World};

/// Checks the current primaries. At most one owns the slots; if none does, exactly one imports
/// them; and no durable write is missing.
pub(super) fn always(world: &mut World) {
    let states = [MoveSide::Origin, MoveSide::Destination]
        .map(|side| state_of(&world.shard(side).database().metadata, &world.plan.slots));
    let owns = states.map(|state| matches!(state, SlotsState::Owned | SlotsState::Fenced));
    let imports = states.map(|state| state == SlotsState::Importing);
    if owns == [true, true] {
        world.fail(Violation::TwoOwners);
    }
    if owns == [false, false] && imports[0] == imports[1] {
        world.fail(Violation::NoOwner);
    }
    for side in [MoveSide::Origin, MoveSide::Destination] {
        let receives = imports[side.index()] && has_given(world, side.other());
        if (owns[side.index()] || receives) && lacks_writes(world, side) {
            world.fail(Violation::LostWrite);
        }
    }
    let origin = world.shard(MoveSide::Origin).database().rows[STAYING_KEY];
    if world.durable[STAYING_KEY] & !origin.map_or(0, |row| row.writes) != 0 {
        world.fail(Violation::LostWrite);
    }
}

/// Returns true if a shard has given the slots away, and a majority of its nodes has flushed this.
fn has_given(world: &World, side: MoveSide) -> bool {
    let shard = world.shard(side);
    let is_moved = state_of(&shard.database().metadata, &world.plan.slots) == SlotsState::Moved;
    is_moved && shard.is_confirmed(shard.primary, shard.nodes[shard.primary].position().sequence)
}

fn lacks_writes(world: &World, side: MoveSide) -> bool {
    let rows = &world.shard(side).database().rows;
    (0..world.moving_keys()).any(|key| {
        let Some(row) = rows[key] else { return true };
        world.durable[key] & !row.writes != 0
    })
}

/// Checks the shards at the instant at which a mover ends the move. A late message may have created
/// a record after the mover read the shards. This is correct, because the next mover finds the
/// record.
pub(super) fn ended(world: &mut World, rows_made: u64) {
    if world.rows_made == rows_made && has_rest(world) {
        world.fail(Violation::EndedTooEarly);
    }
}

/// Returns true if a shard has a record of the move, or still imports its slots.
pub(super) fn has_rest(world: &World) -> bool {
    [MoveSide::Origin, MoveSide::Destination].into_iter().any(|side| {
        let metadata = &world.shard(side).database().metadata;
        let is_importing = |state: &SlotState| matches!(state, SlotState::Importing { .. });
        let has_row = metadata.row(MOVE).is_some_and(|row| !is_lifted(row));
        has_row || metadata.slots.values().any(is_importing)
    })
}

/// Returns true if the record was kept when the leg was cancelled. This happens only without the
/// rule that forbids it. The mover and the checks then count the record as deleted.
pub(super) fn is_lifted(row: &MoveRow) -> bool {
    row.role == MoveRole::Source && row.signpost_min_position.is_none() && !row.is_traced
}

/// Checks a world in which the move has ended.
pub(super) fn finally(world: &mut World) {
    let states = [MoveSide::Origin, MoveSide::Destination]
        .map(|side| state_of(&world.shard(side).database().metadata, &world.plan.slots));
    let owners = states.map(|state| matches!(state, SlotsState::Owned | SlotsState::Fenced));
    let published = world.catalog().owner;
    if owners == [false, false] || !owners[published.index()] {
        world.fail(Violation::NoOwner);
    }
    for side in [MoveSide::Origin, MoveSide::Destination] {
        let database = world.shard(side).database();
        let moving = world.moving_keys();
        let has_rows = database.rows[..moving].iter().any(Option::is_some);
        if !database.traces.is_empty() || (has_rows && !owners[side.index()]) {
            world.fail(Violation::LeftBehind);
        }
    }
}
