//! Tests of the moves in the catalog of an embedded cluster.

use std::path::Path;

use shard_manager::engine::OpenedCluster;
use shard_manager::engine::move_catalog::MoveListError;
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::error::Error;
use shard_manager::store::sqlite;

use crate::cluster::{shards, texts};
use crate::move_contract::{begin, catalog, check, check_race, get, new_move, report};
use crate::rebalance_contract;
use crate::scratch;

fn open(dir: &Path) -> OpenedCluster {
    let wanted = sqlite::open::EmbeddedCluster { data_dir: dir.to_owned(), wanted: shards(2) };
    sqlite::open::open(&wanted).expect("the cluster starts").cluster
}

/// Ends a cluster as a manager does.
fn close(OpenedCluster { shards, backend, .. }: OpenedCluster) {
    backend.stop_background();
    drop(shards);
    backend.release();
}

#[tokio::test]
async fn the_contract_holds_for_a_catalog_file() {
    let dir = scratch::folder();
    let cluster = open(dir.path());
    let file = dir.path().join("catalog.db");
    check(&*cluster.backend, async |sql| texts(&file, sql)).await;
    close(cluster);
}

#[tokio::test]
async fn the_contract_of_rebalances_holds_for_a_catalog_file() {
    let dir = scratch::folder();
    let cluster = open(dir.path());
    rebalance_contract::check(&*cluster.backend).await;
    let before = rebalance_contract::catalog(&*cluster.backend).list_rebalances().await;
    close(cluster);
    let cluster = open(dir.path());
    let after = rebalance_contract::catalog(&*cluster.backend).list_rebalances().await;
    assert_eq!(after, before, "they outlive a restart");
    close(cluster);
}

#[tokio::test]
async fn of_moves_that_begin_at_once_with_a_common_slot_one_begins() {
    let dir = scratch::folder();
    let cluster = open(dir.path());
    check_race([catalog(&*cluster.backend); 2]).await;
    close(cluster);
}

#[tokio::test]
async fn moves_outlive_a_restart_with_their_orders_and_slots() {
    let dir = scratch::folder();
    let cluster = open(dir.path());
    let moves = catalog(&*cluster.backend);
    let (ended, open_one) = (begin(moves, 0..64).await, begin(moves, [64, 70]).await);
    moves.report(ended.id, 0, &report(MovePhase::Failed, 3)).await.expect("the first term");
    moves.take_over(open_one.id, 4).await.expect("a term");
    moves.report(open_one.id, 5, &report(MovePhase::Keeping, 3)).await.expect("the last term");
    moves.order(open_one.id, MoveOrder::Rollback).await.expect("it is kept");
    moves.order(open_one.id, MoveOrder::Pause).await.expect("it has not ended");
    let before = moves.list().await;
    close(cluster);
    let cluster = open(dir.path());
    let moves = catalog(&*cluster.backend);
    assert_eq!(moves.list().await, before);
    let taken = moves.begin(&new_move([70]), 1).await;
    assert!(matches!(taken, Err(MoveListError::SlotsMove { .. })), "{taken:?}");
    assert_eq!(moves.begin(&new_move([63]), 1).await, Ok(()));
    assert_eq!(moves.take_over(open_one.id, 0).await, Ok(6));
    close(cluster);
}

#[tokio::test]
async fn a_process_that_ends_leads_no_more_and_changes_nothing() {
    let dir = scratch::folder();
    let cluster = open(dir.path());
    let moves = catalog(&*cluster.backend);
    let record = begin(moves, [5]).await;
    assert_eq!(moves.lead().await, Ok(true));
    cluster.backend.stop_background();
    assert_eq!(moves.lead().await, Ok(false));
    let away = Error::ShardUnavailable { shard: "the catalog".to_owned() };
    let order = moves.order(record.id, MoveOrder::Pause).await;
    assert_eq!(order, Err(MoveListError::Failed(away)));
    close(cluster);
    let cluster = open(dir.path());
    assert_eq!(get(catalog(&*cluster.backend), record.id).await, record);
    close(cluster);
}

#[tokio::test]
async fn a_process_whose_lock_was_taken_away_leads_no_more() {
    let dir = scratch::folder();
    let cluster = open(dir.path());
    let moves = catalog(&*cluster.backend);
    let record = begin(moves, [5]).await;
    std::fs::remove_file(dir.path().join("tessera.lock")).expect("it is there");
    let deadline = crate::cluster::deadline();
    while moves.lead().await.is_ok() {
        assert!(std::time::Instant::now() < deadline, "the lock is not checked");
        tokio::task::yield_now().await;
    }
    let order = moves.order(record.id, MoveOrder::Pause).await;
    assert!(matches!(order, Err(MoveListError::Failed(_))), "{order:?}");
}
