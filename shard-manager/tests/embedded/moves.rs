//! Tests of moves of slots between the shards of a cluster of files, beside writes and reads.

use std::time::{Duration, Instant};

use shard_manager::consistency::Level;
use shard_manager::engine::fault_injector::{NodeFault, NodeMode};
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::manager::{MovesError, RequestOptions};
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, deadline, execute, ints, options, texts, with_replicas};
use crate::move_clients::{beside, keys_of, rows};
use crate::move_steps::{
    LONG, SOURCE, TARGET, begin, clients, kept_up, new, order, owners, slow, store_large, until,
    until_paused,
};

/// Number of rows of all tables of clients in the file of a shard.
fn stored(cluster: &Cluster, shard: ShardNumber) -> i64 {
    let file = cluster.file(shard.index() + 1);
    let count = |table: &str| ints(&file, &format!("SELECT count(*) AS value FROM {table}"))[0];
    count("kv") + count("users")
}

#[tokio::test]
async fn slots_move_beside_writes_and_reads_and_the_source_is_cleaned() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let (keys, slots) = keys_of(manager, SOURCE, 4);
    let mut clients = clients(manager, &keys);
    kept_up(manager, async {
        let id = beside(&mut clients, async |rounds| {
            let id = begin(manager, new(&slots, LONG)).await;
            let kept = until(manager, id, &[MovePhase::Keeping]).await;
            assert!(kept.owned_at.is_some() && kept.progress.hold_us > 0, "{kept:?}");
            assert_eq!(owners(manager, &slots), [TARGET]);
            rounds.more(12).await;
            id
        })
        .await;
        order(manager, id, MoveOrder::Settle).await;
        let done = until(manager, id, &[MovePhase::Done]).await;
        assert_eq!(done.progress.reason, None);
        beside(&mut clients, async |_| ()).await;
    })
    .await;
    // A replica may be behind.
    let quorum = RequestOptions { level: Level::Quorum, ..options() };
    let all = rows(manager, "kv", None, &quorum).await.0.len()
        + rows(manager, "users", None, &quorum).await.0.len();
    let in_files = stored(&cluster, SOURCE) + stored(&cluster, TARGET);
    assert_eq!(in_files, all as i64, "the source has no rows of the slots any more");
}

#[tokio::test]
async fn a_rollback_keeps_the_writes_that_the_target_has_accepted() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let (keys, slots) = keys_of(manager, SOURCE, 4);
    let mut clients = clients(manager, &keys);
    kept_up(manager, async {
        beside(&mut clients, async |rounds| {
            let id = begin(manager, new(&slots, LONG)).await;
            until(manager, id, &[MovePhase::Keeping]).await;
            rounds.more(12).await;
            order(manager, id, MoveOrder::Rollback).await;
            until(manager, id, &[MovePhase::RolledBack]).await;
            assert_eq!(owners(manager, &slots), [SOURCE]);
        })
        .await;
        // The slots may move again.
        beside(&mut clients, async |_| {
            let id = begin(manager, new(&slots, Duration::ZERO)).await;
            until(manager, id, &[MovePhase::Done]).await;
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_rollback_copies_only_what_has_changed_since_the_move() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let slots = store_large(manager, 60).await;
    kept_up(manager, async {
        let id = begin(manager, new(&slots, LONG)).await;
        let kept = until(manager, id, &[MovePhase::Keeping]).await;
        order(manager, id, MoveOrder::Rollback).await;
        let back = until(manager, id, &[MovePhase::RolledBack]).await;
        assert_eq!((kept.progress.rows, back.progress.rows), (60, 60));
        assert_eq!(owners(manager, &slots), [SOURCE]);
    })
    .await;
}

#[tokio::test]
async fn the_rows_to_copy_are_estimated_from_the_share_of_the_slots_when_a_move_begins() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let slots = store_large(manager, 20).await;
    let sizes = manager.status().size_estimates(deadline()).await;
    let size = sizes.into_iter().find_map(|(shard, size)| size.filter(|_| shard == SOURCE));
    let rows = size.and_then(|size| size.rows).expect("files count their rows");
    let owned = manager.map().slots_of(SOURCE).count() as u64;
    let expected = Some(rows * slots.len() as u64 / owned);
    kept_up(manager, async {
        let id = begin(manager, new(&slots, LONG)).await;
        let listed = manager.moves().get(id).await.expect("it is listed");
        assert_eq!(listed.progress.rows_expected, expected);
        let kept = until(manager, id, &[MovePhase::Keeping]).await;
        assert_eq!((kept.progress.rows_expected, kept.progress.seconds_left), (expected, None));
    })
    .await;
}

#[tokio::test]
async fn a_move_is_paused_resumed_and_cancelled_while_it_copies() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let slots = store_large(manager, 60).await;
    let before = stored(&cluster, SOURCE);
    kept_up(manager, async {
        let id = begin(manager, slow(&slots)).await;
        until(manager, id, &[MovePhase::Copying]).await;
        order(manager, id, MoveOrder::Pause).await;
        until_paused(manager, id).await;
        order(manager, id, MoveOrder::Resume).await;
        order(manager, id, MoveOrder::Cancel).await;
        until(manager, id, &[MovePhase::Cancelled]).await;
        assert_eq!(owners(manager, &slots), [SOURCE]);
    })
    .await;
    assert_eq!((stored(&cluster, SOURCE), stored(&cluster, TARGET)), (before, 0));
    let done = manager.moves().list().await.expect("listed");
    let refused = manager.moves().order(done[0].id, MoveOrder::Pause).await;
    assert!(matches!(refused, Err(MovesError::List(_))), "{refused:?}");
}

#[tokio::test]
async fn a_copy_with_a_damaged_row_does_not_become_the_owner() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let slots = store_large(manager, 40).await;
    let before = stored(&cluster, SOURCE);
    kept_up(manager, async {
        let id = begin(manager, slow(&slots)).await;
        let (limit, target) = (deadline(), cluster.file(TARGET.index() + 1));
        while stored(&cluster, TARGET) == 0 {
            assert!(Instant::now() < limit, "no row is copied");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let key = texts(&target, "SELECT min(shard_key) AS value FROM kv").remove(0);
        let damage = format!("UPDATE kv SET value = '\"damaged\"' WHERE shard_key = '{key}'");
        execute(&target, &damage);
        let slot = format!("SELECT slot AS value FROM kv WHERE shard_key = '{key}'");
        let slot = ints(&target, &slot)[0];
        let failed = until(manager, id, &[MovePhase::Failed]).await;
        let reason = failed.progress.reason.expect("a reason");
        let start = format!(
            "the copy of kv differs from its source in 1 slot, such as {slot}; in slot {slot}, the \
             row of key \"{key}\" with id ["
        );
        assert!(reason.starts_with(&start), "{reason}");
        assert!(reason.ends_with("] has other values on the target"), "{reason}");
        assert_eq!(owners(manager, &slots), [SOURCE]);
    })
    .await;
    assert_eq!((stored(&cluster, SOURCE), stored(&cluster, TARGET)), (before, 0));
}

#[tokio::test]
async fn a_target_takes_no_slots_before_the_commit_is_on_a_majority_of_the_source() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let (_, slots) = keys_of(manager, SOURCE, 4);
    let hold = |mode| {
        let replica = manager.faults().node("shard1-replica1").expect("the node is there");
        replica.set(NodeFault { mode, delay: Duration::ZERO });
    };
    let states = |shard: ShardNumber, state: &str| {
        let sql = format!("SELECT count(*) AS value FROM tessera_slots WHERE state = '{state}'");
        ints(&cluster.file(shard.index() + 1), &sql)[0]
    };
    let moved = slots.len() as i64;
    kept_up(manager, async {
        let id = begin(manager, new(&slots, LONG)).await;
        hold(NodeMode::Paused);
        let limit = deadline();
        loop {
            let record = manager.moves().get(id).await.expect("listed");
            let waits = "it waits until a majority of shard1 has its changes";
            if record.progress.reason.as_deref() == Some(waits) && states(SOURCE, "moved") > 0 {
                break;
            }
            assert!(Instant::now() < limit, "{record:?}");
            assert_ne!(record.phase, MovePhase::Keeping, "a failover would have two owners");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!((states(SOURCE, "moved"), states(TARGET, "importing")), (moved, moved));
        hold(NodeMode::Running);
        until(manager, id, &[MovePhase::Keeping]).await;
        assert_eq!((states(SOURCE, "moved"), states(TARGET, "importing")), (moved, 0));
    })
    .await;
}

#[tokio::test]
async fn a_mover_that_ends_anywhere_is_continued_by_the_next() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let (keys, slots) = keys_of(manager, SOURCE, 3);
    let mut clients = clients(manager, &keys);
    beside(&mut clients, async |_| {
        let mut id = begin(manager, new(&slots, LONG)).await;
        for (arrival, next) in [
            (MovePhase::Keeping, MoveOrder::Rollback),
            (MovePhase::RolledBack, MoveOrder::Settle),
            (MovePhase::Keeping, MoveOrder::Settle),
            (MovePhase::Done, MoveOrder::Settle),
        ] {
            let arrived = async {
                // Ended movers get a little further each time.
                for life in (5..).step_by(4) {
                    let mover = manager.shards().keep_up();
                    let life = Duration::from_millis(life);
                    let _ended = tokio::time::timeout(life, mover).await;
                    let record = manager.moves().get(id).await.expect("listed");
                    if record.phase == arrival {
                        break;
                    }
                    assert!(!record.phase.has_ended(), "{record:?}");
                }
            };
            arrived.await;
            if arrival == MovePhase::RolledBack {
                id = begin(manager, new(&slots, LONG)).await;
            } else if arrival == MovePhase::Keeping {
                order(manager, id, next).await;
            } else {
                assert_eq!(arrival, MovePhase::Done);
            }
        }
    })
    .await;
    assert_eq!(owners(manager, &slots), [TARGET]);
}

#[tokio::test]
async fn a_cluster_that_is_closed_goes_on_with_its_moves_when_it_is_opened() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let slots = store_large(&cluster.manager, 60).await;
    let id = kept_up(&cluster.manager, async {
        let id = begin(&cluster.manager, slow(&slots)).await;
        until(&cluster.manager, id, &[MovePhase::Copying]).await;
        id
    })
    .await;
    let cluster = cluster.restart_after(|_| ());
    kept_up(&cluster.manager, until(&cluster.manager, id, &[MovePhase::Keeping])).await;
    let cluster = cluster.restart_after(|_| ());
    kept_up(&cluster.manager, async {
        order(&cluster.manager, id, MoveOrder::Settle).await;
        until(&cluster.manager, id, &[MovePhase::Done]).await;
    })
    .await;
    assert_eq!((stored(&cluster, SOURCE), stored(&cluster, TARGET)), (0, 60));
    assert_eq!(owners(&cluster.manager, &slots), [TARGET]);
}
