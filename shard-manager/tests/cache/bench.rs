//! Test bench: a cache in front of a fake shard that the test controls, so that every step can be
//! paused.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shard_manager::cache::{
    About, Answer, Cache, CacheSettings, CacheStats, CacheUse, FreshnessBound,
    FreshnessRequirement, ServedBy, ShardAnswer,
};
use shard_manager::keyspace::Slot;
use shard_manager::position::Position;
use shard_manager::query::ReadQuery;
use shard_manager::result_rows::Rows;
use shard_manager::table::{Column, Table};
use shard_manager::token::TokenKey;
use shard_manager::value::ColumnType;

/// A shard with one row, which holds the number of its last change.
#[derive(Default)]
pub(crate) struct FakeShard {
    pub(crate) at: AtomicU64,
    pub(crate) queries: AtomicUsize,
}

impl FakeShard {
    pub(crate) fn new(at: u64) -> Self {
        Self { at: AtomicU64::new(at), queries: AtomicUsize::new(0) }
    }

    pub(crate) fn write(&self) -> u64 {
        self.at.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }

    /// Answers like a primary with a trusted position.
    pub(crate) fn read(&self) -> ShardAnswer {
        self.queries.fetch_add(1, Ordering::SeqCst);
        fresh(self.at.load(Ordering::SeqCst))
    }
}

/// The answer of a shard that has applied this change.
pub(crate) fn fresh(sequence: u64) -> ShardAnswer {
    let as_of = Instant::now();
    let freshness = Some(FreshnessBound { timeline: 1, min_position: sequence, as_of });
    let position = Position { timeline: 1, sequence };
    ShardAnswer {
        rows: rows(&format!("{{\"n\":{sequence}}}")),
        position,
        freshness,
        served_by: ServedBy::Primary,
    }
}

pub(crate) fn rows(row: &str) -> Rows {
    let mut rows = Rows::default();
    let Ok(()) = rows.push(|json| {
        json.extend_from_slice(row.as_bytes());
        Ok::<(), Infallible>(())
    });
    rows
}

/// The number in the row of an answer.
pub(crate) fn number(answer: &Answer) -> u64 {
    let json = std::str::from_utf8(answer.rows.json()).unwrap();
    json.trim_start_matches("{\"n\":").trim_end_matches('}').parse().unwrap()
}

pub(crate) fn table() -> Arc<Table> {
    let column = |name: &str| Column {
        name: name.into(),
        kind: ColumnType::Text,
        nullable: false,
        default: None,
    };
    let columns = vec![column("id"), column("n")];
    Arc::new(Table::new("users", columns, &["id".to_owned()], None).unwrap())
}

pub(crate) fn about(key: &str) -> About<'_> {
    About { since: 1, slot: Slot::new(7).unwrap(), table: "users", key }
}

/// Accepts any age; the client has seen this position.
pub(crate) fn requirement(seen: Option<u64>) -> FreshnessRequirement {
    FreshnessRequirement { timeline: 1, seen, age_max: CacheSettings::TTL_MAX }
}

pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// The cache of one router. All caches of a test belong to the same cluster.
pub(crate) fn router(settings: &CacheSettings) -> Arc<Cache> {
    Arc::new(Cache::new(settings.clone(), &TokenKey::new([9; 16])))
}

/// Reads the row of a key.
pub(crate) async fn ask(
    cache: &Arc<Cache>,
    key: &str,
    requirement: &FreshnessRequirement,
    read: impl AsyncFnOnce() -> ShardAnswer,
) -> Answer {
    let query = ReadQuery::all(&table());
    let read = async || Ok::<_, Infallible>(read().await);
    let Ok(answer) = cache.read((&about(key), &query), (requirement, deadline()), read).await;
    answer
}

/// Reads the row of the key `k`, whose slot got its owner in this epoch.
pub(crate) async fn ask_since(
    cache: &Arc<Cache>,
    since: u64,
    read: impl AsyncFnOnce() -> ShardAnswer,
) -> Answer {
    let (about, query) = (About { since, ..about("k") }, ReadQuery::all(&table()));
    let read = async || Ok::<_, Infallible>(read().await);
    let Ok(answer) = cache.read((&about, &query), (&requirement(None), deadline()), read).await;
    answer
}

/// Reads the row of a key; returns the number and how the cache was used.
pub(crate) async fn number_and_use(
    cache: &Arc<Cache>,
    shard: &FakeShard,
    seen: Option<u64>,
) -> (u64, CacheUse) {
    let answer = ask(cache, "k", &requirement(seen), async || shard.read()).await;
    (number(&answer), answer.cache)
}

/// Yields to all other tasks of this runtime until a condition holds.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = deadline();
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Reads the row of a key and waits until the answer is stored. On a machine that stands still, the
/// lease may be over before the answer arrives; then it is read again.
pub(crate) async fn fill(cache: &Arc<Cache>, shard: &FakeShard) -> u64 {
    let limit = deadline();
    loop {
        let before = cache.stats();
        let (number, used) = number_and_use(cache, shard, None).await;
        assert_eq!(used, CacheUse::Miss);
        let ended = |stats: &CacheStats| stats.fills + stats.rejected;
        until("it is stored", || ended(&cache.stats()) > ended(&before)).await;
        if cache.stats().fills > before.fills {
            return number;
        }
        assert!(Instant::now() < limit, "every fill is refused");
    }
}
