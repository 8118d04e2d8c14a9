//! Tests of the values under the cache's keys: its own, and foreign ones.

use std::time::Duration;

use redis::Commands as _;
use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{CacheAddress, CacheSettings};
use shard_manager::query::{Condition, OrderBy, Output, ReadQuery, Test, ValueState};
use shard_manager::result_rows::Rows;
use shard_manager::token::TokenKey;

use crate::bench::{
    FakeShard, about, ask, deadline, fill, fresh, number, number_and_use, requirement, router,
    rows, table, until,
};
use crate::redis_server::Server;

#[tokio::test]
async fn an_empty_result_is_cached_too() {
    let Some(redis) = Server::start(&[]) else { return };
    let cache = router(&redis.settings());
    let nothing = async || {
        let mut answer = fresh(1);
        answer.rows = Rows::default();
        answer
    };
    ask(&cache, "k", &requirement(None), nothing).await;
    until("it is stored", || cache.stats().fills == 1).await;
    let answer = ask(&cache, "k", &requirement(None), async || unreachable!()).await;
    assert_eq!((answer.rows.len(), answer.cache), (0, Hit));
}

#[tokio::test]
async fn a_value_that_is_no_cache_entry_is_ignored_and_removed() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    let mut direct = redis.direct_connection();
    let key = redis.keys().remove(0);
    let (field, good) = direct.hgetall::<_, Vec<(Vec<u8>, Vec<u8>)>>(&key).unwrap().remove(0);
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    let cut = good[..good.len() - 1].to_vec();
    let huge = vec![b'x'; 8 << 20];
    for foreign in [flipped, cut, huge, Vec::new(), b"{}".to_vec(), vec![0; 200]] {
        let () = direct.hset(&key, &field, foreign).unwrap();
        let errors = cache.stats().errors;
        assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
        assert!(cache.stats().errors > errors);
        until("a good one is in its place again", || {
            direct
                .hget::<_, _, Option<Vec<u8>>>(&key, &field)
                .unwrap()
                .is_none_or(|v| v.len() == good.len())
        })
        .await;
    }
}

#[tokio::test]
async fn a_lease_with_an_impossible_expiry_does_not_block_fills() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    let mut direct = redis.direct_connection();
    let key = redis.keys().remove(0);
    let field = direct.hkeys::<_, Vec<Vec<u8>>>(&key).unwrap().remove(0);
    let lease = [b"L", &field[..]].concat();
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query(&mut direct).unwrap();
    let ending = |ends: &str| format!("{}{ends}", "t".repeat(16));
    let hour = 1_000 * (seconds + 3_600);
    for ends in [hour.to_string(), "1e300".to_owned(), "inf".to_owned(), "later".to_owned()] {
        let () = direct.hdel(&key, &field).unwrap();
        let () = direct.hset(&key, &lease, ending(&ends)).unwrap();
        assert_eq!(fill(&cache, &shard).await, 1);
    }
}

#[tokio::test]
async fn a_key_of_another_redis_type_is_replaced() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    let mut direct = redis.direct_connection();
    let key = redis.keys().remove(0);
    let () = direct.set(&key, "text").unwrap();
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Miss));
    until("it is stored in its place", || cache.stats().fills == 2).await;
    assert_eq!(number_and_use(&cache, &shard, None).await, (1, Hit));
}

#[tokio::test]
async fn an_entry_copied_to_another_key_is_ignored() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    fill(&cache, &shard).await;
    let mut direct = redis.direct_connection();
    let key = redis.keys().remove(0);
    let other = format!("{}2", &key);
    let () = redis::cmd("COPY").arg(&key).arg(&other).query(&mut direct).unwrap();
    let answer = ask(&cache, "k2", &requirement(None), async || fresh(7)).await;
    assert_eq!((number(&answer), answer.cache), (7, Miss));
}

#[tokio::test]
async fn two_clusters_on_one_redis_do_not_share_entries() {
    let Some(redis) = Server::start(&[]) else { return };
    let one = router(&redis.settings());
    let key = TokenKey::new([1; 16]);
    let other = std::sync::Arc::new(shard_manager::cache::Cache::new(redis.settings(), &key));
    fill(&one, &FakeShard::new(1)).await;
    assert_eq!(number_and_use(&other, &FakeShard::new(2), None).await, (2, Miss));
    until("both are stored", || redis.keys().len() == 2).await;
}

#[tokio::test]
async fn a_result_that_is_too_large_is_not_cached() {
    let Some(redis) = Server::start(&[]) else { return };
    let mut settings = redis.settings();
    settings.entry_bytes_max = CacheSettings::ENTRY_BYTES_LEAST;
    let cache = router(&settings);
    let sized = |bytes: usize| {
        let mut answer = fresh(1);
        answer.rows = rows(&format!("\"{}\"", "x".repeat(bytes)));
        answer
    };
    ask(&cache, "large", &requirement(None), async || sized(1_000)).await;
    ask(&cache, "small", &requirement(None), async || sized(900)).await;
    until("the small one is stored", || cache.stats().fills == 1).await;
    let keep = async || sized(1);
    assert_eq!(ask(&cache, "large", &requirement(None), keep).await.cache, Miss);
    assert_eq!(ask(&cache, "small", &requirement(None), keep).await.cache, Hit);
}

#[tokio::test]
async fn entries_expire_near_their_time_and_not_all_at_once() {
    let Some(redis) = Server::start(&[]) else { return };
    let mut settings = redis.settings();
    settings.ttl = Duration::from_secs(20);
    let cache = router(&settings);
    for key in 0..50 {
        ask(&cache, &format!("k{key}"), &requirement(None), async || fresh(1)).await;
    }
    until("all are stored", || cache.stats().fills == 50).await;
    let mut direct = redis.direct_connection();
    let ttls: Vec<i64> = redis.keys().iter().map(|key| direct.pttl(key).unwrap()).collect();
    assert_eq!(ttls.len(), 50);
    // Some seconds may have passed since the entry was stored.
    assert!(ttls.iter().all(|ttl| (10_000..=22_000).contains(ttl)), "{ttls:?}");
    let (least, most) = (ttls.iter().min().unwrap(), ttls.iter().max().unwrap());
    assert!(most - least > 500, "{ttls:?}");
}

#[tokio::test]
async fn each_query_has_its_own_entry_and_a_write_invalidates_all_of_the_key() {
    let Some(redis) = Server::start(&[]) else { return };
    let cache = router(&redis.settings());
    let all = ReadQuery::all(&table());
    let output = |column, alias: Option<&str>| Output { column, alias: alias.map(str::to_owned) };
    let condition = Condition::Column(2, Test::Is(ValueState::Null));
    let questions = vec![
        all.clone(),
        ReadQuery { limit: 1, ..all.clone() },
        ReadQuery { outputs: vec![output(2, None)], ..all.clone() },
        ReadQuery { outputs: vec![output(2, Some("a"))], ..all.clone() },
        ReadQuery { outputs: vec![output(3, Some("a"))], ..all.clone() },
        ReadQuery { order: vec![OrderBy { column: 2, descending: true }], ..all.clone() },
        ReadQuery { order: vec![OrderBy { column: 2, descending: false }], ..all.clone() },
        ReadQuery { conditions: vec![condition.clone()], ..all.clone() },
        ReadQuery { conditions: vec![Condition::Not(Box::new(condition))], ..all.clone() },
    ];
    let read = async |query: &ReadQuery, number: u64| {
        let read = async || Ok::<_, std::convert::Infallible>(fresh(number));
        let Ok(answer) =
            cache.read((&about("k"), query), (&requirement(None), deadline()), read).await;
        answer
    };
    for (number, query) in (0..).zip(&questions) {
        read(query, number).await;
    }
    until("all are stored", || cache.stats().fills == questions.len() as u64).await;
    for (expected, query) in (0..).zip(&questions) {
        let answer = read(query, 99).await;
        assert_eq!((number(&answer), answer.cache), (expected, Hit), "{query:?}");
    }
    assert_eq!(redis.keys().len(), 1);
    cache.invalidate([about("k")]);
    until("all are gone", || redis.keys().is_empty()).await;
}

#[tokio::test]
async fn a_key_with_many_queries_does_not_grow_without_limit() {
    let Some(redis) = Server::start(&[]) else { return };
    let cache = router(&redis.settings());
    for limit in 1..=100 {
        let query = ReadQuery { limit, ..ReadQuery::all(&table()) };
        let read = async || Ok::<_, std::convert::Infallible>(fresh(1));
        let Ok(_) = cache.read((&about("k"), &query), (&requirement(None), deadline()), read).await;
        let ended = |stats: shard_manager::cache::CacheStats| stats.fills + stats.rejected;
        until("it is stored", || ended(cache.stats()) == u64::from(limit)).await;
        let fields: usize = redis.direct_connection().hlen(redis.keys().remove(0)).unwrap();
        assert!(fields <= 32, "{fields}");
    }
}

#[test]
fn redis_addresses_hide_the_password_and_explain_errors() {
    let parse = |text: &str| text.parse::<CacheAddress>();
    let address = parse("rediss://me:s%40cret@cache.example:6380/3?ca=/etc/ca.pem").unwrap();
    for shown in [format!("{address}"), format!("{address:?}"), address.redacted().to_owned()] {
        assert!(shown.contains("cache.example:6380/3") && shown.contains("***"), "{shown}");
        assert!(!shown.contains("cret"), "{shown}");
    }
    for bad in [
        "http://a",
        "redis://",
        "redis://h/x",
        "redis://h/1001",
        "redis://h?x=1",
        "redis://h?ca=/a",
        "redis://:secret@/0",
        "redis://:sec/ret@h:1/0",
        "redis://:secret@h:99999",
        "rediss://h?ca=",
    ] {
        let error = parse(bad).unwrap_err().to_string();
        assert!(!error.contains("secret") && !error.contains("ret@"), "{bad}: {error}");
    }
}
