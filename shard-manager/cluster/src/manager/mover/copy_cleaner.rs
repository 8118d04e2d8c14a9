//! Copy cleaner: deletes the copies and records that cancelled and failed moves have left on their
//! shards, as soon as those shards can be read.
//!
//! **Invariant:** the cleaner sends only requests that a cancelled move would send, in a term that
//! no mover has. A copy is deleted only if the origin has no record of the move, or has retired and
//! owns no slots.
//! **Not here:** the choice of the moves and the time of each attempt (`left_copies`), the decision
//! from the state of both shards (`moves::next_step`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use engine::move_record::MoveRecord;
use model::position::Position;
use model::topology::{ShardNumber, ShardState};
use moves::identity::{MoveId, MoveLeg, MoveRole, MoveSide, MoveTerm, MoveTicket};
use moves::next_step::next;
use moves::next_step::without_destination::{
    OriginObservation, OriginStep, next_without_destination,
};
use moves::observation::{
    MoveGoal, MoveObservation, MovePlan, MoveProgress, ShardObservation, SlotsState,
};
use moves::request::MoveRequest;
use moves::rules::MoveRules;
use moves::step::MoveStep;

use super::left_copies::Remains;
use super::move_run::{CONFIRM_MAX, random_mover};
use super::move_sides::{MoveSides, SeenMove, look_at};
use super::move_steps::time_of;
use super::publication::published;
use crate::manager::Manager;
use crate::shard::{Majority, Shard};

/// Time after the end of a move during which a late request of that move may still arrive.
const LATE_MAX: Duration = Duration::from_secs(15 * 60);
/// Maximum number of steps for one move in an attempt. Five are enough if nothing fails: raise the
/// term, await the confirmation, delete, begin the next term, and end.
const STEPS_MAX: usize = 20;

/// Deletes what these moves have left on their shards, and returns what may still be there.
pub(super) async fn delete(manager: &Manager, records: Vec<MoveRecord>) -> Vec<(MoveId, Remains)> {
    let mut cleaner = Cleaner { manager, unreadable: BTreeSet::new() };
    let mut found = Vec::new();
    for record in &records {
        found.push((record.id, cleaner.clean(record).await));
    }
    found
}

/// One attempt to delete what moves have left.
struct Cleaner<'m> {
    manager: &'m Manager,
    /// Shards that could not be read in this attempt, or have no majority.
    unreadable: BTreeSet<ShardNumber>,
}

/// State of one of the shards of a move that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndedSide {
    /// The shard has retired: it owns no slots, and is no longer opened.
    Retired,
    /// The shard cannot be read, or a majority of its nodes has not confirmed the state that was
    /// read.
    Unreadable,
    /// The shard has a record of the move.
    WithRow,
    /// The shard has no record of the move, as a majority of its nodes has confirmed.
    WithoutRow,
}

/// Action that deletes what a move that has ended has left on its shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deleting {
    /// There is nothing to delete.
    Nothing,
    /// The attempt ends here, because a shard cannot be read; a later attempt tries again.
    Await,
    /// The steps of a cancellation are carried out, decided from the state of both shards.
    OnBoth,
    /// The record of this side, and its copy if it is the destination, are deleted without the
    /// other side.
    Alone(MoveSide),
}

impl Cleaner<'_> {
    async fn clean(&mut self, record: &MoveRecord) -> Remains {
        let plan = record.plan();
        let [origin, destination] = plan.shards;
        let sides = [self.look(origin, &plan).await, self.look(destination, &plan).await];
        let deleted = match deleting(sides) {
            Deleting::Nothing => Ok(true),
            Deleting::Await => Ok(false),
            Deleting::OnBoth => delete_on_both(self.manager, record).await,
            Deleting::Alone(side) => delete_alone(self.manager, record, side).await,
        };
        match deleted {
            Ok(true) if is_final(record, Utc::now()) => Remains::Nothing,
            Ok(true) => Remains::NoneYet,
            Ok(false) => Remains::Possible,
            Err(reason) => {
                tracing::debug!(id = record.name(), reason, "a part of an ended move may be left");
                Remains::Possible
            }
        }
    }

    async fn look(&mut self, number: ShardNumber, plan: &MovePlan) -> EndedSide {
        let map = self.manager.shards().newest_map();
        let shard = map.topology().shards().get(number.index());
        if shard.is_some_and(|shard| shard.state == ShardState::Retired) {
            return EndedSide::Retired;
        }
        if self.unreadable.contains(&number) {
            return EndedSide::Unreadable;
        }
        match side_of(self.manager, number, plan).await {
            Ok(side) => side,
            Err(reason) => {
                tracing::debug!(reason, "a shard of an ended move cannot be read");
                self.unreadable.insert(number);
                EndedSide::Unreadable
            }
        }
    }
}

async fn side_of(
    manager: &Manager,
    number: ShardNumber,
    plan: &MovePlan,
) -> Result<EndedSide, String> {
    let shard = find(manager, number)?;
    let seen = look_at(&shard, plan).await?;
    if seen.row.is_some() {
        return Ok(EndedSide::WithRow);
    }
    // A primary that was replaced may lack the record, so its absence needs a confirmation.
    if is_confirmed(&shard, seen.position).await {
        return Ok(EndedSide::WithoutRow);
    }
    Err(format!("a majority of {} does not have its changes", shard.name()))
}

fn find(manager: &Manager, number: ShardNumber) -> Result<Arc<Shard>, String> {
    let missing = || format!("{} is not open on this router", manager.shard_name(number));
    manager.shards().find(number).ok_or_else(missing)
}

async fn is_confirmed(shard: &Shard, position: Position) -> bool {
    Majority::of(shard).await_confirmation(position, Instant::now() + CONFIRM_MAX).await
}

/// Returns the action for the states of origin and destination.
fn deleting(sides: [EndedSide; 2]) -> Deleting {
    use EndedSide::{Retired, Unreadable, WithRow, WithoutRow};
    match sides {
        [Retired | WithoutRow, Retired | WithoutRow] => Deleting::Nothing,
        [WithRow, WithRow | WithoutRow] | [WithoutRow, WithRow] => Deleting::OnBoth,
        [WithRow, Retired | Unreadable] => Deleting::Alone(MoveSide::Origin),
        [Retired, WithRow] => Deleting::Alone(MoveSide::Destination),
        [Unreadable, Retired | Unreadable | WithRow | WithoutRow]
        | [Retired | WithoutRow, Unreadable] => Deleting::Await,
    }
}

/// Returns true if no request of a move that has ended can arrive any more.
fn is_final(record: &MoveRecord, now: DateTime<Utc>) -> bool {
    record.ended_at.is_none_or(|ended_at| {
        let age = now.signed_duration_since(ended_at).to_std();
        age.is_ok_and(|age| age >= LATE_MAX)
    })
}

/// Deletes what the move has left on both shards. Returns true if nothing is left.
async fn delete_on_both(manager: &Manager, record: &MoveRecord) -> Result<bool, String> {
    let plan = record.plan();
    let sides = MoveSides::find(manager, &plan)?;
    let term = MoveTerm { number: record.term, mover: random_mover() };
    let mut deletion = Deletion { manager, plan, term, progress: MoveProgress::default() };
    for _ in 0..STEPS_MAX {
        if let Some(is_deleted) = deletion.advance(&sides).await? {
            if is_deleted {
                tracing::info!(id = record.name(), "the rest of an ended move was deleted");
            }
            return Ok(is_deleted);
        }
    }
    Ok(false)
}

/// Deletes what the move has left on one shard. Returns true if nothing is left on either shard.
async fn delete_alone(
    manager: &Manager,
    record: &MoveRecord,
    side: MoveSide,
) -> Result<bool, String> {
    let plan = record.plan();
    let shard = find(manager, plan.shards[side.index()])?;
    let mut term = MoveTerm { number: record.term, mover: random_mover() };
    for _ in 0..STEPS_MAX {
        let seen = look_at(&shard, &plan).await?;
        let Some(row) = &seen.row else {
            if !is_confirmed(&shard, seen.position).await {
                return Ok(false);
            }
            let (id, shard) = (record.name(), shard.name());
            tracing::info!(id, shard, "the rest of an ended move was deleted");
            // If only the origin could be read, the destination may still have a copy.
            return Ok(side == MoveSide::Destination);
        };
        if row.term > term {
            term = row.term.next(term.mover);
        }
        let Some(request) = request_alone(side, (plan.id, term), &seen) else { return Ok(false) };
        send(&shard, request).await?;
    }
    Ok(false)
}

/// Returns the next request that deletes what an ended move has left on one side; `None` if there
/// is nothing to delete, or the deletion needs the other side.
fn request_alone(
    side: MoveSide,
    (id, term): (MoveId, MoveTerm),
    seen: &ShardObservation,
) -> Option<MoveRequest> {
    match side {
        MoveSide::Origin => {
            let step = next_without_destination(&OriginObservation {
                id,
                goal: MoveGoal::Back,
                term,
                origin: seen,
                has_too_many_changes: false,
                is_published: true,
                is_given_up: true,
                has_reached_destination: false,
            });
            let OriginStep::Send(request) = step else { return None };
            Some(*request)
        }
        MoveSide::Destination => {
            let row = seen.row.as_ref()?;
            let is_first_target = row.leg == MoveLeg::FIRST && row.role == MoveRole::Target;
            let request = if row.term < term {
                MoveRequest::Raise { id, term }
            } else {
                MoveRequest::Discard(MoveTicket { id, leg: row.leg, term: row.term })
            };
            (is_first_target && seen.slots == SlotsState::Importing).then_some(request)
        }
    }
}

/// Sends a request without rows.
///
/// # Errors
/// A sentence that names the shard and the request.
pub(super) async fn send(shard: &Shard, request: MoveRequest) -> Result<(), String> {
    let (name, deadline) = (request.name(), Instant::now() + time_of(&request));
    let failed = |cause: String| format!("{}: {name}: {cause}", shard.name());
    let Some(moves) = shard.primary().moves() else {
        return Err(failed("it distributes its rows itself".to_owned()));
    };
    let changed = moves.change(request.into(), deadline).await;
    changed.map_err(|error| failed(error.to_string()))?;
    shard.slot_waits.wake();
    Ok(())
}

/// Deletion of what an ended move has left on both shards.
struct Deletion<'m> {
    manager: &'m Manager,
    plan: MovePlan,
    term: MoveTerm,
    progress: MoveProgress,
}

impl Deletion<'_> {
    /// Takes the next step. Returns true once nothing is left, and false if the attempt is over
    /// before that: a majority lacks changes, or the move needs steps that a cancellation does not
    /// have.
    async fn advance(&mut self, sides: &MoveSides) -> Result<Option<bool>, String> {
        let mut seen = sides.look(&self.plan, MoveLeg::FIRST).await?;
        let rows = seen.shards.iter().filter_map(|shard| shard.row.as_ref());
        if let Some(known) = rows.map(|row| row.term).max().filter(|known| *known > self.term) {
            self.term = known.next(self.term.mover);
        }
        let mut step = self.decide(&seen);
        while let MoveStep::AwaitConfirmation(side) = step {
            let (position, limit) = (seen.shard(side).position, Instant::now() + CONFIRM_MAX);
            if !sides.majority(side).await_confirmation(position, limit).await {
                return Ok(Some(false));
            }
            seen.shards[side.index()].is_confirmed = true;
            step = self.decide(&seen);
        }
        match step {
            MoveStep::Send(side, request) if is_of_cancellation(&request) => {
                self.progress.note_sending(&request);
                send(sides.shard(side), *request).await?;
                Ok(None)
            }
            MoveStep::NextTerm => {
                self.term = self.term.next(self.term.mover);
                self.progress = MoveProgress::default();
                Ok(None)
            }
            MoveStep::End(_) => Ok(Some(true)),
            MoveStep::Send(..)
            | MoveStep::CopyRound { .. }
            | MoveStep::Verify { .. }
            | MoveStep::AwaitConfirmation(_)
            | MoveStep::Publish(_)
            | MoveStep::Rest(_) => Ok(Some(false)),
        }
    }

    fn decide(&self, seen: &SeenMove) -> MoveStep {
        let [origin, destination] = &seen.shards;
        // The goal is the opposite of the direction of this leg, so that the leg is given up.
        let goal = match seen.leg.target() {
            MoveSide::Origin => MoveGoal::Forward,
            MoveSide::Destination => MoveGoal::Back,
        };
        next(&MoveObservation {
            plan: &self.plan,
            goal,
            is_paused: false,
            term: self.term,
            shards: [origin, destination],
            is_behind: seen.is_behind,
            must_copy_again: false,
            published: published(self.manager, &self.plan, seen),
            progress: &self.progress,
            rules: MoveRules::in_force(),
        })
    }
}

/// Returns true if a move that is cancelled sends the request.
fn is_of_cancellation(request: &MoveRequest) -> bool {
    matches!(request, MoveRequest::Raise { .. } | MoveRequest::Lift(_) | MoveRequest::Discard(_))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use engine::move_record::{MovePhase, NewMove};
    use model::keyspace::Slot;
    use model::slot_set::SlotSet;
    use moves::applied::AppliedRows;
    use moves::move_row::{CopyCursor, MoveRow};

    use super::*;

    const POSITION: Position = Position { timeline: 1, sequence: 1 };

    fn term(number: u64) -> MoveTerm {
        MoveTerm { number, mover: 0 }
    }

    /// A shard with a record of the move in its first leg and in term 1.
    fn seen(role: MoveRole, slots: SlotsState) -> ShardObservation {
        let row = MoveRow {
            id: MoveId(7),
            role,
            other: ShardNumber(1),
            slots: Slot::new(3).into_iter().collect::<Arc<[Slot]>>(),
            leg: MoveLeg::FIRST,
            term: term(1),
            applied: AppliedRows::begin(1),
            cursor: CopyCursor::Empty,
            is_traced: role == MoveRole::Source,
            begun: POSITION,
            version: 0,
            signpost_min_position: None,
        };
        ShardObservation {
            position: POSITION,
            row: Some(row),
            slots,
            is_confirmed: true,
            has_majority: true,
            has_rows: true,
        }
    }

    #[test]
    fn a_move_is_looked_at_for_some_time_after_its_end() {
        let now = Utc::now();
        let new = NewMove {
            slots: SlotSet::empty(),
            source: ShardNumber(0),
            target: ShardNumber(1),
            rate: None,
            keep: Duration::ZERO,
        };
        let cancelled = MoveRecord { phase: MovePhase::Cancelled, ..MoveRecord::begin(new, now) };
        let ended = |seconds| {
            let ended_at = Some(now - TimeDelta::seconds(seconds));
            MoveRecord { ended_at, ..cancelled.clone() }
        };
        let limit = LATE_MAX.as_secs() as i64;
        assert!(!is_final(&ended(limit - 1), now) && is_final(&ended(limit), now));
        assert!(!is_final(&ended(-1), now), "the clock was set back");
    }

    #[test]
    fn a_copy_is_deleted_alone_only_if_its_origin_is_retired() {
        use EndedSide::{Retired, Unreadable, WithRow, WithoutRow};
        let alone = Deleting::Alone(MoveSide::Destination);
        assert_eq!(deleting([Retired, WithRow]), alone);
        assert_eq!(deleting([Unreadable, WithRow]), Deleting::Await);
        for origin in [WithRow, WithoutRow] {
            assert_eq!(deleting([origin, WithRow]), Deleting::OnBoth);
        }
        let importing = seen(MoveRole::Target, SlotsState::Importing);
        let request = |number, shard: &ShardObservation| {
            request_alone(MoveSide::Destination, (MoveId(7), term(number)), shard)
        };
        let raise = MoveRequest::Raise { id: MoveId(7), term: term(2) };
        assert_eq!(request(2, &importing), Some(raise));
        let ticket = MoveTicket { id: MoveId(7), leg: MoveLeg::FIRST, term: term(1) };
        assert_eq!(request(1, &importing), Some(MoveRequest::Discard(ticket)));
        for slots in [SlotsState::Owned, SlotsState::Fenced, SlotsState::Moved] {
            assert_eq!(request(1, &seen(MoveRole::Target, slots)), None, "{slots:?}");
        }
    }

    #[test]
    fn a_late_row_of_the_origin_is_deleted_while_the_destination_is_away() {
        use EndedSide::{Retired, Unreadable, WithRow, WithoutRow};
        let alone = Deleting::Alone(MoveSide::Origin);
        for destination in [Unreadable, Retired] {
            assert_eq!(deleting([WithRow, destination]), alone);
        }
        assert_eq!(deleting([WithoutRow, Unreadable]), Deleting::Await);
        assert_eq!(deleting([WithoutRow, WithoutRow]), Deleting::Nothing);
        let owner = seen(MoveRole::Source, SlotsState::Owned);
        let request = |number, shard: &ShardObservation| {
            request_alone(MoveSide::Origin, (MoveId(7), term(number)), shard)
        };
        let raise = MoveRequest::Raise { id: MoveId(7), term: term(2) };
        assert_eq!(request(2, &owner), Some(raise));
        let ticket = MoveTicket { id: MoveId(7), leg: MoveLeg::FIRST, term: term(1) };
        assert_eq!(request(1, &owner), Some(MoveRequest::Lift(ticket)));
        assert_eq!(request(1, &seen(MoveRole::Source, SlotsState::Moved)), None);
    }

    #[test]
    fn only_requests_of_a_cancellation_are_sent_for_a_move_that_has_ended() {
        let (id, term) = (MoveId(7), MoveTerm { number: 1, mover: 0 });
        let ticket = MoveTicket { id, leg: MoveLeg::FIRST, term };
        let sent = [
            MoveRequest::Raise { id, term },
            MoveRequest::Lift(ticket),
            MoveRequest::Discard(ticket),
        ];
        assert!(sent.iter().all(is_of_cancellation));
        let others = [
            MoveRequest::Fence(ticket),
            MoveRequest::CopyAgain(ticket),
            MoveRequest::Reverse(ticket),
            MoveRequest::BeginCleaning(ticket),
            MoveRequest::Clean(ticket),
            MoveRequest::Forget(ticket),
        ];
        assert!(!others.iter().any(is_of_cancellation));
    }
}
