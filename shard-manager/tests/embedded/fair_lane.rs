//! Tests of lanes and readers that several tenants share.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, join_all};
use shard_manager::access::rights::Rights;
use shard_manager::engine::SchemaChange;
use shard_manager::error::Error;
use shard_manager::fair_share::FairShare;
use shard_manager::position::TimelineHistory;
use shard_manager::query::ReadQuery;
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::WriteRequest;
use shard_manager::store::sqlite::reader::{Housekeeping, ReaderPool, Scope, VisibleBound};

use crate::cluster::{Cluster, deadline};
use crate::fair_steps::a_flood_does_not_delay_another_tenant;
use crate::lane::{Answer, Plan, Story, full, keys, rejected, row};

/// A request of the tenant with this number.
fn request(tenant: u64, key: &str, bytes: usize) -> WriteRequest {
    let share = if tenant == 0 { FairShare::COMMON } else { FairShare::new(tenant, 1) };
    WriteRequest { share, ..vec![row(key, bytes)].into() }
}

async fn queue(story: &Story, tenant: u64, key: &str) -> LocalBoxFuture<'static, Answer> {
    story.queue_request(request(tenant, key, 0), deadline()).await
}

async fn queue_many(
    story: &Story,
    tenant: u64,
    count: usize,
) -> Vec<LocalBoxFuture<'static, Answer>> {
    let mut answers = Vec::new();
    for number in 0..count {
        answers.push(queue(story, tenant, &format!("t{tenant}n{number}")).await);
    }
    answers
}

#[tokio::test]
async fn tenants_share_a_batch() {
    let (mut story, _first) = Story::occupied(Plan::default()).await;
    let mut answers = queue_many(&story, 1, 3_000).await;
    answers.extend(queue_many(&story, 2, 600).await);
    answers.extend(queue_many(&story, 3, 1).await);
    story.open_gate();
    let batch = story.batch();
    let of = |tenant: &str| batch.iter().filter(|key| key.starts_with(tenant)).count();
    assert_eq!(batch.len(), 512);
    assert_eq!(of("t3"), 1);
    assert!(of("t2") > 160 && of("t1") > 160, "{} and {}", of("t1"), of("t2"));
    assert!(join_all(answers).await.iter().all(Result::is_ok));
    let applied = story.applied();
    for (tenant, count) in [(1, 3_000), (2, 600)] {
        let expected = (0..count).map(|number| format!("t{tenant}n{number}"));
        let prefix = format!("t{tenant}n");
        let own = applied.iter().filter(|key| key.starts_with(&prefix)).cloned();
        assert!(own.eq(expected), "writes of one tenant are applied in order");
    }
    assert_eq!(story.lane.stats().waiting, 0);
}

#[tokio::test]
async fn a_schema_change_is_applied_between_what_came_before_and_after_it() {
    let (mut story, _first) = Story::occupied(Plan::default()).await;
    let mut answers = queue_many(&story, 1, 700).await;
    answers.push(queue(&story, 2, "before").await);
    let lane = Arc::clone(&story.lane);
    let change = SchemaChange::Make(Arc::clone(&row("x", 0).table));
    let made = tokio::spawn(async move { lane.solo().change_schema(change, deadline()).await });
    while story.lane.stats().waiting < 702 {
        tokio::task::yield_now().await;
    }
    answers.push(queue(&story, 3, "after").await);
    answers.extend(queue_many(&story, 4, 700).await);
    story.open_gate();
    assert!(join_all(answers).await.iter().all(Result::is_ok));
    assert_eq!(made.await.expect("it has ended"), Ok(703));
    let applied = story.applied();
    let place = |key: &str| applied.iter().position(|applied| applied == key);
    assert_eq!(place("table t"), Some(702), "the first, 700, and one of another tenant");
    assert!(place("before") < Some(300) && place("after") > place("table t"));
    assert!(place("t1n699") < place("table t") && place("t4n0") > place("table t"));
}

#[tokio::test]
async fn a_tenant_with_half_of_the_queue_is_refused_while_another_waits() {
    let (mut story, _first) = Story::occupied(Plan::default()).await;
    let mut answers = queue_many(&story, 1, 2_048).await;
    answers.push(queue(&story, 2, "other").await);
    let exceeded = rejected(Error::QueueShareExceeded { shard: "shard1".into() });
    let refused = queue(&story, 1, "refused").await.await;
    assert_eq!(refused.expect_err("over half"), exceeded);
    assert_eq!(story.lane.stats().refused, 1);
    // A chunk of a streamed body waits for room.
    let patient = WriteRequest { waits_for_room: true, ..request(1, "patient", 0) };
    let late = Instant::now() + Duration::from_millis(20);
    let refused = story.queue_request(patient.clone(), late).await.await;
    assert_eq!(refused.expect_err("until its deadline"), exceeded);
    answers.push(story.queue_request(patient, deadline()).await);
    // Callers without a tenant have no share, and no limit of it.
    answers.push(queue(&story, 0, "common").await);
    story.open_gate();
    assert!(join_all(answers).await.iter().all(Result::is_ok));
    assert!(queue(&story, 1, "again").await.await.is_ok());
    assert!(!story.applied().contains(&"refused".to_owned()));
}

#[tokio::test]
async fn the_queue_is_full_for_all_tenants_when_it_is_full() {
    let (mut story, _first) = Story::occupied(Plan::default()).await;
    let alone = queue_many(&story, 1, 4_032).await;
    let refused = queue(&story, 1, "one more").await.await;
    assert_eq!(refused.expect_err("no other tenant waits"), full());
    let mut others = queue_many(&story, 2, 64).await;
    let refused = queue(&story, 3, "one more").await.await;
    assert_eq!(refused.expect_err("no room is left"), full());
    assert_eq!(story.lane.stats().waiting, 4_096);
    story.open_gate();
    assert_eq!(keys(others.remove(0).await), [Ok("t2n0".into())]);
    assert!(join_all(alone).await.iter().chain(&join_all(others).await).all(Result::is_ok));
}

#[tokio::test]
async fn a_lane_that_is_stopped_applies_what_waits_in_turns() {
    let (mut story, _first) = Story::occupied(Plan::default()).await;
    let mut answers = queue_many(&story, 1, 1_500).await;
    answers.extend(queue_many(&story, 2, 10).await);
    story.open_gate();
    let lane = Arc::clone(&story.lane);
    tokio::task::spawn_blocking(move || lane.stop()).await.expect("it stops");
    assert!(join_all(answers).await.iter().all(Result::is_ok));
    assert_eq!(story.applied().len(), 1_511);
}

#[tokio::test]
async fn a_flood_of_writes_to_a_file_does_not_delay_another_tenant() {
    let cluster = Cluster::with_shards(1);
    a_flood_does_not_delay_another_tenant(&cluster.manager).await;
}

/// The connections of a file are places, of which a tenant has half while another one waits.
#[tokio::test]
async fn scans_of_several_tenants_share_the_connections_of_a_file() {
    let cluster = Cluster::with_shards(1);
    let history = TimelineHistory::new(vec![(1, 0)]).expect("a history");
    let replication = Arc::new(ReplicationState::new(history, 1, 0));
    let (visible_bound, keeper) = (VisibleBound::primary(&replication), Housekeeping::start());
    let readers =
        ReaderPool::open("shard1", &cluster.file(1), visible_bound, &keeper).expect("a pool");
    let table = cluster.manager.schema(Rights::ALL).table("users").expect("a table");
    let query = ReadQuery::all(&table);
    let enter =
        |tenant| readers.enter((&query, Scope::Shard), FairShare::new(tenant, 1), deadline());
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(enter(1).now_or_never().expect("alone it has all"));
    }
    let (mut own, mut other) = (Box::pin(enter(1)), Box::pin(enter(2)));
    assert!((&mut own).now_or_never().is_none() && (&mut other).now_or_never().is_none());
    assert_eq!(readers.stats().waiting, 2);
    let common = readers.enter((&query, Scope::Shard), FairShare::COMMON, deadline());
    assert!(matches!(common.now_or_never(), Some(Ok(None))), "it needs no place");
    held.pop();
    let given = (&mut other).now_or_never().expect("the tenant without a place is the next");
    assert!((&mut own).now_or_never().is_none());
    drop(given);
    assert!(matches!((&mut own).now_or_never(), Some(Ok(Some(_)))));
    let late = readers.enter((&query, Scope::Shard), FairShare::new(3, 1), Instant::now());
    let exhausted = Error::PoolExhausted { shard: "shard1".into() };
    held.push(enter(2).now_or_never().expect("one is free"));
    assert_eq!(late.await.map(|_| ()), Err(exhausted));
}
