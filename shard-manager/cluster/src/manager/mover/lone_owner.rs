//! Lone owner: carries on a move whose slots have reached a shard while the former owner cannot be
//! read.
//!
//! ```text
//!   too many changes ──▶ no rollback is offered ──▶ end the recording ──▶ wait for the former owner
//! ```
//! Otherwise a source that is gone for long would let its target record changes without a limit.
//!
//! **Invariant:** a recording ends only after the catalog has stored that the time of keeping is
//! over.
//! **Not here:** the decision (`moves::next_step::without_kept_source`), the limit
//! (`recorded_changes`).

use std::time::Duration;

use engine::move_record::MovePhase;
use moves::identity::{MoveRole, MoveSide};
use moves::next_step::without_kept_source::{OwnerObservation, next_without_kept_source};
use moves::observation::{MoveGoal, ShardObservation, SlotsState};
use moves::request::MoveRequest;

use super::move_run::{MoveRun, RunContinuation, end_flow_back, goal_of};
use super::publication::is_named_owner;
use crate::shard::Shard;

/// Takes the next step of a move of which only this side can be read, for this reason. The run
/// looks at both sides again after `wait` if there is nothing to do on this side alone.
pub(super) async fn carry_on(
    run: &mut MoveRun<'_>,
    (shard, side): (&Shard, MoveSide),
    seen: &ShardObservation,
    (reason, wait): (String, Duration),
) -> RunContinuation {
    let is_owner = matches!(seen.slots, SlotsState::Owned | SlotsState::Fenced);
    let is_target = seen.row.as_ref().is_some_and(|row| row.role == MoveRole::Target);
    let record = run.reports.record();
    let is_kept = is_owner && record.owned_at.is_some() && record.goal == MoveGoal::Forward;
    if is_target && is_kept && run.recorded.has_too_many(shard, &run.plan.slots).await {
        end_flow_back(run).await;
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
