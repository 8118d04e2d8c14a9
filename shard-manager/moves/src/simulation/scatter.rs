//! Steps of a simulated scatter read: a page with the first rows of both shards, which are queried
//! one after the other.

use crate::identity::MoveSide;
use crate::observation::{SlotsState, state_of};

use super::database::{KEYS, STAYING_KEY, slot_of};
use super::parties::ScanAnswer;
use super::reader_rules::ReaderRule;
use super::world::{Violation, World};

/// Maximum number of rows of a page.
const LIMIT: usize = 2;

/// Queries a shard that has not responded yet, or merges the responses.
pub(super) fn step(world: &mut World) {
    let sides = [MoveSide::Origin, MoveSide::Destination];
    let unasked: Vec<MoveSide> =
        sides.into_iter().filter(|side| world.scatter.answers[side.index()].is_none()).collect();
    if !unasked.is_empty() {
        let side = unasked[world.random.below(unasked.len())];
        world.scatter.answers[side.index()] = Some(scan(world, side));
        return;
    }
    if let [Some(origin), Some(destination)] = std::mem::take(&mut world.scatter.answers) {
        merge(world, [origin, destination]);
    }
}

fn scan(world: &World, side: MoveSide) -> ScanAnswer {
    let database = world.shard(side).database();
    let metadata = &database.metadata;
    let is_shown = |key: &usize| {
        let is_checked = world.reader_rules.demand(ReaderRule::ScanOwnedOnly);
        let may = metadata.owns(slot_of(*key)) || !is_checked;
        may && database.rows[*key].is_some_and(|row| row.is_present)
    };
    let state = state_of(metadata, &world.plan.slots);
    let owns = matches!(state, SlotsState::Owned | SlotsState::Fenced);
    ScanAnswer { keys: (0..KEYS).filter(is_shown).take(LIMIT).collect(), owns }
}

fn merge(world: &mut World, mut answers: [ScanAnswer; 2]) {
    if answers[0].owns && answers[1].owns {
        let destination = world.shard(MoveSide::Destination).database();
        let is_newer = destination.metadata.owns(world.plan.slots[0]);
        let older = if is_newer { MoveSide::Origin } else { MoveSide::Destination };
        if world.reader_rules.demand(ReaderRule::OlderOwnerAgain) {
            answers[older.index()] = scan(world, older);
        } else {
            let is_moving = |key: &usize| *key < world.moving_keys();
            answers[older.index()].keys.retain(|key| !is_moving(key));
            answers[older.index()].owns = false;
        }
    }
    // If both shards or neither of them owned the slots, a real router would repeat the read. The
    // simulation abandons it.
    if answers[0].owns == answers[1].owns {
        return;
    }
    let mut keys = [answers[0].keys.clone(), answers[1].keys.clone()].concat();
    keys.sort_unstable();
    if keys.windows(2).any(|pair| pair[0] == pair[1]) {
        world.fail(Violation::ScatteredTwice);
    }
    if keys.len() < LIMIT && !keys.contains(&STAYING_KEY) {
        world.fail(Violation::ScatterLost);
    }
}
