//! Seldom: what is asked too seldom leaves Redis alone, and what is expected to be too old there is visited once.

use std::time::Duration;

use futures_util::future::join_all;
use redis::Commands as _;
use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{CacheSettings, FreshnessRequirement};

use crate::bench::{Played, ask, fill, fresh, number, requirement, router, told, until};
use crate::redis_server::{Server, nowhere};

fn twice(settings: CacheSettings) -> CacheSettings {
    CacheSettings { min_uses: 2, ..settings }
}

/// How often Redis has run a command, by itself or in a script.
fn calls(redis: &Server, command: &str) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut redis.door()).unwrap();
    let start = format!("cmdstat_{command}:calls=");
    let line = stats.lines().find_map(|line| line.strip_prefix(&start));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn what_is_asked_once_leaves_redis_alone_and_what_is_asked_again_is_kept() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&twice(redis.settings())), Played::new(1));
    for key in 0..100_u64 {
        let answer = ask(&cache, &format!("k{key}"), &requirement(None), async || fresh(key)).await;
        assert_eq!((number(&answer), answer.cache), (key, Miss));
    }
    let stats = cache.stats();
    assert_eq!((stats.seldom, stats.misses, stats.errors), (100, 100, 0));
    assert_eq!((calls(&redis, "hget"), calls(&redis, "evalsha")), (0, 0));
    assert_eq!(told(&cache, &shard, None).await, (1, Miss));
    fill(&cache, &shard).await;
    assert_eq!(told(&cache, &shard, None).await, (1, Hit));
    assert_eq!(redis.keys().len(), 1);
}

#[tokio::test]
async fn who_allows_no_age_is_never_worth_it() {
    let cache = router(&twice(nowhere()));
    let strict = FreshnessRequirement { age_max: Duration::ZERO, ..requirement(None) };
    for key in 0..20 {
        assert_eq!(number(&ask(&cache, "k", &strict, async || fresh(key)).await), key);
    }
    assert_eq!((cache.stats().seldom, cache.stats().errors), (20, 0), "nobody was asked");
}

#[tokio::test]
async fn a_write_voids_also_what_another_has_kept_and_this_one_would_not() {
    let Some(redis) = Server::start(&[]) else { return };
    let (seldom, often) = (router(&twice(redis.settings())), router(&redis.settings()));
    let shard = Played::new(1);
    fill(&often, &shard).await;
    assert_eq!(told(&seldom, &shard, None).await, (1, Miss), "it does not look");
    shard.write();
    seldom.invalidate([crate::bench::about("k")]);
    until("it is void", || redis.keys().is_empty()).await;
}

#[tokio::test]
async fn a_thousand_who_ask_for_the_first_time_make_one_query() {
    let cache = router(&twice(nowhere()));
    let shard = Played::new(1);
    let readers = (0..1_000).map(|_| async {
        let read = async || {
            let answer = shard.read();
            // So that all others have come.
            tokio::task::yield_now().await;
            answer
        };
        number(&ask(&cache, "k", &requirement(None), read).await)
    });
    assert!(join_all(readers).await.into_iter().all(|number| number == 1));
    assert_eq!(shard.queries(), 1);
}

#[tokio::test]
async fn what_is_known_to_be_too_old_is_visited_once_before_it_is_read() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), Played::new(1));
    fill(&cache, &shard).await;
    assert_eq!(told(&cache, &shard, None).await, (1, Hit));
    let () = redis::cmd("CONFIG").arg("RESETSTAT").query(&mut redis.door()).unwrap();
    shard.write();
    let strict = FreshnessRequirement { age_max: Duration::ZERO, ..requirement(None) };
    let answer = ask(&cache, "k", &strict, async || shard.read()).await;
    assert_eq!((number(&answer), answer.cache, cache.stats().stale), (2, Miss, 1));
    until("it is stored", || cache.stats().fills == 2).await;
    assert_eq!(calls(&redis, "evalsha"), 2, "one for the lease, one for the fill");
    // The script of the lease looks for an entry and a lease, that of the fill as well.
    assert_eq!(calls(&redis, "hget"), 4, "nobody has looked before");
}

#[tokio::test]
async fn a_first_visit_finds_what_another_router_has_kept() {
    let Some(redis) = Server::start(&[]) else { return };
    let (one, other) = (router(&redis.settings()), router(&redis.settings()));
    let shard = Played::new(1);
    fill(&one, &shard).await;
    assert_eq!(told(&other, &shard, None).await, (1, Hit));
    let fields: usize = redis.door().hlen(redis.keys().remove(0)).unwrap();
    assert_eq!(fields, 1, "it has left no lease");
}

#[tokio::test]
async fn what_another_router_has_kept_is_replaced_if_it_lacks_what_was_seen() {
    let Some(redis) = Server::start(&[]) else { return };
    let (one, other) = (router(&redis.settings()), router(&redis.settings()));
    let shard = Played::new(1);
    fill(&one, &shard).await;
    let seen = shard.write();
    assert_eq!(told(&other, &shard, Some(seen)).await, (2, Miss));
    until("it is stored", || other.stats().fills == 1).await;
    assert_eq!(told(&one, &shard, Some(seen)).await, (2, Hit));
}
