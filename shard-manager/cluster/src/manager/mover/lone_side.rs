//! Lone side: carries on a move while only one of its two shards can be read.
//!
//! If the destination cannot be read, and the move is to be cancelled, or the origin has recorded
//! more changes than it keeps, the origin alone does this:
//! ```text
//!   raise the term ──▶ lift the fence, end the recording ──▶ wait for the destination
//!                                                               └──▶ end, if it is cancelled
//! ```
//! Without this, the move of a destination that is gone for good would never end: the origin would
//! go on recording changes, and no other move could have these slots.
//!
//! If the former owner cannot be read, the shard that has received the slots and records changes
//! for a rollback does this:
//! ```text
//!   time is over, or ──▶ no rollback is offered ──▶ end the recording
//!   too many changes                                  └──▶ wait for the former owner
//! ```
//! Without this, the new owner would record changes without a limit while the former owner is away.
//!
//! **Invariant:** the end of a move is reported only once a majority has confirmed that the
//! origin's record of the move is deleted. The recording for a rollback ends only after the catalog
//! has stored that the time of keeping is over.
//! **Not here:** the decisions (`moves::next_step::{without_destination, without_kept_source}`),
//! the copy that the destination still has when it comes back (`left_copies`), the end of the time
//! of keeping (`move_run`), the limit on recorded changes (`recorded_changes`).

use std::time::{Duration, Instant};

use engine::move_record::MovePhase;
use moves::identity::{MoveLeg, MoveRole, MoveSide};
use moves::next_step::without_destination::{
    OriginObservation, OriginStep, next_without_destination,
};
use moves::next_step::without_kept_source::{OwnerObservation, next_without_kept_source};
use moves::observation::{MoveGoal, ShardObservation, SlotsState};
use moves::request::MoveRequest;

use super::move_run::{
    CONFIRM_MAX, MoveRun, RunContinuation, goal_of, inherit_fence, limit_keeping,
    note_fence_that_ran_out,
};
use super::move_sides::look_at;
use super::publication::is_named_owner;
use crate::shard::{Majority, Shard};

/// Time for which a run waits for the destination before it ends a move without it. Most failovers
/// and restarts are shorter, and the copy is then deleted before the move ends.
const DESTINATION_WAIT: Duration = Duration::from_secs(10);

/// Takes the next step of a move while one or both of its shards cannot be read; `reason` says why.
/// If nothing can be done on one shard alone, the run looks at both again after `wait`.
pub(super) async fn carry_on(
    run: &mut MoveRun<'_>,
    reason: String,
    wait: Duration,
) -> RunContinuation {
    // The move no longer waits for other moves.
    run.reports.begin();
    let number = run.plan.shards[MoveSide::Origin.index()];
    let Some(origin) = run.manager.shards().find(number) else {
        return RunContinuation::After(wait, Some(reason));
    };
    let Ok(mut seen) = look_at(&origin, &run.plan).await else {
        return without_origin(run, reason, wait).await;
    };
    if matches!(seen.slots, SlotsState::Owned | SlotsState::Fenced) {
        if seen.slots == SlotsState::Fenced {
            inherit_fence(run, MoveSide::Origin, true);
        }
        // The response to the request that lifted the fence may have been lost.
        note_fence_that_ran_out(run, Instant::now());
    }
    let lost_at = *run.destination_lost_at.get_or_insert_with(Instant::now);
    // The check here is for a source. The owner's recording for a rollback is checked elsewhere
    // (`move_run::limit_keeping`).
    if seen.row.as_ref().is_some_and(|row| row.role == MoveRole::Source) {
        let (recorded, slots) = (&mut run.recorded, &run.plan.slots);
        run.progress.has_too_many_changes |= recorded.note_too_many(&origin, slots).await;
    }
    let is_given_up = lost_at.elapsed() >= DESTINATION_WAIT;
    let mut step = decide(run, &seen, is_given_up);
    if step == OriginStep::AwaitConfirmation {
        let limit = Instant::now() + CONFIRM_MAX;
        if !Majority::of(&origin).await_confirmation(seen.position, limit).await {
            let shard = origin.name();
            let reason = format!("it waits until a majority of {shard} has its changes");
            return RunContinuation::After(wait, Some(reason));
        }
        seen.is_confirmed = true;
        step = decide(run, &seen, is_given_up);
    }
    match step {
        OriginStep::Send(request) => {
            if goal_of(run) == MoveGoal::Back {
                run.reports.enter(MovePhase::Cleaning);
            }
            run.reports.lag = None;
            let shard: &Shard = &origin;
            match run.send((shard, MoveSide::Origin), (*request).into()).await {
                Ok(()) => RunContinuation::AtOnce,
                Err(continuation) => continuation,
            }
        }
        OriginStep::AwaitConfirmation => RunContinuation::AtOnce,
        OriginStep::AwaitDestination => {
            let reason = if seen.row.is_none() { run.recorded.explain(reason) } else { reason };
            carry_on_owner(run, (&origin, MoveSide::Origin), &seen, (reason, wait)).await
        }
        OriginStep::Superseded => RunContinuation::Superseded,
        OriginStep::End => end(run, reason).await,
    }
}

/// Takes the next step if the origin cannot be read.
async fn without_origin(run: &mut MoveRun<'_>, reason: String, wait: Duration) -> RunContinuation {
    let side = MoveSide::Destination;
    let destination = run.manager.shards().find(run.plan.shards[side.index()]);
    if let Some(destination) = destination
        && let Ok(seen) = look_at(&destination, &run.plan).await
    {
        return carry_on_owner(run, (&destination, side), &seen, (reason, wait)).await;
    }
    RunContinuation::After(wait, Some(reason))
}

/// Takes the next step of a move of which only this side can be read; `reason` says why. If nothing
/// can be done on this side alone, the run looks at both sides again after `wait`.
async fn carry_on_owner(
    run: &mut MoveRun<'_>,
    (shard, side): (&Shard, MoveSide),
    seen: &ShardObservation,
    (reason, wait): (String, Duration),
) -> RunContinuation {
    let is_owner = matches!(seen.slots, SlotsState::Owned | SlotsState::Fenced);
    let is_target = seen.row.as_ref().is_some_and(|row| row.role == MoveRole::Target);
    if is_owner && is_target {
        limit_keeping(run, (shard, side)).await;
    }
    let request = next_without_kept_source(&OwnerObservation {
        id: run.plan.id,
        goal: goal_of(run),
        term: run.term,
        side,
        owner: seen,
        is_published: is_named_owner(&run.manager.shards().newest_map(), &run.plan, side),
    });
    let Some(request) = request else {
        let is_over = is_owner && seen.row.is_none() && goal_of(run) == MoveGoal::Settle;
        let reason = if is_over {
            format!("{reason}; {} no longer records changes for a rollback", shard.name())
        } else {
            reason
        };
        return RunContinuation::After(wait, Some(reason));
    };
    if matches!(request, MoveRequest::Forget(_)) {
        run.reports.enter(MovePhase::Cleaning);
        run.reports.lag = None;
    }
    match run.send((shard, side), request.into()).await {
        Ok(()) => RunContinuation::AtOnce,
        Err(continuation) => continuation,
    }
}

/// Ends the move without its destination; `reason` says why that could not be reached.
async fn end(run: &mut MoveRun<'_>, reason: String) -> RunContinuation {
    let number = run.plan.shards[MoveSide::Destination.index()];
    let destination = run.manager.shard_name(number);
    let note = format!(
        "{destination} could not be reached: what it has of the copy is deleted when it is back"
    );
    let continuation = run.end(Some(MoveSide::Origin), Some(note)).await;
    if matches!(continuation, RunContinuation::Ended) {
        let id = run.reports.record().name();
        tracing::warn!(id, destination, reason, "a move has ended without its target");
    }
    continuation
}

fn decide(run: &MoveRun<'_>, seen: &ShardObservation, is_given_up: bool) -> OriginStep {
    let map = run.manager.shards().newest_map();
    next_without_destination(&OriginObservation {
        id: run.plan.id,
        goal: goal_of(run),
        term: run.term,
        origin: seen,
        has_too_many_changes: run.progress.has_too_many_changes,
        is_published: is_named_owner(&map, &run.plan, MoveSide::Origin),
        is_given_up,
        // Only in the first leg does the move end when the origin's record is deleted.
        has_reached_destination: run.leg != MoveLeg::FIRST
            || run.reports.record().owned_at.is_some(),
    })
}
