//! Parties of the simulated world: the state of each mover and router, of the session and of the
//! scatter read, between two of their actions.
//!
//! **Not here:** their actions (`mover_process`, `router`, `session`, `scatter`).

use model::position::Position;

use crate::identity::{MoveSide, MoveTerm};
use crate::move_row::MoveRow;
use crate::observation::{MoveProgress, ShardObservation};
use crate::request::MoveRequest;

use super::database::{KEYS, Row, Rows, STAYING_KEY};

/// Rows that the target must have after a round that verifies.
pub(super) type Expected = Option<Box<[Option<Row>; KEYS]>>;

/// Next action of a mover.
pub(super) enum Errand {
    Look,
    Read { from: MoveSide, receiver: Option<Box<MoveRow>>, verifies: bool },
    Send { side: MoveSide, request: Box<MoveRequest>, rows: Rows, expected: Expected },
    Publish { expected: (u32, u64), side: MoveSide, floor: Position },
}

/// Mover between two actions.
pub(super) struct MoverProcess {
    pub(super) term: MoveTerm,
    /// Timeline of the catalog in which the mover got its lock.
    pub(super) timeline: u32,
    pub(super) is_stopped: bool,
    pub(super) progress: MoveProgress,
    pub(super) seen: [Option<ShardObservation>; 2],
    /// Number of rows of the move that shards had created when the mover began to read them.
    pub(super) rows_made: u64,
    pub(super) errand: Errand,
}

impl MoverProcess {
    pub(super) fn new(term: MoveTerm, timeline: u32) -> Self {
        Self {
            term,
            timeline,
            is_stopped: false,
            progress: MoveProgress::default(),
            seen: [None, None],
            rows_made: 0,
            errand: Errand::Look,
        }
    }

    pub(super) fn look_again(&mut self) {
        self.seen = [None, None];
        self.errand = Errand::Look;
    }
}

/// Router: the owner of the slots as the catalog named it to this router, and a signpost that it
/// follows until the catalog names the owner.
pub(super) struct Router {
    pub(super) epoch: u64,
    pub(super) owner: MoveSide,
    pub(super) floor: Position,
    pub(super) signpost: Option<(MoveSide, Position)>,
    /// Generation of each shard in the last response of its primary.
    pub(super) generation: [u64; 2],
}

impl Router {
    pub(super) fn new() -> Self {
        let floor = Position::default();
        Self { epoch: 1, owner: MoveSide::Origin, floor, signpost: None, generation: [0; 2] }
    }

    /// Returns the shard to query for a key, and the position that a node must have passed.
    pub(super) fn route(&self, key: usize) -> (MoveSide, Position) {
        if key == STAYING_KEY {
            return (MoveSide::Origin, Position::default());
        }
        self.signpost.unwrap_or((self.owner, self.floor))
    }
}

/// Response of a replica whose generation has not been read yet.
#[derive(Clone, Copy)]
pub(super) struct UncheckedAnswer {
    pub(super) router: usize,
    pub(super) node: (MoveSide, usize),
    pub(super) key: usize,
    pub(super) writes: u64,
}

/// Client with a token, whose reads must never lack a write that an earlier one has shown.
#[derive(Default)]
pub(super) struct Session {
    /// Position of each shard that reads must not be older than.
    pub(super) token: [Position; 2],
    pub(super) epoch: u64,
    /// Writes of each key that the session has seen.
    pub(super) seen: [u64; KEYS],
    pub(super) unchecked: Option<UncheckedAnswer>,
}

impl Session {
    /// Adds a position of a shard to the token.
    pub(super) fn pass(&mut self, side: MoveSide, position: Position) {
        raise(&mut self.token[side.index()], position);
    }
}

/// Raises a position of a token, unless it is later.
pub(super) fn raise(held: &mut Position, position: Position) {
    let rank = |position: Position| (position.timeline, position.sequence);
    if rank(position) > rank(*held) {
        *held = position;
    }
}

/// Response of a shard to a scatter read.
#[derive(Clone)]
pub(super) struct ScanAnswer {
    pub(super) keys: Vec<usize>,
    /// True if the shard owned the slots of the move.
    pub(super) owns: bool,
}

/// Scatter read, with the responses so far.
#[derive(Default)]
pub(super) struct Scatter {
    pub(super) answers: [Option<ScanAnswer>; 2],
}
