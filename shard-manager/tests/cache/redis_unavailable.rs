//! Tests with a Redis that is down, hangs, was flushed, has lost writes, is full, or refuses the
//! credentials.

use std::time::{Duration, Instant};

use redis::Commands as _;
use rustix::process::Signal;
use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{BreakerState, Cache, CacheSettings, FreshnessRequirement};

use crate::bench::{
    FakeShard, about, ask, fill, fresh, number, number_and_use, requirement, router, until,
};
use crate::proxy::Proxy;
use crate::redis_server::{Server, nowhere};

/// Reads until Redis answers again.
async fn recovers(cache: &std::sync::Arc<Cache>, shard: &FakeShard) {
    let deadline = crate::bench::deadline();
    while number_and_use(cache, shard, None).await.1 != Hit {
        assert!(Instant::now() < deadline, "it does not recover");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(cache.stats().breaker, BreakerState::Closed);
}

#[tokio::test]
async fn without_redis_all_reads_are_answered_and_soon_redis_is_no_longer_tried() {
    let (cache, shard) = (router(&nowhere()), FakeShard::new(1));
    for _ in 0..3 {
        assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    }
    assert_eq!(cache.stats().breaker, BreakerState::Open);
    let errors = cache.stats().errors;
    for number in 2..200 {
        shard.write();
        cache.invalidate([about("k")]);
        assert_eq!(number_and_use(&cache, &shard, None).await, (number, Miss));
    }
    assert_eq!(cache.stats().errors, errors, "no read has waited for it");
}

#[tokio::test]
async fn redis_is_killed_and_comes_back_empty() {
    let Some(mut redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Hit));
    redis.kill();
    for number in 2..10 {
        shard.write();
        cache.invalidate([about("k")]);
        assert_eq!(number_and_use(&cache, &shard, None).await, (number, Miss));
    }
    until("it gets no requests", || cache.stats().breaker == BreakerState::Open).await;
    redis.restart();
    recovers(&cache, &shard).await;
}

#[tokio::test]
async fn without_reads_a_status_request_notices_that_redis_is_back() {
    let Some(mut redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    redis.kill();
    for _ in 0..3 {
        assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    }
    assert_eq!(cache.stats().breaker, BreakerState::Open);
    redis.restart();
    until("it is found", || {
        cache.begin_due_trial();
        cache.stats().breaker == BreakerState::Closed
    })
    .await;
}

#[tokio::test]
async fn a_restarted_redis_is_used_again_after_at_most_one_miss() {
    let Some(mut redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    redis.kill();
    redis.restart();
    fill(&cache, &shard).await;
    assert_eq!((cache.stats().errors, cache.stats().breaker), (0, BreakerState::Closed));
}

#[tokio::test]
async fn while_redis_hangs_reads_are_answered_and_writes_do_not_wait() {
    let Some(redis) = Server::start(&[]) else { return };
    let mut settings = redis.settings();
    settings.patience = Duration::from_millis(100);
    let (cache, shard) = (router(&settings), FakeShard::new(1));
    fill(&cache, &shard).await;
    redis.signal(Signal::STOP);
    for _ in 0..1_000 {
        // There is no event to wait for: the writer continues at once.
        cache.invalidate([about("k")]);
    }
    // Three, unless the machine is too busy to schedule this thread.
    while cache.stats().breaker == BreakerState::Closed {
        let number = shard.write();
        assert_eq!(number_and_use(&cache, &shard, None).await, (number, Miss));
    }
    for _ in 0..100 {
        let number = shard.write();
        assert_eq!(number_and_use(&cache, &shard, None).await, (number, Miss));
    }
    redis.signal(Signal::CONT);
    recovers(&cache, &shard).await;
    let last = shard.write();
    assert_eq!(number_and_use(&cache, &shard, Some(last)).await, (last, Miss));
}

#[tokio::test]
async fn a_slow_redis_is_not_used_for_a_while() {
    let Some(redis) = Server::start(&[]) else { return };
    let mut settings = redis.settings();
    settings.patience = CacheSettings::PATIENCE_MIN;
    let (cache, shard) = (router(&settings), FakeShard::new(1));
    let mut direct = redis.direct_connection();
    let () = redis::cmd("CLIENT").arg(&["PAUSE", "60000", "ALL"]).query(&mut direct).unwrap();
    let deadline = crate::bench::deadline();
    while cache.stats().breaker == BreakerState::Closed {
        assert!(Instant::now() < deadline, "it gets requests all the time");
        assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    }
}

#[tokio::test]
async fn reads_stay_correct_after_redis_is_flushed() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    let () = redis::cmd("FLUSHALL").query(&mut redis.direct_connection()).unwrap();
    shard.write();
    assert_eq!(fill(&cache, &shard).await, 2);
    assert_eq!(number_and_use(&cache, &shard, None).await, (2, Hit));
    ask(&cache, "other", &requirement(None), async || {
        // A flush removes leases and scripts as well.
        let () = redis::cmd("FLUSHALL").query(&mut redis.direct_connection()).unwrap();
        let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut redis.direct_connection()).unwrap();
        shard.read()
    })
    .await;
    until("the fill is refused", || cache.stats().rejected == 1).await;
}

#[tokio::test]
async fn redis_comes_back_with_its_state_from_before_a_write() {
    let Some(mut redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    let () = redis::cmd("SAVE").query(&mut redis.direct_connection()).unwrap();
    assert!(redis.dir().join("dump.rdb").exists());
    let seen = shard.write();
    cache.invalidate([about("k")]);
    until("it is void", || redis.keys().is_empty()).await;
    redis.kill();
    redis.restart();
    until("the dump is back", || !redis.keys().is_empty()).await;
    assert_eq!(
        number_and_use(&cache, &shard, Some(seen)).await,
        (2, Miss),
        "who wrote reads the write"
    );
    let strict = FreshnessRequirement { age_max: Duration::ZERO, ..requirement(None) };
    let answer = ask(&cache, "k", &strict, async || shard.read()).await;
    assert_eq!(number(&answer), 2, "who wants what is new gets it");
}

#[tokio::test]
async fn redis_is_full_and_evicts() {
    let options = ["--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"];
    let Some(redis) = Server::start(&options) else { return };
    let cache = router(&redis.settings());
    let large = |at: u64| {
        let mut answer = fresh(at);
        answer.rows = crate::bench::rows(&format!("{{\"n\":{at}{}}}", " ".repeat(20_000)));
        answer
    };
    let mut hits = 0;
    for round in 0..2 {
        for key in 0..300_u64 {
            let answer =
                ask(&cache, &key.to_string(), &requirement(None), async || large(key)).await;
            assert!(answer.rows.json().starts_with(format!("{{\"n\":{key} ").as_bytes()));
            hits += u64::from(round == 1 && answer.cache == Hit);
        }
        let ended = || cache.stats().fills + cache.stats().rejected + cache.stats().errors;
        until("fills end", || ended() >= 300).await;
    }
    let evicted: String =
        redis::cmd("INFO").arg("stats").query(&mut redis.direct_connection()).unwrap();
    assert!(!evicted.contains("evicted_keys:0\r"), "it was full");
    assert!(hits < 300 && cache.stats().breaker == BreakerState::Closed, "{hits}");
}

#[tokio::test]
async fn redis_is_full_and_refuses_writes() {
    let options = ["--maxmemory", "1", "--maxmemory-policy", "noeviction"];
    let Some(redis) = Server::start(&options) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    for _ in 0..20 {
        assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    }
    assert!(cache.stats().errors >= 20);
    let () = redis::cmd("CONFIG")
        .arg(&["SET", "maxmemory", "0"])
        .query(&mut redis.direct_connection())
        .unwrap();
    recovers(&cache, &shard).await;
}

#[tokio::test]
async fn redis_requires_a_password() {
    let Some(redis) = Server::start(&["--requirepass", "open-sesame"]) else { return };
    let shard = FakeShard::new(1);
    let cache = router(&redis.settings());
    fill(&cache, &shard).await;
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Hit));
    let refused_client = router(&redis.settings_with_a_wrong_password());
    for _ in 0..3 {
        assert_eq!(number_and_use(&refused_client, &shard, None).await, (1, Miss));
    }
    assert_eq!(refused_client.stats().breaker, BreakerState::Open);
}

#[tokio::test]
async fn a_redis_that_refuses_all_commands_is_not_used_even_without_writes() {
    let Some(redis) = Server::start(&["--requirepass", "open-sesame"]) else { return };
    let (without_password, shard) =
        (router(&redis.settings_without_a_password()), FakeShard::new(1));
    for number in 0..3 {
        assert_eq!(without_password.stats().errors, number);
        assert_eq!(number_and_use(&without_password, &shard, None).await, (1, Miss));
    }
    assert_eq!(without_password.stats().breaker, BreakerState::Open);
    assert_eq!(number_and_use(&without_password, &shard, None).await, (1, Miss));
    assert_eq!(without_password.stats().errors, 3, "it gets no requests");
}

#[tokio::test]
async fn one_of_two_routers_is_cut_off_from_redis() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cut, other) = (router(&nowhere()), router(&redis.settings()));
    let shard = FakeShard::new(1);
    fill(&other, &shard).await;
    // Its invalidation is lost.
    let seen = shard.write();
    cut.invalidate([about("k")]);
    assert_eq!(number_and_use(&cut, &shard, Some(seen)).await, (2, Miss));
    assert_eq!(number_and_use(&other, &shard, Some(seen)).await, (2, Miss), "the token proves it");
    let direct = redis.direct_connection().hlen::<_, usize>(redis.keys().remove(0));
    assert!(direct.unwrap() >= 1);
}

#[tokio::test]
async fn connections_that_died_silently_are_reopened() {
    let Some(redis) = Server::start(&[]) else { return };
    let proxy = Proxy::to(&redis);
    let mut settings = proxy.settings(&redis);
    settings.patience = Duration::from_millis(100);
    let (cache, shard) = (router(&settings), FakeShard::new(1));
    fill(&cache, &shard).await;
    proxy.lose_all();
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    recovers(&cache, &shard).await;
}

#[tokio::test]
async fn a_single_connection_that_died_silently_is_reopened() {
    let Some(redis) = Server::start(&[]) else { return };
    let proxy = Proxy::to(&redis);
    let mut settings = proxy.settings(&redis);
    settings.patience = Duration::from_millis(200);
    let (cache, shard) = (router(&settings), std::sync::Arc::new(FakeShard::new(1)));
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let others = runtime.worker_threads(1).enable_all().build().unwrap();
    let other = || {
        let (cache, shard) = (std::sync::Arc::clone(&cache), std::sync::Arc::clone(&shard));
        others.spawn(async move { number_and_use(&cache, &shard, None).await })
    };
    fill(&cache, &shard).await;
    proxy.lose_all();
    let deadline = crate::bench::deadline();
    // This thread holds the dead connection; the other thread opens a live one, so that the circuit
    // breaker has no reason to open.
    while number_and_use(&cache, &shard, None).await.1 != Hit {
        assert!(Instant::now() < deadline, "it stays dead");
        assert_eq!(other().await.unwrap().0, 1);
        assert_eq!(cache.stats().breaker, BreakerState::Closed);
    }
    others.shutdown_background();
}

#[tokio::test]
async fn a_delayed_invalidation_shows_no_older_row_to_a_client_that_has_seen_the_write() {
    let Some(redis) = Server::start(&[]) else { return };
    let proxy = Proxy::to(&redis);
    let (far, near) = (router(&proxy.settings(&redis)), router(&redis.settings()));
    let shard = FakeShard::new(1);
    fill(&far, &shard).await;
    proxy.hold(true);
    let seen = shard.write();
    far.invalidate([about("k")]);
    assert_eq!(number_and_use(&near, &shard, None).await, (1, Hit), "within its bound");
    assert_eq!(number_and_use(&near, &shard, Some(seen)).await, (2, Miss));
    until("it is stored", || near.stats().fills == 1).await;
    assert_eq!(number_and_use(&near, &shard, Some(seen)).await, (2, Hit));
    proxy.hold(false);
    until("the void arrives", || redis.keys().is_empty()).await;
}

#[tokio::test]
async fn a_delayed_fill_is_refused_after_a_write() {
    let Some(redis) = Server::start(&[]) else { return };
    let proxy = Proxy::to(&redis);
    let (far, near) = (router(&proxy.settings(&redis)), router(&redis.settings()));
    let shard = FakeShard::new(1);
    ask(&far, "k", &requirement(None), async || {
        proxy.hold(true);
        shard.read()
    })
    .await;
    shard.write();
    near.invalidate([about("k")]);
    until("the lease is gone", || redis.keys().is_empty()).await;
    proxy.hold(false);
    until("the fill is refused", || far.stats().rejected == 1).await;
    assert_eq!(number_and_use(&near, &shard, None).await, (2, Miss));
}
