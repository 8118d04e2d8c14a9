//! Tests with a distant Redis: connections take long to open, and answers arrive late but in time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{BreakerState, Cache, CacheSettings};

use crate::bench::{FakeShard, deadline, fill, number_and_use, router};
use crate::proxy::Proxy;
use crate::redis_server::Server;

#[tokio::test]
async fn a_redis_that_answers_late_is_used_at_first_and_avoided_if_it_stays_slow() {
    let Some(redis) = Server::start(&[]) else { return };
    let proxy = Proxy::to(&redis);
    let patience = CacheSettings::PATIENCE_MAX;
    let settings = CacheSettings { patience, ..proxy.settings(&redis) };
    let (cache, shard) = (router(&settings), FakeShard::new(1));
    fill(&cache, &shard).await;
    proxy.delay(patience / 2 + Duration::from_millis(50));
    let limit = deadline();
    // On a machine that stands still, an answer may be later than the patience.
    loop {
        let (number, used) = number_and_use(&cache, &shard, None).await;
        assert_eq!(number, 1);
        if used == Hit {
            break;
        }
        assert!(Instant::now() < limit, "it is not waited for");
    }
    assert_eq!(cache.stats().breaker, BreakerState::Closed);
    while cache.stats().breaker == BreakerState::Closed {
        assert!(Instant::now() < limit, "it is waited for in vain");
        // The requests start one after the other, so that their answers are not late together. On a
        // busy machine they may be, and count once: then more follow.
        let readers = (0..50_u32).map(|number| {
            let (cache, shard) = (&cache, &shard);
            async move {
                tokio::time::sleep(number * Duration::from_millis(12)).await;
                number_and_use(cache, shard, None).await.0
            }
        });
        assert!(join_all(readers).await.into_iter().all(|number| number == 1));
    }
    assert_eq!(cache.stats().breaker, BreakerState::Open, "the shard is quicker");
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    proxy.delay(Duration::ZERO);
    let deadline = deadline();
    while number_and_use(&cache, &shard, None).await.1 != Hit {
        assert!(Instant::now() < deadline, "it is not used again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Password of the server: authentication adds a round trip to opening a connection.
const PASSWORD: [&str; 2] = ["--requirepass", "open-sesame"];
const USER: &str = ":open-sesame@";

/// A router whose connections stay unfinished until the proxy releases the traffic.
fn far_away(redis: &Server) -> (Proxy, Arc<Cache>, FakeShard) {
    let proxy = Proxy::to(redis);
    let mut settings = proxy.settings_as(USER, redis);
    settings.patience = CacheSettings::PATIENCE_DEFAULT;
    proxy.hold(true);
    (proxy, router(&settings), FakeShard::new(1))
}

#[tokio::test]
async fn slow_connection_setup_does_not_open_the_circuit_breaker() {
    let Some(redis) = Server::start(&PASSWORD) else { return };
    let (proxy, cache, shard) = far_away(&redis);
    for _ in 0..10 {
        assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    }
    let stats = cache.stats();
    assert_eq!((stats.breaker, stats.errors), (BreakerState::Closed, 0));
    proxy.hold(false);
    let deadline = deadline();
    while number_and_use(&cache, &shard, None).await.1 != Hit {
        assert!(Instant::now() < deadline, "it is never used");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_redis_that_accepts_no_connection_is_avoided_after_a_while() {
    let Some(redis) = Server::start(&PASSWORD) else { return };
    let (proxy, cache, shard) = far_away(&redis);
    let deadline = deadline();
    while cache.stats().breaker == BreakerState::Closed {
        assert!(Instant::now() < deadline, "it is tried for ever");
        assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    proxy.hold(false);
}
