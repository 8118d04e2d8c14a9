//! Tests of shards that join an open cluster of files, and leave it.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::{Either, poll_fn, select};
use shard_manager::access::rights::Rights;
use shard_manager::backup::{ProgressObserver, restore::restore};
use shard_manager::cache::ServedBy;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::new_shard::{NewShard, NewShardRefusal};
use shard_manager::engine::published_map::PublishedMap;
use shard_manager::manager::{Manager, ShardChangeError, ShardChanged};
use shard_manager::map_change::MapChange;
use shard_manager::query::ReadQuery;
use shard_manager::shard_map::ShardMap;
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::{ShardNumber, ShardState};

use crate::cluster::{
    Cluster, deadline, execute, findings, ints, open_with_source, shards, with_replicas,
};
use crate::join_contract::{
    hand_slots_over, join_beside_requests, refuse_impossible_changes, rows, store, table, until,
    weigh_and_remove,
};
use crate::scratch;

const THIRD: ShardNumber = ShardNumber(2);

fn new_shard(name: &str) -> NewShard {
    NewShard { name: name.to_owned(), weight: 1, url: None }
}

async fn join(manager: &Manager, name: &str) -> Result<ShardChanged, ShardChangeError> {
    manager.shards().join(new_shard(name), None, deadline()).await
}

/// Runs a test beside the task that opens and closes shards.
async fn kept_up<T>(manager: &Manager, test: impl Future<Output = T>) -> T {
    match select(pin!(manager.shards().keep_up()), pin!(test)).await {
        Either::Left(_) => panic!("the task never ends"),
        Either::Right((done, _)) => done,
    }
}

/// Number of tables of clients that a shard's file declares.
fn declared(dir: &Path, shard: usize) -> i64 {
    let file = crate::cluster::shard_file(dir, shard);
    ints(&file, "SELECT count(*) AS value FROM tessera_tables")[0]
}

async fn create(manager: &Manager, name: &str) {
    let created = manager.schema(Rights::ALL).create_table(table(name), deadline()).await;
    created.expect("it is created on every shard");
}

#[tokio::test]
async fn a_shard_joins_beside_requests_and_gets_slots_and_a_restart_finds_it() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    kept_up(manager, async {
        let shard = NewShard { weight: 3, ..new_shard("shard3") };
        assert_eq!(join_beside_requests(manager, &shard).await, THIRD);
        hand_slots_over(manager, ShardNumber(0), THIRD).await;
        refuse_impossible_changes(manager, &shard).await;
    })
    .await;
    let map = manager.map();
    let pupils = rows(manager, "pupils", None).await;
    let cluster = cluster.restart_after(|dir| {
        assert_eq!(declared(dir, 3), declared(dir, 1));
        assert_eq!(findings(dir), Vec::<String>::new());
    });
    assert_eq!(cluster.manager.map(), map);
    assert_eq!(cluster.manager.status().stats().len(), 3);
    assert_eq!(rows(&cluster.manager, "pupils", None).await, pupils);
    hand_slots_over(&cluster.manager, ShardNumber(1), THIRD).await;
}

#[tokio::test]
async fn a_shard_gets_a_weight_and_retires_and_neither_number_nor_file_is_used_again() {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    kept_up(manager, async {
        join(manager, "shard3").await.expect("it joins");
        weigh_and_remove(manager, "shard3").await;
        let source = cluster.source.as_ref().expect("a source");
        until("the shard is not closed", || source.shards().len() == 2).await;
        assert_eq!(manager.status().stats().len(), 2);
        let refused = join(manager, "shard3").await.expect_err("its file is there");
        let sentence = refused.to_string();
        assert!(sentence.contains("shard3-primary.db") && sentence.contains("has retired"));
        let epoch = manager.map().epoch();
        let next = join(manager, "shard4").await.expect("it joins");
        assert_eq!((next.shard, next.map.epoch()), (ShardNumber(3), epoch + 2));
        // The files of a retired shard may be moved away while the cluster runs.
        for file in ["shard3-primary.db", "shard3-replica1.db"] {
            std::fs::remove_file(cluster.dir.path().join(file)).expect("removed");
        }
        let again = join(manager, "shard3").await.expect("it joins");
        assert_eq!(again.shard, ShardNumber(4));
        store_everywhere(manager).await;
    })
    .await;
    let map = manager.map();
    let cluster = cluster.restart_after(|dir| assert_eq!(findings(dir), Vec::<String>::new()));
    assert_eq!(cluster.manager.map(), map);
    let numbers: Vec<u16> =
        cluster.manager.status().stats().iter().map(|shard| shard.shard.0).collect();
    assert_eq!(numbers, [0, 1, 3, 4]);
}

async fn store_everywhere(manager: &Manager) {
    create(manager, "everywhere").await;
    for id in 0..20 {
        store(manager, "everywhere", &format!("e{id}"), "a").await;
    }
    assert_eq!(rows(manager, "everywhere", None).await.len(), 20);
}

#[tokio::test]
async fn a_join_may_be_repeated_and_one_name_is_one_shard() {
    let cluster = Cluster::with(shards(2));
    let manager = &cluster.manager;
    let first = join(manager, "shard3").await.expect("it joins");
    let again = join(manager, "shard3").await.expect("a repeat succeeds");
    assert_eq!((again.shard, again.map), (first.shard, first.map));
    let heavier = NewShard { weight: 2, ..new_shard("shard3") };
    let other = manager.shards().join(heavier, None, deadline()).await;
    assert!(matches!(other, Err(ShardChangeError::Exists { .. })), "{other:?}");
    // At the same time, from two clients.
    let (one, two) = futures_util::future::join(join(manager, "east"), join(manager, "east")).await;
    assert_eq!(one.expect("joined").shard, two.expect("joined").shard);
    assert_eq!(manager.status().stats().len(), 4);
}

#[tokio::test]
async fn shards_that_cannot_join_are_refused_and_nothing_is_begun() {
    let cluster = Cluster::with(shards(2));
    let (manager, dir) = (&cluster.manager, cluster.dir.path());
    let before = manager.map();
    let url = Some("postgres://localhost/db".to_owned());
    let refused = manager.shards().join(NewShard { url, ..new_shard("a") }, None, deadline()).await;
    assert_eq!(
        refused.expect_err("files have no URL"),
        ShardChangeError::NewShard(NewShardRefusal::UrlUnexpected)
    );
    let other = Cluster::with(shards(1));
    let stop = other.stop();
    std::fs::copy(stop.path().join("shard1-primary.db"), dir.join("b-primary.db")).expect("copied");
    std::fs::write(dir.join("c-replica2.db"), "these are not rows").expect("written");
    for (name, is_expected) in [
        ("b", (|r| matches!(r, NewShardRefusal::OtherCluster { .. })) as fn(&_) -> bool),
        ("c", |r| matches!(r, NewShardRefusal::NotEmpty { .. })),
    ] {
        let refused = join(manager, name).await.expect_err("a file is in the way");
        let ShardChangeError::NewShard(refusal) = refused else { panic!("{refused:?}") };
        assert!(is_expected(&refusal), "{refusal:?}");
    }
    assert_eq!(std::fs::read(dir.join("c-replica2.db")).expect("read"), b"these are not rows");
    assert_eq!(manager.map(), before);
    assert!(!dir.join("a-primary.db").exists() && !dir.join("c-primary.db").exists());
}

/// Polls a future this often, and drops it. Returns its result if it was ready before.
async fn polled<T>(times: usize, future: impl Future<Output = T>) -> Option<T> {
    let (mut future, mut left) = (pin!(future), times);
    poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test]
async fn a_join_that_was_cut_off_anywhere_is_finished_by_the_next_one() {
    let cluster = Cluster::with(with_replicas(1, 1));
    let manager = &cluster.manager;
    create(manager, "pupils").await;
    for polls in 1.. {
        let name = format!("cut{polls}");
        let whole = polled(polls, join(manager, &name)).await;
        let joined = join(manager, &name).await.expect("it is finished");
        assert_eq!(joined.map.topology().shards()[joined.shard.index()].state, ShardState::Serving);
        assert_eq!(rows(manager, "pupils", None).await.len(), 0);
        if let Some(whole) = whole {
            whole.expect("it joins");
            assert!(polls > 3, "no step was cut off");
            break;
        }
    }
    let map = manager.map();
    let cluster = cluster.restart_after(|dir| assert_eq!(findings(dir), Vec::<String>::new()));
    assert_eq!(cluster.manager.map(), map);
}

#[tokio::test]
async fn a_join_that_was_cut_off_anywhere_is_finished_by_the_next_start() {
    let dir = scratch::folder();
    let mut names: Vec<String> = Vec::new();
    for polls in 1.. {
        let (manager, source) =
            open_with_source(dir.path(), with_replicas(1, 1)).expect("it starts");
        let map = manager.map();
        for name in &names {
            let found = map.topology().find(name);
            let state = found.map(|number| map.topology().shards()[number.index()].state);
            assert!(state.is_none_or(|state| state == ShardState::Serving), "{name}: {state:?}");
        }
        assert_eq!(manager.status().stats().len(), map.topology().numbers().count());
        let created = format!("t{polls}");
        create(&manager, &created).await;
        assert_eq!(rows(&manager, &created, None).await.len(), 0);
        let name = format!("cut{polls}");
        let whole = polled(polls, join(&manager, &name)).await;
        manager.close();
        drop((manager, source));
        names.push(name);
        if whole.is_some() {
            break;
        }
    }
    assert!(names.len() > 3, "no step was cut off");
}

#[tokio::test]
async fn a_start_finishes_a_join_from_every_state_that_a_power_failure_leaves() {
    let dir = scratch::folder();
    open_with_source(dir.path(), with_replicas(1, 1)).expect("it starts").0.close();
    let catalog = dir.path().join("catalog.db");
    let mut at = 0;
    for state in [unmade, empty, garbage, whole] {
        at += 1;
        let (manager, source) = open_with_source(dir.path(), ClusterSpec::default()).expect("open");
        create(&manager, &format!("q{at}")).await;
        let name = format!("power{at}");
        let joined = join(&manager, &name).await.expect("it joins");
        manager.close();
        drop((manager, source));
        execute(
            &catalog,
            &format!("UPDATE tessera_shards SET state = 'joining' WHERE name = '{name}'"),
        );
        state(&dir.path().join(format!("{name}-primary.db")));
        assert_eq!(findings(dir.path()), Vec::<String>::new(), "a joining shard is only noted");
        let (manager, source) = open_with_source(dir.path(), ClusterSpec::default()).expect("open");
        let map = manager.map();
        assert_eq!(map.topology().shards()[joined.shard.index()].state, ShardState::Serving);
        assert_eq!(map.epoch(), joined.map.epoch() + 1);
        let created = format!("p{at}");
        create(&manager, &created).await;
        assert_eq!(rows(&manager, &created, None).await.len(), 0);
        manager.close();
        drop((manager, source));
    }
    assert_eq!(findings(dir.path()), Vec::<String>::new());
}

fn replica_of(primary: &Path) -> PathBuf {
    PathBuf::from(primary.to_string_lossy().replace("-primary", "-replica1"))
}

fn unmade(primary: &Path) {
    for file in [primary, &replica_of(primary)] {
        std::fs::remove_file(file).expect("removed");
    }
}

fn empty(primary: &Path) {
    unmade(primary);
    std::fs::write(primary, "").expect("written");
}

fn garbage(primary: &Path) {
    unmade(primary);
    std::fs::write(primary, [7; 8192]).expect("written");
}

fn whole(_: &Path) {}

#[tokio::test]
async fn a_join_goes_on_when_its_client_disconnects() {
    let cluster = Cluster::with(shards(1));
    let manager = &cluster.manager;
    kept_up(manager, async {
        // The task takes its orders from the first time that it is polled.
        tokio::task::yield_now().await;
        assert!(polled(1, join(manager, "shard2")).await.is_none());
        let serves = || {
            let map = manager.map();
            let found = map.topology().find("shard2");
            found.is_some_and(|number| {
                map.topology().shards()[number.index()].state == ShardState::Serving
            })
        };
        until("the join does not go on", serves).await;
    })
    .await;
    assert_eq!(manager.status().stats().len(), 2);
}

#[tokio::test]
async fn replicas_of_the_new_shard_follow_and_serve() {
    let cluster = Cluster::with(with_replicas(1, 2));
    let manager = &cluster.manager;
    create(manager, "pupils").await;
    let number = join(manager, "shard2").await.expect("it joins").shard;
    let (primary, replicas) = manager.status().nodes(number);
    assert_eq!(primary, "shard2-primary");
    assert_eq!(replicas, ["shard2-replica1", "shard2-replica2"]);
    let all: SlotSet = SlotSet::full();
    let change = (ShardNumber(0), number);
    manager.slots().hand_over(&all, change, deadline()).await.expect("handed over");
    let (from, to) = change;
    let change = MapChange::Owners { slots: all, from, to, floor: None };
    manager.shards().change_map(change, manager.map().epoch()).await.expect("published");
    assert_eq!(store(manager, "pupils", "ada", "a").await, number);
    let limit = deadline();
    loop {
        let query = ReadQuery::all(&manager.schema(Rights::ALL).table("pupils").expect("a table"));
        let read = cluster.try_read(query, Some("ada")).await.expect("an answer");
        if read.served_by == ServedBy::Replica && read.rows.len() == 1 {
            break;
        }
        assert!(Instant::now() < limit, "no replica answers");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // A shard without slots may leave, also if it was the first.
    manager.shards().set_weight("shard1", 0, None).await.expect("another weight");
    manager.shards().remove("shard1", None).await.expect("it owns nothing");
    let last = manager.shards().remove("shard2", None).await.expect_err("the last one");
    assert!(matches!(last, ShardChangeError::Map(_)), "{last:?}");
}

#[tokio::test]
async fn a_backup_contains_the_new_shard_and_leaves_out_a_joining_one() {
    let mut cluster = Cluster::with(shards(2));
    let manager = &cluster.manager;
    create(manager, "pupils").await;
    join(manager, "shard3").await.expect("it joins");
    for id in 0..50 {
        store(manager, "pupils", &format!("p{id}"), "a").await;
    }
    let change = MapChange::NewShard { name: "shard4".to_owned(), weight: 1, address: None };
    let listed = manager.shards().change_map(change, manager.map().epoch()).await.expect("listed");
    assert_eq!(listed.topology().shards()[3].state, ShardState::Joining);
    let source = cluster.source.take().expect("a source");
    let folder = scratch::folder();
    let (copy, restored) = (folder.path().join("copy"), folder.path().join("restored"));
    let observer = ProgressObserver { step: &|_| (), cancelled: &|| false };
    let manifest = source.save(&copy, &observer).expect("a copy");
    let names: Vec<&str> = manifest.shards.iter().map(|shard| &*shard.shard).collect();
    assert_eq!(names, ["shard1", "shard2", "shard3"]);
    restore(&copy, &restored, &observer).expect("restored");
    drop(source);
    let (manager, source) = open_with_source(&restored, ClusterSpec::default()).expect("it starts");
    assert_eq!(manager.map().topology().find("shard4"), Some(ShardNumber(3)));
    assert_eq!(manager.status().stats().len(), 4, "the start has finished the join");
    assert_eq!(rows(&manager, "pupils", None).await.len(), 50);
    manager.close();
    drop((manager, source));
    assert_eq!(findings(&restored), Vec::<String>::new());
}

#[test]
fn a_map_is_kept_until_its_shards_are_open() {
    let dir = scratch::folder();
    let (manager, _source) = open_with_source(dir.path(), shards(2)).expect("it starts");
    let first = ShardMap::clone(&manager.map());
    let published = PublishedMap::new(first.clone());
    let then = |map: &ShardMap, change: MapChange| change.apply(map).expect("a map");
    let name = |name: &str| MapChange::NewShard { name: name.to_owned(), weight: 1, address: None };
    let serve = |shard| MapChange::State { shard, state: ShardState::Serving };
    let third = then(&then(&first, name("shard3")), serve(THIRD));
    let fourth = then(&then(&third, name("shard4")), serve(ShardNumber(3)));
    assert_eq!(published.publish_open(third.clone()), Ok(true));
    assert_eq!((published.load().epoch(), published.load().topology().len()), (3, 2));
    assert_eq!(published.publish_open(fourth.clone()), Ok(true));
    assert_eq!(published.publish_open(third), Ok(false), "an older map");
    let newest = published.backlog().newest().expect("it is kept");
    assert_eq!(*newest, fourth);
    // The fourth is open and owns a slot, the third is not open yet.
    published.reserve(ShardNumber(3), "shard4").expect("free");
    published.add_shard(ShardNumber(3));
    let slots: SlotSet = (0..1).filter_map(shard_manager::keyspace::Slot::new).collect();
    let owners = MapChange::Owners { slots, from: ShardNumber(0), to: ShardNumber(3), floor: None };
    let fifth = then(&fourth, owners);
    assert_eq!(published.publish_open(fifth.clone()), Ok(true));
    let limited = published.load_full();
    assert_eq!((limited.epoch(), limited.topology().len()), (fifth.epoch(), 4));
    assert_eq!(limited.topology().shards()[2].state, ShardState::Joining);
    published.reserve(THIRD, "shard3").expect("free");
    published.add_shard(THIRD);
    assert_eq!(published.publish_open(fifth.clone()), Ok(true));
    assert_eq!((published.load_full(), published.backlog().newest()), (Arc::new(fifth), None));
}
