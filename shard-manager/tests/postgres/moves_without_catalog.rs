//! Tests of moves while the catalog, on a server of its own, stands still, and of moves that it has
//! lost.

use std::time::{Duration, Instant};

use shard_manager::consistency::Level;
use shard_manager::engine::move_record::{MoveOrder, MovePhase, NewMove};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::Manager;
use shard_manager::node_address::ClusterAddress;

use crate::cluster::{Databases, SideSession, Trio, address, connect};
use crate::move_clients::deadline;
use crate::move_steps::{
    LONG, SOURCE, TARGET, begin, kept_up, new, order, owners, slow, store_large, until,
};
use crate::read_write_steps::{at, get, put, within};
use crate::server::runtime;

/// Extent of the rows of a copy.
const CURSOR: &str = "SELECT cursor AS value FROM tessera.tessera_slot_moves";
/// Phase of the only move.
const PHASE: &str = "SELECT phase AS value FROM tessera_moves";
/// Removes all moves from the catalog, as a failover may that has lost their records.
const LOSE: &str = "DELETE FROM tessera_moving; DELETE FROM tessera_moves";
/// Phases of all moves.
const PHASES: &str = "SELECT string_agg(phase, ' ' ORDER BY began_at) AS value FROM tessera_moves";
/// Rows of moves, changes, followed and importing slots in a shard's database.
const LEFT_BEHIND: &str = "SELECT concat_ws(' ',
    (SELECT count(*) FROM tessera.tessera_slot_moves),
    (SELECT count(*) FROM tessera.tessera_changes),
    (SELECT coalesce(sum(bit_count(bits)), 0) FROM tessera.tessera_followed),
    (SELECT count(*) FROM tessera.tessera_slots WHERE state = 'importing')) AS value";
/// Rounds of writes and reads after the copy has all rows: a move may cut over meanwhile.
const ROUNDS: usize = 20;

/// Writes and reads a row under each key.
async fn write_and_read(manager: &Manager, keys: &[String]) {
    for key in keys {
        put(manager, key, &within(20_000, Level::One)).await.unwrap();
        assert_eq!(get(manager, key, &at(Level::All)).await.unwrap().rows.len(), 1, "{key}");
    }
}

/// A key whose slot moves, and one of the other shard.
async fn moved_and_other(manager: &Manager, source: &mut SideSession) -> [String; 2] {
    let moved = source.text("SELECT min(shard_key) AS value FROM kv").await;
    let is_other = |key: &String| {
        let key = ShardKey::parse(key).unwrap();
        manager.map().place(key).is_ok_and(|place| place.shard == TARGET)
    };
    let other = (0..).map(|number| format!("k{number}")).find(is_other).unwrap();
    [moved, other]
}

/// The copy goes on without the catalog; whether it cuts over before the thaw depends on when the
/// mover notices that the catalog does not answer, and writes and reads go on in either case.
#[test]
fn writes_and_a_move_go_on_while_the_catalog_alone_is_frozen_and_the_move_ends_after_the_thaw() {
    let mut trio = Trio::of(0, &[]);
    runtime().block_on(async {
        let databases = Databases::new(2).await;
        let catalog = Some(address(trio.node("shard1-primary"), "shard1"));
        let cluster = ClusterAddress { catalog, ..databases.address() };
        let opening = tokio::task::spawn_blocking(move || connect(&cluster));
        let manager = opening.await.unwrap();
        let mut catalog = SideSession::open(trio.node("shard1-primary"), "shard1").await;
        let [mut source, mut target] =
            [databases.direct_session(0).await, databases.direct_session(1).await];
        let slots = store_large(&manager, 60).await;
        let keys = moved_and_other(&manager, &mut source).await;
        kept_up(&manager, async {
            let described = NewMove { keep: Duration::ZERO, ..slow(&slots) };
            let id = begin(&manager, described).await;
            until(&manager, id, &[MovePhase::Copying]).await;
            trio.cluster.commands().freeze("shard1-primary").unwrap();
            let limit = deadline();
            while target.text(CURSOR).await != "whole" {
                assert!(Instant::now() < limit, "the copy does not go on");
                write_and_read(&manager, &keys).await;
            }
            for _ in 0..ROUNDS {
                write_and_read(&manager, &keys).await;
            }
            trio.cluster.commands().thaw("shard1-primary").unwrap();
            catalog.until(PHASE, "done").await;
        })
        .await;
        assert_eq!(owners(&manager, &slots), [TARGET]);
        write_and_read(&manager, &keys).await;
        let stored = "SELECT count(*)::text AS value FROM kv";
        let stored = [source.text(stored).await, target.text(stored).await];
        assert_eq!(stored, ["0", "60"]);
        tokio::task::spawn_blocking(move || manager.close()).await.unwrap();
    });
}

#[tokio::test]
async fn a_move_that_the_catalog_lost_before_the_commit_is_cancelled_and_leaves_nothing() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let slots = store_large(&manager, 60).await;
    let [mut source, mut target] =
        [databases.direct_session(0).await, databases.direct_session(1).await];
    kept_up(&manager, async {
        begin(&manager, slow(&slots)).await;
        target.until("SELECT (count(*) > 0)::text AS value FROM kv", "true").await;
    })
    .await;
    source.run(LOSE).await;
    kept_up(&manager, async {
        source.until(PHASES, "cancelled").await;
        source.until(LEFT_BEHIND, "0 0 0 0").await;
        target.until(LEFT_BEHIND, "0 0 0 0").await;
        assert_eq!(owners(&manager, &slots), [SOURCE]);
        // The slots may move again.
        let id = begin(&manager, new(&slots, Duration::ZERO)).await;
        until(&manager, id, &[MovePhase::Done]).await;
    })
    .await;
    assert_eq!(owners(&manager, &slots), [TARGET]);
    manager.close();
}

#[tokio::test]
async fn a_move_that_the_catalog_lost_after_the_commit_continues_and_can_be_rolled_back() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let slots = store_large(&manager, 5).await;
    let mut source = databases.direct_session(0).await;
    let id = kept_up(&manager, async {
        let id = begin(&manager, new(&slots, LONG)).await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        id
    })
    .await;
    source.run(LOSE).await;
    kept_up(&manager, async {
        source.until(PHASES, "keeping").await;
        assert_eq!(owners(&manager, &slots), [TARGET]);
        order(&manager, id, MoveOrder::Rollback).await;
        until(&manager, id, &[MovePhase::RolledBack]).await;
    })
    .await;
    assert_eq!(owners(&manager, &slots), [SOURCE]);
    source.until(LEFT_BEHIND, "0 0 0 0").await;
    let stored = source.text("SELECT count(*)::text AS value FROM kv").await;
    assert_eq!(stored, "5");
    manager.close();
}

#[tokio::test]
async fn a_lost_move_makes_way_for_a_later_move_of_its_slots() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let slots = store_large(&manager, 60).await;
    let [mut source, mut target] =
        [databases.direct_session(0).await, databases.direct_session(1).await];
    kept_up(&manager, async {
        begin(&manager, slow(&slots)).await;
        target.until("SELECT (count(*) > 0)::text AS value FROM kv", "true").await;
    })
    .await;
    source.run(LOSE).await;
    let later = begin(&manager, new(&slots, Duration::ZERO)).await;
    kept_up(&manager, async {
        until(&manager, later, &[MovePhase::Done]).await;
        source.until(LEFT_BEHIND, "0 0 0 0").await;
        target.until(LEFT_BEHIND, "0 0 0 0").await;
    })
    .await;
    assert_eq!(source.text(PHASES).await, "done", "the lost move is not listed beside it");
    assert_eq!(owners(&manager, &slots), [TARGET]);
    assert_eq!(target.text("SELECT count(*)::text AS value FROM kv").await, "60");
    manager.close();
}
