//! Map backlog: keeps the newest shard map of the catalog while that map is not in force, because
//! this process has not opened some of its shards yet.
//!
//! An announcement contains no state: it only causes its receiver to check the backlog and the open
//! shards again, so nothing is lost if two announcements in quick succession wake it once.
//!
//! **Invariant:** the epoch of the kept map never decreases while a map is kept.
//! **Not here:** the map in force (`published_map`), opening shards (the engines).

use std::sync::{Arc, Mutex, PoisonError};

use model::shard_map::ShardMap;
use tokio::sync::Notify;

/// Newest map that is not completely in force.
#[derive(Debug, Default)]
pub struct MapBacklog {
    newest: Mutex<Option<Arc<ShardMap>>>,
    news: Notify,
}

impl MapBacklog {
    /// Returns the newest map of the catalog, if some of its shards are not open here.
    pub fn newest(&self) -> Option<Arc<ShardMap>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the newest map of the catalog that this process knows. The map in force may be a
    /// part of it.
    pub fn newest_or(&self, in_force: Arc<ShardMap>) -> Arc<ShardMap> {
        let newest = self.newest();
        newest.filter(|newest| newest.epoch() >= in_force.epoch()).unwrap_or(in_force)
    }

    /// Waits until there may be shards to open or to close. One task waits at a time.
    pub async fn changed(&self) {
        self.news.notified().await;
    }

    /// Announces that there may be shards to open or to close.
    pub(super) fn announce(&self) {
        self.news.notify_one();
    }

    /// Keeps a map that names shards that are not open here, unless a later map is already kept.
    pub(super) fn keep(&self, map: &ShardMap) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_none_or(|known| known.epoch() <= map.epoch()) {
            *newest = Some(Arc::new(map.clone()));
        }
    }

    /// Forgets the kept map, unless it is later than the map in force.
    pub(super) fn clear(&self, in_force: u64) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.as_ref().is_some_and(|known| known.epoch() <= in_force) {
            *newest = None;
        }
    }
}
