//! Simulated router: the owner of the slots as the catalog named it to this router, and a signpost
//! that it follows until the catalog names the owner.

use model::position::Position;

use crate::identity::{MoveLeg, MoveSide};
use crate::observation::SlotsState;
use crate::request::MoveRequest;
use crate::slot_state::SlotState;

use super::database::{Rows, STAYING_KEY, slot_of};
use super::reader_rules::ReaderRule;
use super::world::{Late, MOVE, World};
use crate::observation::state_of;

pub(super) struct Router {
    pub(super) epoch: u64,
    owner: MoveSide,
    floor: Position,
    signpost: Option<(MoveSide, Position)>,
    /// Generation of each shard, as its primary last told.
    pub(super) generation: [u64; 2],
}

impl Router {
    pub(super) fn new() -> Self {
        let floor = Position::default();
        Self { epoch: 1, owner: MoveSide::Origin, floor, signpost: None, generation: [0; 2] }
    }

    /// Returns the shard that is asked for a key, and the position that a node must have passed.
    pub(super) fn route(&self, key: usize) -> (MoveSide, Position) {
        if key == STAYING_KEY {
            return (MoveSide::Origin, Position::default());
        }
        self.signpost.unwrap_or((self.owner, self.floor))
    }
}

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
    let home = metadata.row(MOVE).and_then(|row| row.home);
    match home.filter(|_| is_moved) {
        Some(home) => world.routers[router].signpost = Some((side.other(), home)),
        None => refresh(world, router),
    }
}

/// Adds a response to the token of the session. Returns false if the router must read the catalog
/// before it may respond.
pub(super) fn respond(
    world: &mut World,
    router: usize,
    (side, node): (MoveSide, usize),
    (position, key): (Position, usize),
) -> bool {
    let follows_signpost = world.routers[router].signpost.is_some() && key != STAYING_KEY;
    if follows_signpost && world.reader_rules.demand(ReaderRule::HomeInToken) {
        let row = world.shard(side).nodes[node].database().metadata.row(MOVE);
        let Some(home) = row.and_then(|row| row.home) else {
            refresh(world, router);
            return false;
        };
        world.session.pass(side.other(), home);
    }
    world.session.pass(side, position);
    world.session.epoch = world.session.epoch.max(world.routers[router].epoch);
    let shard = world.shard(side);
    if node == shard.primary {
        let generation = shard.database().metadata.generation;
        world.routers[router].generation[side.index()] = generation;
    }
    true
}

/// A router that meets a commit without its activation sends the activation, which may be late.
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
        let (leg, version): (MoveLeg, u64) = (row.leg, row.version);
        let request = Box::new(MoveRequest::Activate { id: MOVE, leg, version, home: position });
        let node = world.shard(side.other()).primary;
        world.late.push(Late::Request { side: side.other(), node, request, rows: Rows::new() });
    }
}
