//! Simulated world: both shards, the catalog, movers, routers and clients, and the requests in
//! transit.

use crate::identity::{MoveId, MoveSide, MoveTerm};
use crate::mark::Mark;
use crate::observation::{MoveGoal, MovePlan};
use crate::refusal::MoveRefusal;
use crate::request::MoveRequest;
use crate::request_context::{MoveEffect, RequestContext};
use crate::rules::MoveRules;
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;

use model::keyspace::Slot;
use model::position::Position;
use model::topology::ShardNumber;

use super::coverage::{Coverage, Occurrence};
use super::database::{Database, KEYS, Row, Rows, STAYING_KEY, slot_of};
use super::parties::{MoverProcess, Router, Scatter, Session};
use super::random::Random;
use super::reader_rules::ReaderRules;
use super::scenario::Scenario;
use super::shard::Shard;

pub(super) const MOVE: MoveId = MoveId(1);

/// Numbers of replicas from which the number of each shard is chosen at random.
const REPLICAS: [usize; 10] = [0, 1, 1, 1, 2, 2, 2, 3, 3, 3];

/// Fault that a check has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    TwoOwners,
    NoOwner,
    LostWrite,
    CopyDiffers,
    /// A round has removed writes of a shard that owns the slots.
    OwnerOverwritten,
    VersionBack,
    TokenBack,
    ScatteredTwice,
    ScatterLost,
    EndedTooEarly,
    LeftBehind,
    NeverEnds,
    /// A simulated failover has lost a confirmed write, which the simulation must prevent.
    ConfirmedLost,
}

/// State of the catalog.
#[derive(Clone, Copy)]
pub(super) struct Catalog {
    pub(super) epoch: u64,
    pub(super) owner: MoveSide,
    pub(super) floor: Position,
    pub(super) goal: MoveGoal,
    pub(super) is_paused: bool,
    pub(super) term: MoveTerm,
    pub(super) has_ended: bool,
}

/// Write of a client.
#[derive(Clone, Copy)]
pub(super) struct Write {
    pub(super) key: usize,
    pub(super) side: MoveSide,
    /// Position of the commit.
    pub(super) committed: Option<Position>,
    pub(super) is_confirmed: bool,
    /// Router through which the session sent the write; `None` for a write of another client.
    pub(super) router: Option<usize>,
}

/// Message that arrives later.
pub(super) enum Late {
    Request { side: MoveSide, node: usize, request: Box<MoveRequest>, rows: Rows },
    Publish { expected: (u32, u64), side: MoveSide, floor: Position },
}

/// Response to a request.
pub(super) enum Answer {
    Done(MoveEffect),
    Refused(MoveRefusal),
    /// The node accepts no writes, or the fence lock was not free.
    Unavailable,
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) scenario: Scenario,
    pub(super) rules: MoveRules,
    pub(super) reader_rules: ReaderRules,
    pub(super) plan: MovePlan,
    pub(super) shards: [Shard; 2],
    pub(super) catalog: Vec<Catalog>,
    pub(super) catalog_timeline: u32,
    pub(super) movers: Vec<MoverProcess>,
    pub(super) routers: [Router; 2],
    pub(super) session: Session,
    pub(super) scatter: Scatter,
    pub(super) writes: Vec<Write>,
    /// Set of the durable writes of each key, as bits.
    pub(super) durable: [u64; KEYS],
    /// Set of the writes that failovers have lost, as bits.
    pub(super) lost: u64,
    pub(super) late: Vec<Late>,
    pub(super) now: u64,
    /// True if changes are numbered in the order of their commits, as in SQLite files.
    pub(super) is_ordered: bool,
    pub(super) must_copy_again: bool,
    /// Number of records of the move that shards have created.
    pub(super) rows_made: u64,
    pub(super) is_keeping: bool,
    pub(super) violation: Option<Violation>,
    pub(super) coverage: Coverage,
    pub(super) is_printed: bool,
}

impl World {
    pub(super) fn new(seed: u64, scenario: Scenario) -> Self {
        let mut random = Random::new(seed);
        let count = 1 + random.below(3);
        let slots: Vec<Slot> = (0..count * 2).step_by(2).map(slot_of).collect();
        let shards = [ShardNumber(3), ShardNumber(5)];
        let plan = MovePlan { id: MOVE, slots: slots.into(), shards };
        let replicas = [0; 2].map(|_: usize| REPLICAS[random.below(REPLICAS.len())]);
        let mut coverage = Coverage::default();
        coverage.note_if(replicas.contains(&0), Occurrence::NoReplicas);
        let origin = Shard::new(origin(&plan), replicas[0]);
        let destination = Shard::new(empty(), replicas[1]);
        let is_ordered = random.chance(400);
        let first = Catalog {
            epoch: 1,
            owner: MoveSide::Origin,
            floor: Position::default(),
            goal: MoveGoal::Forward,
            is_paused: false,
            term: MoveTerm { number: 1, mover: 0 },
            has_ended: false,
        };
        Self {
            random,
            scenario,
            rules: scenario.rules,
            reader_rules: scenario.reader_rules,
            plan,
            shards: [origin, destination],
            catalog: vec![first],
            catalog_timeline: 1,
            movers: vec![MoverProcess::new(MoveTerm { number: 1, mover: 0 }, 1)],
            routers: [Router::new(), Router::new()],
            session: Session::default(),
            scatter: Scatter::default(),
            writes: Vec::new(),
            durable: [0; KEYS],
            lost: 0,
            late: Vec::new(),
            now: 100_000_000,
            is_ordered,
            must_copy_again: false,
            rows_made: 0,
            is_keeping: false,
            violation: None,
            coverage,
            is_printed: false,
        }
    }

    pub(super) fn shard(&self, side: MoveSide) -> &Shard {
        &self.shards[side.index()]
    }

    pub(super) fn shard_mut(&mut self, side: MoveSide) -> &mut Shard {
        &mut self.shards[side.index()]
    }

    /// Number of keys in slots of the move.
    pub(super) fn moving_keys(&self) -> usize {
        self.plan.slots.len() * 2
    }

    pub(super) fn catalog(&self) -> Catalog {
        self.catalog[self.catalog.len() - 1]
    }

    /// Records a fault, unless one was found before.
    pub(super) fn fail(&mut self, violation: Violation) {
        self.note(|| format!("*** {violation:?}"));
        self.violation.get_or_insert(violation);
    }

    /// Prints an event, if the seed is replayed.
    pub(super) fn note(&self, event: impl FnOnce() -> String) {
        if self.is_printed {
            eprintln!("{}", event());
        }
    }

    pub(super) fn clock(&self, side: MoveSide, node: usize) -> u64 {
        self.now.saturating_add_signed(self.shard(side).nodes[node].clock)
    }

    /// Runs a request on a node.
    pub(super) fn execute(
        &mut self,
        (side, node): (MoveSide, usize),
        request: &MoveRequest,
        rows: &Rows,
    ) -> Answer {
        let now = self.clock(side, node);
        let (rules, slots) = (self.rules, self.plan.slots.clone());
        let shard = self.shard_mut(side);
        let is_locked = node == shard.primary && !shard.running.is_empty();
        if !shard.accepts_writes(node) || (is_locked && request.takes_fence_lock()) {
            return Answer::Unavailable;
        }
        let before = shard.nodes[node].database().clone();
        let beyond = |slots: &[Slot], mark: &Mark| before.has_change_beyond(slots, mark);
        let position = shard.nodes[node].position();
        let context = RequestContext { position, now, has_change_beyond: &beyond, rules };
        let mut database = Database::clone(&before);
        let answer = match request.apply(&mut database.metadata, &context) {
            Ok(MoveEffect::Changed(work)) => {
                database.work(&work, &slots, rows);
                let is_deposed = node != shard.primary;
                shard.commit(node, database);
                self.note_change((side, node), request, &before, is_deposed);
                Answer::Done(MoveEffect::Changed(work))
            }
            Ok(MoveEffect::Repeated) => Answer::Done(MoveEffect::Repeated),
            Err(refusal) => Answer::Refused(refusal),
        };
        let makes_row = matches!(request, MoveRequest::Prepare(_) | MoveRequest::Trace(_));
        if let (true, Answer::Done(MoveEffect::Changed(_))) = (makes_row, &answer) {
            self.rows_made += 1;
        }
        self.note(|| {
            let said = match &answer {
                Answer::Done(effect) => format!("{effect:?}"),
                Answer::Refused(refusal) => format!("refused: {refusal}"),
                Answer::Unavailable => String::new(),
            };
            format!("{side:?} node {node}: {request:?} {rows:?} -> {said}")
        });
        answer
    }

    /// Records the events of a request that has changed a node, and checks that no write of an
    /// owner was removed.
    fn note_change(
        &mut self,
        (side, node): (MoveSide, usize),
        request: &MoveRequest,
        before: &Database,
        is_deposed: bool,
    ) {
        let after = self.shard(side).nodes[node].database().clone();
        self.coverage.note_change(request, before.metadata.row(MOVE));
        let is_commit = matches!(request, MoveRequest::Commit(..));
        self.coverage.note_if(is_commit && is_deposed, Occurrence::CommitOfDeposed);
        let owned = |key: &usize| before.metadata.owns(slot_of(*key));
        let writes = |row: Option<Row>| row.map_or(0, |row| row.writes);
        let is_lost = |key: usize| writes(before.rows[key]) & !writes(after.rows[key]) != 0;
        if matches!(request, MoveRequest::Store(..)) && (0..KEYS).filter(owned).any(is_lost) {
            self.fail(Violation::OwnerOverwritten);
        }
    }

    /// Publishes the owner in the next epoch, if the catalog has not changed since it was read.
    pub(super) fn publish(&mut self, expected: (u32, u64), side: MoveSide, floor: Position) {
        let last = self.catalog();
        if expected == (self.catalog_timeline, last.epoch) {
            self.note(|| format!("the catalog names {side:?} in epoch {}", last.epoch + 1));
            self.catalog.push(Catalog { epoch: last.epoch + 1, owner: side, floor, ..last });
        }
    }
}

pub(super) fn empty() -> Database {
    let metadata = ShardMetadata { version: 10, ..ShardMetadata::default() };
    Database { metadata, rows: [None; KEYS], traces: Vec::new(), next_change: 1 }
}

/// Returns the database of the origin: it owns every slot, and each has rows.
fn origin(plan: &MovePlan) -> Database {
    let mut database = empty();
    for key in (0..plan.slots.len() * 2).chain([STAYING_KEY]) {
        database.metadata.slots.insert(slot_of(key), SlotState::Owned);
        database.metadata.version += 1;
        let version = database.metadata.version;
        database.rows[key] = Some(Row { writes: 0, is_present: true, version });
    }
    database
}
