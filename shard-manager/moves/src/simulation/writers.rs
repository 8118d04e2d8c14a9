//! Simulated writers: writes pass the check of their slot, run for some time, and commit.

use model::position::Position;

use crate::identity::MoveSide;
use crate::slot_state::SlotState;

use super::coverage::Occurrence;
use super::database::{Database, STAYING_KEY, slot_of};
use super::router;
use super::shard::RunningWrite;
use super::world::{Violation, World, Write};

/// Maximum number of writes per seed: a row records them in a set of 64 bits.
const WRITES_MAX: usize = 40;

/// Begins a write through a router.
pub(super) fn begin(world: &mut World) {
    if world.writes.len() >= WRITES_MAX {
        return;
    }
    let router = world.random.below(2);
    let is_staying = world.random.chance(60);
    let moving = world.moving_keys();
    let key = if is_staying { STAYING_KEY } else { world.random.below(moving) };
    let (side, _) = world.routers[router].route(key);
    let deposed = world.scenario.deposed;
    let node = world.shards[side.index()].believed_primary(&mut world.random, deposed);
    let now = world.clock(side, node);
    if !world.shard(side).nodes[node].database().metadata.admits_writes(slot_of(key), now) {
        if !world.shard(side).nodes[node].database().metadata.owns(slot_of(key)) {
            router::redirect(world, router, (side, node), key);
        }
        return;
    }
    let state = world.shard(side).nodes[node].database().metadata.state(slot_of(key));
    let is_fenced = matches!(state, Some(SlotState::Fenced { .. }));
    world.coverage.note_if(is_fenced, Occurrence::WriteAfterFence);
    let deletes = !is_staying && world.random.chance(world.scenario.deletes);
    let write = world.writes.len();
    let is_session = world.random.chance(400);
    world.writes.push(Write {
        key,
        side,
        committed: None,
        is_confirmed: false,
        router: is_session.then_some(router),
    });
    let is_ordered = world.is_ordered;
    let is_quick = world.random.chance(500);
    let shard = world.shard_mut(side);
    if node != shard.primary {
        // The deposed primary accepts the write, but its history is lost.
        let mut database = Database::clone(shard.nodes[node].database());
        let change = database.next_change;
        database.write(key, write, deletes, change);
        shard.commit(node, database);
        world.lost |= 1 << write;
        return;
    }
    if shard.running.iter().any(|running| running.key == key) {
        world.writes.pop();
        return;
    }
    let change = shard.next_change;
    shard.next_change += 1;
    shard.running.push(RunningWrite { change, write, key, deletes });
    world.note(|| format!("write {write} of key {key} begins on {side:?} as change {change}"));
    if is_ordered || is_quick {
        let last = world.shard(side).running.len() - 1;
        commit(world, side, last);
    }
}

/// Commits one running write of each shard.
pub(super) fn commit_any(world: &mut World) {
    for side in [MoveSide::Origin, MoveSide::Destination] {
        let count = world.shard(side).running.len();
        if count > 0 {
            let index = world.random.below(count);
            commit(world, side, index);
        }
    }
}

fn commit(world: &mut World, side: MoveSide, index: usize) {
    let shard = world.shard_mut(side);
    let RunningWrite { change, write, key, deletes } = shard.running.remove(index);
    let node = shard.primary;
    let mut database = Database::clone(shard.database());
    let is_growing = database.write(key, write, deletes, change);
    shard.commit(node, database);
    let position = shard.nodes[node].position();
    world.note(|| format!("write {write} of key {key} commits on {side:?}"));
    world.writes[write].committed = Some(position);
    world.durable[key] |= 1 << write;
    if !is_growing {
        world.fail(Violation::VersionBack);
    }
    acknowledge(world, write, (side, node), position);
}

/// Adds a committed write of the session to the set of writes that the session has seen.
fn acknowledge(world: &mut World, write: usize, at: (MoveSide, usize), position: Position) {
    let Write { key, router: Some(router), .. } = world.writes[write] else { return };
    if router::respond(world, router, at, (position, key)) {
        world.session.seen[key] |= 1 << write;
    }
}

/// Records which writes a majority of the nodes has flushed.
pub(super) fn confirm(world: &mut World) {
    for index in 0..world.writes.len() {
        let write = world.writes[index];
        let Some(position) = write.committed else { continue };
        let shard = world.shard(write.side);
        let is_current = shard.nodes[shard.primary].history.current() == position.timeline;
        if is_current && shard.is_confirmed(shard.primary, position.sequence) {
            world.writes[index].is_confirmed = true;
        }
    }
}

/// Records the writes that a failover of a shard has lost.
pub(super) fn lose(world: &mut World, side: MoveSide) {
    for index in 0..world.writes.len() {
        let write = world.writes[index];
        let Some(position) = write.committed.filter(|_| write.side == side) else { continue };
        let shard = world.shard(side);
        let is_kept = shard.nodes[shard.primary].has_passed(position);
        if is_kept || world.lost >> index & 1 == 1 {
            continue;
        }
        world.note(|| format!("write {index} is lost"));
        world.lost |= 1 << index;
        world.durable[write.key] &= !(1 << index);
        if write.is_confirmed {
            world.fail(Violation::ConfirmedLost);
        }
    }
}
