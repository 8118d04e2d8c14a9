//! Cached reads: reads that the cache may answer, and the invalidation of keys that are written.
//!
//! **Invariant:** after a write the cache entries of its keys are invalidated, even if the client
//! has disconnected, unless it is certain that nothing was stored.
//! **Not here:** the cache itself (`cache`).

use std::sync::Arc;

use cache::{About, Answer, Cache, CacheUse, FreshnessRequirement, ServedBy, ShardAnswer};
use model::consistency::Level;
use model::error::Error;
use model::keyspace::{ShardKey, Slot};
use model::position::Position;
use model::query::ReadQuery;
use model::result_rows::Rows;
use model::row_change::RowWrite;
use model::shard_map::KeyLocation;
use model::table::Table;

use super::{Manager, RowReader};
use crate::shard::{ReadRequirements, Shard, ShardRows};

/// Result of a read of one key: the rows, and the node or cache that answered.
pub(super) struct KeyAnswer {
    pub(super) rows: Rows,
    pub(super) position: Position,
    pub(super) served_by: ServedBy,
    pub(super) cache: Option<CacheUse>,
}

/// Keys that are being written. Their cache entries are invalidated when the guard is dropped.
pub(super) struct KeysBeingWritten {
    cache: Option<Arc<Cache>>,
    keys: Vec<KeyBeingWritten>,
}

struct KeyBeingWritten {
    since: u64,
    slot: Slot,
    table: Arc<Table>,
    key: String,
}

impl KeyBeingWritten {
    fn about(&self) -> About<'_> {
        let Self { since, slot, table, key } = self;
        About { since: *since, slot: *slot, table: table.name(), key }
    }
}

impl KeysBeingWritten {
    /// Creates the guard that the writer holds while these rows are written.
    pub(super) fn new<'r>(
        manager: &Manager,
        rows: impl Iterator<Item = (KeyLocation, &'r RowWrite)>,
    ) -> Self {
        let Some(cache) = &manager.cache else {
            return Self { cache: None, keys: Vec::new() };
        };
        Self { cache: Some(Arc::clone(cache)), keys: keys_of(rows) }
    }

    /// Leaves the cache entries valid, because nothing was stored and nothing will be.
    pub(super) fn forget(&mut self) {
        self.keys.clear();
    }
}

/// Returns the keys of these rows. Consecutive rows with the same cache entry yield one key,
/// because rows of one key often follow each other. Rows of one key in two partitions have
/// different cache entries.
fn keys_of<'r>(rows: impl Iterator<Item = (KeyLocation, &'r RowWrite)>) -> Vec<KeyBeingWritten> {
    let mut keys: Vec<KeyBeingWritten> = Vec::with_capacity(rows.size_hint().0);
    for (KeyLocation { since, slot, .. }, RowWrite { table, key, .. }) in rows {
        let is_last = |last: &KeyBeingWritten| {
            last.key == *key
                && (last.since, last.slot) == (since, slot)
                && Arc::ptr_eq(&last.table, table)
        };
        if !keys.last().is_some_and(is_last) {
            let (table, key) = (Arc::clone(table), key.clone());
            keys.push(KeyBeingWritten { since, slot, table, key });
        }
    }
    keys
}

impl Drop for KeysBeingWritten {
    fn drop(&mut self) {
        let Some(cache) = &self.cache else { return };
        cache.invalidate(self.keys.iter().map(KeyBeingWritten::about));
    }
}

impl RowReader<'_> {
    /// Reads rows of one key, from the cache if the options allow it and its entry is fresh enough.
    pub(super) async fn read_key(
        self,
        (query, key): (&ReadQuery, ShardKey<'_>),
        (place, shard): (KeyLocation, &Shard),
        requirements: &ReadRequirements,
    ) -> Result<KeyAnswer, Error> {
        let read =
            async || shard.reads().read_key(query, (place.slot, key.as_str()), requirements).await;
        let Some(cache) = &self.data.manager.cache else {
            return Ok(KeyAnswer::of(read().await?, None));
        };
        // If a slot has moved, its cache entries come from its former owner until the map names the
        // new one, so the cache is bypassed. A slot that is redirected before that carries an epoch
        // that the map has not reached.
        let is_moved = place.since > place.epoch
            || (!self.data.manager.router.follows_map()
                && self.data.manager.map.load().owner(place.slot) != place.shard);
        if self.options.level != Level::One || !cache.keeps(query) || is_moved {
            return Ok(KeyAnswer::of(read().await?, Some(cache.bypass())));
        }
        let KeyLocation { since, slot, .. } = place;
        let about = About { since, slot, table: query.table.name(), key: key.as_str() };
        let want = FreshnessRequirement {
            timeline: shard.replication.timeline().id(),
            seen: self.options.session.seen(place.shard).map(|position| position.sequence),
            age_max: cache.age_max(self.options.staleness),
        };
        let read = async || {
            let ShardRows { read, role, stamp } = read().await?;
            let (rows, position) = (read.rows, read.position);
            Ok::<_, Error>(ShardAnswer { rows, position, freshness: stamp, served_by: role.into() })
        };
        let answer = cache.read((&about, query), (&want, self.options.deadline), read).await?;
        let Answer { rows, position, served_by, cache } = answer;
        Ok(KeyAnswer { rows, position, served_by, cache: Some(cache) })
    }
}

impl KeyAnswer {
    fn of(ShardRows { read, role, .. }: ShardRows, cache: Option<CacheUse>) -> Self {
        Self { rows: read.rows, position: read.position, served_by: role.into(), cache }
    }
}

#[cfg(test)]
mod tests {
    use model::idempotency;
    use model::row_change::Operation;
    use model::topology::ShardNumber;

    use super::*;

    #[test]
    fn rows_of_one_key_in_two_partitions_invalidate_the_entries_of_both() {
        let slots = [1, 1, 2].map(|number| Slot::new(number).expect("a slot"));
        let table = &*idempotency::TABLE;
        let writes = slots.map(|slot| RowWrite {
            table: Arc::clone(table),
            operation: Operation::Upsert,
            slot,
            key: "ada".to_owned(),
            id: Vec::new(),
            set: Vec::new(),
            precondition: None,
            idempotency_key: None,
            wants_row: false,
        });
        let place = |slot| KeyLocation { slot, shard: ShardNumber(0), epoch: 1, since: 1 };
        let keys = keys_of(writes.iter().map(|row| (place(row.slot), row)));
        let found: Vec<Slot> = keys.iter().map(|key| key.slot).collect();
        assert_eq!(found, [slots[0], slots[2]], "a key for each cache entry");
    }
}
