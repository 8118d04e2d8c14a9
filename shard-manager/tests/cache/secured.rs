//! Tests of Redis behind TLS.

use std::fs;

use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{BreakerState, CacheSettings};

use crate::bench::{FakeShard, fill, number_and_use, router};
use crate::certificates::Authority;
use crate::redis_server::Server;

#[tokio::test]
async fn redis_is_reached_by_tls_and_only_with_a_valid_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (good, foreign) = (Authority::new(), Authority::new());
    let (certificate, key) = good.sign("localhost", false);
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let roots = file("roots.pem", &good.pem);
    let others = file("others.pem", &foreign.pem);
    let (certificate, key) = (file("server.pem", &certificate), file("server.key", &key));
    let options = [
        ["--tls-cert-file", &certificate],
        ["--tls-key-file", &key],
        ["--tls-ca-cert-file", &roots],
        ["--tls-auth-clients", "no"],
    ];
    let Some(redis) = Server::start(options.as_flattened()) else { return };
    let at = |roots: &str| CacheSettings {
        address: format!("rediss://localhost:{}?ca={roots}", redis.port()).parse().unwrap(),
        ..redis.settings()
    };
    let (cache, shard) = (router(&at(&roots)), FakeShard::new(1));
    fill(&cache, &shard).await;
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Hit));
    for wrong in [&others, "/nowhere/roots.pem"] {
        let refused_client = router(&at(wrong));
        for _ in 0..3 {
            assert_eq!(number_and_use(&refused_client, &shard, None).await, (1, Miss));
        }
        assert_eq!(refused_client.stats().breaker, BreakerState::Open);
    }
}
