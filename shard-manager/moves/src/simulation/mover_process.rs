//! Simulated mover: reads both shards one after the other, decides, and acts some time later. Its
//! requests may arrive late, the responses to them may get lost, and other movers may act at the
//! same time.

use std::sync::Arc;

use crate::applied::AppliedRows;
use crate::identity::{MoveSide, MoveTerm, MoveTicket};
use crate::mark::Mark;
use crate::move_row::{CopyCursor, MoveRow};
use crate::next_step::next;
use crate::next_step::without_kept_source::{OwnerObservation, next_without_kept_source};
use crate::observation::{MoveObservation, MoveProgress, ShardObservation, SlotsState, state_of};
use crate::refusal::MoveRefusal;
use crate::request::MoveRequest;
use crate::request_context::MoveEffect;
use crate::round::CopyRound;
use crate::rules::MoveRule;
use crate::step::{MoveStep, WaitReason};

use super::checks;
use super::coverage::Occurrence;
use super::database::{Database, KEYS, Row, Rows};
use super::parties::{Errand, Expected, MoverProcess};
use super::world::{Answer, Catalog, Late, MOVE, Violation, World};

/// Probability, in thousandths, that the second side cannot be read after the first one was.
const ONE_SIDE_LOST: u32 = 50;

/// Starts a mover whose term follows the highest one that it finds in the catalog and on the
/// shards.
pub(super) fn start(world: &mut World) {
    let mut term = world.catalog().term;
    for side in [MoveSide::Origin, MoveSide::Destination] {
        let deposed = world.scenario.deposed;
        let node = world.shards[side.index()].believed_primary(&mut world.random, deposed);
        let row = world.shard(side).nodes[node].database().metadata.row(MOVE);
        term = term.max(row.map_or(term, |row| row.term));
    }
    let term = term.next(world.movers.len() as u64);
    let last = world.catalog();
    world.catalog.push(Catalog { term, ..last });
    world.note(|| format!("a mover starts with term {}", term.number));
    let is_twice = world.movers.iter().any(|mover| mover.term.number == term.number);
    world.coverage.note_if(is_twice, Occurrence::TermGivenTwice);
    world.movers.push(MoverProcess::new(term, world.catalog_timeline));
}

/// Lets a mover take its next action.
pub(super) fn act(world: &mut World, index: usize) {
    let mut mover =
        std::mem::replace(&mut world.movers[index], MoverProcess::new(MoveTerm::default(), 0));
    match std::mem::replace(&mut mover.errand, Errand::Look) {
        Errand::Look => look_or_decide(world, &mut mover),
        Errand::Read { from, receiver, verifies } => {
            if let Some(receiver) = receiver {
                read(world, &mut mover, (from, &receiver), verifies);
            }
        }
        Errand::Send { side, request, rows, expected } => {
            send(world, &mut mover, (side, request, rows), expected);
        }
        Errand::Publish { expected, side, floor } => {
            if world.random.chance(world.scenario.late) {
                world.late.push(Late::Publish { expected, side, floor });
            } else {
                world.publish(expected, side, floor);
            }
            mover.look_again();
        }
    }
    world.movers[index] = mover;
}

fn look_or_decide(world: &mut World, mover: &mut MoverProcess) {
    let unseen: Vec<MoveSide> = [MoveSide::Origin, MoveSide::Destination]
        .into_iter()
        .filter(|side| mover.seen[side.index()].is_none())
        .collect();
    if unseen.is_empty() {
        decide(world, mover);
    } else if let ([lost], true) = (&*unseen, world.random.chance(ONE_SIDE_LOST)) {
        decide_without(world, mover, *lost);
    } else {
        let side = unseen[world.random.below(unseen.len())];
        if unseen.len() == 2 {
            mover.rows_made = world.rows_made;
        }
        mover.seen[side.index()] = Some(look(world, side));
    }
}

/// Decides without a side that cannot be read. The mover then looks at both sides again.
fn decide_without(world: &mut World, mover: &mut MoverProcess, lost: MoveSide) {
    let side = lost.other();
    let Some(owner) = mover.seen[side.index()].take() else { return };
    let catalog = world.catalog();
    let request = next_without_kept_source(&OwnerObservation {
        id: MOVE,
        goal: catalog.goal,
        term: mover.term,
        side,
        owner: &owner,
        is_published: catalog.owner == side,
    });
    mover.look_again();
    let Some(request) = request else { return };
    world.note(|| format!("mover {} without {lost:?}: {request:?}", mover.term.number));
    mover.progress.note_sending(&request);
    let request = Box::new(request);
    mover.errand = Errand::Send { side, request, rows: Rows::new(), expected: None };
}

fn look(world: &mut World, side: MoveSide) -> ShardObservation {
    let deposed = world.scenario.deposed;
    let shard = &world.shards[side.index()];
    let node = shard.believed_primary(&mut world.random, deposed);
    let (database, position) = (shard.nodes[node].database(), shard.nodes[node].position());
    let has_rows = database.rows[..world.moving_keys()].iter().any(Option::is_some);
    ShardObservation {
        position,
        row: database.metadata.row(MOVE).filter(|row| !checks::is_lifted(row)).cloned(),
        slots: state_of(&database.metadata, &world.plan.slots),
        is_confirmed: shard.is_confirmed(node, position.sequence),
        has_majority: shard.has_majority(node),
        has_rows,
    }
}

fn decide(world: &mut World, mover: &mut MoverProcess) {
    let [Some(origin), Some(destination)] = mover.seen.each_ref().map(Option::as_ref) else {
        return;
    };
    let catalog = world.catalog();
    let mut seen = MoveObservation {
        plan: &world.plan,
        goal: catalog.goal,
        is_paused: catalog.is_paused,
        term: mover.term,
        shards: [origin, destination],
        is_behind: false,
        must_copy_again: world.must_copy_again,
        published: catalog.owner,
        progress: &mover.progress,
        rules: world.rules,
    };
    seen.is_behind = is_behind(world, &seen);
    let step = next(&seen);
    let floors = [origin.position, destination.position];
    let mut rows = [origin, destination].map(|seen| seen.row.clone().map(Box::new));
    world.note(|| format!("mover {}: {step:?}", mover.term.number));
    if catalog.has_ended && !matches!(step, MoveStep::End(_) | MoveStep::AwaitConfirmation(_)) {
        world.catalog.push(Catalog { has_ended: false, ..catalog });
    }
    mover.look_again();
    match step {
        MoveStep::Send(side, request) => {
            let is_again = matches!(*request, MoveRequest::CopyAgain(_));
            world.must_copy_again &= !is_again;
            mover.progress.note_sending(&request);
            mover.errand = Errand::Send { side, request, rows: Rows::new(), expected: None };
        }
        MoveStep::CopyRound { from } => {
            let receiver = rows[from.other().index()].take();
            mover.errand = Errand::Read { from, receiver, verifies: false };
        }
        MoveStep::Verify { from } => {
            let receiver = rows[from.other().index()].take();
            mover.errand = Errand::Read { from, receiver, verifies: true };
        }
        MoveStep::Publish(side) => {
            let expected = (world.catalog_timeline, catalog.epoch);
            mover.errand = Errand::Publish { expected, side, floor: floors[side.index()] };
        }
        MoveStep::NextTerm => take_next_term(world, mover),
        MoveStep::Rest(WaitReason::Superseded) => mover.is_stopped = true,
        MoveStep::Rest(WaitReason::Keeping) => world.is_keeping = true,
        MoveStep::End(_) => {
            let has_lock = (mover.term, mover.timeline) == (catalog.term, world.catalog_timeline);
            mover.is_stopped |= !has_lock;
            if has_lock && !catalog.has_ended {
                world.catalog.push(Catalog { has_ended: true, ..catalog });
                checks::ended(world, mover.rows_made);
            }
        }
        MoveStep::AwaitConfirmation(side) => {
            let shard = world.shard(side);
            let is_one = shard.nodes.len() == 4 && shard.flushed(floors[side.index()]) == 1;
            world.coverage.note_if(is_one, Occurrence::WaitForSecondOfThree);
        }
        MoveStep::Rest(_) => {}
    }
}

/// Returns true if the side that receives rows lacks changes of the other side.
fn is_behind(world: &World, seen: &MoveObservation<'_>) -> bool {
    let leg = seen.leg();
    let has_moved = seen.shard(leg.source()).slots == SlotsState::Moved;
    let to = if has_moved { leg.source() } else { leg.target() };
    let Some(row) = &seen.shard(to).row else { return false };
    let shard = world.shard(to.other());
    let node = &shard.nodes[shard.primary];
    let Some(other) = node.database().metadata.row(MOVE) else { return false };
    let is_foreign = row.applied.feed != other.feed(node.position().timeline);
    is_foreign || node.database().has_change_beyond(&world.plan.slots, &row.applied.mark)
}

/// Reads a round in one snapshot of a node.
fn read(
    world: &mut World,
    mover: &mut MoverProcess,
    (from, receiver): (MoveSide, &MoveRow),
    verifies: bool,
) {
    let deposed = world.scenario.deposed;
    let node = world.shards[from.index()].believed_primary(&mut world.random, deposed);
    let database = world.shard(from).nodes[node].database().clone();
    let Some(source) = database.metadata.row(MOVE) else { return };
    let feed = source.feed(world.shard(from).nodes[node].position().timeline);
    let (base, rules) = (receiver.applied.clone(), world.rules);
    let is_comparison = base.feed != feed && !base.is_empty() && rules.demand(MoveRule::OwnFeed);
    let (begin, end) = chunk(world, receiver);
    let keys: Vec<usize> = if is_comparison {
        (0..end).collect()
    } else {
        changed(&database, &base, begin).chain(begin..end).collect()
    };
    let rows: Rows = keys.iter().map(|key| (*key, database.rows[*key])).collect();
    let cursor = if end == world.moving_keys() {
        CopyCursor::Whole
    } else {
        CopyCursor::Through(Arc::from(end.to_string()))
    };
    let next = base.after_round(feed, mark(world, (from, node), &database));
    let base_cursor = receiver.cursor.clone();
    let round = CopyRound { base, base_cursor, next, cursor, is_comparison };
    let ticket = MoveTicket { id: MOVE, leg: receiver.leg, term: mover.term };
    let request = Box::new(MoveRequest::Store(ticket, round));
    let expected = verifies.then(|| Box::new(database.rows));
    mover.errand = Errand::Send { side: from.other(), request, rows, expected };
}

/// Returns the range of keys of the next chunk. It is empty if the copy is complete.
fn chunk(world: &mut World, receiver: &MoveRow) -> (usize, usize) {
    let all = world.moving_keys();
    let begin = match &receiver.cursor {
        CopyCursor::Empty => 0,
        CopyCursor::Through(last) => last.parse().unwrap(),
        CopyCursor::Whole => all,
    };
    (begin, all.min(begin + 1 + world.random.below(3)))
}

/// Returns the keys that have changed since a round, among those that were copied already.
fn changed<'a>(
    database: &'a Database,
    base: &'a AppliedRows,
    copied: usize,
) -> impl Iterator<Item = usize> + 'a {
    let is_new = move |key: &usize| {
        let mut traces = database.traces.iter().filter(|trace| trace.key == *key);
        traces.any(|trace| !base.mark.covers(trace.change))
    };
    (0..copied).filter(is_new)
}

fn mark(world: &World, (side, node): (MoveSide, usize), database: &Database) -> Mark {
    let shard = world.shard(side);
    if world.is_ordered {
        return Mark::Entry(database.next_change - 1);
    }
    if node == shard.primary {
        let running = shard.running.iter().map(|write| write.change).collect();
        return Mark::Snapshot { end: shard.next_change.max(database.next_change), running };
    }
    Mark::Snapshot { end: database.next_change, running: Arc::default() }
}

/// Sends a request. It arrives at once, with or without its response being lost, or it will arrive
/// late.
fn send(
    world: &mut World,
    mover: &mut MoverProcess,
    (side, request, rows): (MoveSide, Box<MoveRequest>, Rows),
    expected: Expected,
) {
    mover.look_again();
    let deposed = world.scenario.deposed;
    let node = world.shards[side.index()].believed_primary(&mut world.random, deposed);
    if world.random.chance(world.scenario.late) {
        world.note(|| format!("mover {}: {request:?} will be late", mover.term.number));
        world.late.push(Late::Request { side, node, request, rows });
        return;
    }
    let answer = world.execute((side, node), &request, &rows);
    if let (Some(rows), Answer::Done(MoveEffect::Changed(_))) = (&expected, &answer) {
        verify(world, (side, node), rows);
    }
    if !world.random.chance(world.scenario.lost_answers) {
        learn(mover, side, (&request, expected.is_some()), &answer);
    }
}

/// Gives a mover its next term, in the catalog too, unless another mover has taken over there.
fn take_next_term(world: &mut World, mover: &mut MoverProcess) {
    let last = world.catalog();
    let before = mover.term;
    mover.term = before.next(before.mover);
    mover.progress = MoveProgress::default();
    if last.term == before && mover.timeline == world.catalog_timeline {
        world.catalog.push(Catalog { term: mover.term, ..last });
    }
}

/// Compares the rows of a target with those that the source had. The rows of a deposed primary are
/// not compared: it may lack changes that its successor has received, and never receives them,
/// because they are no longer recorded.
fn verify(world: &mut World, (side, node): (MoveSide, usize), expected: &[Option<Row>; KEYS]) {
    let moving = world.moving_keys();
    let rows = &world.shard(side).nodes[node].database().rows;
    let is_primary = node == world.shard(side).primary;
    if is_primary && rows[..moving] != expected[..moving] {
        world.fail(Violation::CopyDiffers);
    }
}

fn learn(
    mover: &mut MoverProcess,
    side: MoveSide,
    (request, verifies): (&MoveRequest, bool),
    answer: &Answer,
) {
    if let Answer::Refused(MoveRefusal::Superseded { .. }) = answer {
        mover.is_stopped = true;
    }
    let is_done = matches!(answer, Answer::Done(_));
    let progress = &mut mover.progress;
    match request {
        MoveRequest::Raise { .. } if is_done => progress.raised[side.index()] = true,
        MoveRequest::Fence(_) => progress.is_fenced = is_done,
        MoveRequest::Commit(..) if !is_done => progress.note_fence_end(),
        MoveRequest::Lift(_) if is_done => progress.note_fence_end(),
        MoveRequest::Trim(_, applied) => progress.trimmed = Some(applied.round),
        MoveRequest::Store(_, round) if is_done => {
            progress.short_rounds = progress.short_rounds.saturating_add(1);
            if verifies {
                progress.verified = Some((round.next.feed, round.next.pass));
            }
        }
        MoveRequest::Prepare(_)
        | MoveRequest::Trace(_)
        | MoveRequest::Raise { .. }
        | MoveRequest::Store(..)
        | MoveRequest::CopyAgain(_)
        | MoveRequest::Commit(..)
        | MoveRequest::Activate(_)
        | MoveRequest::Reverse(_)
        | MoveRequest::Lift(_)
        | MoveRequest::Discard(_)
        | MoveRequest::BeginCleaning(_)
        | MoveRequest::Clean(_)
        | MoveRequest::Forget(_) => {}
    }
}
