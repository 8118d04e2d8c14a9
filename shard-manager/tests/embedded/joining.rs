//! Tests of shards that join and retire while requests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use shard_manager::access::rights::Rights;
use shard_manager::consistency::Level;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::published_map::{PublishedMap, ShardListError};
use shard_manager::engine::{OpenedCluster, OpenedShard};
use shard_manager::keyspace::{Keyspace, ShardKey};
use shard_manager::manager::{BulkRow, Data, Manager, RequestOptions};
use shard_manager::map_change::MapChange;
use shard_manager::placement::Placement;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::shard_map::{ShardMap, SlotRange};
use shard_manager::store::sqlite::open::{EmbeddedCluster, OpenedFiles, open};
use shard_manager::topology::{ShardNumber, ShardSpec, ShardState, Topology};

use crate::cluster::{Cluster, deadline, options};
use crate::scratch;

const THIRD: ShardNumber = ShardNumber(2);

/// A map of epoch `epoch`. The first two shards own half of the slots each; the third has this
/// state, if it is listed.
fn map(epoch: u64, third: Option<ShardState>) -> ShardMap {
    let mut shards: Vec<_> = ["shard1", "shard2"].map(|name| ShardSpec::new(name, 1)).into();
    shards.extend(third.map(|state| ShardSpec { state, ..ShardSpec::new("shard3", 0) }));
    let topology = Topology::restore(shards).expect("a topology");
    let ranges = [(0, 8_191, 0), (8_192, 16_383, 1)];
    let range = |(first, last, shard)| SlotRange { first, last, shard: ShardNumber(shard) };
    ShardMap::restore(epoch, Keyspace::Hash, Placement::Even, topology, &ranges.map(range))
        .expect("a map")
}

/// A cluster of two shards, its map, and a third shard without slots that has not joined yet.
fn cluster_and_third_shard() -> (Cluster, Arc<PublishedMap>, OpenedShard) {
    let dir = scratch::folder();
    let placement = "manual:0-8191=shard1,8192-16383=shard2".parse().expect("a placement");
    let wanted = ClusterSpec {
        shards: Some(3),
        replicas: Some(1),
        placement: Some(placement),
        ..ClusterSpec::default()
    };
    let files = open(&EmbeddedCluster { data_dir: dir.path().to_owned(), wanted });
    let OpenedFiles { cluster: mut opened, source } = files.expect("a new cluster starts");
    let third = opened.shards.pop().expect("three shards");
    let published = Arc::new(PublishedMap::new(map(1, None)));
    let opened = OpenedCluster { map: Arc::clone(&published), ..opened };
    let manager = Manager::new(opened).expect("a manager");
    (Cluster { manager, source: Some(source), dir }, published, third)
}

/// Writes and reads rows of one key, and of many keys, until the flag is set. Returns the number of
/// rounds.
async fn exercise(cluster: &Cluster, client: usize, ended: &AtomicBool, rounds: &AtomicU64) {
    let mut round = 0;
    while !ended.load(Ordering::Acquire) {
        round += 1;
        let (key, json) = (format!("c{client}"), format!(r#"{{"name":"r{round}","email":"e"}}"#));
        let written = cluster.write("users", Upsert, &key, &json).await.expect("a write");
        assert!(
            ["shard1", "shard2"].contains(&cluster.manager.shard_name(written.receipt.place.shard))
        );
        let rows = acknowledged(cluster, Some(&key)).await;
        assert_eq!(rows[0]["name"], format!("r{round}"));
        let bulk = (0..8).map(|row| {
            let json = format!(r#"{{"name":"b{round}","email":"e"}}"#);
            cluster.prepare("users", Upsert, &format!("c{client}-{row}"), &json)
        });
        let done = cluster.write_all(bulk.collect()).await;
        assert!(done.len() == 8 && done.iter().all(|row| row.outcome.is_ok()), "{done:?}");
        let own: Vec<_> = acknowledged(cluster, None)
            .await
            .into_iter()
            .filter(|row| row["name"] == format!("b{round}") && is_of(&row["user_id"], client))
            .collect();
        assert_eq!(own.len(), 8, "a scatter read loses no row");
        rounds.fetch_add(1, Ordering::AcqRel);
    }
}

/// Reads users at the level that shows every acknowledged write, whichever node answers.
async fn acknowledged(cluster: &Cluster, key: Option<&str>) -> Vec<serde_json::Value> {
    let table = cluster.manager.schema(Rights::ALL).table("users").expect("the table is there");
    let query = ReadQuery { limit: ReadQuery::LIMIT_MAX, ..ReadQuery::all(&table) };
    let options = RequestOptions { level: Level::Quorum, ..options() };
    let key = key.map(|key| ShardKey::parse(key).expect("a good key"));
    let read = cluster.manager.data(Rights::ALL).read(query, key, &options).await;
    let read = read.expect("the read is answered");
    let json = format!("[{}]", std::str::from_utf8(read.rows.json()).expect("UTF-8"));
    serde_json::from_str(&json).expect("rows are the inside of a JSON array")
}

fn is_of(user: &serde_json::Value, client: usize) -> bool {
    user.as_str().is_some_and(|user| user.starts_with(&format!("c{client}-")))
}

/// Waits until every client has completed some rounds more.
fn await_rounds(rounds: &AtomicU64) {
    let target = rounds.load(Ordering::Acquire) + 20;
    let until = deadline();
    while rounds.load(Ordering::Acquire) < target {
        assert!(std::time::Instant::now() < until, "the clients stand still");
        std::thread::yield_now();
    }
}

#[test]
fn a_shard_joins_and_retires_while_requests_run() {
    let (cluster, published, third) = cluster_and_third_shard();
    let (ended, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    let manager = &cluster.manager;
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (cluster, ended, rounds) = (&cluster, &ended, &rounds);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let exercised = exercise(cluster, client, ended, rounds);
                // The other threads end with this one.
                let _guard = EndOnDrop(ended);
                runtime.expect("a runtime").block_on(exercised);
            });
        }
        let _guard = EndOnDrop(&ended);
        await_rounds(&rounds);
        let early = published.publish(map(2, Some(ShardState::Serving)));
        let shard = "shard3".to_owned();
        assert_eq!(early, Err(ShardListError::NotOpen { epoch: 2, shard }));
        assert_eq!((manager.map().epoch(), manager.status().stats().len()), (1, 2));

        manager.shards().add(THIRD, third).expect("the third shard joins");
        assert_eq!(manager.shard_name(THIRD), "shard3");
        await_rounds(&rounds);
        assert_eq!(published.publish(map(2, Some(ShardState::Serving))), Ok(true));
        assert_eq!(published.publish(map(2, Some(ShardState::Serving))), Ok(false));
        await_rounds(&rounds);
        let stats = manager.status().stats();
        assert_eq!(stats.iter().map(|shard| shard.shard.0).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(manager.faults().node("shard3-replica1").is_some());

        let shard = "shard3".to_owned();
        assert_eq!(manager.shards().retire(THIRD), Err(ShardListError::InUse { shard }));
        assert_eq!(published.publish(map(3, Some(ShardState::Retired))), Ok(true));
        await_rounds(&rounds);
        assert_eq!(manager.shards().retire(THIRD), Ok(()));
        await_rounds(&rounds);
        assert_eq!(manager.status().stats().len(), 2);
        assert_eq!(manager.status().nodes(THIRD), (String::new(), Vec::new()));
        assert_eq!(manager.shard_name(THIRD), "shard3", "the name stays");
    });
}

/// Ends the clients, also when an assertion fails.
struct EndOnDrop<'e>(&'e AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[tokio::test]
async fn rows_that_were_routed_to_a_shard_before_it_retired_go_to_the_owner_that_a_newer_map_names()
{
    let (cluster, published, third) = cluster_and_third_shard();
    let (place, row) = cluster.prepare("users", Upsert, "k", r#"{"name":"n","email":"e"}"#);
    let stale = shard_manager::shard_map::KeyLocation { shard: THIRD, ..place };
    drop(third);
    let data: Data<'_> = cluster.manager.data(Rights::ALL);
    let bulk = |index| BulkRow { index, place: stale, row: row.clone() };
    assert_eq!(published.publish(map(2, Some(ShardState::Retired))), Ok(true));
    let written = data.write(stale, row.clone(), &options()).await.expect("it is written");
    assert_eq!(written.receipt.place.shard, place.shard);
    let done = data.write_bulk(vec![bulk(0), bulk(1)], &options()).await.rows;
    let chunk = data.write_chunk(THIRD, vec![bulk(0), bulk(1)], &options()).await;
    for row in done.into_iter().chain(chunk.into_iter().flat_map(|(_, part)| part.rows)) {
        assert!(row.outcome.is_ok() && row.place.shard == place.shard, "{row:?}");
    }
    assert_eq!(cluster.rows("users", None).await.len(), 1);
}

#[tokio::test]
async fn a_session_keeps_the_positions_of_a_shard_that_has_retired() {
    let (cluster, published, third) = cluster_and_third_shard();
    let table = cluster.manager.schema(Rights::ALL).table("users").expect("a table");
    let position = third.replication.primary().committed();
    let timeline = third.replication.timeline().id();
    cluster.manager.shards().add(THIRD, third).expect("it joins");
    assert_eq!(published.publish(map(2, Some(ShardState::Serving))), Ok(true));
    let mut options = options();
    let seen = shard_manager::position::Position { timeline, sequence: position };
    cluster.manager.sessions().extend(&mut options.session, THIRD, seen);
    assert_eq!(published.publish(map(3, Some(ShardState::Retired))), Ok(true));
    cluster.manager.shards().retire(THIRD).expect("it retires");
    let token = cluster.manager.sessions().token(&options.session);
    let merged = cluster.manager.sessions().merge(std::iter::once(&*token)).expect("a token");
    assert_eq!(merged.seen(THIRD), Some(seen));
    options.session = merged;
    let query = ReadQuery::all(&table);
    let read = cluster.manager.data(Rights::ALL).read(query, None, &options).await;
    assert_eq!(read.expect("the members answer").shards, [ShardNumber(0), ShardNumber(1)]);
}

#[test]
fn a_map_that_gives_a_number_to_another_shard_is_refused() {
    let published = PublishedMap::new(map(1, None));
    published.reserve(THIRD, "shard3").expect("free");
    published.add_shard(THIRD);
    assert_eq!(published.publish_open(map(2, Some(ShardState::Serving))), Ok(true));
    // The catalog has lost the third shard in a failover.
    let lost = map(3, None);
    assert_eq!(published.publish_open(lost.clone()), Ok(true));
    let then = |map: &ShardMap, name: &str| {
        let change = MapChange::NewShard { name: name.to_owned(), weight: 1, address: None };
        change.apply(map).expect("a map")
    };
    let other = then(&lost, "other");
    let refused = Err(ShardListError::NumberTaken { number: THIRD, shard: "shard3".to_owned() });
    assert_eq!(published.publish_open(other.clone()), refused);
    assert_eq!(published.publish_open(then(&other, "shard4")), refused, "shard4 is not open");
    let in_force = (published.load_full(), published.backlog().newest());
    assert_eq!(in_force, (Arc::new(lost.clone()), None));
    assert_eq!(published.publish_open(then(&lost, "shard3")), Ok(true));
}

#[test]
fn a_number_belongs_to_one_name_for_ever() {
    let (cluster, published, third) = cluster_and_third_shard();
    assert_eq!(
        published.reserve(ShardNumber(0), "shard9"),
        Err(ShardListError::NumberTaken { number: ShardNumber(0), shard: "shard1".to_owned() })
    );
    assert_eq!(published.reserve(ShardNumber(256), "shard257"), Err(ShardListError::TooMany));
    assert_eq!(published.reserve(ShardNumber(5), "shard6"), Ok(()));
    let named: Vec<_> = published.named().collect();
    assert_eq!(named, [0, 1, 5].map(ShardNumber));
    // The number of an open shard is refused, and the shard's replicas are stopped.
    let refused = cluster.manager.shards().add(ShardNumber(1), third);
    let cause = "shard number 1 was given to shard2";
    assert_eq!(refused.expect_err("it is refused").to_string(), cause);
    assert_eq!(cluster.manager.shard_name(ShardNumber(77)), "");
}
