//! Reads of the simulated session, none of which may lack a write that an earlier one has shown.

use crate::identity::MoveSide;

use super::database::slot_of;
use super::parties::UncheckedAnswer;
use super::reader_rules::ReaderRule;
use super::router;
use super::world::{Violation, World};

/// Reads a key through a router.
pub(super) fn read(world: &mut World) {
    if check_generation(world) {
        return;
    }
    let router = world.random.below(2);
    let key = world.random.below(world.moving_keys());
    let demands = |world: &World, rule| world.reader_rules.demand(rule);
    let is_behind = |world: &World| {
        demands(world, ReaderRule::EpochInToken)
            && world.routers[router].epoch < world.session.epoch
    };
    // The catalog is sometimes unreachable.
    if is_behind(world) && world.random.chance(600) {
        router::refresh(world, router);
    }
    let needs_proof = is_behind(world) && demands(world, ReaderRule::ProofWhenBehind);
    let (side, floor) = world.routers[router].route(key);
    let deposed = world.scenario.deposed * 3;
    let asks_replica = !needs_proof && !is_behind(world) && world.random.chance(500);
    let node = if asks_replica {
        world.random.below(world.shards[side.index()].nodes.len())
    } else {
        world.shards[side.index()].believed_primary(&mut world.random, deposed)
    };
    let shard = world.shard(side);
    let has_passed = |position| shard.nodes[node].has_passed(position);
    if !has_passed(world.session.token[side.index()]) || !has_passed(floor) {
        return;
    }
    if needs_proof && (node != shard.primary || !shard.has_majority(node)) {
        return;
    }
    let database = shard.nodes[node].database().clone();
    let writes = database.rows[key].map_or(0, |row| row.writes);
    if !demands(world, ReaderRule::OwnershipInSnapshot) && asks_replica {
        let node = (side, node);
        world.session.unchecked = Some(UncheckedAnswer { router, node, key, writes });
    } else if database.metadata.owns(slot_of(key)) {
        accept(world, router, (side, node), (key, writes));
    } else {
        router::redirect(world, router, (side, node), key);
    }
}

/// Accepts the row of an unchecked response if the node's generation, read after the row, is the
/// one that the router knows. Returns false if there is no unchecked response.
fn check_generation(world: &mut World) -> bool {
    let Some(unchecked) = world.session.unchecked.take() else { return false };
    let UncheckedAnswer { router, node: (side, node), key, writes } = unchecked;
    let generation = world.shard(side).nodes[node].database().metadata.generation;
    if generation == world.routers[router].generation[side.index()] {
        accept(world, router, (side, node), (key, writes));
    }
    true
}

fn accept(
    world: &mut World,
    router: usize,
    (side, node): (MoveSide, usize),
    (key, writes): (usize, u64),
) {
    let position = world.shard(side).nodes[node].position();
    if !router::respond(world, router, (side, node), (position, key)) {
        return;
    }
    world.note(|| format!("router {router}: key {key} of {side:?} node {node} is {writes:b}"));
    if world.session.seen[key] & !world.lost & !writes != 0 {
        world.fail(Violation::TokenBack);
    }
    world.session.seen[key] |= writes;
}
