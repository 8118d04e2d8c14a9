//! Tests of the cache in front of PostgreSQL shards, where positions and primary changes are
//! decided by the servers.

use std::time::{Duration, Instant};

use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{CacheSettings, ServedBy};
use shard_manager::consistency::Level;
use shard_manager::local::Stop;
use shard_manager::manager::{Manager, ReadDone, RequestOptions};
use shard_manager::token::SessionToken;

use crate::cluster::{Trio, connect};
use crate::read_write_steps::{at, get, put, seen};
use crate::redis_server::Server as Redis;
use crate::server::runtime;

/// Options of a client with this session; they tolerate the entry age that a busy machine adds.
fn with(session: &SessionToken) -> RequestOptions {
    RequestOptions { session: session.clone(), staleness: CacheSettings::TTL_MAX, ..at(Level::One) }
}

async fn read(manager: &Manager, key: &str, options: &RequestOptions) -> ReadDone {
    get(manager, key, options).await.unwrap()
}

/// Reads until the cache answers. Asserts that every hit has this version.
async fn until_hit(manager: &Manager, key: &str, options: &RequestOptions, version: i64) {
    let began = Instant::now();
    loop {
        let read = read(manager, key, options).await;
        assert_eq!(read.version(), Some(version));
        if read.cache == Some(Hit) {
            assert_eq!(read.served_by, ServedBy::Cache);
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "the cache never answers");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn routers_share_what_is_cached_and_a_session_reads_its_writes_through_each_of_them() {
    let Some(redis) = Redis::start(&[]) else { return };
    let trio = Trio::start();
    let one = connect(&trio.address()).with_cache(redis.settings());
    let other = connect(&trio.address()).with_cache(redis.settings());
    runtime().block_on(async {
        for _ in 0..30 {
            let written = put(&one, "k", &at(Level::One)).await.unwrap();
            let options = with(&seen(&one, &written));
            for router in [&other, &one, &other] {
                let read = read(router, "k", &options).await;
                assert_eq!(read.version(), Some(written.row.version));
            }
        }
        // An entry read from a replica serves sessions, provided that it contains what they have
        // seen.
        let written = put(&one, "k", &at(Level::All)).await.unwrap();
        let options = with(&seen(&one, &written));
        until_hit(&one, "k", &options, written.row.version).await;
        until_hit(&other, "k", &options, written.row.version).await;
    });
    one.close();
    other.close();
}

#[test]
fn an_entry_read_from_a_primary_serves_only_clients_without_a_session() {
    let Some(redis) = Redis::start(&[]) else { return };
    let trio = Trio::of(0, &[]);
    let manager = connect(&trio.address()).with_cache(redis.settings());
    runtime().block_on(async {
        let written = put(&manager, "k", &at(Level::One)).await.unwrap();
        until_hit(&manager, "k", &with(&SessionToken::empty()), written.row.version).await;
        let options = with(&seen(&manager, &written));
        for _ in 0..5 {
            let read = read(&manager, "k", &options).await;
            assert_eq!((read.cache, read.served_by), (Some(Miss), ServedBy::Primary));
        }
        // A hit advances the session as well: nothing older is shown afterwards.
        let hit = read(&manager, "k", &with(&SessionToken::empty())).await;
        assert_eq!(hit.cache, Some(Hit));
        assert_eq!(read(&manager, "k", &with(&hit.session)).await.cache, Some(Miss));
    });
    manager.close();
}

#[test]
fn after_a_failover_no_earlier_entry_is_served() {
    let Some(redis) = Redis::start(&[]) else { return };
    let mut trio = Trio::start();
    let manager = connect(&trio.address()).with_cache(redis.settings());
    runtime().block_on(async {
        let written = put(&manager, "k", &at(Level::All)).await.unwrap();
        let version = written.row.version;
        until_hit(&manager, "k", &with(&SessionToken::empty()), version).await;
        // However long the promotion takes, the entry does not expire.
        for key in redis.keys() {
            let mut direct = redis.direct_connection();
            let () = redis::cmd("PERSIST").arg(&key).query(&mut direct).unwrap();
        }
        let promoting = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
            trio.cluster.commands().promote_best("shard1").unwrap();
            trio
        });
        let trio = promoting.await.unwrap();
        put(&manager, "after", &at(Level::One)).await.unwrap();
        assert_eq!(redis.keys().len(), 1, "the entry is there");
        let first = read(&manager, "k", &with(&SessionToken::empty())).await;
        assert_eq!((first.version(), first.cache), (Some(version), Some(Miss)));
        assert!(manager.status().cache_stats().unwrap().stale > 0);
        until_hit(&manager, "k", &with(&SessionToken::empty()), version).await;
        drop(trio);
    });
    manager.close();
}
