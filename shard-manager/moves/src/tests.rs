//! Tests of whole moves between two shards without faults, and of single requests.

use std::sync::Arc;

use model::keyspace::Slot;
use model::position::Position;
use model::topology::ShardNumber;

use crate::applied::AppliedRows;
use crate::beginning::NewMoveRow;
use crate::cutover::SlotActivation;
use crate::identity::{MoveId, MoveLeg, MoveSide, MoveTerm, MoveTicket};
use crate::limits::SLOTS_MAX;
use crate::mark::Mark;
use crate::move_row::CopyCursor;
use crate::next_step::next;
use crate::observation::{
    MoveGoal, MoveObservation, MovePlan, MoveProgress, ShardObservation, SlotsState, state_of,
};
use crate::refusal::MoveRefusal;
use crate::request::MoveRequest;
use crate::request_context::{MoveEffect, RequestContext, RowWork};
use crate::round::CopyRound;
use crate::rules::{MoveRule, MoveRules};
use crate::shard_metadata::ShardMetadata;
use crate::slot_state::SlotState;
use crate::step::{MoveStep, WaitReason};

const POSITION: Position = Position { timeline: 1, sequence: 1 };
const CONTEXT: RequestContext<'_> = RequestContext {
    position: POSITION,
    now: 0,
    has_change_beyond: &|_, _| false,
    rules: MoveRules::ALL,
};

fn term(number: u64) -> MoveTerm {
    MoveTerm { number, mover: 0 }
}

fn slots(numbers: std::ops::Range<u16>) -> Arc<[Slot]> {
    numbers.filter_map(Slot::new).collect()
}

fn plan() -> MovePlan {
    let shards = [ShardNumber(0), ShardNumber(1)];
    MovePlan { id: MoveId(7), slots: slots(0..3), shards }
}

fn new_row(slots: Arc<[Slot]>, id: u128) -> NewMoveRow {
    let ticket = MoveTicket { id: MoveId(id), leg: MoveLeg::FIRST, term: term(1) };
    NewMoveRow { ticket, other: ShardNumber(1), slots }
}

fn owner() -> ShardMetadata {
    let mut shard = ShardMetadata::default();
    for slot in slots(0..3).iter() {
        shard.slots.insert(*slot, SlotState::Owned);
    }
    shard
}

/// Two shards on which everything is confirmed at once, unless a test clears `is_confirmed`.
struct Pair {
    shards: [ShardMetadata; 2],
    rows: [bool; 2],
    published: MoveSide,
    progress: MoveProgress,
    term: MoveTerm,
    is_confirmed: bool,
    must_copy_again: bool,
}

impl Pair {
    fn new() -> Self {
        Self {
            shards: [owner(), ShardMetadata::default()],
            rows: [true, false],
            published: MoveSide::Origin,
            progress: MoveProgress::default(),
            term: term(1),
            is_confirmed: true,
            must_copy_again: false,
        }
    }

    fn step(&self, goal: MoveGoal) -> MoveStep {
        self.step_by(goal, MoveRules::ALL)
    }

    fn step_by(&self, goal: MoveGoal, rules: MoveRules) -> MoveStep {
        let plan = plan();
        let seen = [0, 1].map(|side: usize| ShardObservation {
            position: POSITION,
            row: self.shards[side].row(plan.id).cloned(),
            slots: state_of(&self.shards[side], &plan.slots),
            is_confirmed: self.is_confirmed,
            has_majority: true,
            has_rows: self.rows[side],
        });
        next(&MoveObservation {
            plan: &plan,
            goal,
            is_paused: false,
            term: self.term,
            shards: [&seen[0], &seen[1]],
            is_behind: false,
            must_copy_again: self.must_copy_again,
            published: self.published,
            progress: &self.progress,
            rules,
        })
    }

    fn send(&mut self, side: MoveSide, request: &MoveRequest) {
        let effect = request.apply(&mut self.shards[side.index()], &CONTEXT).unwrap();
        let again = request.apply(&mut self.shards[side.index()].clone(), &CONTEXT);
        assert!(again.is_ok(), "{request:?} is not repeatable: {again:?}");
        if let MoveEffect::Changed(RowWork::DeleteRows | RowWork::DeleteBatch(_)) = effect {
            self.rows[side.index()] = false;
        }
        if let MoveRequest::Fence(_) = request {
            self.progress.is_fenced = true;
        }
        if let MoveRequest::Trim(_, applied) = request {
            self.progress.trimmed = Some(applied.round);
        }
    }

    fn copy(&mut self, from: MoveSide) {
        let source = self.shards[from.index()].row(MoveId(7)).unwrap();
        let target = self.shards[from.other().index()].row(MoveId(7)).unwrap();
        let base = target.applied.clone();
        let round = CopyRound {
            next: base.after_round(source.feed(1), Mark::Entry(base.round)),
            base,
            base_cursor: target.cursor.clone(),
            cursor: CopyCursor::Whole,
            is_comparison: true,
        };
        let ticket = MoveTicket { id: target.id, leg: target.leg, term: target.term };
        self.send(from.other(), &MoveRequest::Store(ticket, round));
        self.rows[from.other().index()] = true;
        self.progress.short_rounds += 1;
    }

    /// Runs the move until it rests or ends.
    fn run(&mut self, goal: MoveGoal) -> MoveStep {
        for _ in 0..40 {
            match self.step(goal) {
                MoveStep::Send(side, request) => self.send(side, &request),
                MoveStep::CopyRound { from } => self.copy(from),
                MoveStep::Verify { from } => {
                    self.copy(from);
                    let row = self.shards[from.other().index()].row(MoveId(7)).unwrap();
                    self.progress.verified = Some((row.applied.feed, row.applied.pass));
                }
                MoveStep::Publish(side) => self.published = side,
                step @ (MoveStep::AwaitConfirmation(_)
                | MoveStep::NextTerm
                | MoveStep::Rest(_)
                | MoveStep::End(_)) => return step,
            }
        }
        panic!("the move does not rest");
    }

    fn states(&self) -> [SlotsState; 2] {
        [0, 1].map(|side: usize| state_of(&self.shards[side], &plan().slots))
    }
}

#[test]
fn a_move_goes_forward_is_kept_and_is_cleaned() {
    let mut pair = Pair::new();
    assert_eq!(pair.run(MoveGoal::Forward), MoveStep::Rest(WaitReason::Keeping));
    assert_eq!(pair.states(), [SlotsState::Moved, SlotsState::Owned]);
    assert_eq!(pair.run(MoveGoal::Settle), MoveStep::End(Some(MoveSide::Destination)));
    assert!(pair.shards.iter().all(|shard| shard.moves.is_empty()) && pair.rows == [false, true]);
}

#[test]
fn a_kept_move_goes_back_and_forward_again() {
    let mut pair = Pair::new();
    pair.run(MoveGoal::Forward);
    for (goal, side) in
        [(MoveGoal::Back, MoveSide::Origin), (MoveGoal::Forward, MoveSide::Destination)]
    {
        pair.progress = MoveProgress::default();
        assert_eq!(pair.run(goal), MoveStep::Rest(WaitReason::Keeping));
        assert_eq!(pair.published, side);
        assert!(pair.shards[side.index()].owns(plan().slots[0]));
    }
}

#[test]
fn changes_flow_back_while_replicas_of_the_owner_are_behind_and_nothing_else_goes_on() {
    let mut pair = Pair::new();
    pair.run(MoveGoal::Forward);
    pair.is_confirmed = false;
    assert_eq!(pair.step(MoveGoal::Forward), MoveStep::Rest(WaitReason::Keeping));
    let waits = MoveStep::AwaitConfirmation(MoveSide::Destination);
    for goal in [MoveGoal::Back, MoveGoal::Settle] {
        assert_eq!(pair.step(goal), waits, "{goal:?}");
    }
    pair.published = MoveSide::Origin;
    assert_eq!(pair.step(MoveGoal::Forward), waits, "before the publication");
}

#[test]
fn a_late_activation_meets_a_later_leg() {
    let mut pair = Pair::new();
    pair.run(MoveGoal::Forward);
    pair.progress = MoveProgress::default();
    pair.run(MoveGoal::Back);
    let MoveStep::Send(side, request) = pair.step(MoveGoal::Forward) else { panic!("no step") };
    pair.send(side, &request);
    assert_eq!(pair.states(), [SlotsState::Owned, SlotsState::Importing]);
    let (leg, signpost_min_position, begun) = (MoveLeg::FIRST, POSITION, POSITION);
    let late = SlotActivation { id: MoveId(7), leg, begun, version: 0, signpost_min_position };
    let late = MoveRequest::Activate(late);
    let refusal = late.apply(&mut pair.shards[1], &CONTEXT);
    assert_eq!(refusal, Err(MoveRefusal::OtherLeg { leg: MoveLeg(3) }));
    let rules = MoveRules::ALL.without(MoveRule::ActivationNamesLeg);
    late.apply(&mut pair.shards[1], &RequestContext { rules, ..CONTEXT }).unwrap();
    assert_eq!(pair.states(), [SlotsState::Owned; 2], "without the rule there are two owners");
}

/// Returns a pair whose next step is the commit, and that step.
fn before_the_commit() -> (Pair, MoveRequest) {
    let mut pair = Pair::new();
    for _ in 0..40 {
        match pair.step(MoveGoal::Forward) {
            MoveStep::Send(_, request) if matches!(*request, MoveRequest::Commit(..)) => {
                return (pair, *request);
            }
            MoveStep::Send(side, request) => pair.send(side, &request),
            MoveStep::CopyRound { from } | MoveStep::Verify { from } => {
                pair.copy(from);
                let row = pair.shards[from.other().index()].row(MoveId(7)).unwrap();
                pair.progress.verified = Some((row.applied.feed, row.applied.pass));
            }
            step @ (MoveStep::AwaitConfirmation(_)
            | MoveStep::NextTerm
            | MoveStep::Publish(_)
            | MoveStep::Rest(_)
            | MoveStep::End(_)) => panic!("{step:?}"),
        }
    }
    panic!("the move does not reach its commit");
}

#[test]
fn a_comparison_precedes_each_fence() {
    let (mut pair, _commit) = before_the_commit();
    for _ in 0..2 {
        // The fence runs out, or the commit is refused.
        pair.progress.note_fence_end();
        let mut comparisons = 0;
        for _ in 0..20 {
            match pair.step(MoveGoal::Forward) {
                MoveStep::Send(side, request) => {
                    pair.send(side, &request);
                    if matches!(*request, MoveRequest::Fence(_)) {
                        break;
                    }
                }
                MoveStep::CopyRound { from } => pair.copy(from),
                MoveStep::Verify { from } => {
                    pair.copy(from);
                    let row = pair.shards[from.other().index()].row(MoveId(7)).unwrap();
                    pair.progress.verified = Some((row.applied.feed, row.applied.pass));
                    comparisons += 1;
                }
                step @ (MoveStep::AwaitConfirmation(_)
                | MoveStep::NextTerm
                | MoveStep::Publish(_)
                | MoveStep::Rest(_)
                | MoveStep::End(_)) => panic!("{step:?}"),
            }
        }
        assert!(pair.progress.is_fenced, "no fence was begun");
        assert_eq!(comparisons, 1);
    }
}

#[test]
fn a_mover_that_has_sent_a_commit_copies_again_in_its_next_term() {
    let (mut pair, _) = before_the_commit();
    (pair.must_copy_again, pair.progress.sends_commit) = (true, true);
    assert_eq!(pair.step(MoveGoal::Forward), MoveStep::NextTerm);
    pair.progress.sends_commit = false;
    let MoveStep::Send(side, request) = pair.step(MoveGoal::Forward) else { panic!("no step") };
    assert!(side == MoveSide::Destination && matches!(*request, MoveRequest::CopyAgain(_)));
}

#[test]
fn a_failover_that_loses_a_term_lets_an_earlier_commit_through() {
    let (mut pair, commit) = before_the_commit();
    // Another mover raises its term on both shards. The replicas of the source lack it.
    let behind = pair.shards[0].clone();
    for side in [MoveSide::Origin, MoveSide::Destination] {
        pair.send(side, &MoveRequest::Raise { id: MoveId(7), term: term(2) });
    }
    pair.term = term(2);
    (pair.must_copy_again, pair.is_confirmed) = (true, false);
    pair.progress = MoveProgress::default();
    let step = pair.step(MoveGoal::Forward);
    assert_eq!(step, MoveStep::AwaitConfirmation(MoveSide::Origin));
    let refusal = commit.apply(&mut pair.shards[0].clone(), &CONTEXT);
    assert_eq!(refusal, Err(MoveRefusal::Superseded { term: term(2) }));

    let rules = MoveRules::ALL.without(MoveRule::TermConfirmed);
    let MoveStep::Send(side, request) = pair.step_by(MoveGoal::Forward, rules) else {
        panic!("no step")
    };
    pair.send(side, &request);
    pair.shards[0] = behind;
    pair.send(MoveSide::Origin, &commit);
    assert_eq!(pair.states(), [SlotsState::Moved, SlotsState::Importing]);
    assert!(!pair.rows[1], "without the rule the slots belong to an emptied target");
}

#[test]
fn a_move_that_is_given_up_leaves_nothing() {
    let mut pair = Pair::new();
    for _ in 0..6 {
        match pair.step(MoveGoal::Forward) {
            MoveStep::Send(side, request) => pair.send(side, &request),
            MoveStep::CopyRound { from } => pair.copy(from),
            step @ (MoveStep::Verify { .. }
            | MoveStep::AwaitConfirmation(_)
            | MoveStep::NextTerm
            | MoveStep::Publish(_)
            | MoveStep::Rest(_)
            | MoveStep::End(_)) => panic!("{step:?}"),
        }
    }
    assert_eq!(pair.run(MoveGoal::Back), MoveStep::End(Some(MoveSide::Origin)));
    assert_eq!(pair.shards[0].slots, owner().slots);
    assert!(pair.shards[1].slots.is_empty() && pair.rows == [true, false]);
}

#[test]
fn a_recording_that_is_too_long_ends_and_the_copy_begins_again() {
    let (mut pair, _) = before_the_commit();
    pair.progress.has_too_many_changes = true;
    let MoveStep::Send(side, request) = pair.step(MoveGoal::Forward) else { panic!("no step") };
    assert!(side == MoveSide::Origin && matches!(*request, MoveRequest::Lift(_)));
    pair.progress.note_sending(&request);
    pair.send(side, &request);
    assert!(pair.progress.has_too_many_changes, "the request may have been lost");
    assert_eq!(pair.shards[0].slots, owner().slots);
    let MoveStep::Send(side, request) = pair.step(MoveGoal::Forward) else { panic!("no step") };
    assert!(side == MoveSide::Origin && matches!(*request, MoveRequest::Trace(_)));
    pair.progress.note_sending(&request);
    assert!(!pair.progress.has_too_many_changes);
}

#[test]
fn a_copy_is_followed_and_compared_again_after_its_source_may_have_crashed() {
    let (mut pair, _) = before_the_commit();
    let MoveStep::Send(_, request) = pair.step(MoveGoal::Forward) else { panic!("no step") };
    assert!(matches!(*request, MoveRequest::Commit(..)));
    pair.progress.note_outage();
    let round = MoveStep::CopyRound { from: MoveSide::Origin };
    assert_eq!(pair.step(MoveGoal::Forward), round);
    assert_eq!(pair.progress.verified, None);
}

/// A destination could not be read while its move was cancelled, so only the origin has ended it.
#[test]
fn a_destination_that_comes_back_after_a_cancellation_without_it_discards_its_copy() {
    let (mut pair, commit) = before_the_commit();
    let ticket = MoveTicket { id: MoveId(7), leg: MoveLeg::FIRST, term: term(2) };
    pair.send(MoveSide::Origin, &MoveRequest::Raise { id: MoveId(7), term: term(2) });
    pair.send(MoveSide::Origin, &MoveRequest::Lift(ticket));
    let refusal = commit.apply(&mut pair.shards[0].clone(), &CONTEXT);
    assert_eq!(refusal, Err(MoveRefusal::UnknownMove), "a late commit");
    assert_eq!(pair.states(), [SlotsState::Owned, SlotsState::Importing]);
    (pair.term, pair.progress) = (term(3), MoveProgress::default());
    assert_eq!(pair.run(MoveGoal::Back), MoveStep::End(Some(MoveSide::Origin)));
    assert_eq!(pair.shards[0].slots, owner().slots);
    assert!(pair.shards[1].slots.is_empty() && pair.rows == [true, false]);
}

#[test]
fn slots_are_in_one_move_and_within_bounds() {
    let mut shard = owner();
    let trace = |slots, id| MoveRequest::Trace(new_row(slots, id));
    trace(slots(0..2), 1).apply(&mut shard, &CONTEXT).unwrap();
    let refused = [
        (trace(slots(1..3), 2), MoveRefusal::SlotTaken),
        (trace(slots(2..4), 3), MoveRefusal::WrongState),
        (trace(slots(0..0), 4), MoveRefusal::OutOfBounds),
        (trace(slots(0..SLOTS_MAX as u16 + 1), 5), MoveRefusal::OutOfBounds),
        (MoveRequest::Prepare(new_row(slots(2..3), 6)), MoveRefusal::WrongState),
    ];
    for (request, reason) in refused {
        assert_eq!(request.apply(&mut shard, &CONTEXT), Err(reason));
    }
}

#[test]
fn a_commit_of_another_term_leg_or_state_is_refused() {
    let mut shard = owner();
    let new = new_row(slots(0..3), 1);
    MoveRequest::Trace(new.clone()).apply(&mut shard, &CONTEXT).unwrap();
    let ticket = new.ticket;
    let fence = |number, leg| {
        MoveRequest::Fence(MoveTicket { term: term(number), leg: MoveLeg(leg), ..ticket })
    };
    let mut refusal = |request: MoveRequest| request.apply(&mut shard, &CONTEXT).unwrap_err();
    assert_eq!(refusal(fence(0, 1)), MoveRefusal::Superseded { term: term(1) });
    assert_eq!(refusal(fence(2, 1)), MoveRefusal::TermNotRaised { term: term(1) });
    assert_eq!(refusal(fence(1, 2)), MoveRefusal::OtherLeg { leg: MoveLeg(1) });
    assert_eq!(refusal(MoveRequest::Discard(ticket)), MoveRefusal::WrongState);
    let trim = MoveRequest::Trim(ticket, AppliedRows::begin(1));
    assert_eq!(refusal(trim.clone()), MoveRefusal::OtherFeed);
    let lenient = RequestContext { rules: MoveRules::ALL.without(MoveRule::OwnFeed), ..CONTEXT };
    assert!(trim.apply(&mut shard, &lenient).is_ok(), "a rule that is taken away is not followed");
}

#[test]
fn a_round_that_timed_out_is_refused_by_the_owner() {
    let mut pair = Pair::new();
    pair.run(MoveGoal::Forward);
    let row = pair.shards[1].row(MoveId(7)).unwrap();
    let ticket = MoveTicket { id: row.id, leg: row.leg, term: row.term };
    let round = CopyRound {
        base: row.applied.clone(),
        base_cursor: row.cursor.clone(),
        next: row.applied.after_round(row.applied.feed, Mark::Entry(9)),
        cursor: CopyCursor::Whole,
        is_comparison: false,
    };
    let late = MoveRequest::Store(ticket, round);
    assert_eq!(late.apply(&mut pair.shards[1], &CONTEXT), Err(MoveRefusal::WrongState));
    let rules = MoveRules::ALL.without(MoveRule::RoundWhileImporting);
    let effect = late.apply(&mut pair.shards[1], &RequestContext { rules, ..CONTEXT });
    assert_eq!(effect, Ok(MoveEffect::Changed(RowWork::StoreRows)));
}

#[test]
fn a_late_row_of_an_earlier_leg_is_removed() {
    let mut pair = Pair::new();
    pair.run(MoveGoal::Forward);
    for goal in [MoveGoal::Back, MoveGoal::Forward] {
        pair.progress = MoveProgress::default();
        pair.run(goal);
    }
    // The destination owns the slots after three legs. The origin is cleaned, and the destination
    // has forgotten the move when a request of the second leg arrives.
    let ticket = MoveTicket { id: MoveId(7), leg: MoveLeg(3), term: term(1) };
    pair.send(MoveSide::Origin, &MoveRequest::BeginCleaning(ticket));
    pair.send(MoveSide::Destination, &MoveRequest::Forget(ticket));
    let ticket = MoveTicket { leg: MoveLeg(2), ..ticket };
    let new = NewMoveRow { ticket, other: ShardNumber(0), slots: plan().slots };
    pair.send(MoveSide::Destination, &MoveRequest::Trace(new));
    let lift = Box::new(MoveRequest::Lift(ticket));
    let step = pair.step(MoveGoal::Settle);
    assert_eq!(step, MoveStep::Send(MoveSide::Destination, lift));
    let end = pair.run(MoveGoal::Settle);
    assert_eq!(end, MoveStep::End(Some(MoveSide::Destination)));
}

#[test]
fn a_late_row_of_a_later_leg_is_removed_before_the_commit() {
    let mut pair = Pair::new();
    let ticket = MoveTicket { id: MoveId(7), leg: MoveLeg::FIRST, term: term(1) };
    let new = |ticket| NewMoveRow { ticket, other: ShardNumber(0), slots: plan().slots };
    pair.send(MoveSide::Destination, &MoveRequest::Prepare(new(ticket)));
    let ticket = MoveTicket { leg: MoveLeg(3), ..ticket };
    pair.send(MoveSide::Origin, &MoveRequest::Trace(new(ticket)));
    let lift = Box::new(MoveRequest::Lift(ticket));
    let step = pair.step(MoveGoal::Forward);
    assert_eq!(step, MoveStep::Send(MoveSide::Origin, lift));
    assert_eq!(pair.run(MoveGoal::Forward), MoveStep::Rest(WaitReason::Keeping));
    assert_eq!(pair.states(), [SlotsState::Moved, SlotsState::Owned]);
}

#[test]
fn a_fence_counts_only_within_its_time() {
    let state = SlotState::Fenced { until: 10_000 };
    let hold = crate::limits::FENCE_HOLD;
    assert!(!state.admits_writes(8_000, hold) && !state.admits_writes(10_000, hold));
    assert!(state.admits_writes(10_001, hold), "the fence is over");
    assert!(state.admits_writes(7_999, hold), "the clock was set back");
}

#[test]
fn a_snapshot_covers_what_had_ended() {
    let mark = Mark::Snapshot { end: 5, running: Arc::from([3]) };
    let seen: Vec<u64> = (1..7).filter(|change| mark.covers(*change)).collect();
    assert_eq!(seen, [1, 2, 4]);
}
