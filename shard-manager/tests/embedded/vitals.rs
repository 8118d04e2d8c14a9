//! Tests of statistics: what lanes, readers and nodes report without a query matches what happened.

use std::time::{Duration, Instant};

use shard_manager::engine::fault_injector::{NodeFault, NodeMode};
use shard_manager::row_change::Operation::{Insert, Upsert};
use shard_manager::stats::{BATCH_CLASSES, LaneStats, ShardStats};
use shard_manager::topology::{Role, ShardNumber};

use crate::cluster::{Cluster, deadline, with_replicas};
use crate::lane::{Plan, Story};

fn sizes(first: &[u64]) -> [u64; BATCH_CLASSES] {
    std::array::from_fn(|class| first.get(class).copied().unwrap_or(0))
}

#[tokio::test]
async fn a_lane_reports_queued_operations_applied_operations_and_batches() {
    let (mut story, first) = Story::occupied(Plan::default()).await;
    let idle = LaneStats { lanes: 1, applying: 1, ..LaneStats::default() };
    let reported = story.lane.stats();
    assert!(reported.waiting_max >= 1_000 && reported.waiting_bytes_max >= 1 << 20, "{reported:?}");
    let limits = |vitals: LaneStats| LaneStats {
        waiting_max: reported.waiting_max,
        waiting_bytes_max: reported.waiting_bytes_max,
        ..vitals
    };
    assert_eq!(reported, limits(idle.clone()));

    let queued = [
        story.queue(&["b", "a"], deadline()).await,
        story.queue(&["c"], deadline()).await,
        story.queue(&["d"], deadline()).await,
    ];
    let waiting = story.lane.stats();
    assert!(waiting.waiting_bytes > 0);
    assert_eq!(
        waiting,
        limits(LaneStats { waiting: 3, waiting_bytes: waiting.waiting_bytes, ..idle })
    );

    story.open_gate();
    first.await.expect("it is applied");
    for answer in queued {
        answer.await.expect("it is applied");
    }
    // The lane updates this counter shortly after the last answer.
    while story.lane.stats().applying > 0 {
        tokio::task::yield_now().await;
    }
    let done = LaneStats {
        lanes: 1,
        batches: 2,
        operations: 4,
        rows: 5,
        largest_batch: 3,
        // One batch of one operation, one of three.
        batch_sizes: sizes(&[1, 0, 1]),
        ..LaneStats::default()
    };
    assert_eq!(story.lane.stats(), limits(done));
}

#[tokio::test]
async fn a_failed_batch_counts_by_what_became_durable() {
    let plan = Plan { culprits: ["bad".to_owned()].into(), ..Plan::default() };
    let (mut story, first) = Story::occupied(plan).await;
    let queued = [
        story.queue(&["good"], deadline()).await,
        story.queue(&["bad"], deadline()).await,
        story.queue(&["fine"], deadline()).await,
        story.queue(&["well"], deadline()).await,
    ];
    story.open_gate();
    first.await.expect("it is applied");
    let mut failures = 0;
    for answer in queued {
        failures += u32::from(answer.await.is_err());
    }
    let vitals = story.lane.stats();
    assert_eq!(failures, 1);
    // Four batches were split: `good` and `bad` apart, `fine` and `well` together.
    assert_eq!((vitals.batches, vitals.operations, vitals.rows), (3, 4, 4));
    assert_eq!((vitals.largest_batch, vitals.batch_sizes), (2, sizes(&[2, 1])));
}

/// Waits until a shard reports this many durable operations; returns its statistics.
async fn until_operations(cluster: &Cluster, shard: ShardNumber, count: u64) -> ShardStats {
    loop {
        let vitals = cluster.manager.status().stats().remove(shard.index());
        assert!(vitals.lane.operations <= count, "{vitals:?}");
        if vitals.lane.operations == count && vitals.lane.applying == 0 {
            return vitals;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn writes_are_counted_on_their_shard_only() {
    let cluster = Cluster::with(with_replicas(3, 1));
    let mut expected = [0_u64; 3];
    for number in 0..60 {
        let key = format!("user_{number}");
        let json = r#"{"name":"n","email":"e"}"#;
        let written = cluster.write("users", Upsert, &key, json).await.expect("it is written");
        expected[written.receipt.place.shard.index()] += 1;
    }
    // A row that exists already counts as an operation; a chunk of a bulk write counts as one
    // operation of many rows.
    let again = cluster.write("users", Insert, "user_1", r#"{"name":"n","email":"e"}"#).await;
    let shard = again.expect_err("it is there").place.expect("it was routed").shard;
    expected[shard.index()] += 1;
    let rows =
        (0..10).map(|_| cluster.prepare("users", Upsert, "user_1", r#"{"name":"m","email":"e"}"#));
    let done = cluster.write_all(rows.collect()).await;
    assert!(done.iter().all(|row| row.outcome.is_ok()));
    expected[shard.index()] += 1;

    for (index, &operations) in (0..).map(ShardNumber).zip(&expected) {
        let vitals = until_operations(&cluster, index, operations).await;
        let lane = &vitals.lane;
        let bulk = if index == shard { 9 } else { 0 };
        assert_eq!(vitals.shard, index);
        assert_eq!((lane.lanes, lane.batches, lane.rows), (1, operations, operations + bulk));
        assert_eq!((lane.largest_batch, lane.batch_sizes), (1, sizes(&[operations])));
        assert_eq!((lane.waiting, lane.waiting_bytes, lane.waits_for_node), (0, 0, false));
    }
}

/// Waits until the only replica meets a condition; returns the statistics of the shard.
async fn until_replica(cluster: &Cluster, is_so: impl Fn(&ShardStats) -> bool) -> ShardStats {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        let vitals = cluster.manager.status().stats().remove(0);
        if is_so(&vitals) {
            return vitals;
        }
        assert!(Instant::now() < until, "{vitals:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_replica_reports_its_lag_and_whether_it_is_in_the_rotation() {
    let cluster = Cluster::with(with_replicas(1, 1));
    let current = |vitals: &ShardStats| vitals.nodes[1].up && vitals.nodes[1].behind == Some(0);
    let vitals = until_replica(&cluster, current).await;
    let names: Vec<_> = vitals.nodes.iter().map(|node| (&*node.node, node.role)).collect();
    assert_eq!(names, [("shard1-primary", Role::Primary), ("shard1-replica1", Role::Replica)]);
    assert_eq!((vitals.nodes[0].up, vitals.nodes[0].lag), (true, Some(Duration::ZERO)));
    assert_eq!(
        (vitals.nodes[1].lag, vitals.worst_lag()),
        (Some(Duration::ZERO), vitals.nodes[1].lag)
    );
    let pools = vitals.nodes.iter().map(|node| node.pool);
    assert!(pools.clone().all(|pool| pool.max == 8 && pool.open >= 1), "{vitals:?}");
    assert_eq!(vitals.pool().max, 16);

    let injector = cluster.manager.faults().node("shard1-replica1").expect("it is there");
    injector.set(NodeFault { mode: NodeMode::Paused, ..NodeFault::default() });
    for number in 0..5 {
        let json = format!(r#"{{"name":"n{number}","email":"e"}}"#);
        cluster.write("users", Upsert, "user_1", &json).await.expect("it is written");
    }
    let behind = until_replica(&cluster, |vitals| vitals.nodes[1].behind == Some(5)).await;
    assert!(behind.nodes[1].up, "who is a moment behind is in the rotation: {behind:?}");
    assert!(behind.worst_lag() > Some(Duration::ZERO), "{behind:?}");

    injector.set(NodeFault { mode: NodeMode::Cut, ..NodeFault::default() });
    until_replica(&cluster, |vitals| !vitals.nodes[1].up && vitals.nodes[0].up).await;
    injector.set(NodeFault::default());
    until_replica(&cluster, current).await;

    let injector = cluster.manager.faults().node("shard1-primary").expect("it is there");
    injector.set(NodeFault { mode: NodeMode::Cut, ..NodeFault::default() });
    until_replica(&cluster, |vitals| !vitals.nodes[0].up).await;
    injector.set(NodeFault::default());
    until_replica(&cluster, |vitals| vitals.nodes[0].up).await;
}

#[tokio::test]
async fn sizes_of_shards_are_reported_without_reading_their_rows() {
    let cluster = Cluster::with(with_replicas(2, 0));
    let empty = cluster.manager.status().size_estimates(deadline()).await;
    let rows = |number: usize| {
        let json = format!(r#"{{"name":"{}","email":"e"}}"#, "n".repeat(1_000));
        cluster.prepare("users", Upsert, &format!("user_{number}"), &json)
    };
    let done = cluster.write_all((0..2_000).map(rows).collect()).await;
    assert!(done.iter().all(|row| row.outcome.is_ok()));
    let full = cluster.manager.status().size_estimates(deadline()).await;
    let exact =
        cluster.manager.status().report(&[ShardNumber(0), ShardNumber(1)], deadline()).await;
    for (((_, before), (_, after)), exact) in empty.into_iter().zip(full).zip(exact) {
        let tables = exact.tables.expect("it answers");
        let rows: i64 = tables.iter().map(|table| table.rows).sum();
        let bytes: i64 = tables.iter().map(|table| table.bytes).sum();
        let (before, after) = (before.expect("it answers"), after.expect("it answers"));
        assert_eq!((before.rows, before.is_estimate), (Some(0), false));
        assert_eq!(after.rows, Some(rows.unsigned_abs()));
        // All tables, and the rest of the file.
        assert!(after.bytes >= bytes.unsigned_abs() && after.bytes > before.bytes + 900_000);
    }
}
