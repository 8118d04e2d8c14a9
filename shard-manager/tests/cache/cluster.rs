//! Tests of the cache in front of embedded shards, whose replicas the tests pause.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use shard_manager::access::rights::Rights;
use shard_manager::assembly::{self, EmbeddedCluster};
use shard_manager::cache::CacheUse::{Bypass, Hit, Miss};
use shard_manager::cache::{CacheSettings, CacheStats, CacheUse, ServedBy};
use shard_manager::consistency::Level;
use shard_manager::engine::cluster_spec::ClusterSpec;
use shard_manager::engine::fault_injector::{NodeFault, NodeMode};
use shard_manager::error::Error;
use shard_manager::keyspace::ShardKey;
use shard_manager::manager::{BulkRow, Data, Manager, ReadDone, RequestOptions};
use shard_manager::query::ReadQuery;
use shard_manager::row_change::{Operation, RowWrite};
use shard_manager::shard_map::{KeyLocation, with_owner};
use shard_manager::slot_set::SlotSet;
use shard_manager::store::sqlite;
use shard_manager::token::SessionToken;
use tempfile::TempDir;

use crate::bench::{deadline, until};
use crate::redis_server::Server;
use crate::scratch;

fn open(dir: &TempDir, replicas: usize, settings: &CacheSettings) -> Manager {
    let wanted =
        ClusterSpec { shards: Some(1), replicas: Some(replicas), ..ClusterSpec::default() };
    let cluster = EmbeddedCluster { data_dir: dir.path().to_owned(), wanted };
    assembly::open(&cluster).unwrap().with_cache(settings.clone())
}

fn options() -> RequestOptions {
    // The largest staleness bound, because the bound has its own tests: a busy machine must not
    // change the outcome here.
    RequestOptions { staleness: CacheSettings::TTL_MAX, ..RequestOptions::by(deadline()) }
}

fn with(session: &SessionToken) -> RequestOptions {
    RequestOptions { session: session.clone(), ..options() }
}

fn row(manager: &Manager, key: &str, n: u64) -> (KeyLocation, RowWrite) {
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    let text = format!(r#"{{"name":"{n}","email":"a@example.com"}}"#);
    let members: std::collections::BTreeMap<String, &RawValue> =
        serde_json::from_str(&text).unwrap();
    let fields: Vec<_> = members.into_iter().map(|(k, v)| (Cow::Owned(k), v)).collect();
    let key = ShardKey::parse(key).unwrap();
    Data::prepare(&manager.map(), &table, Operation::Upsert, key, &fields).unwrap()
}

/// Writes and waits until Redis has carried out the invalidation, because one that arrives later
/// would refuse the next fill. Returns the session token of the client afterwards.
async fn write(manager: &Manager, redis: &Server, key: &str, n: u64) -> SessionToken {
    let before = redis.calls("unlink");
    let session = write_only(manager, key, n).await;
    until("it is invalidated", || redis.calls("unlink") > before).await;
    session
}

/// Writes, and returns the session token of the client afterwards.
async fn write_only(manager: &Manager, key: &str, n: u64) -> SessionToken {
    let (place, row) = row(manager, key, n);
    let written = manager.data(Rights::ALL).write(place, row, &options()).await.unwrap();
    let mut session = SessionToken::empty();
    manager.sessions().extend(&mut session, place.shard, written.receipt.position);
    session
}

async fn read(manager: &Manager, key: &str, options: &RequestOptions) -> ReadDone {
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    let key = ShardKey::parse(key).unwrap();
    manager.data(Rights::ALL).read(ReadQuery::all(&table), Some(key), options).await.unwrap()
}

fn number(read: &ReadDone) -> Option<u64> {
    let rows = format!("[{}]", std::str::from_utf8(read.rows.json()).unwrap());
    let rows: Vec<serde_json::Value> = serde_json::from_str(&rows).unwrap();
    rows.first().map(|row| row["name"].as_str().unwrap().parse().unwrap())
}

/// The number that was read, and how the cache was used.
async fn number_and_use(manager: &Manager, options: &RequestOptions) -> (Option<u64>, CacheUse) {
    let read = read(manager, "ada", options).await;
    (number(&read), read.cache.unwrap())
}

/// Reads until the entry is stored. On a machine that stands still, the lease may be over before
/// the rows are there; then they are read again.
async fn warm(manager: &Manager) {
    let (limit, stats) = (deadline(), || manager.status().cache_stats().unwrap());
    loop {
        let before = stats();
        assert_eq!(number_and_use(manager, &options()).await.1, Miss);
        let ended = |stats: &CacheStats| stats.fills + stats.rejected;
        until("it is stored", || ended(&stats()) > ended(&before)).await;
        if stats().fills > before.fills {
            return;
        }
        assert!(Instant::now() < limit, "every fill is refused");
    }
}

fn hold(manager: &Manager, mode: NodeMode) {
    let injector = manager.faults().node("shard1-replica1").unwrap();
    injector.set(NodeFault { mode, delay: Duration::ZERO });
}

/// The shard owns all slots at every epoch, as after moves away and back.
#[tokio::test]
async fn a_move_invalidates_the_entries_of_its_slots_only() {
    let Some(redis) = Server::start(&[]) else { return };
    let dir = scratch::folder();
    let wanted = ClusterSpec { shards: Some(1), replicas: Some(0), ..ClusterSpec::default() };
    let wanted = EmbeddedCluster { data_dir: dir.path().to_owned(), wanted };
    let opened = sqlite::open::open(&wanted).unwrap().cluster;
    let map = Arc::clone(&opened.map);
    let manager = Manager::new(opened).unwrap().with_cache(redis.settings());
    let (place, _) = row(&manager, "ada", 1);
    write(&manager, &redis, "ada", 1).await;
    warm(&manager).await;
    let mut others = SlotSet::full();
    others.remove(place.slot);
    map.publish(with_owner(&manager.map(), &others, place.shard).unwrap()).unwrap();
    let kept = read(&manager, "ada", &options()).await;
    assert_eq!((number(&kept), kept.cache, kept.epoch), (Some(1), Some(Hit), 2));
    let mut moved = SlotSet::empty();
    moved.insert(place.slot);
    map.publish(with_owner(&manager.map(), &moved, place.shard).unwrap()).unwrap();
    warm(&manager).await;
    assert_eq!(number_and_use(&manager, &options()).await, (Some(1), Hit));
    // A write invalidates the entries of the new epoch.
    write(&manager, &redis, "ada", 2).await;
    assert_eq!(number_and_use(&manager, &options()).await, (Some(2), Miss));
}

#[tokio::test]
async fn a_client_reads_its_own_write_whatever_is_cached() {
    let Some(redis) = Server::start(&[]) else { return };
    let dir = scratch::folder();
    let manager = open(&dir, 0, &redis.settings());
    for n in 1..20 {
        let session = write_only(&manager, "ada", n).await;
        assert_eq!(number_and_use(&manager, &with(&session)).await.0, Some(n));
        let again = number_and_use(&manager, &with(&session)).await.0;
        assert_eq!(again, Some(n));
    }
    let stats = manager.status().cache_stats().unwrap();
    assert_eq!((stats.invalidations, stats.errors), (19, 0), "{stats:?}");
}

#[tokio::test]
async fn a_client_that_has_read_never_reads_older_from_the_cache() {
    let Some(redis) = Server::start(&[]) else { return };
    let dir = scratch::folder();
    let manager = open(&dir, 1, &redis.settings());
    write(&manager, &redis, "ada", 1).await;
    let caught_up = || manager.status().stats()[0].worst_lag() == Some(Duration::ZERO);
    until("the replica has it", caught_up).await;
    warm(&manager).await;
    hold(&manager, NodeMode::Paused);
    // A write of another client to another key of the shard leaves the entry valid.
    write(&manager, &redis, "bob", 1).await;
    let all = RequestOptions { level: Level::All, ..options() };
    let seen = read(&manager, "ada", &all).await;
    assert_eq!((seen.served_by, seen.cache), (ServedBy::Primary, Some(Bypass)));
    let next = read(&manager, "ada", &with(&seen.session)).await;
    assert_eq!(next.cache, Some(Miss), "the entry does not hold what was seen");
    assert_eq!(
        number_and_use(&manager, &options()).await,
        (Some(1), Hit),
        "others are served by it"
    );
}

#[tokio::test]
async fn a_hit_advances_the_session_to_what_it_showed() {
    let Some(redis) = Server::start(&[]) else { return };
    let dir = scratch::folder();
    let manager = open(&dir, 1, &redis.settings());
    hold(&manager, NodeMode::Paused);
    write(&manager, &redis, "ada", 1).await;
    // The primary answers a client that has seen this much, and its answer is cached.
    let session = write(&manager, &redis, "ada", 2).await;
    assert_eq!(number_and_use(&manager, &with(&session)).await, (Some(2), Miss));
    until("it is stored", || manager.status().cache_stats().unwrap().fills == 1).await;
    let hit = read(&manager, "ada", &options()).await;
    assert_eq!((number(&hit), hit.served_by, hit.cache), (Some(2), ServedBy::Cache, Some(Hit)));
    // Without the entry, the paused replica would show the older row.
    let () = redis::cmd("FLUSHALL").query(&mut redis.direct_connection()).unwrap();
    assert_eq!(number_and_use(&manager, &with(&hit.session)).await.0, Some(2));
}

#[tokio::test]
async fn strong_reads_and_reads_of_all_shards_bypass_the_cache() {
    let Some(redis) = Server::start(&[]) else { return };
    let dir = scratch::folder();
    let manager = open(&dir, 0, &redis.settings());
    write(&manager, &redis, "ada", 1).await;
    warm(&manager).await;
    for level in [Level::Quorum, Level::All] {
        let read = read(&manager, "ada", &RequestOptions { level, ..options() }).await;
        assert_eq!((read.cache, read.served_by), (Some(Bypass), ServedBy::Primary));
    }
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    let scattered =
        manager.data(Rights::ALL).read(ReadQuery::all(&table), None, &options()).await.unwrap();
    assert_eq!(scattered.cache, Some(Bypass));
    let key = ShardKey::parse("ada").unwrap();
    let counted = ReadQuery { counts: true, ..ReadQuery::all(&table) };
    assert_eq!(
        manager.data(Rights::ALL).read(counted, Some(key), &options()).await.unwrap().cache,
        Some(Bypass)
    );
    assert_eq!(manager.status().cache_stats().unwrap().bypass, 4);
}

#[tokio::test]
async fn a_read_may_limit_the_age_of_the_entry() {
    let Some(redis) = Server::start(&[]) else { return };
    let dir = scratch::folder();
    let manager = open(&dir, 0, &redis.settings());
    write(&manager, &redis, "ada", 1).await;
    warm(&manager).await;
    let made = Instant::now();
    until("it is old", || made.elapsed() > Duration::from_millis(20)).await;
    let within = |millis| RequestOptions { staleness: Duration::from_millis(millis), ..options() };
    assert_eq!(number_and_use(&manager, &within(20)).await, (Some(1), Miss));
    assert_eq!(manager.status().cache_stats().unwrap().stale, 1);
    assert_eq!(number_and_use(&manager, &within(30_000)).await, (Some(1), Hit));
    assert_eq!(number_and_use(&manager, &within(0)).await, (Some(1), Miss));
}

#[tokio::test]
async fn every_kind_of_write_invalidates_the_entry() {
    let Some(redis) = Server::start(&[]) else { return };
    let dir = scratch::folder();
    let manager = open(&dir, 0, &redis.settings());
    write(&manager, &redis, "ada", 1).await;
    let bulk = |n| {
        let (place, row) = row(&manager, "ada", n);
        vec![BulkRow { index: 0, place, row }]
    };
    for n in 2..=4 {
        warm(&manager).await;
        let shard = bulk(n)[0].place.shard;
        match n {
            2 => drop(manager.data(Rights::ALL).write_bulk(bulk(n), &options()).await),
            3 => drop(manager.data(Rights::ALL).write_bulk_atomic(bulk(n), &options()).await),
            _ => drop(manager.data(Rights::ALL).write_chunk(shard, bulk(n), &options()).await),
        }
        until("its entries are gone", || redis.keys().is_empty()).await;
        // Waits for the end of the fill, so that the next fill gets its own lease.
        warm(&manager).await;
        let () = redis::cmd("FLUSHALL").query(&mut redis.direct_connection()).unwrap();
    }
    // Cancels the caller of a write, which is stored all the same. A write that ends at its first
    // poll is not cancelled, so another one is tried.
    let is_cancelled = async |n| {
        warm(&manager).await;
        let (place, row) = row(&manager, "ada", n);
        let ended = manager.data(Rights::ALL).write(place, row, &options()).now_or_never();
        until("its entries are gone", || redis.keys().is_empty()).await;
        ended.is_none()
    };
    let mut n = 9;
    while !is_cancelled(n).await {
        n += 1;
        assert!(n < 100, "every write ends at its first poll");
    }
}

#[tokio::test]
async fn entries_from_before_a_primary_was_restored_are_never_served() {
    let Some(redis) = Server::start(&[]) else { return };
    let dir = scratch::folder();
    let manager = open(&dir, 0, &redis.settings());
    write(&manager, &redis, "ada", 1).await;
    manager.close();
    drop(manager);
    let copy = std::fs::read(dir.path().join("shard1-primary.db")).unwrap();
    let manager = open(&dir, 0, &redis.settings());
    let session = write(&manager, &redis, "ada", 2).await;
    warm(&manager).await;
    manager.close();
    drop(manager);
    std::fs::write(dir.path().join("shard1-primary.db"), copy).unwrap();
    assert_eq!(redis.keys().len(), 1, "the entry is there");
    let manager = open(&dir, 0, &redis.settings());
    assert_eq!(number_and_use(&manager, &options()).await, (Some(1), Miss));
    let table = manager.schema(Rights::ALL).table("users").unwrap();
    let key = Some(ShardKey::parse("ada").unwrap());
    let lost = manager.data(Rights::ALL).read(ReadQuery::all(&table), key, &with(&session)).await;
    assert!(matches!(lost.unwrap_err().error, Error::SeenMayBeLost { .. }));
}

#[tokio::test]
async fn a_thousand_readers_of_a_cold_key_hold_one_connection() {
    let Some(redis) = Server::start(&[]) else { return };
    let dir = scratch::folder();
    let manager = open(&dir, 0, &redis.settings());
    write(&manager, &redis, "ada", 1).await;
    let readers = (0..1_000).map(|_| async { number_and_use(&manager, &options()).await.0 });
    let numbers = futures_util::future::join_all(readers).await;
    assert!(numbers.iter().all(|number| *number == Some(1)));
    let stats = manager.status().cache_stats().unwrap();
    assert_eq!(stats.hits + stats.misses + stats.stale, 1_000);
    until("it is stored once", || manager.status().cache_stats().unwrap().fills == 1).await;
}
