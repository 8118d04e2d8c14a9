//! Tests of cache admission: rarely requested keys cause no Redis traffic, and an entry that is
//! expected to be too old is looked up only once.

use std::time::Duration;

use futures_util::future::join_all;
use redis::Commands as _;
use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{CacheSettings, FreshnessRequirement};

use crate::bench::{
    FakeShard, ask, fill, fresh, number, number_and_use, requirement, router, until,
};
use crate::redis_server::{Server, nowhere};

fn twice(settings: CacheSettings) -> CacheSettings {
    CacheSettings { min_uses: 2, ..settings }
}

#[tokio::test]
async fn a_first_request_does_not_use_redis_and_a_repeated_one_is_cached() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&twice(redis.settings())), FakeShard::new(1));
    for key in 0..100_u64 {
        let answer = ask(&cache, &format!("k{key}"), &requirement(None), async || fresh(key)).await;
        assert_eq!((number(&answer), answer.cache), (key, Miss));
    }
    let stats = cache.stats();
    assert_eq!((stats.too_infrequent, stats.misses, stats.errors), (100, 100, 0));
    assert_eq!((redis.calls("hget"), redis.calls("evalsha")), (0, 0));
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    fill(&cache, &shard).await;
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Hit));
    assert_eq!(redis.keys().len(), 1);
}

#[tokio::test]
async fn a_client_that_allows_no_age_is_never_admitted() {
    let cache = router(&twice(nowhere()));
    let strict = FreshnessRequirement { age_max: Duration::ZERO, ..requirement(None) };
    for key in 0..20 {
        assert_eq!(number(&ask(&cache, "k", &strict, async || fresh(key)).await), key);
    }
    assert_eq!(
        (cache.stats().too_infrequent, cache.stats().errors),
        (20, 0),
        "no request was sent"
    );
}

#[tokio::test]
async fn a_write_invalidates_entries_of_other_routers_that_this_one_would_not_admit() {
    let Some(redis) = Server::start(&[]) else { return };
    let (seldom, often) = (router(&twice(redis.settings())), router(&redis.settings()));
    let shard = FakeShard::new(1);
    fill(&often, &shard).await;
    assert_eq!(number_and_use(&seldom, &shard, None).await, (1, Miss), "it does not look");
    shard.write();
    seldom.invalidate([crate::bench::about("k")]);
    until("it is void", || redis.keys().is_empty()).await;
}

#[tokio::test]
async fn a_thousand_concurrent_first_readers_make_one_query() {
    let cache = router(&twice(nowhere()));
    let shard = FakeShard::new(1);
    let readers = (0..1_000).map(|_| async {
        let read = async || {
            let answer = shard.read();
            // Lets all other readers join first.
            tokio::task::yield_now().await;
            answer
        };
        number(&ask(&cache, "k", &requirement(None), read).await)
    });
    assert!(join_all(readers).await.into_iter().all(|number| number == 1));
    assert_eq!(shard.queries(), 1);
}

#[tokio::test]
async fn an_entry_known_to_be_too_old_is_looked_up_once_before_the_read() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Hit));
    let () = redis::cmd("CONFIG").arg("RESETSTAT").query(&mut redis.direct_connection()).unwrap();
    shard.write();
    let strict = FreshnessRequirement { age_max: Duration::ZERO, ..requirement(None) };
    let answer = ask(&cache, "k", &strict, async || shard.read()).await;
    assert_eq!((number(&answer), answer.cache, cache.stats().stale), (2, Miss, 1));
    until("it is stored", || cache.stats().fills == 2).await;
    assert_eq!(redis.calls("evalsha"), 2, "one for the lease, one for the fill");
    // The script that takes the lease reads an entry and a lease, and so does the script that
    // fills.
    assert_eq!(redis.calls("hget"), 4, "there was no lookup before");
}

#[tokio::test]
async fn a_first_lookup_finds_an_entry_of_another_router() {
    let Some(redis) = Server::start(&[]) else { return };
    let (one, other) = (router(&redis.settings()), router(&redis.settings()));
    let shard = FakeShard::new(1);
    fill(&one, &shard).await;
    assert_eq!(number_and_use(&other, &shard, None).await, (1, Hit));
    let fields: usize = redis.direct_connection().hlen(redis.keys().remove(0)).unwrap();
    assert_eq!(fields, 1, "it has left no lease");
}

#[tokio::test]
async fn an_entry_of_another_router_is_replaced_if_it_is_older_than_the_session() {
    let Some(redis) = Server::start(&[]) else { return };
    let (one, other) = (router(&redis.settings()), router(&redis.settings()));
    let shard = FakeShard::new(1);
    fill(&one, &shard).await;
    let seen = shard.write();
    assert_eq!(number_and_use(&other, &shard, Some(seen)).await, (2, Miss));
    until("it is stored", || other.stats().fills == 1).await;
    assert_eq!(number_and_use(&one, &shard, Some(seen)).await, (2, Hit));
}
