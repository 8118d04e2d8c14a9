//! Races between fills, writes, routers and failovers; each test pauses at the step that matters.

use std::time::{Duration, Instant};

use redis::Commands as _;
use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{
    CacheSettings, CacheStats, FreshnessBound, FreshnessRequirement, ServedBy,
};

use crate::bench::{
    FakeShard, about, ask, ask_since, fill, fresh, number, number_and_use, requirement, router,
    until,
};
use crate::redis_server::Server;

#[tokio::test]
async fn a_repeated_read_is_answered_from_the_cache() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(3));
    fill(&cache, &shard).await;
    let answer = ask(&cache, "k", &requirement(None), async || unreachable!()).await;
    assert_eq!((number(&answer), answer.cache, answer.served_by), (3, Hit, ServedBy::Cache));
    assert_eq!(
        (answer.position.timeline, answer.position.sequence),
        (1, 3),
        "what its client has seen"
    );
    let CacheStats { hits, misses, fills, errors, .. } = cache.stats();
    assert_eq!((hits, misses, fills, errors), (1, 1, 1, 0));
    let [key] = &redis.keys()[..] else { panic!("one hash") };
    assert!(key.starts_with("tessera:1:") && key.ends_with(":1:7:users:k"), "{key}");
}

#[tokio::test]
async fn a_fill_that_a_write_overtakes_is_refused() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    let any = requirement(None);
    let old = ask(&cache, "k", &any, async || {
        let old = shard.read();
        // Another client writes here: the write is committed and invalidates the lease.
        shard.write();
        cache.invalidate([about("k")]);
        until("the lease is gone", || redis.keys().is_empty()).await;
        old
    })
    .await;
    assert_eq!(number(&old), 1);
    until("the fill is refused", || cache.stats().rejected == 1).await;
    assert!(redis.keys().is_empty());
    assert_eq!(number_and_use(&cache, &shard, None).await, (2, Miss));
}

#[tokio::test]
async fn a_fill_that_a_write_of_another_router_overtakes_is_refused() {
    let Some(redis) = Server::start(&[]) else { return };
    let (one, other) = (router(&redis.settings()), router(&redis.settings()));
    let shard = FakeShard::new(1);
    ask(&one, "k", &requirement(None), async || {
        let old = shard.read();
        shard.write();
        other.invalidate([about("k")]);
        until("the lease is gone", || redis.keys().is_empty()).await;
        old
    })
    .await;
    until("the fill is refused", || one.stats().rejected == 1).await;
    assert_eq!(number_and_use(&other, &shard, None).await, (2, Miss));
}

#[tokio::test]
async fn after_a_lost_invalidation_an_entry_serves_no_client_that_has_seen_the_write() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    let seen = shard.write();
    assert_eq!(
        number_and_use(&cache, &shard, Some(seen)).await,
        (2, Miss),
        "who wrote reads the write"
    );
    until("it is stored", || cache.stats().fills == 2).await;
    assert_eq!(number_and_use(&cache, &shard, Some(seen)).await, (2, Hit));
    assert_eq!(cache.stats().stale, 1);
}

#[tokio::test]
async fn after_a_lost_invalidation_an_entry_serves_others_within_their_age_limit() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    let aged = Instant::now() - Duration::from_secs(5);
    ask(&cache, "k", &requirement(None), async || {
        let mut old = shard.read();
        old.freshness = Some(FreshnessBound { timeline: 1, min_position: 1, as_of: aged });
        old
    })
    .await;
    until("it is stored", || cache.stats().fills == 1).await;
    shard.write();
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Hit), "within thirty seconds");
    let strict = FreshnessRequirement { age_max: Duration::from_secs(5), ..requirement(None) };
    let answer = ask(&cache, "k", &strict, async || shard.read()).await;
    assert_eq!((number(&answer), answer.cache), (2, Miss));
}

#[tokio::test]
async fn a_lease_that_was_evicted_stores_nothing() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    ask(&cache, "k", &requirement(None), async || {
        let () = redis.direct_connection().del(redis.keys()).unwrap();
        shard.read()
    })
    .await;
    until("the fill is refused", || cache.stats().rejected == 1).await;
    assert!(redis.keys().is_empty());
}

#[tokio::test]
async fn a_reader_without_a_lease_stores_nothing() {
    let Some(redis) = Server::start(&[]) else { return };
    let (one, other) = (router(&redis.settings()), router(&redis.settings()));
    let shard = FakeShard::new(1);
    ask(&one, "k", &requirement(None), async || {
        assert_eq!(
            number_and_use(&other, &shard, None).await,
            (1, Miss),
            "it does not wait for the other"
        );
        shard.read()
    })
    .await;
    until("the first has stored it", || one.stats().fills == 1).await;
    assert_eq!((other.stats().fills, other.stats().rejected), (0, 0));
    assert_eq!(
        number_and_use(&other, &shard, None).await,
        (1, Hit),
        "routers share what is stored"
    );
}

/// Simulates the expiry of all leases.
fn end_leases(redis: &Server) {
    let mut direct = redis.direct_connection();
    for key in redis.keys() {
        let fields: Vec<Vec<u8>> = direct.hkeys(&key).unwrap();
        for field in fields.into_iter().filter(|field| field.len() == 17) {
            let mut lease: Vec<u8> = direct.hget(&key, &field).unwrap();
            lease.truncate(16);
            lease.push(b'1');
            let () = direct.hset(&key, &field, lease).unwrap();
        }
    }
}

#[tokio::test]
async fn a_fill_after_its_lease_expired_does_not_overwrite_a_newer_entry() {
    let Some(redis) = Server::start(&[]) else { return };
    let (slow, next) = (router(&redis.settings()), router(&redis.settings()));
    let shard = FakeShard::new(1);
    ask(&slow, "k", &requirement(None), async || {
        let old = shard.read();
        shard.write();
        end_leases(&redis);
        fill(&next, &shard).await;
        old
    })
    .await;
    until("the late fill is refused", || slow.stats().rejected == 1).await;
    assert_eq!(number_and_use(&slow, &shard, None).await, (2, Hit));
}

#[tokio::test]
async fn a_lease_ends_by_itself() {
    let Some(redis) = Server::start(&[]) else { return };
    let (dead, next) = (router(&redis.settings()), router(&redis.settings()));
    let shard = FakeShard::new(1);
    let wants = requirement(None);
    let asked = ask(&dead, "k", &wants, async || std::future::pending().await);
    let has_lease = until("it has its lease", || !redis.keys().is_empty());
    tokio::select! {
        _ = asked => unreachable!("it never reads"),
        // The client of the lease is cancelled.
        () = has_lease => {}
    }
    let ttl: i64 = redis.direct_connection().pttl(&redis.keys()[0]).unwrap();
    assert!((1..=2_000).contains(&ttl), "{ttl}");
    until("it is over", || redis.keys().is_empty()).await;
    fill(&next, &shard).await;
}

#[tokio::test]
async fn a_fill_does_not_replace_an_entry_that_is_newer_in_every_respect() {
    let Some(redis) = Server::start(&[]) else { return };
    let (one, other) = (router(&redis.settings()), router(&redis.settings()));
    let shard = FakeShard::new(9);
    let began = Instant::now();
    fill(&other, &shard).await;
    let mut direct = redis.direct_connection();
    let key = redis.keys().remove(0);
    let stored: Vec<(Vec<u8>, Vec<u8>)> = direct.hgetall(&key).unwrap();
    let () = direct.del(&key).unwrap();
    ask(&one, "k", &requirement(None), async || {
        let () = direct.hset_multiple(&key, &stored).unwrap();
        let mut old = fresh(5);
        old.freshness = Some(FreshnessBound { timeline: 1, min_position: 5, as_of: began });
        old
    })
    .await;
    until("the fill is refused", || one.stats().rejected == 1).await;
    assert_eq!(number_and_use(&one, &shard, Some(9)).await, (9, Hit));
}

#[tokio::test]
async fn an_entry_of_another_timeline_is_never_served() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(5));
    fill(&cache, &shard).await;
    // Another node becomes primary, without all writes of its predecessor.
    let now = FreshnessRequirement { timeline: 2, ..requirement(None) };
    let answer = ask(&cache, "k", &now, async || {
        let mut answer = fresh(4);
        answer.freshness =
            answer.freshness.map(|freshness| FreshnessBound { timeline: 2, ..freshness });
        answer
    });
    let answer = answer.await;
    assert_eq!((number(&answer), answer.cache), (4, Miss));
    until("it replaces what was", || cache.stats().fills == 2).await;
    let answer = ask(&cache, "k", &now, async || unreachable!()).await;
    assert_eq!((number(&answer), answer.cache), (4, Hit), "though its number is lower");
    assert_eq!(number_and_use(&cache, &shard, None).await, (5, Miss), "nor the other way round");
}

#[tokio::test]
async fn a_read_during_a_failover_is_not_cached() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(5));
    ask(&cache, "k", &requirement(None), async || {
        let mut answer = shard.read();
        answer.freshness = None;
        answer
    })
    .await;
    assert_eq!(number_and_use(&cache, &shard, None).await.1, Miss);
    assert_eq!(shard.queries(), 2);
}

#[tokio::test]
async fn a_slot_that_moved_leaves_its_entries_behind() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    let moved = async |since| {
        let answer = ask_since(&cache, since, async || fresh(7)).await;
        (number(&answer), answer.cache)
    };
    assert_eq!(moved(2).await, (7, Miss));
    until("it is stored", || cache.stats().fills == 2).await;
    assert_eq!(moved(2).await, (7, Hit));
    assert_eq!(moved(3).await, (7, Miss), "the slot has returned to its first owner");
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Hit), "other slots keep theirs");
}

#[tokio::test]
async fn an_entry_that_the_old_owner_fills_after_the_move_is_not_found() {
    let Some(redis) = Server::start(&[]) else { return };
    for near_bytes in [0, 1 << 20] {
        let settings = CacheSettings { near_bytes, ..redis.settings() };
        let (behind, current) = (router(&settings), router(&settings));
        let (old, new) = (FakeShard::new(100), FakeShard::new(7));
        let any = requirement(None);
        let late = ask(&behind, "k", &any, async || {
            let answer = old.read();
            // The slot moves, and is read from its new owner, whose positions are lower.
            let moved = ask_since(&current, 2, async || new.read()).await;
            assert_eq!((number(&moved), moved.cache), (7, Miss));
            answer
        })
        .await;
        assert_eq!(number(&late), 100, "the read began before the move");
        until("the late entry is stored", || behind.stats().fills == 1).await;
        for router in [&behind, &current] {
            let moved = ask_since(router, 2, async || new.read()).await;
            assert_eq!(number(&moved), 7);
        }
        let () = redis.direct_connection().del(redis.keys()).unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_knows_a_move_joins_no_read_of_the_old_owner() {
    let Some(redis) = Server::start(&[]) else { return };
    let cache = router(&redis.settings());
    let any = requirement(None);
    let old = ask(&cache, "k", &any, async || {
        let moved = ask_since(&cache, 2, async || fresh(7)).await;
        assert_eq!((number(&moved), moved.cache), (7, Miss));
        fresh(100)
    })
    .await;
    assert_eq!(number(&old), 100);
}

#[tokio::test]
async fn an_entry_read_from_a_server_primary_serves_no_session() {
    let Some(redis) = Server::start(&[]) else { return };
    let cache = router(&redis.settings());
    // Its position may include commits that a read does not see yet.
    let leader = async || {
        let mut answer = fresh(8);
        answer.freshness =
            answer.freshness.map(|freshness| FreshnessBound { min_position: 0, ..freshness });
        answer
    };
    ask(&cache, "k", &requirement(None), leader).await;
    until("it is stored", || cache.stats().fills == 1).await;
    assert_eq!(ask(&cache, "k", &requirement(None), leader).await.cache, Hit);
    assert_eq!(ask(&cache, "k", &requirement(Some(1)), leader).await.cache, Miss);
}

#[tokio::test]
async fn an_entry_read_from_a_lagging_replica_is_as_old_as_the_replica() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(4));
    let lagging = async || {
        let mut answer = fresh(3);
        let as_of = Instant::now() - Duration::from_secs(3);
        answer.freshness = Some(FreshnessBound { timeline: 1, min_position: 3, as_of });
        answer.served_by = ServedBy::Replica;
        answer
    };
    ask(&cache, "k", &requirement(None), lagging).await;
    until("it is stored", || cache.stats().fills == 1).await;
    let within = |seconds| FreshnessRequirement {
        age_max: Duration::from_secs(seconds),
        ..requirement(None)
    };
    let strict = ask(&cache, "k", &within(2), async || shard.read()).await;
    assert_eq!((number(&strict), strict.cache), (4, Miss));
    until("what is newer is stored", || cache.stats().fills == 2).await;
    assert_eq!(number_and_use(&cache, &shard, Some(4)).await, (4, Hit));
}
