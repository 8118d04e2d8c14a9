//! Shard list: the open shards of a cluster by number, as one immutable value.
//!
//! A request uses one snapshot of the list. When a shard joins or retires, a new list replaces the
//! old one. A shard that has retired is freed when the last request that uses it ends.
//!
//! **Invariant:** the list contains every member of the shard map in force: a shard is added before
//! the map names it, and removed only when the map no longer names it.
//! **Not here:** enforcing this order (`engine::published_map`), the owners of slots (`ShardMap`).

use std::sync::Arc;

use model::topology::ShardNumber;

use crate::shard::Shard;

/// The open shards, by number.
#[derive(Default)]
pub struct ShardList {
    /// Entries by shard number; `None` for a shard that is not open.
    shards: Vec<Option<Arc<Shard>>>,
}

impl ShardList {
    /// Returns an open shard.
    #[inline]
    pub fn get(&self, number: ShardNumber) -> Option<&Arc<Shard>> {
        self.shards.get(number.index())?.as_ref()
    }

    /// Returns the open shards, in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (ShardNumber, &Arc<Shard>)> + Clone {
        let numbered = (0..).map(ShardNumber).zip(&self.shards);
        numbered.filter_map(|(number, shard)| Some((number, shard.as_ref()?)))
    }

    /// Returns the list with one more shard.
    #[must_use]
    pub fn with(&self, number: ShardNumber, shard: Arc<Shard>) -> Self {
        let mut shards = self.shards.clone();
        shards.resize(shards.len().max(number.index() + 1), None);
        shards[number.index()] = Some(shard);
        Self { shards }
    }

    /// Returns the list without a shard.
    #[must_use]
    pub fn without(&self, number: ShardNumber) -> Self {
        let mut shards = self.shards.clone();
        if let Some(shard) = shards.get_mut(number.index()) {
            *shard = None;
        }
        Self { shards }
    }
}
