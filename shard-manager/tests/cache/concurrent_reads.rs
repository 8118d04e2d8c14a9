//! Tests of many clients that request the same key at the same time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use futures_util::future::join_all;
use shard_manager::cache::CacheUse::{Hit, Miss};
use shard_manager::cache::{
    Answer, BreakerState, Cache, CacheSettings, FreshnessBound, FreshnessRequirement, ServedBy,
};
use shard_manager::query::ReadQuery;
use tokio::sync::{Notify, oneshot};

use crate::bench::{
    FakeShard, about, ask, deadline, fill, fresh, number, number_and_use, requirement, router,
    table, until,
};
use crate::redis_server::{Server, nowhere};

async fn a_crowd(settings: CacheSettings) -> (usize, Arc<Cache>) {
    let cache = router(&settings);
    let shard = FakeShard::new(1);
    let readers = (0..1_000).map(|_| ask_slowly(&cache, &shard));
    let numbers = join_all(readers).await;
    assert!(numbers.iter().all(|number| *number == 1));
    (shard.queries(), cache)
}

async fn ask_slowly(cache: &Arc<Cache>, shard: &FakeShard) -> u64 {
    let read = async || {
        let answer = shard.read();
        // Long enough for all readers to join.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        answer
    };
    number(&ask(cache, "k", &requirement(None), read).await)
}

#[tokio::test]
async fn a_thousand_readers_of_a_cold_key_make_one_query() {
    let Some(redis) = Server::start(&[]) else { return };
    let (queries, cache) = a_crowd(redis.settings()).await;
    assert_eq!(queries, 1);
    until("it is stored", || cache.stats().fills == 1).await;
}

#[tokio::test]
async fn a_thousand_readers_make_one_query_also_without_redis() {
    let (queries, _) = a_crowd(nowhere()).await;
    assert_eq!(queries, 1);
}

#[tokio::test]
async fn readers_on_all_threads_make_one_query() {
    let Some(redis) = Server::start(&[]) else { return };
    let settings = redis.settings();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(4).enable_all().build().unwrap();
    let crowd = std::thread::spawn(move || {
        let cache = router(&settings);
        let shard = Arc::new(FakeShard::new(1));
        let queries = runtime.block_on(async {
            let readers = (0..200).map(|_| {
                let (cache, shard) = (Arc::clone(&cache), Arc::clone(&shard));
                runtime.spawn(async move { ask_slowly(&cache, &shard).await })
            });
            join_all(readers)
                .await
                .into_iter()
                .for_each(|answered| assert_eq!(answered.unwrap(), 1));
            shard.queries()
        });
        drop(runtime);
        queries
    });
    let queries = tokio::task::spawn_blocking(move || crowd.join().unwrap()).await.unwrap();
    assert_eq!(queries, 1);
}

/// Sends a message when dropped.
struct Farewell(mpsc::Sender<()>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // The receiver is gone if the test has ended.
        let _ = self.0.send(());
    }
}

#[test]
fn a_read_on_a_runtime_that_shuts_down_does_not_keep_it_from_ending() {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let (begin, begun) = mpsc::channel();
    let (close, closed) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    runtime.spawn(async move {
        let _farewell = Farewell(close);
        std::future::pending::<()>().await;
    });
    runtime.spawn(async move {
        let _farewell = Farewell(end);
        let cache = router(&nowhere());
        begin.send(()).unwrap();
        // The other worker has dropped its waiting tasks: from now on the runtime accepts no task.
        closed.recv().unwrap();
        ask(&cache, "k", &requirement(None), async || fresh(1)).await;
    });
    begun.recv().unwrap();
    runtime.shutdown_background();
    let patience = std::time::Duration::from_secs(60);
    ended.recv_timeout(patience).expect("the worker ends");
}

/// A cache that has noticed that Redis is down: every reader joins a shared read at once.
async fn without_redis() -> Arc<Cache> {
    let cache = router(&nowhere());
    while cache.stats().breaker == BreakerState::Closed {
        ask(&cache, "other", &requirement(None), async || fresh(1)).await;
    }
    cache
}

#[tokio::test]
async fn if_the_reading_client_is_cancelled_the_next_one_reads() {
    let cache = without_redis().await;
    let shard = Arc::new(FakeShard::new(1));
    let begun = Arc::new(Notify::new());
    let leader = tokio::spawn({
        let (cache, shard, begun) = (Arc::clone(&cache), Arc::clone(&shard), Arc::clone(&begun));
        async move {
            ask(&cache, "k", &requirement(None), async || {
                shard.read();
                begun.notify_one();
                std::future::pending().await
            })
            .await
        }
    });
    begun.notified().await;
    let wants = requirement(None);
    let follower = ask(&cache, "k", &wants, async || shard.read());
    let gone = async {
        tokio::task::yield_now().await;
        leader.abort();
    };
    let (answer, ()) = tokio::join!(follower, gone);
    assert_eq!((number(&answer), shard.queries()), (1, 2));
}

#[tokio::test]
async fn a_failure_is_returned_to_the_reading_client_only_and_the_next_one_reads() {
    let cache = without_redis().await;
    let query = ReadQuery::all(&table());
    let about = about("k");
    let (go, held) = oneshot::channel::<()>();
    let wants = requirement(None);
    let failing = cache.read((&about, &query), (&wants, deadline()), async || {
        held.await.unwrap();
        Err::<_, &str>("the shard is away")
    });
    let next = async {
        tokio::task::yield_now().await;
        let follower = ask(&cache, "k", &wants, async || fresh(1));
        let let_it_fail = async {
            tokio::task::yield_now().await;
            go.send(()).unwrap();
        };
        tokio::join!(follower, let_it_fail).0
    };
    let (failed, answer) = tokio::join!(failing, next);
    assert_eq!(failed.unwrap_err(), "the shard is away");
    assert_eq!(number(&answer), 1);
}

/// Two equal requests, the second while the first one reads: the result of the first serves the
/// second if it is fresh enough.
async fn together(
    cache: &Arc<Cache>,
    first: Answered,
    second: &FreshnessRequirement,
) -> (Answer, bool) {
    let begun = Notify::new();
    let (go, held) = oneshot::channel::<()>();
    let wants = requirement(None);
    let leader = ask(cache, "k", &wants, async || {
        begun.notify_one();
        held.await.unwrap();
        first()
    });
    let has_read = AtomicBool::new(false);
    let follower = async {
        begun.notified().await;
        let follower = ask(cache, "k", second, async || {
            has_read.store(true, Ordering::SeqCst);
            fresh(10)
        });
        let release = async {
            tokio::task::yield_now().await;
            go.send(()).unwrap();
        };
        tokio::join!(follower, release).0
    };
    let (_, answer) = tokio::join!(leader, follower);
    (answer, has_read.into_inner())
}

type Answered = fn() -> shard_manager::cache::ShardAnswer;

#[tokio::test]
async fn a_shared_read_serves_a_session_only_if_it_is_as_new_as_the_session() {
    let cache = without_redis().await;
    let at_five = || fresh(5);
    let (answer, has_read) = together(&cache, at_five, &requirement(Some(5))).await;
    assert_eq!((number(&answer), answer.cache, has_read), (5, Miss, false));
    let (answer, has_read) = together(&cache, at_five, &requirement(Some(6))).await;
    assert_eq!((number(&answer), has_read), (10, true));
}

#[tokio::test]
async fn a_shared_read_of_a_lagging_replica_does_not_serve_clients_that_need_newer_rows() {
    let cache = without_redis().await;
    let lagging = || {
        let mut answer = fresh(5);
        answer.served_by = ServedBy::Replica;
        let aged = std::time::Instant::now() - std::time::Duration::from_secs(3);
        answer.freshness = answer.freshness.map(|mut freshness| {
            freshness.as_of = aged;
            freshness
        });
        answer
    };
    let strict =
        FreshnessRequirement { age_max: std::time::Duration::from_secs(2), ..requirement(None) };
    let (answer, has_read) = together(&cache, lagging, &strict).await;
    assert_eq!((number(&answer), has_read), (10, true));
    let (answer, has_read) = together(&cache, lagging, &requirement(None)).await;
    assert_eq!((number(&answer), has_read), (5, false));
}

#[tokio::test]
async fn a_read_after_a_write_does_not_join_an_older_read() {
    let Some(redis) = Server::start(&[]) else { return };
    let (cache, shard) = (router(&redis.settings()), FakeShard::new(1));
    let old = ask(&cache, "k", &requirement(None), async || {
        let old = shard.read();
        shard.write();
        cache.invalidate([about("k")]);
        assert_eq!(number_and_use(&cache, &shard, None).await, (2, Miss));
        old
    })
    .await;
    assert_eq!(number(&old), 1);
    until("of the two one is stored", || cache.stats().fills == 1).await;
    until("and one is not", || cache.stats().rejected == 1).await;
    assert_eq!(number_and_use(&cache, &shard, None).await, (2, Hit));
}

#[tokio::test]
async fn readers_whose_entry_is_too_old_make_one_query() {
    let Some(redis) = Server::start(&[]) else { return };
    let (other, cache) = (router(&redis.settings()), router(&redis.settings()));
    let shard = FakeShard::new(1);
    fill(&other, &shard).await;
    let (seen, before) = (shard.write(), shard.queries());
    // A primary whose position is not trusted.
    let read = async || {
        let mut answer = shard.read();
        answer.freshness =
            answer.freshness.map(|freshness| FreshnessBound { min_position: 0, ..freshness });
        tokio::task::yield_now().await;
        answer
    };
    let wants = [requirement(None), requirement(Some(seen))];
    let all = (0..1_000).map(|number| ask(&cache, "k", &wants[usize::from(number > 9)], read));
    let answers = join_all(all).await;
    let (those, others) = answers.split_at(10);
    let is_hit = |answer: &Answer| (answer.cache, answer.served_by) == (Hit, ServedBy::Cache);
    assert!(those.iter().all(|answer| number(answer) == 1 && is_hit(answer)), "one leads");
    assert!(others.iter().all(|answer| number(answer) == 2 && answer.cache == Miss));
    assert_eq!(shard.queries() - before, 1);
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses + stats.stale), (10, 990), "each counts once");
}
