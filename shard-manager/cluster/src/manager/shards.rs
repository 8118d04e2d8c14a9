//! Shards: the open shards of a manager, which may join and retire while requests run.
//!
//! **Invariant:** a shard is in the list before a map names it, and no map names it when it is
//! taken out.
//! **Not here:** opening a shard (the engines), the owners of slots (`ShardMap`), the tables of a
//! shard that joins (the calling function creates them before).

use std::sync::{Arc, PoisonError};

use engine::OpenedShard;
use engine::catalog_rows::MapChangeError;
use engine::open_error::OpenError;
use engine::published_map::ShardListError;
use model::map_change::MapChange;
use model::shard_map::ShardMap;
use model::topology::ShardNumber;

use super::Manager;
use crate::shard::Shard;

impl Manager {
    /// Returns the name of a shard, even if it has retired; an empty string for a number that no
    /// shard was given.
    #[inline]
    pub fn shard_name(&self, shard: ShardNumber) -> &str {
        self.map.shard_name(shard)
    }

    /// Returns the interface for the list of shards.
    #[inline]
    pub fn shards(&self) -> Shards<'_> {
        Shards(self)
    }
}

/// Interface of a [`Manager`] for the list of its shards.
#[derive(Clone, Copy)]
pub struct Shards<'m>(pub(super) &'m Manager);

impl<'m> Shards<'m> {
    /// Returns a shard; `None` if it is not open.
    #[inline]
    pub(super) fn find(self, number: ShardNumber) -> Option<Arc<Shard>> {
        self.0.shards.load().get(number).cloned()
    }

    /// Returns the numbers of all shards that have a name, including retired ones, in order.
    pub fn numbers(self) -> impl Iterator<Item = ShardNumber> + 'm {
        self.0.map.named()
    }

    /// Changes the shard map if its epoch is still `expected_epoch`, and returns the new map. Other
    /// routers use the new map within a second.
    ///
    /// # Errors
    /// [`MapChangeError`].
    pub async fn change_map(
        self,
        change: MapChange,
        expected_epoch: u64,
    ) -> Result<Arc<ShardMap>, MapChangeError> {
        self.0.backend.change_map(change, expected_epoch).await
    }

    /// Starts an opened shard and adds it to the list, after which maps may name it. The shard must
    /// already have the tables of the registry. Blocks until its threads have started.
    ///
    /// # Errors
    /// [`OpenError`] if the number is taken or too large, or the system cannot start a thread. In
    /// these cases the replicas of the shard are stopped.
    pub fn add(self, number: ShardNumber, opened: OpenedShard) -> Result<(), OpenError> {
        let _turn = self.0.shards_turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.0.map.reserve(number, &opened.name) {
            opened.stop_replicas();
            return Err(OpenError::Conflict(error.to_string()));
        }
        let path = opened.name.clone();
        let shard = Shard::start(opened)
            .map_err(|error| OpenError::Io { path, cause: error.to_string() })?;
        self.0.shards.store(Arc::new(self.0.shards.load().with(number, Arc::new(shard))));
        self.0.map.add_shard(number);
        Ok(())
    }

    /// Takes a shard out of the list, applies its queued writes, and closes it. Its name remains
    /// reserved. The shard is freed when the last request that uses it has ended. Blocks.
    ///
    /// # Errors
    /// [`ShardListError::InUse`] if the map in force names the shard.
    pub fn retire(self, number: ShardNumber) -> Result<(), ShardListError> {
        self.take_out(number)?.iter().for_each(|shard| shard.close());
        Ok(())
    }

    /// Takes a shard out of the list, and returns it if it was open.
    pub(super) fn take_out(
        self,
        number: ShardNumber,
    ) -> Result<Option<Arc<Shard>>, ShardListError> {
        let _turn = self.0.shards_turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.map.remove_shard(number)?;
        let before = self.0.shards.load_full();
        self.0.shards.store(Arc::new(before.without(number)));
        Ok(before.get(number).cloned())
    }
}

/// Returns the epoch of the map that must be read after a change found another epoch than it
/// expected, before the change is tried again. If the epoch that it found is lower, the catalog has
/// lost its last maps in a failover, and its epoch is raised when the map is read. A change that
/// requires an epoch is not tried again, so only the map that it found is read.
pub(super) fn epoch_to_retry((expected, found): (u64, u64), required: Option<u64>) -> u64 {
    if required.is_some() { found } else { found.max(expected + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_tried_again_with_a_later_map_even_if_the_catalog_has_an_older_one() {
        assert_eq!(epoch_to_retry((12, 14), None), 14);
        assert_eq!(epoch_to_retry((12, 11), None), 13, "12 was the epoch of a map that is lost");
        assert_eq!(epoch_to_retry((12, 11), Some(12)), 11);
    }
}
