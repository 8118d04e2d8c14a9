//! Cached: reads that the cache may answer, and writes that it has to know of.
//!
//! **Invariant:** whatever a write came to, and also if nobody waits for it any more, the answers about its keys are
//! voided, unless nothing was stored for certain.
//! **Not here:** what the cache does (`cache`).

use std::sync::Arc;

use super::{Manager, Wish};
use crate::cache::{
    About, Answer, Cache, CacheSettings, CacheStats, CacheUse, FreshnessRequirement, ServedBy,
    ShardAnswer,
};
use crate::consistency::Level;
use crate::error::Error;
use crate::keyspace::{ShardKey, Slot};
use crate::position::Position;
use crate::query::ReadQuery;
use crate::result_rows::Rows;
use crate::row_change::RowWrite;
use crate::shard::{ReadDemand, ShardRows};
use crate::shard_map::KeyLocation;
use crate::table::Table;

/// What a read of one key brought.
pub(super) struct KeyAnswer {
    pub(super) rows: Rows,
    pub(super) position: Position,
    pub(super) served_by: ServedBy,
    pub(super) cache: Option<CacheUse>,
}

/// Keys that are being written. Their answers are voided when it is dropped.
pub(super) struct Written {
    cache: Option<Arc<Cache>>,
    keys: Vec<WrittenKey>,
}

struct WrittenKey {
    epoch: u64,
    slot: Slot,
    table: Arc<Table>,
    key: String,
}

impl WrittenKey {
    fn about(&self) -> About<'_> {
        let Self { epoch, slot, table, key } = self;
        About { epoch: *epoch, slot: *slot, table: table.name(), key }
    }
}

impl Written {
    /// Nothing was stored, and nothing will be.
    pub(super) fn forget(&mut self) {
        self.keys.clear();
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let Some(cache) = &self.cache else { return };
        cache.invalidate(self.keys.iter().map(WrittenKey::about));
    }
}

impl Manager {
    /// The same, with a cache before it. Whether the cache is there shows when it is asked.
    #[must_use]
    pub fn with_cache(mut self, settings: CacheSettings) -> Self {
        tracing::info!(address = %settings.address, "reads may be answered from a cache");
        self.cache = Some(Arc::new(Cache::new(settings, &self.token_key)));
        self
    }

    /// How the cache does; `None` if there is none.
    pub fn cache_vitals(&self) -> Option<CacheStats> {
        self.cache.as_ref().map(|cache| cache.stats())
    }

    /// What to hold while these rows are written.
    pub(super) fn written<'r>(
        &self,
        rows: impl Iterator<Item = (KeyLocation, &'r RowWrite)>,
    ) -> Written {
        let Some(cache) = &self.cache else { return Written { cache: None, keys: Vec::new() } };
        let mut keys: Vec<WrittenKey> = Vec::with_capacity(rows.size_hint().0);
        for (KeyLocation { epoch, slot, .. }, RowWrite { table, key, .. }) in rows {
            // Rows of one key often come together.
            let is_last = |last: &WrittenKey| last.key == *key && Arc::ptr_eq(&last.table, table);
            if !keys.last().is_some_and(is_last) {
                let (table, key) = (Arc::clone(table), key.clone());
                keys.push(WrittenKey { epoch, slot, table, key });
            }
        }
        Written { cache: Some(Arc::clone(cache)), keys }
    }

    /// Reads rows of one key: from the cache, if it may be and has what is enough.
    pub(super) async fn read_key(
        &self,
        (query, key): (&ReadQuery, ShardKey<'_>),
        place: KeyLocation,
        wish: &Wish,
        demand: &ReadDemand,
    ) -> Result<KeyAnswer, Error> {
        let shard = &self.shards[place.shard.index()];
        let read = async || shard.read_key(query, (place.slot, key.as_str()), demand).await;
        let Some(cache) = &self.cache else { return Ok(KeyAnswer::of(read().await?, None)) };
        if wish.level != Level::One || !cache.keeps(query) {
            return Ok(KeyAnswer::of(read().await?, Some(cache.bypass())));
        }
        let KeyLocation { epoch, slot, .. } = place;
        let about = About { epoch, slot, table: query.table.name(), key: key.as_str() };
        let requirement = FreshnessRequirement {
            timeline: shard.progress.life(),
            seen: wish.session.seen(place.shard).map(|position| position.sequence),
            age_max: cache.age_max(wish.staleness),
        };
        let read = async || {
            let ShardRows { read, role, stamp } = read().await?;
            let (rows, position) = (read.rows, read.position);
            Ok::<_, Error>(ShardAnswer { rows, position, freshness: stamp, served_by: role.into() })
        };
        let answer = cache.read((&about, query), (&requirement, wish.deadline), read).await?;
        let Answer { rows, position, served_by, cache } = answer;
        Ok(KeyAnswer { rows, position, served_by, cache: Some(cache) })
    }
}

impl KeyAnswer {
    fn of(ShardRows { read, role, .. }: ShardRows, cache: Option<CacheUse>) -> Self {
        Self { rows: read.rows, position: read.position, served_by: role.into(), cache }
    }
}
