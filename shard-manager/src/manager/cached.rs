//! Cached: reads that the cache may answer, and writes that it has to know of.
//!
//! **Invariant:** whatever a write came to, and also if nobody waits for it any more, the answers about its keys are
//! voided, unless nothing was stored for certain.
//! **Not here:** what the cache does (`cache`).

use std::sync::Arc;

use super::{Manager, RequestOptions};
use crate::cache::{
    About, Answer, Cache, CacheSettings, CacheUse, CacheVitals, Fresh, ServedBy, Want,
};
use crate::consistency::Level;
use crate::error::Error;
use crate::keyspace::{ShardKey, Slot};
use crate::position::Position;
use crate::query::ReadQuery;
use crate::row::RowWrite;
use crate::rows::Rows;
use crate::shard::{ReadRequirements, ShardRows};
use crate::shard_map::Place;
use crate::table::Table;

/// What a read of one key brought.
pub(super) struct KeyAnswer {
    pub(super) rows: Rows,
    pub(super) position: Position,
    pub(super) served_by: ServedBy,
    pub(super) cache: Option<CacheUse>,
}

/// Keys that are being written. Their answers are voided when it is dropped.
pub(super) struct PendingKeys {
    cache: Option<Arc<Cache>>,
    keys: Vec<PendingKey>,
}

struct PendingKey {
    epoch: u64,
    slot: Slot,
    table: Arc<Table>,
    key: String,
}

impl PendingKey {
    fn about(&self) -> About<'_> {
        let Self { epoch, slot, table, key } = self;
        About { epoch: *epoch, slot: *slot, table: table.name(), key }
    }
}

impl PendingKeys {
    /// Nothing was stored, and nothing will be.
    pub(super) fn forget(&mut self) {
        self.keys.clear();
    }
}

impl Drop for PendingKeys {
    fn drop(&mut self) {
        let Some(cache) = &self.cache else { return };
        cache.void(self.keys.iter().map(PendingKey::about));
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
    pub fn cache_vitals(&self) -> Option<CacheVitals> {
        self.cache.as_ref().map(|cache| cache.vitals())
    }

    /// What to hold while these rows are written.
    pub(super) fn pending_keys<'r>(
        &self,
        rows: impl Iterator<Item = (Place, &'r RowWrite)>,
    ) -> PendingKeys {
        let Some(cache) = &self.cache else { return PendingKeys { cache: None, keys: Vec::new() } };
        let mut keys: Vec<PendingKey> = Vec::with_capacity(rows.size_hint().0);
        for (Place { epoch, slot, .. }, RowWrite { table, key, .. }) in rows {
            // Rows of one key often come together.
            let is_last = |last: &PendingKey| last.key == *key && Arc::ptr_eq(&last.table, table);
            if !keys.last().is_some_and(is_last) {
                let (table, key) = (Arc::clone(table), key.clone());
                keys.push(PendingKey { epoch, slot, table, key });
            }
        }
        PendingKeys { cache: Some(Arc::clone(cache)), keys }
    }

    /// Reads rows of one key: from the cache, if it may be and has what is enough.
    pub(super) async fn read_key(
        &self,
        (query, key): (&ReadQuery, ShardKey<'_>),
        place: Place,
        options: &RequestOptions,
        requirements: &ReadRequirements,
    ) -> Result<KeyAnswer, Error> {
        let shard = &self.shards[place.shard.index()];
        let read = async || shard.read_key(query, (place.slot, key.as_str()), requirements).await;
        let Some(cache) = &self.cache else { return Ok(KeyAnswer::of(read().await?, None)) };
        if options.level != Level::One || !cache.keeps(query) {
            return Ok(KeyAnswer::of(read().await?, Some(cache.bypass())));
        }
        let Place { epoch, slot, .. } = place;
        let about = About { epoch, slot, table: query.table.name(), key: key.as_str() };
        let want = Want {
            timeline: shard.replication.timeline().id(),
            seen: options.session.seen(place.shard).map(|position| position.at),
            age_max: cache.age_max(options.staleness),
        };
        let read = async || {
            let ShardRows { read, role, stamp } = read().await?;
            let (rows, position) = (read.rows, read.position);
            Ok::<_, Error>(Fresh { rows, position, stamp, served_by: role.into() })
        };
        let answer = cache.read((&about, query), (&want, options.deadline), read).await?;
        let Answer { rows, position, served_by, cache } = answer;
        Ok(KeyAnswer { rows, position, served_by, cache: Some(cache) })
    }
}

impl KeyAnswer {
    fn of(ShardRows { read, role, .. }: ShardRows, cache: Option<CacheUse>) -> Self {
        Self { rows: read.rows, position: read.position, served_by: role.into(), cache }
    }
}
