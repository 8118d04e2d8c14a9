//! Actions of a simulated router: it reads the catalog, follows signposts, responds to the session,
//! and sends activations.

use model::position::Position;

use crate::cutover::SlotActivation;
use crate::identity::MoveSide;
use crate::observation::{SlotsState, state_of};
use crate::request::MoveRequest;
use crate::slot_state::SlotState;

use super::database::{Rows, STAYING_KEY, slot_of};
use super::reader_rules::ReaderRule;
use super::world::{Late, MOVE, World};

/// Reads the catalog.
pub(super) fn refresh(world: &mut World, router: usize) {
    let catalog = world.catalog();
    let router = &mut world.routers[router];
    router.epoch = catalog.epoch;
    router.owner = catalog.owner;
    router.floor = catalog.floor;
    router.signpost = None;
}

/// Acts on the refusal of a node: follows its signpost, or reads the catalog.
pub(super) fn redirect(
    world: &mut World,
    router: usize,
    (side, node): (MoveSide, usize),
    key: usize,
) {
    let metadata = &world.shard(side).nodes[node].database().metadata;
    let is_moved = matches!(metadata.state(slot_of(key)), Some(SlotState::Moved { .. }));
    let home = metadata.row(MOVE).and_then(|row| row.signpost_min_position);
    match home.filter(|_| is_moved) {
        Some(home) => world.routers[router].signpost = Some((side.other(), home)),
        None => refresh(world, router),
    }
}

/// Adds the position of a response to the token of the session. Returns false if the router must
/// read the catalog before it may respond.
///
/// The catalog as the router has last read it, not the signpost that the request has followed,
/// decides if the router knows the owner: the router may have read the catalog since it followed
/// the signpost. If the shard's generation is new to the router, the slots have changed hands,
/// perhaps there and back, and the router reads the catalog again.
pub(super) fn respond(
    world: &mut World,
    router: usize,
    (side, node): (MoveSide, usize),
    (position, key): (Position, usize),
) -> bool {
    let shard = world.shard(side);
    let (is_primary, database) = (node == shard.primary, shard.nodes[node].database().clone());
    let generation = database.metadata.generation;
    if world.routers[router].generation[side.index()] != generation {
        let signpost = world.routers[router].signpost;
        refresh(world, router);
        world.routers[router].signpost = signpost;
    }
    if is_primary {
        world.routers[router].generation[side.index()] = generation;
    }
    let is_unknown = world.routers[router].owner != side && key != STAYING_KEY;
    if is_unknown && world.reader_rules.demand(ReaderRule::HomeInToken) {
        let Some(home) = database.metadata.row(MOVE).and_then(|row| row.signpost_min_position)
        else {
            refresh(world, router);
            return false;
        };
        world.session.pass(side.other(), home);
    }
    world.session.pass(side, position);
    world.session.epoch = world.session.epoch.max(world.routers[router].epoch);
    true
}

/// Lets a router that finds a confirmed commit send its activation, which arrives late.
pub(super) fn activate(world: &mut World) {
    for side in [MoveSide::Origin, MoveSide::Destination] {
        let shard = world.shard(side);
        let metadata = &shard.database().metadata;
        let Some(row) = metadata.row(MOVE) else { continue };
        let position = shard.nodes[shard.primary].position();
        let is_confirmed = shard.is_confirmed(shard.primary, position.sequence);
        let is_moved = state_of(metadata, &world.plan.slots) == SlotsState::Moved;
        if !is_moved || !is_confirmed || row.leg.source() != side {
            continue;
        }
        let request = Box::new(MoveRequest::Activate(SlotActivation::of(row, position)));
        let node = world.shard(side.other()).primary;
        world.late.push(Late::Request { side: side.other(), node, request, rows: Rows::new() });
    }
}
