//! Row sample: a few shard keys of the rows of a bulk write, for the list of recent writes on the
//! lab page.
//!
//! **Invariant:** a key is listed only if its row is stored. If the rows of all sampled keys of a
//! shard fail, the other rows of that shard are not listed.
//! **Not here:** the list and its limits (`analytics::list_sampled_rows`).

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use analytics::{BULK_KEYS_MAX, SampledRows, list_sampled_rows};
use shard_manager::manager::{BulkRow, BulkRowDone};
use shard_manager::topology::ShardNumber;

use crate::app::App;

/// Sampled shard keys, by the index of their row.
#[derive(Default)]
pub(super) struct RowSample(HashMap<usize, String>);

impl RowSample {
    /// Samples the rows of each shard at equal intervals. Without analytics, the sample is empty.
    pub(super) fn of(app: &App, rows: &[BulkRow]) -> Self {
        if app.analytics.is_none() {
            return Self::default();
        }
        let mut counts: BTreeMap<ShardNumber, usize> = BTreeMap::new();
        for row in rows {
            *counts.entry(row.place.shard).or_default() += 1;
        }
        let mut places: BTreeMap<ShardNumber, usize> = BTreeMap::new();
        let mut keys = HashMap::new();
        for row in rows {
            let shard = row.place.shard;
            let distance = counts.get(&shard).map_or(1, |count| count.div_ceil(BULK_KEYS_MAX));
            let place = places.entry(shard).or_default();
            if place.is_multiple_of(distance) {
                keys.insert(row.index, row.row.key.clone());
            }
            *place += 1;
        }
        Self(keys)
    }

    /// Adds to the list of recent writes the number of stored rows of each shard, with those
    /// sampled keys whose rows are stored.
    pub(super) fn list(&self, app: &App, done: &[BulkRowDone]) {
        let Some(analytics) = app.analytics.as_ref().filter(|_| !self.0.is_empty()) else { return };
        let mut stored: BTreeMap<ShardNumber, SampledRows<'_>> = BTreeMap::new();
        for row in done.iter().filter(|row| row.outcome.is_ok()) {
            let shard = row.place.shard;
            let none = SampledRows { shard: shard.0, rows: 0, keys: Vec::new() };
            let of_shard = stored.entry(shard).or_insert(none);
            of_shard.rows += 1;
            if let Some(key) = self.0.get(&row.index) {
                of_shard.keys.push((key.as_str(), row.place.slot.number()));
            }
        }
        let now = Instant::now();
        for rows in stored.values() {
            analytics.metrics.name_shard(&app.manager, rows.shard);
            list_sampled_rows(&analytics.metrics.recorder, rows, now);
        }
    }
}
