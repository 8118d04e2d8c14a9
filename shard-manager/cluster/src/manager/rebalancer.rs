//! Rebalancer: the task in which a process carries out the rebalance of the cluster.
//!
//! ```text
//!   each second, and when notified: lead? ──▶ read moves and map ──▶ begin moves ──▶ report
//! ```
//! The process that leads, which carries out moves, also carries out rebalances. Each time, it
//! derives the remaining work of a rebalance from the rebalance record, the catalog's list of moves
//! and the shard map, so a process that takes over needs nothing else.
//!
//! **Invariant:** at any time a shard is the source of at most one move and the target of at most
//! one move, and a move that has failed or cannot begin delays no other move.
//! **Not here:** the steps of a move (`mover`), the choice of the next moves (`decision`).

mod decision;
mod next_steps;

use std::time::{Duration, Instant};

use engine::catalog_rows::MapChangeError;
use engine::move_catalog::{MoveListError, wait_for_slots};
use engine::move_record::{MoveRecord, NewMove};
use engine::rebalance_catalog::{RebalanceEnd, RebalanceListError, RebalanceReport};
use engine::rebalance_record::{
    ListedStep, RebalanceId, RebalanceRecord, RebalanceState, StepState,
};
use model::advice::BalanceBy;
use model::error::Error;
use model::map_change::MapChange;
use model::shard_map::ShardMap;
use model::slot_plan::PlanGoal;
use model::topology::{ShardNumber, ShardSpec, ShardState};

use self::decision::Decision;
use self::next_steps::{NextSteps, refusing_shard};
use super::rebalances::planning::RebalancePlans;
use super::shards::epoch_to_retry;
use super::{Manager, MovesError};

/// Interval at which the catalog is queried for the rebalance.
const LOOK: Duration = Duration::from_secs(1);
/// Longest wait for a response of the catalog or of a shard.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Time limit for beginning moves, after which the catalog is read again.
const BEGIN_MAX: Duration = Duration::from_secs(15);

/// Result of an attempt to finish the drain of a shard.
enum Drained {
    /// The shard cannot retire or serve again yet. The string is the reason.
    Waits(String),
    /// The drain has ended. The string is the reason if it failed.
    Ended(Option<String>),
}

/// Task that carries out rebalances.
#[derive(Clone, Copy)]
pub(super) struct Rebalancer<'m>(&'m Manager);

impl<'m> Rebalancer<'m> {
    /// Returns the task of a manager.
    pub(super) fn of(manager: &'m Manager) -> Self {
        Self(manager)
    }

    /// Carries out rebalances whenever the catalog lets this process lead, until the future is
    /// dropped. Each process runs one such task.
    pub(super) async fn carry_out(self) {
        let mut news = self.0.move_announcements.watch();
        loop {
            if let Err(error) = self.advance().await {
                tracing::debug!(%error, "the rebalance of the catalog is not known");
            }
            news.rest(LOOK).await;
        }
    }

    /// Advances the rebalance in progress, if there is one.
    async fn advance(self) -> Result<(), Error> {
        let Some((record, moves)) = self.open_rebalance().await? else { return Ok(()) };
        let map = self.0.shards().newest_map();
        let mut decision = Decision::of(&record, &moves, &map);
        let mut report =
            RebalanceReport { steps: decision.changed(&record), reason: None, end: None };
        report.reason = match self.prepare_drain(&record, &map).await {
            Some(reason) => Some(reason),
            None => self.begin_moves(&record, &mut decision.next, &map).await,
        };
        if decision.has_no_steps_left() {
            self.finish(&record, &decision, &moves, &mut report).await;
        }
        if report.steps.is_empty() && report.end.is_none() && report.reason == record.reason {
            return Ok(());
        }
        let reported = self.0.backend.rebalance_catalog();
        let Some(reported) = reported else { return Ok(()) };
        match in_time(reported.report_rebalance(record.id, &report)).await? {
            Ok(record) => {
                log(&record);
                self.0.rebalance_status.note(Some(record));
            }
            Err(RebalanceListError::Failed(error)) => return Err(error),
            // The rebalance has ended meanwhile.
            Err(_) => {}
        }
        Ok(())
    }

    /// Returns the rebalance in progress, with the listed moves, if this process leads.
    async fn open_rebalance(self) -> Result<Option<(RebalanceRecord, Vec<MoveRecord>)>, Error> {
        let backend = &self.0.backend;
        let (Some(rebalances), Some(moves)) = (backend.rebalance_catalog(), backend.move_catalog())
        else {
            return Ok(None);
        };
        let status = &self.0.rebalance_status;
        if !self.0.move_announcements.leads() {
            status.forget();
            return Ok(None);
        }
        let open = in_time(rebalances.open_rebalance()).await??;
        let Some(open) = open else {
            if status.lacks_end() {
                status.note(in_time(rebalances.list_rebalances()).await??.into_iter().next());
            }
            return Ok(None);
        };
        status.note(Some(open.clone()));
        Ok(Some((open, in_time(moves.list()).await??)))
    }

    /// Marks a shard that is to be drained, so that it receives no slots. Returns a reason if this
    /// is not possible yet.
    async fn prepare_drain(self, record: &RebalanceRecord, map: &ShardMap) -> Option<String> {
        let shard = record.drained().filter(|_| record.state == RebalanceState::Running)?;
        match listed_shard(map, shard) {
            None => Some(not_listed(shard)),
            Some(spec) if spec.state == ShardState::Serving => {
                self.set_state(shard, ShardState::Draining, map).await.err()
            }
            Some(_) => None,
        }
    }

    /// Begins the moves of the next steps. If a shard cannot take part in a move, steps of other
    /// shards are tried. Returns the reason why the first of the refused moves did not begin.
    async fn begin_moves(
        self,
        record: &RebalanceRecord,
        next: &mut NextSteps,
        map: &ShardMap,
    ) -> Option<String> {
        let (mut reason, began) = (None, Instant::now());
        while began.elapsed() < BEGIN_MAX
            && let Some(index) = next.take()
        {
            let ListedStep { plan, .. } = &record.steps[index];
            let new = NewMove {
                slots: plan.slots.clone(),
                source: plan.from,
                target: plan.to,
                rate: record.rate,
                keep: record.keep,
            };
            let begun = self.0.moves().begin_of(record.id, new, Instant::now() + ANSWER_MAX).await;
            let waits = match begun {
                // If the source does not own the slots, the next decision finds their owner.
                Ok(_) | Err(MovesError::NotOwned { .. }) => None,
                Err(error) => {
                    if let Some(refusing) = refusing_shard(&error, map) {
                        next.leave_out(refusing);
                    }
                    Some(reason_of(&error))
                }
            };
            reason = reason.or(waits);
        }
        reason
    }

    /// Ends a rebalance whose steps have all ended, once nothing is left to do.
    async fn finish(
        self,
        record: &RebalanceRecord,
        decision: &Decision,
        moves: &[MoveRecord],
        report: &mut RebalanceReport,
    ) {
        let failure = match record.drained() {
            None => None,
            Some(shard) => match self.end_drain(record, shard, moves).await {
                Drained::Waits(reason) => {
                    report.reason = Some(reason);
                    return;
                }
                Drained::Ended(failure) => failure,
            },
        };
        // Rows that have moved still take disk space on their source until they are deleted there.
        let left = match record.goal {
            PlanGoal::Balance(BalanceBy::Size) => decision.open_moves(moves),
            PlanGoal::Balance(BalanceBy::Load)
            | PlanGoal::Slots
            | PlanGoal::Placement(_)
            | PlanGoal::Drain(_) => 0,
        };
        if left > 0 && record.keep.is_zero() {
            report.reason =
                Some(format!("sizes are measured when {left} moves have deleted their old rows"));
            return;
        }
        let skew = match left {
            0 => RebalancePlans::of(self.0).skew(record, Instant::now() + ANSWER_MAX).await,
            _ => None,
        };
        report.end = Some(RebalanceEnd { skew, has_failed: failure.is_some() });
        report.reason = reason_of_end(failure, decision.failure());
    }

    /// Retires a drained shard, or lets it serve again after the drain was cancelled.
    async fn end_drain(
        self,
        record: &RebalanceRecord,
        shard: ShardNumber,
        moves: &[MoveRecord],
    ) -> Drained {
        let map = self.0.shards().newest_map();
        let Some(ShardSpec { name, state, .. }) = listed_shard(&map, shard) else {
            return Drained::Waits(not_listed(shard));
        };
        let next = match (record.state, *state) {
            (RebalanceState::Cancelling, ShardState::Draining) => ShardState::Serving,
            (RebalanceState::Cancelling, ShardState::Retired) => {
                return Drained::Ended(Some(format!("{name} had retired already")));
            }
            (RebalanceState::Cancelling, _) | (_, ShardState::Retired) => {
                return Drained::Ended(None);
            }
            (RebalanceState::Paused, _) => return Drained::Waits("it is paused".to_owned()),
            (_, _) => ShardState::Retired,
        };
        let slots = map.slots_of(shard).count();
        if next == ShardState::Retired {
            let names = |open: &&MoveRecord| {
                !open.phase.has_ended() && [open.new.source, open.new.target].contains(&shard)
            };
            let open = moves.iter().filter(names).count();
            if open > 0 {
                return Drained::Waits(format!(
                    "{name} retires when {open} moves of its slots have ended: their source is \
                     still kept, or they are under way"
                ));
            }
            if slots > 0 {
                let left = format!("{name} still owns {slots} slots: drain it again");
                return Drained::Ended(Some(left));
            }
            if let Some(reason) = self.drain_rests(record).await {
                return Drained::Waits(reason);
            }
        }
        match self.set_state(shard, next, &map).await {
            Ok(()) => Drained::Ended(None),
            Err(reason) => Drained::Waits(reason),
        }
    }

    /// Returns the reason why a drained shard must not retire now: an operator's order that was
    /// stored since the catalog was last read, or a catalog that does not respond. `None` if it may
    /// retire.
    async fn drain_rests(self, record: &RebalanceRecord) -> Option<String> {
        let rebalances = self.0.backend.rebalance_catalog()?;
        match in_time(rebalances.open_rebalance()).await {
            Ok(Ok(open)) if is_running(open.as_ref(), record.id) => None,
            Ok(Ok(_)) => Some("it was paused, cancelled or ended meanwhile".to_owned()),
            Ok(Err(error)) | Err(error) => {
                Some(format!("its orders are not known, so the shard does not retire yet: {error}"))
            }
        }
    }

    /// Sets the state of a shard in the map; the error is the reason why this is not possible now.
    async fn set_state(
        self,
        shard: ShardNumber,
        state: ShardState,
        map: &ShardMap,
    ) -> Result<(), String> {
        let changed =
            self.0.shards().change_map(MapChange::State { shard, state }, map.epoch()).await;
        match changed {
            Ok(_) => Ok(()),
            Err(error) => {
                if let MapChangeError::Stale { expected, epoch } = error {
                    // The next attempt uses the newer map.
                    let later = epoch_to_retry((expected, epoch), None);
                    let _ = self.0.backend.update_map(later, Instant::now() + ANSWER_MAX).await;
                }
                Err(format!("the state of the shard is not changed yet: {error}"))
            }
        }
    }
}

/// Returns a shard as the map lists it, even if it has retired; `None` if the map lacks it. In that
/// case the shard has joined through another router, and this process has not read a later map yet.
fn listed_shard(map: &ShardMap, shard: ShardNumber) -> Option<&ShardSpec> {
    map.topology().shards().get(shard.index())
}

/// Returns the reason why the rebalancer waits while the map does not list this shard.
fn not_listed(shard: ShardNumber) -> String {
    format!("this router has not read a shard map with the shard of number {} yet", shard.0)
}

/// Returns the reason why a move of a rebalance does not begin.
fn reason_of(error: &MovesError) -> String {
    if let MovesError::List(MoveListError::SlotsMove { slots, move_name }) = error {
        return wait_for_slots(slots, move_name);
    }
    error.to_string()
}

/// Returns the reason with which a rebalance ends: that of its drain, then that of its moves.
fn reason_of_end(drain: Option<String>, moves: Option<String>) -> Option<String> {
    match (drain, moves) {
        (Some(drain), Some(moves)) => Some(format!("{drain}; {moves}")),
        (drain, moves) => drain.or(moves),
    }
}

/// Returns true if the rebalance of this identity is in progress, and neither paused nor being
/// cancelled.
fn is_running(open: Option<&RebalanceRecord>, id: RebalanceId) -> bool {
    open.is_some_and(|open| open.id == id && open.state == RebalanceState::Running)
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_MAX, answer).await.map_err(|_elapsed| Error::DeadlinePassed)
}

fn log(record: &RebalanceRecord) {
    let (id, state) = (record.id.name(), record.state.name());
    let reason = record.reason.as_deref().unwrap_or_default();
    let moved = record.steps.iter().filter(|step| step.status.state == StepState::Moved).count();
    match record.state {
        RebalanceState::Failed => tracing::warn!(id, moved, reason, "a rebalance has failed"),
        RebalanceState::Done | RebalanceState::Cancelled => {
            tracing::info!(id, moved, state, "a rebalance has ended");
        }
        RebalanceState::Running | RebalanceState::Paused | RebalanceState::Cancelling => {}
    }
}

#[cfg(test)]
mod tests;
