//! Tests of reads of all shards while a slot has no owner.

use std::time::{Duration, Instant};

use shard_manager::access::rights::Rights;
use shard_manager::error::Error;
use shard_manager::manager::RequestOptions;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;

use crate::cluster::{Cluster, execute, shard_file};

#[tokio::test]
async fn a_read_of_all_shards_fails_while_a_slot_has_no_owner() {
    let cluster = Cluster::with_shards(2);
    let (place, _) = cluster.prepare("kv", Upsert, "a", r#"{"value":1}"#);
    for key in ["a", "b", "c"] {
        cluster.write("kv", Upsert, key, r#"{"value":1}"#).await.expect("stored");
    }
    assert_eq!(cluster.rows("kv", None).await.len(), 3);
    let (slot, to) = (place.slot.number(), 1 - place.shard.0);
    // As a process leaves it that is killed before the new owner takes the slot over.
    let moved =
        format!("UPDATE tessera_slots SET state='moved', moved_to='{to}' WHERE slot={slot}");
    let cluster =
        cluster.restart_after(|dir| execute(&shard_file(dir, place.shard.index() + 1), &moved));
    let table = cluster.manager.schema(Rights::ALL).table("kv").expect("it is there");
    let options = RequestOptions::by(Instant::now() + Duration::from_millis(500));
    let read = cluster.manager.data(Rights::ALL).read(ReadQuery::all(&table), None, &options).await;
    let failure = read.expect_err("no shard answers for the slot");
    assert!(matches!(failure.error, Error::SlotRefused(_) | Error::DeadlinePassed), "{failure:?}");
}
