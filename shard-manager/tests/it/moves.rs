//! Tests of moves of slots between the shards of a cluster of files, beside writes and reads.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use shard_manager::access::rights::Rights;
use shard_manager::engine::move_record::{MoveOrder, MovePhase, MoveRecord, NewMove};
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{BulkRow, Manager, MovesError};
use shard_manager::moves::identity::MoveId;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, deadline, ints, options, with_replicas};
use crate::move_clients::{Client, beside, keys_of, prepare, rows};

const SOURCE: ShardNumber = ShardNumber(0);
const TARGET: ShardNumber = ShardNumber(1);
/// Time of keeping that no test reaches.
const LONG: Duration = Duration::from_secs(3_600);

/// Runs a test beside the task that carries moves out.
async fn kept_up<T>(manager: &Manager, test: impl Future<Output = T>) -> T {
    match select(pin!(manager.shards().keep_up()), pin!(test)).await {
        Either::Left(_) => panic!("the task never ends"),
        Either::Right((done, _)) => done,
    }
}

fn new(slots: &SlotSet, keep: Duration) -> NewMove {
    NewMove { slots: slots.clone(), source: SOURCE, target: TARGET, rate: None, keep }
}

/// Begins a move, once the replicas of both shards follow.
async fn begin(manager: &Manager, new: NewMove) -> MoveId {
    let limit = deadline();
    loop {
        match manager.moves().begin(new.clone(), None, deadline()).await {
            Ok(record) => return record.id,
            Err(MovesError::NoMajority { .. }) if Instant::now() < limit => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("it does not begin: {error}"),
        }
    }
}

/// Waits until a move is in one of these phases.
async fn until(manager: &Manager, id: MoveId, phases: &[MovePhase]) -> MoveRecord {
    let limit = deadline();
    loop {
        let record = manager.moves().get(id).await.expect("it is listed");
        if phases.contains(&record.phase) {
            return record;
        }
        assert!(!record.phase.has_ended() && Instant::now() < limit, "{record:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn order(manager: &Manager, id: MoveId, order: MoveOrder) {
    manager.moves().order(id, order).await.expect("it is taken");
}

/// Number of rows of all tables of clients in the file of a shard.
fn stored(cluster: &Cluster, shard: ShardNumber) -> i64 {
    let file = cluster.file(shard.index() + 1);
    let count = |table: &str| ints(&file, &format!("SELECT count(*) AS value FROM {table}"))[0];
    count("kv") + count("users")
}

fn clients<'m>(manager: &'m Manager, keys: &[Vec<String>]) -> Vec<Client<'m>> {
    keys.iter().map(|keys| Client::new(manager, keys.clone())).collect()
}

fn owners(manager: &Manager, slots: &SlotSet) -> Vec<ShardNumber> {
    let mut owners: Vec<_> = slots.iter().map(|slot| manager.map().owner(slot)).collect();
    owners.dedup();
    owners
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
    let all = rows(manager, "kv", None, &options()).await.0.len()
        + rows(manager, "users", None, &options()).await.0.len();
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

/// Stores rows of 100 KB under the keys of a shard, so that a copy takes several rounds. Returns
/// their slots.
async fn store_large(manager: &Manager, count: usize) -> SlotSet {
    let value = "x".repeat(100_000);
    let keys = (0..).map(|number| format!("large{number}"));
    let place = |key: &str| manager.map().place(ShardKey::parse(key).expect("a key"));
    let keys = keys.filter(|key| place(key).is_ok_and(|place| place.shard == SOURCE));
    let mut slots = SlotSet::empty();
    for (index, key) in keys.take(count).enumerate() {
        let json = format!(r#"{{"value":"{value}"}}"#);
        let (place, row) = prepare(manager, ("kv", Upsert), &key, &json);
        slots.insert(place.slot);
        let rows = vec![BulkRow { index, place, row }];
        let done = manager.data(Rights::ALL).write_bulk(rows, &options()).await;
        assert!(done.rows[0].outcome.is_ok(), "{done:?}");
    }
    slots
}

#[tokio::test]
async fn a_move_is_paused_resumed_and_cancelled_while_it_copies() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let slots = store_large(manager, 60).await;
    let before = stored(&cluster, SOURCE);
    kept_up(manager, async {
        let slow = NewMove { rate: Some(1), ..new(&slots, LONG) };
        let id = begin(manager, slow).await;
        until(manager, id, &[MovePhase::Copying]).await;
        order(manager, id, MoveOrder::Pause).await;
        let limit = deadline();
        loop {
            let record = manager.moves().get(id).await.expect("listed");
            if record.progress.reason.as_deref() == Some("it is paused") {
                break;
            }
            assert!(Instant::now() < limit, "{record:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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
                for life in 5.. {
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
        let slow = NewMove { rate: Some(1), ..new(&slots, LONG) };
        let id = begin(&cluster.manager, slow).await;
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
