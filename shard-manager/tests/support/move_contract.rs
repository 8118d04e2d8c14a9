//! Contract of the listed moves, which the tests of each engine check: what begins a move, who may
//! change it, and what is listed.
//!
//! **Not here:** several routers and failovers, which only servers have.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use shard_manager::engine::ClusterBackend;
use shard_manager::engine::move_catalog::{MoveCatalog, MoveListError, MoveReport, OPEN_MOVES_MAX};
use shard_manager::engine::move_record::{
    MoveLag, MoveOrder, MoveOrderFault, MovePhase, MoveProgressReport, MoveRecord, NewMove,
};
use shard_manager::keyspace::Slot;
use shard_manager::map_change::MapChange;
use shard_manager::moves::identity::MoveId;
use shard_manager::moves::observation::MoveGoal;
use shard_manager::topology::ShardNumber;

use crate::rebalance_contract;

/// Returns a new move of these slots from the first shard to the second.
pub(crate) fn new_move(slots: impl IntoIterator<Item = u16>) -> MoveRecord {
    let slots = slots.into_iter().filter_map(Slot::new).collect();
    let (source, target) = (ShardNumber(0), ShardNumber(1));
    let (rate, keep) = (Some(10), Duration::from_millis(1_500));
    MoveRecord::begin(NewMove { slots, source, target, rate, keep }, Utc::now())
}

/// Returns the report of a phase.
pub(crate) fn report(phase: MovePhase, rows: u64) -> MoveReport {
    let reason = Some("it's \"waiting\"; é".to_owned());
    let (bytes, deleted_batches) = (rows * 9, 2);
    let since = DateTime::from_timestamp_micros(1_700_000_000_000_007);
    let lag = Some(MoveLag { changes: rows, since });
    let (rows_expected, seconds_left) = (Some(rows.saturating_mul(3)), Some(11));
    let progress = MoveProgressReport {
        rows,
        bytes,
        deleted_batches,
        hold_us: 7,
        held_since: since,
        phase_us: [(MovePhase::Copying, rows), (MovePhase::Verifying, 3)].into(),
        reason,
        lag,
        rows_expected,
        seconds_left,
    };
    MoveReport { phase, progress }
}

/// Returns the moves of a backend.
pub(crate) fn catalog(backend: &dyn ClusterBackend) -> &dyn MoveCatalog {
    backend.move_catalog().expect("the engine moves slots")
}

/// Reads a move that is stored.
pub(crate) async fn get(catalog: &dyn MoveCatalog, id: MoveId) -> MoveRecord {
    catalog.get(id).await.expect("the catalog answers").expect("the move is stored")
}

/// Begins a move of these slots at the first epoch.
pub(crate) async fn begin(
    catalog: &dyn MoveCatalog,
    slots: impl IntoIterator<Item = u16>,
) -> MoveRecord {
    let record = new_move(slots);
    catalog.begin(&record, 1).await.expect("the slots do not move");
    record
}

/// Reports the end of a move that no mover has taken over.
async fn end(catalog: &dyn MoveCatalog, id: MoveId) -> MoveRecord {
    let term = catalog.take_over(id, 0).await.expect("it has not ended");
    let ended = catalog.report(id, term, &report(MovePhase::Cancelled, 0)).await;
    ended.expect("the term is the last one")
}

/// Checks the whole contract on a new cluster of two shards. `texts` runs a statement and returns
/// its column `value`.
pub(crate) async fn check(
    backend: &dyn ClusterBackend,
    mut texts: impl AsyncFnMut(&str) -> Vec<String>,
) {
    let catalog = catalog(backend);
    assert_eq!(catalog.list().await, Ok(Vec::new()));
    assert_eq!(catalog.lead().await, Ok(true));
    check_begin(catalog).await;
    check_orders(catalog).await;
    check_terms(catalog).await;
    check_progress(catalog).await;
    check_stored(catalog, &mut texts).await;
    check_clock_set_back(backend, &mut texts).await;
    check_open_moves(backend, &mut texts).await;
    check_epoch(backend).await;
    let of_ended = "SELECT move_id AS value FROM tessera_moving
        WHERE move_id IN (SELECT id FROM tessera_moves WHERE ended_at IS NOT NULL)";
    assert_eq!(texts(of_ended).await, [""; 0], "slots of moves that have ended are free");
}

async fn check_begin(catalog: &dyn MoveCatalog) {
    let first = begin(catalog, [0, 1, 2, 500]).await;
    assert_eq!(get(catalog, first.id).await, first, "it is read as it was stored");
    assert_eq!(catalog.list().await, Ok(vec![first.clone()]));
    assert_eq!(catalog.begin(&first, 1).await, Ok(()), "repeated, it changes nothing");
    let overlapping = new_move([2, 3, 500]);
    let slots = [2, 500].into_iter().filter_map(Slot::new).collect();
    let refusal = MoveListError::SlotsMove { slots, move_name: first.name() };
    assert_eq!(catalog.begin(&overlapping, 1).await, Err(refusal));
    assert_eq!(catalog.get(overlapping.id).await, Ok(None));
    let beside = begin(catalog, [3]).await;
    assert_eq!(catalog.list().await, Ok(vec![beside.clone(), first.clone()]), "the latest first");
    end(catalog, first.id).await;
    assert_eq!(catalog.begin(&overlapping, 1).await.map_err(|error| error.to_string()), {
        let slots = [3].into_iter().filter_map(Slot::new).collect();
        Err(MoveListError::SlotsMove { slots, move_name: beside.name() }.to_string())
    });
    end(catalog, beside.id).await;
    assert_eq!(catalog.begin(&overlapping, 1).await, Ok(()), "the slots are free again");
    end(catalog, overlapping.id).await;
    let unknown = new_move([9]).id;
    assert_eq!(catalog.get(unknown).await, Ok(None));
    let order = catalog.order(unknown, MoveOrder::Pause).await;
    assert_eq!(order, Err(MoveListError::NoMove));
    assert_eq!(catalog.take_over(unknown, 0).await, Err(MoveListError::NoMove));
    let reported = catalog.report(unknown, 0, &report(MovePhase::Copying, 0)).await;
    assert_eq!(reported, Err(MoveListError::NoMove));
}

async fn check_orders(catalog: &dyn MoveCatalog) {
    let MoveRecord { id, .. } = begin(catalog, [100]).await;
    let paused = catalog.order(id, MoveOrder::Pause).await.expect("it has not ended");
    assert!(paused.is_paused);
    assert_eq!(get(catalog, id).await, paused);
    let early = catalog.order(id, MoveOrder::Rollback).await;
    assert_eq!(early, Err(MoveListError::Order(MoveOrderFault::NotYetMoved)));
    assert_eq!(get(catalog, id).await, paused, "a refused order changes nothing");
    let cancelled = catalog.order(id, MoveOrder::Cancel).await.expect("it is not too late");
    assert_eq!((cancelled.goal, cancelled.is_paused), (MoveGoal::Back, false));
    assert_eq!(get(catalog, id).await, cancelled);
    let ended = end(catalog, id).await;
    let late = catalog.order(id, MoveOrder::Resume).await;
    let fault = MoveOrderFault::Ended(MovePhase::Cancelled);
    assert_eq!(late, Err(MoveListError::Order(fault)));
    assert_eq!(get(catalog, id).await, ended);
}

async fn check_terms(catalog: &dyn MoveCatalog) {
    let MoveRecord { id, .. } = begin(catalog, [200]).await;
    for (known, term) in [(0, 1), (0, 2), (9, 10), (3, 11)] {
        assert_eq!(catalog.take_over(id, known).await, Ok(term));
        assert_eq!(get(catalog, id).await.term, term);
    }
    let before = get(catalog, id).await;
    for term in [1, 10, 12] {
        let reported = catalog.report(id, term, &report(MovePhase::Copying, 5)).await;
        assert_eq!(reported, Err(MoveListError::Superseded));
    }
    assert_eq!(get(catalog, id).await, before);
    let reported = catalog.report(id, 11, &report(MovePhase::Copying, 5)).await;
    assert_eq!(get(catalog, id).await, reported.expect("the term is the last one"));
    let ended = catalog.report(id, 11, &report(MovePhase::Done, 5)).await;
    assert_eq!(ended.map(|ended| ended.ended_at.is_some()), Ok(true));
    let again = catalog.report(id, 11, &report(MovePhase::Done, 5)).await;
    assert_eq!(again, Err(MoveListError::Superseded));
    assert_eq!(catalog.take_over(id, 0).await, Err(MoveListError::Superseded));
    // Movers that take over at the same time get different terms.
    let MoveRecord { id, .. } = begin(catalog, [201]).await;
    let terms = join_all((0..8).map(|_| catalog.take_over(id, 0))).await;
    let mut terms: Vec<u64> = terms.into_iter().map(|term| term.expect("a term")).collect();
    terms.sort_unstable();
    assert_eq!(terms, [1, 2, 3, 4, 5, 6, 7, 8]);
    end(catalog, id).await;
}

async fn check_progress(catalog: &dyn MoveCatalog) {
    let MoveRecord { id, began_at, .. } = begin(catalog, [300, 301]).await;
    let report_of = async |phase, rows| {
        let reported = catalog.report(id, 0, &report(phase, rows)).await.expect("the first term");
        assert_eq!(get(catalog, id).await, reported);
        reported
    };
    let copying = report_of(MovePhase::Copying, 1).await;
    assert!(copying.changed_at >= began_at);
    assert_eq!(copying.progress, report(MovePhase::Copying, 1).progress);
    let same = report_of(MovePhase::Copying, 1).await;
    assert_eq!(same.changed_at, copying.changed_at, "no progress");
    let keeping = report_of(MovePhase::Keeping, 2).await;
    assert!(keeping.owned_at.is_some() && keeping.changed_at > copying.changed_at);
    let kept = report_of(MovePhase::Keeping, 3).await;
    assert_eq!(kept.owned_at, keeping.owned_at, "only once");
    let settled = catalog.order(id, MoveOrder::Settle).await.expect("the target owns the slots");
    assert!(settled.goal == MoveGoal::Settle && settled.changed_at > kept.changed_at);
    let done = report_of(MovePhase::Done, 3).await;
    assert_eq!((done.owned_at, done.goal), (keeping.owned_at, MoveGoal::Settle));
}

/// Moves that have ended a year before: number 1 first, and number 1 200 last.
const OLD: &str = "WITH RECURSIVE old (number) AS
        (SELECT 1 UNION ALL SELECT number + 1 FROM old WHERE number < 1200)
    INSERT INTO tessera_moves (id, source, target, slots, phase, goal, paused, rate, keep_us, term,
        began_at, changed_at, owned_at, ended_at, progress)
    SELECT '00000000-0000-4000-8000-' || (100000000000 + number), 0, 1, '7-8', 'done', 'forward', 0,
        NULL, 0, 1, '2025-01-01T00:00:00.000000Z', '2025-01-01T00:00:00.000000Z', NULL,
        '2025-01-01T00:00:00.' || (100000 + number) || 'Z',
        '{\"rows\":1,\"bytes\":2,\"hold_us\":3,\"reason\":null}'
    FROM old WHERE true RETURNING id AS value";

async fn check_stored(catalog: &dyn MoveCatalog, texts: &mut impl AsyncFnMut(&str) -> Vec<String>) {
    let ended = catalog.list().await.expect("the catalog answers");
    assert!(ended.iter().all(|ended| ended.ended_at.is_some()), "{ended:#?}");
    let open = begin(catalog, [400]).await;
    assert_eq!(texts(OLD).await.len(), 1_200);
    let listed = catalog.list().await.expect("the catalog answers");
    assert_eq!(listed.len(), 101);
    assert_eq!(listed[0], open);
    assert_eq!(listed[1..=ended.len()], ended[..], "all that have ended last");
    assert!(listed.is_sorted_by_key(|listed| std::cmp::Reverse(listed.began_at)));
    let is_old = |number: u128| {
        move |listed: &MoveRecord| listed.name().ends_with(&(100_000_000_000 + number).to_string())
    };
    assert!(listed.iter().any(is_old(1_200)) && !listed.iter().any(is_old(1_100)));
    let next = begin(catalog, [401]).await;
    let count = "SELECT count(*) || '' AS value FROM tessera_moves WHERE ended_at IS NOT NULL";
    assert_eq!(texts(count).await, ["1000"], "the oldest are deleted");
    let oldest = "SELECT min(id) AS value FROM tessera_moves
        WHERE ended_at < '2026' AND ended_at IS NOT NULL";
    let left = 1_201 - (1_000 - ended.len() as u64);
    let oldest = texts(oldest).await.pop().expect("a row");
    assert!(oldest.ends_with(&(100_000_000_000 + left).to_string()), "{oldest}");
    for open in [open.id, next.id] {
        assert!(get(catalog, open).await.ended_at.is_none());
        end(catalog, open).await;
    }
}

/// A move that a rebalance in progress has given up stays listed, even if many others have later
/// end times because the clock was set back. Otherwise it would begin again and again.
async fn check_clock_set_back(
    backend: &dyn ClusterBackend,
    texts: &mut impl AsyncFnMut(&str) -> Vec<String>,
) {
    let (catalog, rebalances) = (catalog(backend), rebalance_contract::catalog(backend));
    let ahead = OLD.replace("2025-", "2125-").replace("-8000-", "-9000-");
    assert_eq!(texts(&ahead).await.len(), 1_200);
    let record = rebalance_contract::new_rebalance([450]);
    rebalances.begin_rebalance(&record, 1).await.expect("no other one goes on");
    let failed = MoveRecord { rebalance: Some(record.id), ..new_move([450]) };
    catalog.begin(&failed, 1).await.expect("the slots do not move");
    let failed = catalog.report(failed.id, 0, &report(MovePhase::Failed, 3)).await;
    let failed = failed.expect("the first term");
    let of_rebalance = async || {
        let listed = catalog.list().await.expect("the catalog answers");
        let is_own = |listed: &MoveRecord| listed.rebalance == Some(record.id);
        listed.into_iter().filter(is_own).collect::<Vec<MoveRecord>>()
    };
    assert_eq!(of_rebalance().await, std::slice::from_ref(&failed));
    // Old moves are removed when a new one begins.
    let next = begin(catalog, [451]).await;
    assert_eq!(of_rebalance().await, [failed]);
    end(catalog, next.id).await;
    rebalance_contract::end(rebalances, &record).await;
}

/// Checks that of more moves than may be open, only those of a rebalance begin.
async fn check_open_moves(
    backend: &dyn ClusterBackend,
    texts: &mut impl AsyncFnMut(&str) -> Vec<String>,
) {
    let (catalog, rebalances) = (catalog(backend), rebalance_contract::catalog(backend));
    let all_but_one = OPEN_MOVES_MAX - 1;
    let ended_at = "'2025-01-01T00:00:00.' || (100000 + number) || 'Z'";
    let open = OLD.replace(ended_at, "NULL").replace("'done'", "'planned'");
    let open = open.replace("-8000-", "-a000-").replace("1200", &all_but_one.to_string());
    assert_eq!(texts(&open).await.len(), all_but_one);
    let last = begin(catalog, [480]).await;
    let beyond = new_move([481]);
    assert_eq!(catalog.begin(&beyond, 1).await, Err(MoveListError::TooMany));
    assert_eq!(catalog.get(beyond.id).await, Ok(None));
    assert_eq!(catalog.begin(&last, 1).await, Ok(()), "repeated, it changes nothing");
    let record = rebalance_contract::new_rebalance([482]);
    rebalances.begin_rebalance(&record, 1).await.expect("no other one goes on");
    let of_rebalance = MoveRecord { rebalance: Some(record.id), ..new_move([482]) };
    assert_eq!(catalog.begin(&of_rebalance, 1).await, Ok(()));
    assert_eq!(catalog.begin(&beyond, 1).await, Err(MoveListError::TooMany));
    end(catalog, last.id).await;
    assert_eq!(catalog.begin(&beyond, 1).await, Ok(()), "the rebalance's move does not count");
    for open in [beyond.id, of_rebalance.id] {
        end(catalog, open).await;
    }
    rebalance_contract::end(rebalances, &record).await;
    let removed = "DELETE FROM tessera_moves WHERE id LIKE '00000000-0000-4000-a000-%'
        RETURNING id AS value";
    assert_eq!(texts(removed).await.len(), all_but_one);
}

async fn check_epoch(backend: &dyn ClusterBackend) {
    let catalog = catalog(backend);
    let change = MapChange::Weight { shard: ShardNumber(1), weight: 3 };
    let map = backend.change_map(change, 1).await.expect("the first change");
    let record = new_move([600]);
    let stale = MoveListError::Stale { expected: 1, epoch: map.epoch() };
    assert_eq!(catalog.begin(&record, 1).await, Err(stale));
    assert_eq!(catalog.get(record.id).await, Ok(None));
    assert_eq!(catalog.begin(&record, map.epoch()).await, Ok(()));
}

/// Checks that of many moves which begin at once in these catalogs, and have one slot in common,
/// one begins.
pub(crate) async fn check_race(catalogs: [&dyn MoveCatalog; 2]) {
    for round in 0..5 {
        let records: Vec<MoveRecord> =
            (1..=8).map(|number| new_move([1_000 + round, 2_000 + number])).collect();
        let begun = records.iter().enumerate();
        let begun = begun.map(|(index, record)| catalogs[index % 2].begin(record, 1));
        let begun = join_all(begun).await;
        let winners = begun.iter().zip(&records).filter(|(begun, _)| begun.is_ok());
        let winners: Vec<&MoveRecord> = winners.map(|(_, record)| record).collect();
        assert_eq!(winners.len(), 1, "{begun:?}");
        let slots = Slot::new(1_000 + round).into_iter().collect();
        let refusal = MoveListError::SlotsMove { slots, move_name: winners[0].name() };
        let refused = begun.iter().filter(|begun| begun.is_err());
        refused.for_each(|refused| assert_eq!(*refused, Err(refusal.clone())));
        let known = get(catalogs[1], winners[0].id).await;
        assert_eq!(known, get(catalogs[0], winners[0].id).await);
        end(catalogs[0], winners[0].id).await;
    }
}
