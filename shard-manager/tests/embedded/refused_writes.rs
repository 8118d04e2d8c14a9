//! Tests of writes that a shard refuses for their slots: they wait, and are applied once.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use shard_manager::access::rights::Rights;
use shard_manager::engine::slot_change::SlotChangeError;
use shard_manager::error::{Error, Outcome};
use shard_manager::manager::{BulkRow, RequestOptions, SlotsError};
use shard_manager::row_change::Operation::Upsert;
use shard_manager::row_change::RowWrite;
use shard_manager::shard_map::KeyLocation;
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, deadline, execute, ints, options};

/// Sets the state of the slot of a key, without an announcement: the writes find out by themselves.
fn mark(cluster: &Cluster, place: KeyLocation, state: &str) {
    let file = cluster.file(place.shard.index() + 1);
    let slot = place.slot.number();
    execute(
        &file,
        &format!("UPDATE tessera_slots SET state='{state}', until=NULL WHERE slot={slot}"),
    );
}

/// Waits until this number of rows wait.
async fn until_parked(cluster: &Cluster, rows: usize) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while cluster.manager.status().parked_writes().rows != rows {
        assert!(Instant::now() < deadline, "{:?}", cluster.manager.status().parked_writes());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn value(cluster: &Cluster, key: &str, value: usize) -> (KeyLocation, RowWrite) {
    cluster.prepare("kv", Upsert, key, &format!(r#"{{"value":{value}}}"#))
}

fn bulk(rows: Vec<(KeyLocation, RowWrite)>) -> Vec<BulkRow> {
    let numbered = rows.into_iter().enumerate();
    numbered.map(|(index, (place, row))| BulkRow { index, place, row }).collect()
}

#[tokio::test]
async fn writes_of_a_fenced_slot_wait_and_are_applied_once() {
    let cluster = Cluster::with_shards(2);
    let (place, _) = value(&cluster, "a", 0);
    mark(&cluster, place, "fenced");
    let writes = (0..20).map(async |number| {
        let (place, row) = value(&cluster, "a", number);
        cluster.manager.data(Rights::ALL).write(place, row, &options()).await
    });
    let freed = async {
        until_parked(&cluster, 20).await;
        assert_eq!(cluster.rows("kv", Some("a")).await.len(), 0, "reads go on");
        mark(&cluster, place, "owned");
    };
    let (done, ()) = join(join_all(writes), freed).await;
    let mut versions: Vec<i64> = done
        .into_iter()
        .map(|written| {
            let written = written.expect("it waits until the fence is lifted");
            assert_eq!(written.receipt.place, place);
            written.row.version
        })
        .collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 20, "each was applied once");
    assert_eq!(versions[19] - versions[0], 19, "and nothing else was");
    let stats = cluster.manager.status().parked_writes();
    assert_eq!((stats.rows, stats.bytes, stats.total), (0, 0, 20));
    assert!(stats.longest > Duration::ZERO);
}

#[tokio::test]
async fn a_fence_that_one_shard_refuses_is_on_no_shard() {
    let cluster = Cluster::with_shards(2);
    let key_on = |shard: usize| {
        let mut keys = (0..).map(|number| format!("key{number}"));
        keys.find(|key| value(&cluster, key, 0).0.shard.index() == shard).expect("a key")
    };
    let (first, second) = (key_on(0), key_on(1));
    let places = [&first, &second].map(|key| value(&cluster, key, 0).0);
    let slots: SlotSet = places.iter().map(|place| place.slot).collect();
    let hold = Duration::from_secs(60);
    mark(&cluster, places[1], "importing");
    let refused = cluster.manager.slots().fence(&slots, hold, deadline()).await;
    let is_refused = matches!(refused, Err(SlotsError::Shard(SlotChangeError::NotOwned { .. })));
    assert!(is_refused, "{refused:?}");
    // The deadline of the write is before the end of the fence.
    cluster.write("kv", Upsert, &first, r#"{"value":1}"#).await.expect("it is not fenced");
    mark(&cluster, places[1], "owned");
    cluster.manager.slots().fence(&slots, hold, deadline()).await.expect("both own their slots");
    cluster.manager.slots().release(&slots, deadline()).await.expect("both are fenced");
    cluster.write("kv", Upsert, &second, r#"{"value":1}"#).await.expect("it is released");
}

#[tokio::test]
async fn writes_that_wait_while_their_slot_changes_hands_are_applied_once_by_its_new_owner() {
    let cluster = Cluster::with_shards(2);
    let (place, _) = value(&cluster, "a", 0);
    let (from, to) = (place.shard, ShardNumber(1 - place.shard.0));
    let slots: SlotSet = [place.slot].into_iter().collect();
    let hold = Duration::from_secs(60);
    cluster.manager.slots().fence(&slots, hold, deadline()).await.expect("fenced");
    let writes = (0..100).map(async |number| {
        let (place, row) = value(&cluster, "a", number);
        cluster.manager.data(Rights::ALL).write(place, row, &options()).await
    });
    let handed_over = async {
        until_parked(&cluster, 100).await;
        let slots = cluster.manager.slots().hand_over(&slots, (from, to), deadline()).await;
        slots.expect("handed over");
    };
    let (done, ()) = join(join_all(writes), handed_over).await;
    let mut versions: Vec<i64> = done
        .into_iter()
        .map(|written| {
            let written = written.expect("the new owner accepts it");
            assert_eq!(written.receipt.place.shard, to);
            written.row.version
        })
        .collect();
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len(), 100, "each was applied once");
    assert_eq!(versions[99] - versions[0], 99, "and nothing else was");
    let stored = |shard: ShardNumber| {
        ints(&cluster.file(shard.index() + 1), "SELECT count(*) AS value FROM kv")[0]
    };
    assert_eq!((stored(from), stored(to)), (0, 1));
}

#[tokio::test]
async fn rows_of_a_chunk_settle_in_order_before_the_next() {
    let cluster = Cluster::with_shards(1);
    let (place, _) = value(&cluster, "a", 0);
    let rows = || {
        let fenced = (1..=5).map(|number| value(&cluster, "a", number));
        let others = (0..5).map(|number| value(&cluster, &format!("other{number}"), 1));
        bulk(fenced.chain(others).collect())
    };
    let data = cluster.manager.data(Rights::ALL);
    let options = options();
    for whole in [false, true] {
        mark(&cluster, place, "fenced");
        let write = async {
            match whole {
                true => data.write_bulk_atomic(rows(), &options).await.rows,
                false => data.write_bulk(rows(), &options).await.rows,
            }
        };
        let freed = async {
            // A transaction waits as a whole.
            until_parked(&cluster, if whole { 10 } else { 5 }).await;
            mark(&cluster, place, "owned");
        };
        let (done, ()) = join(write, freed).await;
        assert_eq!(done.len(), 10);
        assert!(done.iter().all(|row| row.outcome.is_ok()), "{done:?}");
        assert_eq!(cluster.rows("kv", Some("a")).await[0]["value"], 5, "in the order given");
    }
    mark(&cluster, place, "fenced");
    let write = data.write_chunk(place.shard, rows(), &options);
    let freed = async {
        until_parked(&cluster, 5).await;
        mark(&cluster, place, "owned");
    };
    let (parts, ()) = join(write, freed).await;
    let [(shard, part)] = &parts[..] else { panic!("one shard has carried it out: {parts:?}") };
    assert_eq!((*shard, part.rows.len()), (place.shard, 10));
    assert!(part.seen.is_some() && part.rows.iter().all(|row| row.outcome.is_ok()), "{part:?}");
}

#[tokio::test]
async fn a_write_that_no_shard_accepts_is_rejected_at_its_deadline() {
    let cluster = Cluster::with_shards(1);
    let (place, row) = value(&cluster, "a", 1);
    mark(&cluster, place, "fenced");
    let data = cluster.manager.data(Rights::ALL);
    let patience = || RequestOptions::by(Instant::now() + Duration::from_secs(3));
    let (patience, whole) = (patience(), patience());
    let rows = bulk(vec![value(&cluster, "a", 2), value(&cluster, "other", 2)]);
    let single = data.write(place, row, &patience);
    let (single, atomic) = join(single, data.write_bulk_atomic(rows, &whole)).await;
    let failure = single.expect_err("it is fenced");
    assert!(matches!(failure.error, Error::SlotRefused(_)), "{failure}");
    assert_eq!((failure.outcome, failure.place), (Outcome::Rejected, Some(place)));
    let mut rows = atomic.rows;
    rows.sort_by_key(|row| row.index);
    assert!(matches!(rows[0].outcome, Err((Error::SlotRefused(_), Outcome::Rejected))));
    assert!(matches!(rows[1].outcome, Err((Error::Undone { row: 0, .. }, Outcome::Rejected))));
    assert_eq!(cluster.rows("kv", None).await.len(), 0);
    assert_eq!(cluster.manager.status().parked_writes().rows, 0);
}

#[tokio::test]
async fn rows_for_which_there_is_no_room_to_wait_are_rejected_long_before_their_deadline() {
    let cluster = Cluster::with_shards(1);
    let (place, row) = value(&cluster, "a", 1);
    mark(&cluster, place, "fenced");
    let (data, options) = (cluster.manager.data(Rights::ALL), options());
    let count = cluster.manager.status().parked_writes().rows_max + 1;
    let rows = bulk(vec![(place, row.clone()); count]);
    let done = data.write_bulk_atomic(rows, &options).await.rows;
    assert_eq!(done.len(), count);
    assert!(done.iter().all(|row| matches!(row.outcome, Err((_, Outcome::Rejected)))));
    // A row that waits until its deadline is not counted as refused.
    let stats = cluster.manager.status().parked_writes();
    assert_eq!((stats.rows, stats.refused, stats.total), (0, count as u64, 0));
    let freed = async {
        until_parked(&cluster, 1).await;
        mark(&cluster, place, "owned");
    };
    let (written, ()) = join(data.write(place, row, &options), freed).await;
    written.expect("there is room again");
}

#[tokio::test]
async fn a_request_that_is_dropped_leaves_no_room_taken() {
    let cluster = Cluster::with_shards(1);
    let (place, row) = value(&cluster, "a", 1);
    mark(&cluster, place, "importing");
    let options = options();
    let data = cluster.manager.data(Rights::ALL);
    tokio::select! {
        written = data.write(place, row, &options) => panic!("it waits: {written:?}"),
        () = until_parked(&cluster, 1) => {}
    }
    assert_eq!(cluster.manager.status().parked_writes().rows, 0);
    mark(&cluster, place, "owned");
    cluster.write("kv", Upsert, "a", r#"{"value":2}"#).await.expect("it is owned");
}
