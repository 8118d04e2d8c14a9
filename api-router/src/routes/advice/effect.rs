//! Effect: reports the latest rebalance, and how recent moves have changed the skew.
//!
//! **Not here:** the skew that is measured at the end of a rebalance (`shard_manager::manager`).

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Serialize;
use shard_manager::advice::{self, Advice, BalanceBy, Observed, OpenMoves, Verdict};
use shard_manager::engine::move_record::MoveRecord;
use shard_manager::engine::rebalance_view::RebalanceView;
use shard_manager::manager::{PlannedSlots, Rebalances, RebalancesError};
use shard_manager::shard_map::ShardMap;
use shard_manager::topology::ShardNumber;
use utoipa::ToSchema;

use super::super::rebalances::schema::RebalanceAnswer;
use crate::app::App;

/// Effect of earlier moves; with several table groups, of moves in the group of the advice.
#[derive(Default, Serialize, ToSchema)]
#[schema(as = AdviceEffect)]
pub(crate) struct EffectView {
    /// The running rebalance, or the last one, without its moves: with the skew before, planned and
    /// measured. It may be one of another table group. Null if there was none, or the catalog does
    /// not answer.
    #[schema(required, value_type = Option<RebalanceAnswer>)]
    rebalance: Option<RebalanceView>,
    /// Moves that were completed while the requests were counted; null if there are none, and with
    /// `by=size`.
    #[schema(required)]
    moved: Option<MovedView>,
}

/// Moves that were completed while the requests were counted.
#[derive(Serialize, ToSchema)]
#[schema(as = AdviceMoved)]
pub(crate) struct MovedView {
    /// Ids of the moves, the latest first.
    moves: Vec<String>,
    /// Number of slots of these moves.
    slots: usize,
    /// Time at which the first of these moves was completed: RFC 3339.
    since: String,
    /// Skew of the same requests if the slots had not moved.
    skew_before: f64,
    /// Skew of these requests with the present owners.
    skew_now: f64,
}

/// Moves in the catalog, and its latest rebalance.
pub(super) struct KnownMoves {
    planned: PlannedSlots,
    records: Vec<MoveRecord>,
    rebalance: Option<RebalanceView>,
}

impl KnownMoves {
    /// Reads the moves and the latest rebalance; returns `None` if the catalog does not respond
    /// before the deadline.
    pub(super) async fn read(app: &App, map: &ShardMap, deadline: Instant) -> Option<Self> {
        let rebalances = Rebalances::of(&app.manager);
        let read = async {
            let records = app.manager.moves().list().await?;
            let latest = rebalances.list().await?.into_iter().next();
            Ok::<_, RebalancesError>((records, latest))
        };
        let read = tokio::time::timeout_at(deadline.into(), read).await.ok()?;
        let (records, rebalance) = match read {
            Ok(read) => read,
            Err(error) if error.failure().is_some() => return None,
            // With the engine Citus there are no moves, because it places rows itself.
            Err(_) => (Vec::new(), None),
        };
        Some(Self { planned: PlannedSlots::of(map, &records), records, rebalance })
    }

    /// Returns the owners that the slots will have after the moves in progress.
    pub(super) fn planned(&self) -> &PlannedSlots {
        &self.planned
    }

    /// Returns the moves in progress.
    pub(super) fn open(&self) -> Option<OpenMoves<'_>> {
        self.planned.open()
    }

    /// Returns the moves whose target has owned the slots since `time` or later, the latest first.
    fn arrived_since(&self, time: DateTime<Utc>) -> Vec<&MoveRecord> {
        let has_arrived = |record: &&MoveRecord| {
            record.has_arrived() && record.owned_at.is_some_and(|owned| owned >= time)
        };
        let mut arrived: Vec<&MoveRecord> = self.records.iter().filter(has_arrived).collect();
        arrived.sort_by_key(|record| Reverse(record.owned_at));
        arrived
    }
}

impl EffectView {
    /// Returns the effect of moves on the requests that were counted in a window of time.
    pub(super) fn of(
        known: Option<&KnownMoves>,
        advice: &Advice,
        (observed, window): (&Observed<'_>, Option<Duration>),
    ) -> Self {
        let Some(known) = known else { return Self::default() };
        let is_judged =
            advice.balance_by == BalanceBy::Load && advice.verdict != Verdict::TooLittleToSay;
        let window = window.filter(|_| is_judged).and_then(|time| TimeDelta::from_std(time).ok());
        let moved = window.and_then(|window| moved(known, advice, (observed, window)));
        Self { rebalance: known.rebalance.clone(), moved }
    }
}

fn moved(
    known: &KnownMoves,
    advice: &Advice,
    (observed, window): (&Observed<'_>, TimeDelta),
) -> Option<MovedView> {
    let (first_slot, slot_count) =
        (usize::from(observed.first_slot), observed.map.owners().count());
    // Returns those slots of a move that are in the observed group, counted from the group's first
    // slot.
    let own = |record: &MoveRecord| -> Vec<usize> {
        let own = record.new.slots.iter().filter_map(|slot| slot.index().checked_sub(first_slot));
        own.filter(|slot| *slot < slot_count).collect()
    };
    let arrived = known.arrived_since(Utc::now() - window).into_iter();
    let arrived = arrived.map(|record| (record, own(record))).filter(|(_, own)| !own.is_empty());
    let arrived: Vec<(&MoveRecord, Vec<usize>)> = arrived.collect();
    let first = arrived.last().and_then(|(record, _)| record.owned_at)?;
    let mut former: Vec<ShardNumber> = observed.map.owners().map(|owner| owner.shard).collect();
    let mut slots = 0;
    // Iterates from the latest move to the earliest, so that a slot that moved twice gets the owner
    // that it had first.
    for (record, moved) in &arrived {
        moved.iter().for_each(|slot| former[*slot] = record.new.source);
        slots += moved.len();
    }
    Some(MovedView {
        moves: arrived.iter().map(|(record, _)| record.name()).collect(),
        slots,
        since: first.to_rfc3339_opts(SecondsFormat::Millis, true),
        skew_before: advice::skew_of_owners(observed, &former),
        skew_now: advice.skew,
    })
}
