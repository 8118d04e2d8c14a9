//! Contract of the listed rebalances, which the tests of each engine check: what begins a
//! rebalance, what an order does to it and to its moves, and what is listed.
//!
//! **Not here:** the router that carries a rebalance out.

use std::time::Duration;

use chrono::Utc;
use futures_util::future::join_all;
use shard_manager::engine::ClusterBackend;
use shard_manager::engine::move_catalog::MoveListError;
use shard_manager::engine::move_record::{MovePhase, MoveRecord};
use shard_manager::engine::rebalance_catalog::{
    ENDED_MAX, RebalanceCatalog, RebalanceEnd, RebalanceListError, RebalanceReport,
};
use shard_manager::engine::rebalance_record::{
    RebalanceId, RebalanceOrder, RebalanceOrderFault, RebalanceRecord, RebalanceState, StepState,
    StepStatus,
};
use shard_manager::keyspace::Slot;
use shard_manager::moves::observation::MoveGoal;
use shard_manager::slot_plan::{PlanGoal, PlanStep, SlotPlan};
use shard_manager::topology::ShardNumber;

use crate::move_contract::{self, get, new_move, report};

/// Returns the rebalances of a backend.
pub(crate) fn catalog(backend: &dyn ClusterBackend) -> &dyn RebalanceCatalog {
    backend.rebalance_catalog().expect("the engine moves slots")
}

/// Returns a new rebalance of one step for each of these slots.
pub(crate) fn new_rebalance(slots: impl IntoIterator<Item = u16>) -> RebalanceRecord {
    let step = |slot| PlanStep {
        from: ShardNumber(0),
        to: ShardNumber(1),
        slots: Slot::new(slot).into_iter().collect(),
        rows: Some(7),
        bytes: None,
    };
    let plan = SlotPlan {
        steps: slots.into_iter().map(step).collect(),
        skew_before: 1.5,
        skew_planned: 1.25,
        needed: 2,
        shards: Vec::new(),
        note: None,
    };
    let goal = PlanGoal::Placement("ring:160".parse().expect("a placement"));
    RebalanceRecord::begin((goal, &plan), (Some(20), Duration::from_millis(1_500)), Utc::now())
}

async fn one(catalog: &dyn RebalanceCatalog, id: RebalanceId) -> RebalanceRecord {
    let listed = catalog.list_rebalances().await.expect("the catalog answers");
    listed.into_iter().find(|record| record.id == id).expect("it is listed")
}

fn moved(index: usize) -> (usize, StepStatus) {
    let reason = Some("it's \"kept\"; é".to_owned());
    let status = StepStatus { state: StepState::Moved, move_id: None, rows: 5, bytes: 6, reason };
    (index, status)
}

/// Reports the end of a rebalance, all of whose slots have moved.
pub(crate) async fn end(
    catalog: &dyn RebalanceCatalog,
    record: &RebalanceRecord,
) -> RebalanceRecord {
    let report = RebalanceReport {
        steps: (0..record.steps.len()).map(moved).collect(),
        reason: None,
        end: Some(RebalanceEnd { skew: Some(1.25), has_failed: false }),
    };
    catalog.report_rebalance(record.id, &report).await.expect("it has not ended")
}

/// Checks the whole contract on a new cluster of two shards.
pub(crate) async fn check(backend: &dyn ClusterBackend) {
    let catalog = catalog(backend);
    assert_eq!(catalog.list_rebalances().await, Ok(Vec::new()));
    check_begin(catalog).await;
    check_moves(backend).await;
    check_late_pause(backend).await;
    check_reports(catalog).await;
    check_race(catalog).await;
    check_stored(catalog).await;
}

async fn check_begin(catalog: &dyn RebalanceCatalog) {
    let record = new_rebalance([1, 2]);
    let stale = RebalanceListError::Stale { expected: 9, epoch: 1 };
    assert_eq!(catalog.begin_rebalance(&record, 9).await, Err(stale));
    for order in RebalanceOrder::ALL {
        let none = catalog.order_rebalance(record.id, order).await;
        assert_eq!(none, Err(RebalanceListError::NoRebalance));
    }
    assert_eq!(catalog.list_rebalances().await, Ok(Vec::new()), "nothing was begun");
    assert_eq!(catalog.begin_rebalance(&record, 1).await, Ok(()));
    assert_eq!(catalog.begin_rebalance(&record, 1).await, Ok(()), "the same again");
    assert_eq!(catalog.list_rebalances().await, Ok(vec![record.clone()]));
    assert_eq!(catalog.open_rebalance().await, Ok(Some(record.clone())));
    let second = catalog.begin_rebalance(&new_rebalance([3]), 1).await;
    assert_eq!(second, Err(RebalanceListError::AlreadyRunning(record.id.name())));
    end(catalog, &record).await;
    assert_eq!(catalog.open_rebalance().await, Ok(None));
}

/// An order reaches the moves of the rebalance whose target does not own the slots, and no move of
/// it begins while it rests.
async fn check_moves(backend: &dyn ClusterBackend) {
    let (catalog, moves) = (catalog(backend), move_contract::catalog(backend));
    let record = new_rebalance([10, 11, 12, 13]);
    catalog.begin_rebalance(&record, 1).await.expect("no other one goes on");
    let of_rebalance = |slot| MoveRecord { rebalance: Some(record.id), ..new_move([slot]) };
    let (under_way, arrived, foreign) = (of_rebalance(10), of_rebalance(11), new_move([20]));
    for begun in [&under_way, &arrived, &foreign] {
        assert_eq!(moves.begin(begun, 1).await, Ok(()));
        assert_eq!(get(moves, begun.id).await, *begun);
    }
    moves.report(arrived.id, 0, &report(MovePhase::Keeping, 1)).await.expect("the first term");
    let paused = catalog.order_rebalance(record.id, RebalanceOrder::Pause).await;
    assert_eq!(paused.expect("it goes on").state, RebalanceState::Paused);
    for (begun, rests) in [(&under_way, true), (&arrived, false), (&foreign, false)] {
        assert_eq!(get(moves, begun.id).await.is_paused, rests);
    }
    let late = of_rebalance(12);
    assert_eq!(moves.begin(&late, 1).await, Err(MoveListError::RebalanceNotRunning));
    assert_eq!(moves.get(late.id).await, Ok(None));
    catalog.order_rebalance(record.id, RebalanceOrder::Resume).await.expect("it rests");
    assert!(!get(moves, under_way.id).await.is_paused);
    assert_eq!(moves.begin(&late, 1).await, Ok(()));
    let cancelled = catalog.order_rebalance(record.id, RebalanceOrder::Cancel).await;
    assert_eq!(cancelled.expect("it goes on").state, RebalanceState::Cancelling);
    for (begun, goal) in [
        (&under_way, MoveGoal::Back),
        (&late, MoveGoal::Back),
        (&arrived, MoveGoal::Forward),
        (&foreign, MoveGoal::Forward),
    ] {
        assert_eq!(get(moves, begun.id).await.goal, goal);
    }
    assert_eq!(moves.begin(&of_rebalance(13), 1).await, Err(MoveListError::RebalanceNotRunning));
    let resumed = catalog.order_rebalance(record.id, RebalanceOrder::Resume).await;
    assert_eq!(resumed, Err(RebalanceOrderFault::Cancelling.into()));
    assert_eq!(end(catalog, &record).await.state, RebalanceState::Cancelled);
    assert_eq!(moves.begin(&of_rebalance(13), 1).await, Err(MoveListError::RebalanceNotRunning));
    for begun in [&under_way, &late, &arrived, &foreign] {
        let term = moves.take_over(begun.id, 0).await.expect("it has not ended");
        let ended = moves.report(begun.id, term, &report(MovePhase::Cancelled, 0)).await;
        ended.expect("the term is the last one");
    }
}

/// A move that is paused just before its target owns the slots goes on with the rebalance, also if
/// the rebalance is cancelled or ends meanwhile.
async fn check_late_pause(backend: &dyn ClusterBackend) {
    let (catalog, moves) = (catalog(backend), move_contract::catalog(backend));
    for order in [Some(RebalanceOrder::Resume), Some(RebalanceOrder::Cancel), None] {
        let record = new_rebalance([30]);
        catalog.begin_rebalance(&record, 1).await.expect("no other one goes on");
        let late = MoveRecord { rebalance: Some(record.id), ..new_move([30]) };
        assert_eq!(moves.begin(&late, 1).await, Ok(()));
        catalog.order_rebalance(record.id, RebalanceOrder::Pause).await.expect("it goes on");
        let kept = moves.report(late.id, 0, &report(MovePhase::Keeping, 1)).await;
        assert!(kept.expect("the first term").is_paused, "the order was stored first");
        if let Some(order) = order {
            catalog.order_rebalance(record.id, order).await.expect("it goes on");
            assert!(!get(moves, late.id).await.is_paused, "{order:?}");
        }
        end(catalog, &record).await;
        let kept = get(moves, late.id).await;
        assert_eq!((kept.is_paused, kept.goal), (false, MoveGoal::Forward), "{order:?}");
        moves.report(late.id, 0, &report(MovePhase::Done, 1)).await.expect("the first term");
    }
}

async fn check_reports(catalog: &dyn RebalanceCatalog) {
    let record = new_rebalance([1, 2]);
    catalog.begin_rebalance(&record, 1).await.expect("no other one goes on");
    let waits = Some("it waits".to_owned());
    let first = RebalanceReport { steps: vec![moved(1)], reason: waits.clone(), end: None };
    let reported = catalog.report_rebalance(record.id, &first).await.expect("it goes on");
    assert_eq!(one(catalog, record.id).await, reported);
    assert_eq!((&reported.reason, &reported.steps[1].status), (&waits, &moved(1).1));
    assert!(reported.changed_at >= record.changed_at && reported.ended_at.is_none());
    let ended = end(catalog, &record).await;
    assert_eq!(one(catalog, record.id).await, ended);
    assert_eq!((ended.state, ended.skew_measured), (RebalanceState::Done, Some(1.25)));
    let late = catalog.report_rebalance(record.id, &first).await;
    assert_eq!(late, Err(RebalanceOrderFault::Ended(RebalanceState::Done).into()));
    let unknown = catalog.report_rebalance(RebalanceId(7), &first).await;
    assert_eq!(unknown, Err(RebalanceListError::NoRebalance));
}

async fn check_race(catalog: &dyn RebalanceCatalog) {
    let records: Vec<RebalanceRecord> = (0..8).map(|slot| new_rebalance([slot])).collect();
    let begun = join_all(records.iter().map(|record| catalog.begin_rebalance(record, 1))).await;
    let winners = begun.iter().zip(&records).filter(|(begun, _)| begun.is_ok());
    let winners: Vec<&RebalanceRecord> = winners.map(|(_, record)| record).collect();
    assert_eq!(winners.len(), 1, "{begun:?}");
    let refusal = RebalanceListError::AlreadyRunning(winners[0].id.name());
    let refused = begun.iter().filter(|begun| begun.is_err());
    refused.for_each(|refused| assert_eq!(*refused, Err(refusal.clone())));
    end(catalog, winners[0]).await;
}

async fn check_stored(catalog: &dyn RebalanceCatalog) {
    for slot in 0..ENDED_MAX as u16 + 3 {
        let record = new_rebalance([slot]);
        catalog.begin_rebalance(&record, 1).await.expect("no other one goes on");
        end(catalog, &record).await;
    }
    let open = new_rebalance([99]);
    catalog.begin_rebalance(&open, 1).await.expect("no other one goes on");
    let listed = catalog.list_rebalances().await.expect("the catalog answers");
    assert_eq!(listed.len(), ENDED_MAX + 1, "the oldest are deleted");
    assert_eq!(listed[0], open, "the latest first");
    assert!(listed.is_sorted_by_key(|record| std::cmp::Reverse(record.began_at)));
}
