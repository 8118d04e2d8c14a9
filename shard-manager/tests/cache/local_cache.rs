//! Tests of the in-process cache of each router.

use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{BreakerState, CacheSettings, FreshnessRequirement};

use crate::bench::{
    FakeShard, about, ask, fill, fresh, number, number_and_use, requirement, router, rows, until,
};
use crate::redis_server::{Server, nowhere};

fn keeping(settings: CacheSettings, near_bytes: usize) -> CacheSettings {
    CacheSettings { near_bytes, ..settings }
}

#[tokio::test]
async fn a_repeated_read_is_answered_without_redis() {
    let Some(redis) = Server::start(&[]) else { return };
    let settings = keeping(redis.settings(), 1 << 20);
    let (one, other) = (router(&settings), router(&settings));
    let shard = FakeShard::new(1);
    fill(&one, &shard).await;
    assert_eq!(number_and_use(&other, &shard, Some(1)).await, (1, Hit), "this one had to ask");
    assert_eq!(other.stats().local_hits, 0);
    drop(redis);
    for router in [&one, &other] {
        assert_eq!(number_and_use(router, &shard, Some(1)).await, (1, Hit));
        assert_eq!((router.stats().local_hits, router.stats().breaker), (1, BreakerState::Closed));
    }
}

#[tokio::test]
async fn local_entries_are_checked_for_freshness_as_well() {
    let cache = router(&keeping(nowhere(), 1 << 20));
    let shard = FakeShard::new(1);
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Hit));
    // Another router writes the row.
    let seen = shard.write();
    assert_eq!(number_and_use(&cache, &shard, Some(seen)).await, (2, Miss));
    assert_eq!(number_and_use(&cache, &shard, Some(seen)).await, (2, Hit));
    let elsewhere = FreshnessRequirement { timeline: 2, ..requirement(None) };
    assert_eq!(ask(&cache, "k", &elsewhere, async || fresh(3)).await.cache, Miss);
}

#[tokio::test]
async fn a_write_invalidates_local_entries_and_reads_in_progress() {
    let cache = router(&keeping(nowhere(), 1 << 20));
    let shard = FakeShard::new(1);
    number_and_use(&cache, &shard, None).await;
    shard.write();
    cache.invalidate([about("k")]);
    let old = ask(&cache, "k", &requirement(None), async || {
        let old = shard.read();
        shard.write();
        cache.invalidate([about("k")]);
        old
    })
    .await;
    assert_eq!(number(&old), 2);
    assert_eq!(number_and_use(&cache, &shard, None).await, (3, Miss));
    assert_eq!(number_and_use(&cache, &shard, None).await, (3, Hit));
}

#[tokio::test]
async fn the_local_cache_stays_within_its_size_limit() {
    let cache = router(&keeping(nowhere(), 100_000));
    let large = || {
        let mut answer = fresh(1);
        answer.rows = rows(&format!("{{\"n\":1{}}}", " ".repeat(10_000)));
        answer
    };
    for key in 0..100 {
        ask(&cache, &key.to_string(), &requirement(None), async || large()).await;
    }
    let mut kept = 0;
    for key in 0..100 {
        let answer = ask(&cache, &key.to_string(), &requirement(None), async || fresh(1)).await;
        kept += usize::from(answer.cache == Hit && answer.rows.json().len() > 10_000);
    }
    assert!((1..10).contains(&kept), "{kept}");
    until("Redis gets no requests", || cache.stats().breaker != BreakerState::Closed).await;
}
