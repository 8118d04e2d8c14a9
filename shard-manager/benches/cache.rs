//! Benchmark of the cache: how many reads per second one thread serves from Redis, and how much of
//! that time Redis itself takes.
//!
//! `cargo bench -p shard-manager --bench cache`, with `redis-server` on this machine.

#![expect(clippy::unwrap_used, reason = "what cannot be measured ends the measurement")]

#[path = "../tests/cache/bench.rs"]
#[expect(dead_code, reason = "tests need more of it")]
mod bench;
#[path = "../tests/support/free_port.rs"]
mod free_port;
#[path = "../tests/support/prerequisites.rs"]
mod prerequisites;
#[path = "../tests/cache/redis_server.rs"]
#[expect(dead_code, reason = "tests need more of it")]
mod redis_server;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use shard_manager::cache::{Cache, CacheSettings, CacheUse};
use shard_manager::query::ReadQuery;

use bench::{about, ask, deadline, fresh, requirement, router, table, until};
use redis_server::Server;

/// Reads of one run.
const READS: usize = 200_000;
const KEYS: usize = 1_000;

fn main() {
    let Some(redis) = Server::start(&[]) else { return };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime").block_on(measure(&redis));
}

async fn measure(redis: &Server) {
    let keys: Vec<String> = (0..KEYS).map(|number| format!("user_{number}")).collect();
    let client = redis::Client::open(redis.settings().address.redacted()).expect("an address");
    let bare = client.get_multiplexed_async_connection().await.expect("a connection");
    let cache = router(&redis.settings());
    let query = ReadQuery::all(&table());
    let row = format!("{{\"n\":1,\"text\":\"{}\"}}", "x".repeat(200));
    for key in &keys {
        let mut answer = fresh(1);
        answer.rows = bench::rows(&row);
        ask(&cache, key, &requirement(None), async || answer).await;
    }
    until("all are stored", || cache.stats().fills == KEYS as u64).await;
    for readers in [1, 16, 64, 256] {
        let each = READS / readers.max(10);
        let bare_rate = rate(
            readers * each,
            (0..readers).map(|reader| {
                let (mut bare, keys) = (bare.clone(), &keys);
                async move {
                    for read in 0..each {
                        let mut cmd = redis::cmd("HGET");
                        cmd.arg(&keys[(read * 7 + reader) % KEYS]).arg("field");
                        bare.send_packed_command(&cmd).await.expect("an answer");
                    }
                }
            }),
        )
        .await;
        let (cache, keys, query) = (&cache, &keys, &query);
        let hits = rate(
            readers * each,
            (0..readers).map(async |reader| {
                for read in 0..each {
                    let key = &keys[(read * 7 + reader) % KEYS];
                    assert_eq!(hit(cache, (query, key)).await, CacheUse::Hit);
                }
            }),
        )
        .await;
        println!(
            "{readers:>4} readers: {hits:>9.0} hits/s, {bare_rate:>9.0} bare HGETs of nothing/s"
        );
    }
    let near = router(&CacheSettings { near_bytes: 64 << 20, ..redis.settings() });
    let read = async |reads: usize| {
        for read in 0..reads {
            hit(&near, (&query, &keys[read * 7 % KEYS])).await;
        }
    };
    read(KEYS).await;
    let hits = rate(READS, std::iter::once(read(READS))).await;
    println!("   1 reader:  {hits:>9.0} hits/s kept near, {:?}", near.stats());
}

async fn hit(cache: &Arc<Cache>, (query, key): (&ReadQuery, &str)) -> CacheUse {
    let read = async || Ok::<_, Infallible>(fresh(1));
    let (about, requirement) = (about(key), requirement(Some(1)));
    let Ok(answer) = cache.read((&about, query), (&requirement, deadline()), read).await;
    answer.cache
}

async fn rate(reads: usize, readers: impl Iterator<Item = impl Future<Output = ()>>) -> f64 {
    let began = Instant::now();
    join_all(readers).await;
    reads as f64 / began.elapsed().as_secs_f64()
}
