//! Cache: how many reads a second one serving thread answers from Redis, and what of it is Redis' own.
//!
//! `cargo bench -p shard-manager --bench cache`, with `redis-server` on this machine.

#[path = "../tests/cache/bench.rs"]
#[expect(dead_code, reason = "stories need more of it")]
mod bench;
#[path = "../tests/cache/redis_server.rs"]
#[expect(dead_code, reason = "stories need more of it")]
mod redis_server;

use std::time::Instant;

use futures_util::future::join_all;
use shard_manager::cache::{CacheSettings, CacheUse};

use bench::{ask, fresh, router, until, want};
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
    let row = format!("{{\"n\":1,\"text\":\"{}\"}}", "x".repeat(200));
    for key in &keys {
        let mut answer = fresh(1);
        answer.rows = bench::rows(&row);
        ask(&cache, key, &want(None), async || answer).await;
    }
    until("all are stored", || cache.vitals().fills == KEYS as u64).await;
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
        let (cache, keys) = (&cache, &keys);
        let hits = rate(
            readers * each,
            (0..readers).map(async |reader| {
                for read in 0..each {
                    let key = &keys[(read * 7 + reader) % KEYS];
                    let answer = ask(cache, key, &want(Some(1)), async || fresh(1)).await;
                    assert_eq!(answer.cache, CacheUse::Hit);
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
            ask(&near, &keys[read * 7 % KEYS], &want(None), async || fresh(1)).await;
        }
    };
    read(KEYS).await;
    let hits = rate(READS, std::iter::once(read(READS))).await;
    println!("   1 reader:  {hits:>9.0} hits/s kept near, {:?}", near.vitals());
}

async fn rate(reads: usize, readers: impl Iterator<Item = impl Future<Output = ()>>) -> f64 {
    let began = Instant::now();
    join_all(readers).await;
    reads as f64 / began.elapsed().as_secs_f64()
}
