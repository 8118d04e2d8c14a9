//! Tests of moves of which one shard cannot be reached, and of copies that ended moves have left.

use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::local::Stop;
use shard_manager::moves::observation::MoveGoal;

use crate::cluster::{Databases, SideSession, Trio, connect};
use crate::move_steps::{
    LONG, SOURCE, TARGET, begin, kept_up, new, order, owners, slow, store_large, until,
};

/// Rows of moves, recorded changes and followed slots in a shard's database.
const LEFT_BEHIND: &str = "SELECT concat_ws(' ',
    (SELECT count(*) FROM tessera.tessera_slot_moves),
    (SELECT count(*) FROM tessera.tessera_changes),
    (SELECT coalesce(sum(bit_count(bits)), 0) FROM tessera.tessera_followed)) AS value";
/// Rows of moves, and slots that are imported.
const IMPORTED: &str = "SELECT concat_ws(' ',
    (SELECT count(*) FROM tessera.tessera_slot_moves),
    (SELECT count(*) FROM tessera.tessera_slots WHERE state = 'importing'),
    (SELECT count(*) FROM kv)) AS value";

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_move_ends_without_its_target_whose_copy_is_deleted_when_it_is_back() {
    let mut trio = Trio::start();
    let database = Databases::new(1).await;
    let (mut shards, other) = (trio.address(), database.address().shards.remove(0));
    shards.shards.insert(SOURCE.index(), other);
    let manager = tokio::task::spawn_blocking(move || connect(&shards)).await.unwrap();
    let slots = store_large(&manager, 60).await;
    let mut source = database.direct_session(0).await;
    let mut target = SideSession::open(trio.node("shard1-primary"), "shard1").await;
    kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Copying]).await;
        target.until("SELECT (count(*) > 0)::text AS value FROM kv", "true").await;
        let stopping = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
            trio
        });
        let mut trio = stopping.await.unwrap();
        order(&manager, id, MoveOrder::Cancel).await;
        let ended = until(&manager, id, &[MovePhase::Cancelled]).await;
        let reason = ended.progress.reason.unwrap();
        assert!(reason.contains("could not be reached"), "{reason}");
        assert_eq!(owners(&manager, &slots), [SOURCE]);
        source.until(LEFT_BEHIND, "0 0 0").await;

        let starting = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().start("shard1-primary").unwrap();
            trio
        });
        let trio = starting.await.unwrap();
        let mut target = SideSession::open(trio.node("shard1-primary"), "shard1").await;
        target.until(IMPORTED, "0 0 0").await;
        // The slots may move again.
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        assert_eq!(owners(&manager, &slots), [TARGET]);
    })
    .await;
    tokio::task::spawn_blocking(move || manager.close()).await.unwrap();
}

#[tokio::test]
async fn a_copy_that_a_move_left_is_deleted_although_the_catalog_no_longer_lists_the_move() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let slots = store_large(&manager, 60).await;
    let mut source = databases.direct_session(0).await;
    let mut target = databases.direct_session(1).await;
    kept_up(&manager, async {
        begin(&manager, slow(&slots)).await;
        target.until("SELECT (count(*) > 0)::text AS value FROM kv", "true").await;
    })
    .await;
    // The move has ended, and more moves after it than are listed.
    let end = "BEGIN; DELETE FROM tessera_moving;
        UPDATE tessera_moves SET phase = 'cancelled', goal = 'back', ended_at = began_at;
        INSERT INTO tessera_moves SELECT gen_random_uuid()::text, rebalance, source, target, slots,
            'done', goal, paused, rate, keep_us, term, began_at, changed_at, owned_at,
            '2100-01-01T00:00:00.000000Z', progress
            FROM tessera_moves, generate_series(1, 100); COMMIT";
    source.run(end).await;
    kept_up(&manager, async {
        target.until(IMPORTED, "0 0 0").await;
        source.until(LEFT_BEHIND, "0 0 0").await;
    })
    .await;
    manager.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_ends_its_recording_although_the_kept_source_cannot_be_reached() {
    let mut trio = Trio::of(0, &[]);
    let databases = Databases::new(2).await;
    let mut shards = trio.address();
    let mut others = databases.address().shards;
    shards.catalog = others.pop().map(|catalog| catalog.primary);
    shards.shards.append(&mut others);
    let manager = tokio::task::spawn_blocking(move || connect(&shards)).await.unwrap();
    let slots = store_large(&manager, 1).await;
    let mut target = databases.direct_session(0).await;
    let mut catalog = databases.direct_session(1).await;
    kept_up(&manager, async {
        let id = begin(&manager, new(&slots, LONG)).await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        let stopping = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
            trio
        });
        let mut trio = stopping.await.unwrap();
        let kept = manager.moves().get(id).await.unwrap();
        assert_eq!(kept.goal, MoveGoal::Forward);
        // The time of keeping is over now, as if the clock had advanced by it.
        catalog.run("UPDATE tessera_moves SET keep_us = 0").await;
        target.until(LEFT_BEHIND, "0 0 0").await;
        let waiting = manager.moves().get(id).await.unwrap();
        assert!(!waiting.phase.has_ended(), "the source still has rows: {waiting:?}");

        let starting = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().start("shard1-primary").unwrap();
            trio
        });
        let trio = starting.await.unwrap();
        until(&manager, id, &[MovePhase::Done]).await;
        assert_eq!(owners(&manager, &slots), [TARGET]);
        let mut source = SideSession::open(trio.node("shard1-primary"), "shard1").await;
        source.until(IMPORTED, "0 0 0").await;
    })
    .await;
    tokio::task::spawn_blocking(move || manager.close()).await.unwrap();
}
