//! Parties of the simulated world: the state of each mover, each router, the session and the
//! scatter read, between two actions.
//!
//! **Not here:** their actions (`mover_process`, `router`, `session`, `scatter`).

use model::position::Position;

use crate::identity::{MoveSide, MoveTerm};
use crate::move_row::MoveRow;
use crate::observation::{MoveProgress, ShardObservation};
use crate::request::MoveRequest;

use super::database::{KEYS, Row, Rows, STAYING_KEY};

/// Rows that the target must have after a round that verifies the copy; `None` for other rounds.
pub(super) type Expected = Option<Box<[Option<Row>; KEYS]>>;

/// Next action of a mover.
pub(super) enum Errand {
    Look,
    Read { from: MoveSide, receiver: Option<Box<MoveRow>>, verifies: bool },
    Send { side: MoveSide, request: Box<MoveRequest>, rows: Rows, expected: Expected },
    Publish { expected: (u32, u64), side: MoveSide, floor: Position },
}

/// State of a mover between two actions.
pub(super) struct MoverProcess {
    pub(super) term: MoveTerm,
    /// Timeline of the catalog at the time when the mover took its lock.
    pub(super) timeline: u32,
    pub(super) is_stopped: bool,
    pub(super) progress: MoveProgress,
    pub(super) seen: [Option<ShardObservation>; 2],
    /// Number of records that the shards had created when the mover began to read the shards.
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

/// State of a router: the owner of the slots when the router last read the catalog, and a signpost
/// (a shard's reference to the new owner), which the router follows until it reads the catalog
/// again.
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

/// Client with a token. None of its reads may lack a write that an earlier read has shown.
#[derive(Default)]
pub(super) struct Session {
    /// Position that a node of each shard must have reached before the session may read it.
    pub(super) token: [Position; 2],
    pub(super) epoch: u64,
    /// Set of the writes that the session has seen of each key, as bits.
    pub(super) seen: [u64; KEYS],
    pub(super) unchecked: Option<UncheckedAnswer>,
}

impl Session {
    /// Adds a position of a shard to the token.
    pub(super) fn pass(&mut self, side: MoveSide, position: Position) {
        raise(&mut self.token[side.index()], position);
    }
}

/// Raises a position of a token to another one, unless it is later already.
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

/// Scatter read, with the responses that it has received so far.
#[derive(Default)]
pub(super) struct Scatter {
    pub(super) answers: [Option<ScanAnswer>; 2],
}
