//! Tests of the moves in a catalog that several routers share, and of the router that carries them
//! out.

use std::time::{Duration, Instant};

use shard_manager::engine::OpenedCluster;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::move_catalog::{MoveCatalog, MoveListError};
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::engine::refusal_code::RefusalCode;
use shard_manager::keyspace::Slot;
use shard_manager::local::Stop;
use shard_manager::manager::MovesError;
use shard_manager::node_address::ClusterAddress;
use shard_manager::slot_set::SlotSet;
use shard_manager::store::postgres::open::{self, ConnectedCluster};

use crate::cluster::{Databases, SideSession, Trio, cluster_of, connect};
use crate::move_contract::{begin, catalog, check, check_race, get, new_move, report};
use crate::move_steps::{LONG, SOURCE, new};
use crate::rebalance_contract;

/// Time limit of a wait. Generous: a test that reaches it has found a defect.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ends the session with which a router leads.
const END_LEADING: &str = "SELECT pg_terminate_backend(pid)::text AS value FROM pg_locks
    WHERE locktype = 'advisory' AND (classid, objid) = (1950, 9) AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// Number of sessions that have the lock of the leading router.
const HOLDERS: &str = "SELECT count(*)::text AS value FROM pg_locks
    WHERE locktype = 'advisory' AND (classid, objid) = (1950, 9) AND granted";

fn open(address: &ClusterAddress) -> OpenedCluster {
    let cluster = ConnectedCluster { address: address.clone(), wanted: ClusterSpec::default() };
    open::open(&cluster).unwrap_or_else(|error| panic!("{error}"))
}

/// Ends a router as a manager does.
fn close(OpenedCluster { shards, backend, .. }: OpenedCluster) {
    backend.stop_background();
    drop(shards);
    backend.release();
}

/// Waits until a router leads.
async fn until_leading(moves: &dyn MoveCatalog) {
    let deadline = Instant::now() + PATIENCE;
    while moves.lead().await != Ok(true) {
        assert!(Instant::now() < deadline, "it never leads");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_contract_holds_for_a_catalog_on_a_server() {
    let databases = Databases::new(2).await;
    let router = open(&databases.address());
    let mut direct = databases.direct_session(0).await;
    check(&*router.backend, async |sql| direct.texts(sql).await).await;
}

#[tokio::test]
async fn the_contract_of_rebalances_holds_for_a_catalog_on_a_server() {
    let databases = Databases::new(2).await;
    let (router, other) = (open(&databases.address()), open(&databases.address()));
    rebalance_contract::check(&*router.backend).await;
    let listed = rebalance_contract::catalog(&*router.backend).list_rebalances().await;
    let elsewhere = rebalance_contract::catalog(&*other.backend).list_rebalances().await;
    assert_eq!(elsewhere, listed, "another router lists them too");
}

#[tokio::test]
async fn of_moves_that_begin_at_once_on_two_routers_with_a_common_slot_one_begins() {
    let databases = Databases::new(2).await;
    let (one, other) = (open(&databases.address()), open(&databases.address()));
    check_race([catalog(&*one.backend), catalog(&*other.backend)]).await;
}

#[tokio::test]
async fn moves_are_the_same_on_another_router_and_after_a_restart() {
    let databases = Databases::new(2).await;
    let one = open(&databases.address());
    let moves = catalog(&*one.backend);
    let (ended, open_one) = (begin(moves, 0..64).await, begin(moves, [64, 70]).await);
    moves.report(ended.id, 0, &report(MovePhase::Failed, 3)).await.unwrap();
    moves.take_over(open_one.id, 4).await.unwrap();
    moves.report(open_one.id, 5, &report(MovePhase::Keeping, 3)).await.unwrap();
    moves.order(open_one.id, MoveOrder::Rollback).await.unwrap();
    let before = moves.list().await.unwrap();
    assert_eq!(before.len(), 2);
    let other = open(&databases.address());
    assert_eq!(catalog(&*other.backend).list().await.unwrap(), before);
    close(one);
    close(other);
    let router = open(&databases.address());
    let moves = catalog(&*router.backend);
    assert_eq!(moves.list().await.unwrap(), before);
    let taken = moves.begin(&new_move([70]), 1).await;
    assert!(matches!(taken, Err(MoveListError::SlotsMove { .. })), "{taken:?}");
    assert_eq!(moves.begin(&new_move([63]), 1).await, Ok(()));
}

#[tokio::test]
async fn one_router_leads_and_the_next_one_once_it_has_ended() {
    let databases = Databases::new(1).await;
    let (one, other) = (open(&databases.address()), open(&databases.address()));
    for _ in 0..3 {
        assert_eq!(catalog(&*one.backend).lead().await, Ok(true));
        assert_eq!(catalog(&*other.backend).lead().await, Ok(false));
    }
    close(one);
    until_leading(catalog(&*other.backend)).await;
    close(other);
}

#[tokio::test]
async fn a_router_that_has_lost_its_connection_leads_no_more_and_another_one_may() {
    let databases = Databases::new(1).await;
    let (one, other) = (open(&databases.address()), open(&databases.address()));
    let (first, second) = (catalog(&*one.backend), catalog(&*other.backend));
    assert_eq!((first.lead().await, second.lead().await), (Ok(true), Ok(false)));
    let mut direct = databases.direct_session(0).await;
    assert_eq!(direct.text(END_LEADING).await, "true");
    assert_eq!(first.lead().await, Ok(false), "the loss is reported before it tries again");
    until_leading(second).await;
    assert_eq!(first.lead().await, Ok(false));
    // It tries again later.
    close(other);
    until_leading(first).await;
    close(one);
}

#[tokio::test]
async fn a_lost_lock_is_reported_once_the_catalog_responds_again_and_not_before() {
    let mut trio = Trio::of(0, &[]);
    let router = open(&trio.address());
    let moves = catalog(&*router.backend);
    until_leading(moves).await;
    trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
    for _ in 0..2 {
        assert!(moves.lead().await.is_err(), "no other router can lead meanwhile");
    }
    trio.cluster.commands().start("shard1-primary").unwrap();
    let deadline = Instant::now() + PATIENCE;
    let reported = loop {
        match moves.lead().await {
            Ok(leads) => break leads,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(!reported, "another router may have led meanwhile");
    until_leading(moves).await;
    close(router);
}

#[tokio::test]
async fn a_router_that_stands_still_leads_no_more() {
    let databases = Databases::new(1).await;
    let (one, other) = (open(&databases.address()), open(&databases.address()));
    assert_eq!(catalog(&*one.backend).lead().await, Ok(true));
    // The first one does not ask again, as if it were stopped.
    until_leading(catalog(&*other.backend)).await;
    assert_eq!(catalog(&*one.backend).lead().await, Ok(false));
}

#[tokio::test]
async fn requests_go_on_after_their_session_was_ended() {
    let databases = Databases::new(1).await;
    let router = open(&databases.address());
    let moves = catalog(&*router.backend);
    let record = begin(moves, [5]).await;
    let mut direct = databases.direct_session(0).await;
    let end = "SELECT pg_terminate_backend(pid)::text AS value FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'tessera moves'";
    assert_eq!(direct.text(end).await, "true", "a session is kept for the next request");
    assert_eq!(get(moves, record.id).await, record);
    assert_eq!(moves.list().await, Ok(vec![record]));
}

/// The old primary still runs, and the session of the router that leads there still answers.
#[tokio::test]
async fn moves_and_leading_follow_the_catalog_to_a_promoted_replica() {
    let trio = Trio::of(1, &[]);
    let (one, other) = (open(&trio.address()), open(&trio.address()));
    let (first, second) = (catalog(&*one.backend), catalog(&*other.backend));
    assert_eq!((first.lead().await, second.lead().await), (Ok(true), Ok(false)));
    let record = begin(first, [5, 6]).await;
    first.take_over(record.id, 0).await.unwrap();
    let mut promoted = SideSession::open(trio.node("shard1-replica1"), "shard1").await;
    promoted.until("SELECT term::text AS value FROM tessera_moves", "1").await;
    promoted.run("SELECT pg_promote()").await;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leading = [first.lead().await, second.lead().await];
        let leading = leading.iter().filter(|leads| **leads == Ok(true)).count();
        if leading == 1 && promoted.text(HOLDERS).await == "1" {
            break;
        }
        assert!(Instant::now() < deadline, "{leading} routers lead");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for (moves, term) in [(first, 2), (second, 3)] {
        assert_eq!(moves.take_over(record.id, 0).await, Ok(term));
        assert_eq!(
            promoted.text("SELECT term::text AS value FROM tessera_moves").await,
            term.to_string()
        );
    }
    let mut deposed = SideSession::open(trio.node("shard1-primary"), "shard1").await;
    assert_eq!(deposed.text("SELECT term::text AS value FROM tessera_moves").await, "1");
    close(one);
    close(other);
}

#[tokio::test]
async fn a_catalog_apart_from_the_shards_lists_moves() {
    let databases = Databases::new(3).await;
    let whole = databases.address();
    let [first, second, apart] = [0, 1, 2].map(|index: usize| whole.shards[index].primary.clone());
    let address = ClusterAddress { catalog: Some(apart), ..cluster_of([first, second]) };
    let router = open(&address);
    let moves = catalog(&*router.backend);
    let record = begin(moves, [1]).await;
    let mut direct = databases.direct_session(2).await;
    assert_eq!(direct.text("SELECT id AS value FROM tessera_moves").await, record.name());
    assert_eq!(moves.lead().await, Ok(true));
}

#[tokio::test]
async fn routers_of_a_lower_version_or_without_one_are_too_old_for_moves() {
    let databases = Databases::new(2).await;
    let (router, _other) = (open(&databases.address()), open(&databases.address()));
    let moves = catalog(&*router.backend);
    let mut session = databases.direct_session(0).await;
    let long = format!("{} tessera follower", "x".repeat(46));
    for (name, older) in [
        ("tessera follower", 1),
        ("blue tessera follower", 1),
        ("tessera follower/0", 1),
        ("tessera follower/999999999", 0),
        ("tessera follower/99999999999999999999", 0),
        ("tessera followers", 0),
        ("a/tessera follower", 0),
        ("tessera lane", 0),
        // A version may have been cut off.
        (&*long, 0),
    ] {
        session.run(&format!("SET application_name = '{name}'")).await;
        assert_eq!(moves.older_routers().await, Ok(older), "{name}");
    }
}

#[tokio::test]
async fn a_move_begins_only_once_no_router_that_is_too_old_is_connected() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let slots: SlotSet = manager.map().slots_of(SOURCE).take(1).filter_map(Slot::new).collect();
    let begin = || manager.moves().begin(new(&slots, LONG), None, Instant::now() + PATIENCE);
    let mut old = databases.direct_session(0).await;
    old.run("SET application_name = 'tessera follower'").await;
    let refused = begin().await.expect_err("an old router is connected");
    assert_eq!(refused, MovesError::OlderRouters(1));
    assert_eq!(refused.code(), Some(RefusalCode::ShardState));
    assert_eq!(manager.moves().list().await, Ok(Vec::new()), "a refused move is not listed");
    drop(old);
    let limit = Instant::now() + PATIENCE;
    loop {
        match begin().await {
            Ok(_) => break,
            // The server ends a session a moment after its client.
            Err(MovesError::OlderRouters(_)) if Instant::now() < limit => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("it does not begin: {error}"),
        }
    }
}
