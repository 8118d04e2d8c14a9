//! Tests of a manager whose slots change hands: writes and reads follow a slot to its new owner,
//! and writes wait while there is none.

use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::engine::slot_change::FENCE_MAX;
use shard_manager::manager::{BulkRow, Manager, SlotsError};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::{Insert, Upsert};
use shard_manager::shard_map::KeyLocation;
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Databases, connect};
use crate::rows::{deadline, options, prepare, write};

const USER: &str = r#"{"name":"n","email":"e"}"#;

/// A cluster of two shards.
async fn two_shards() -> (Databases, Manager) {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    (databases, manager)
}

fn place(manager: &Manager, key: &str) -> KeyLocation {
    prepare(manager, "users", Upsert, key, USER).0
}

fn other(shard: ShardNumber) -> ShardNumber {
    ShardNumber(1 - shard.0)
}

fn only(place: KeyLocation) -> SlotSet {
    [place.slot].into_iter().collect()
}

fn rows(manager: &Manager, keys: &[&str]) -> Vec<BulkRow> {
    let prepared = keys.iter().map(|key| prepare(manager, "users", Upsert, key, USER));
    let numbered = prepared.enumerate();
    numbered.map(|(index, (place, row))| BulkRow { index, place, row }).collect()
}

/// Number of users of a key, and the shard that was read.
async fn read(manager: &Manager, key: &str) -> (usize, ShardNumber) {
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    let key = shard_manager::keyspace::ShardKey::parse(key).unwrap();
    let data = manager.data(Rights::ALL);
    let read = data.read(ReadQuery::all(&table), Some(key), &options()).await.unwrap();
    (read.rows.len(), read.shards[0])
}

async fn count(manager: &Manager) -> usize {
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    let query = ReadQuery { limit: ReadQuery::LIMIT_MAX, ..ReadQuery::all(&table) };
    manager.data(Rights::ALL).read(query, None, &options()).await.unwrap().rows.len()
}

async fn until_parked(manager: &Manager, rows: usize) {
    let until = deadline();
    while manager.status().parked_writes().rows != rows {
        assert!(Instant::now() < until, "{:?}", manager.status().parked_writes());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn requests_follow_a_slot_that_has_moved() {
    let (databases, manager) = two_shards().await;
    let place = place(&manager, "a");
    let (from, to) = (place.shard, other(place.shard));
    let slots = manager.slots();
    slots.hand_over(&only(place), (from, to), deadline()).await.unwrap();
    assert_eq!(read(&manager, "a").await, (0, to), "a read is the first to notice");
    for operation in [Insert, Upsert] {
        let written = write(&manager, "users", operation, "a", USER).await.unwrap();
        assert_eq!(written.receipt.place.shard, to);
    }
    assert_eq!(read(&manager, "a").await, (1, to));
    assert_eq!(count(&manager).await, 1);
    // A second manager, which has no redirect, follows by a write.
    let second = connect(&databases.address());
    let data = second.data(Rights::ALL);
    for whole in [false, true] {
        let rows = rows(&second, &["a", "b", "c", "a"]);
        let done = match whole {
            true => data.write_bulk_atomic(rows, &options()).await,
            false => data.write_bulk(rows, &options()).await,
        };
        assert_eq!(done.rows.len(), 4);
        for row in done.rows {
            assert!(row.outcome.is_ok(), "{row:?}");
            if [0, 3].contains(&row.index) {
                assert_eq!(row.place.shard, to, "where it really went");
            }
        }
        assert!(done.session.seen(to).is_some());
    }
    let third = connect(&databases.address());
    let chunk = rows(&third, &["a", "a"]);
    let parts = third.data(Rights::ALL).write_chunk(from, chunk, &options()).await;
    let shards: Vec<_> = parts.iter().map(|(shard, part)| (*shard, part.rows.len())).collect();
    assert!(shards.contains(&(to, 2)), "{shards:?}");
    // The slot returns: its rows of before were not copied, and are not shown.
    slots.hand_over(&only(place), (to, from), deadline()).await.unwrap();
    let written = write(&manager, "users", Insert, "a", USER).await.unwrap();
    assert_eq!(written.receipt.place.shard, from);
    assert_eq!(read(&second, "a").await, (1, from));
}

#[tokio::test]
async fn writes_wait_while_a_slot_has_no_owner() {
    let (databases, manager) = two_shards().await;
    let place = place(&manager, "a");
    let (from, to) = (place.shard, other(place.shard));
    let mut sessions = [databases.direct_session(0).await, databases.direct_session(1).await];
    let number = place.slot.number();
    let change = |step: &str, to: &str| {
        format!(
            "SELECT cardinality(tessera_change_slots('{{{number}}}', '{step}', NULL, {to}))::text AS value"
        )
    };
    let away = change("hand over", &format!("'{}'", to.0));
    assert_eq!(sessions[from.index()].text(&away).await, "0");
    let writes = (0..20).map(|_| write(&manager, "users", Upsert, "a", USER));
    let taken = async {
        until_parked(&manager, 20).await;
        let direct = &mut sessions[to.index()];
        assert_eq!(direct.text(&change("take over", "NULL")).await, "0");
    };
    let (written, ()) = tokio::join!(futures_util::future::join_all(writes), taken);
    let mut versions = Vec::new();
    for written in written {
        let written = written.unwrap();
        assert_eq!(written.receipt.place.shard, to);
        versions.push(written.row.version);
    }
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 20, "each was applied once");
}

#[tokio::test]
async fn fences_of_several_shards_hold_writes_until_their_release() {
    let (_databases, manager) = two_shards().await;
    let keys: Vec<String> = (0..30).map(|n| format!("k{n}")).collect();
    let slots: SlotSet = keys.iter().map(|key| place(&manager, key).slot).collect();
    let face = manager.slots();
    for hold in [Duration::ZERO, FENCE_MAX + Duration::from_millis(1)] {
        let refused = face.fence(&slots, hold, deadline()).await;
        assert_eq!(refused, Err(SlotsError::Hold));
    }
    let none = face.release(&SlotSet::empty(), deadline()).await;
    assert_eq!(none, Err(SlotsError::NoSlots));
    let unknown = face.hand_over(&slots, (ShardNumber(0), ShardNumber(9)), deadline()).await;
    assert_eq!(unknown, Err(SlotsError::NoShard(ShardNumber(9))));
    face.fence(&slots, FENCE_MAX, deadline()).await.unwrap();
    let writes = keys.iter().map(|key| write(&manager, "users", Insert, key, USER));
    let freed = async {
        until_parked(&manager, 30).await;
        assert_eq!(count(&manager).await, 0, "reads go on");
        face.release(&slots, deadline()).await.unwrap();
    };
    let (written, ()) = tokio::join!(futures_util::future::join_all(writes), freed);
    assert!(written.iter().all(Result::is_ok), "{written:?}");
    assert_eq!(count(&manager).await, 30);
    // A fence that is over needs no release.
    face.fence(&slots, Duration::from_millis(200), deadline()).await.unwrap();
    write(&manager, "users", Upsert, "k0", USER).await.unwrap();
}
