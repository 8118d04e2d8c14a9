//! Tests of writes that a shard refuses for their slots: they wait, and are applied once.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use shard_manager::access::rights::Rights;
use shard_manager::error::{Error, Outcome};
use shard_manager::manager::{BulkRow, RequestOptions};
use shard_manager::row_change::Operation::Upsert;
use shard_manager::row_change::RowWrite;
use shard_manager::shard_map::KeyLocation;

use crate::cluster::{Cluster, execute, options};

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
