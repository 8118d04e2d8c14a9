//! Shards: the open shards of a manager, which may join and retire while requests run.
//!
//! **Invariant:** a shard is in the list before a map names it, and no map names it when it is taken
//! out.
//! **Not here:** opening a shard (the engines), the owners of slots (`ShardMap`), the tables of a
//! shard that joins (the caller creates them before).

use std::sync::{Arc, PoisonError};

use engine::OpenedShard;
use engine::open_error::OpenError;
use engine::published_map::ShardListError;
use model::error::Error;
use model::shard_map::KeyLocation;
use model::slot_refusal::SlotRefusal;
use model::topology::ShardNumber;

use super::Manager;
use crate::shard::Shard;

impl Manager {
    /// Returns the name of a shard, also of a retired one; empty for a number that was never given.
    #[inline]
    pub fn shard_name(&self, shard: ShardNumber) -> &str {
        self.map.shard_name(shard)
    }

    /// Returns the number of every shard that has a name, also of retired ones, in order.
    pub fn shard_numbers(&self) -> impl Iterator<Item = ShardNumber> + '_ {
        self.map.named()
    }

    /// Returns the shard of a key, as a snapshot of the map has placed it.
    ///
    /// # Errors
    /// [`Error::SlotRefused`] if the shard has retired since: it owns no slots.
    #[inline]
    pub(super) fn shard_of(&self, place: KeyLocation) -> Result<Arc<Shard>, Error> {
        let refused = || Error::SlotRefused(SlotRefusal::absent(place.slot));
        self.shards.load().get(place.shard).cloned().ok_or_else(refused)
    }

    /// Returns a shard; `None` if it is not open.
    #[inline]
    pub(super) fn shard(&self, number: ShardNumber) -> Option<Arc<Shard>> {
        self.shards.load().get(number).cloned()
    }

    /// Starts a shard that was opened, and adds it to the list. From then on maps may name it. Its
    /// tables are those of the registry. Blocks until its threads have started.
    ///
    /// # Errors
    /// [`OpenError`] if the number is taken or too large, or the system cannot start a thread. The
    /// replicas of the shard are stopped then.
    pub fn add_shard(&self, number: ShardNumber, opened: OpenedShard) -> Result<(), OpenError> {
        let _turn = self.shards_turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.map.reserve(number, &opened.name) {
            opened.stop_replicas();
            return Err(OpenError::Conflict(error.to_string()));
        }
        let path = opened.name.clone();
        let shard = Shard::start(opened)
            .map_err(|error| OpenError::Io { path, cause: error.to_string() })?;
        self.shards.store(Arc::new(self.shards.load().with(number, Arc::new(shard))));
        self.map.add_shard(number);
        Ok(())
    }

    /// Takes a shard out of the list, applies what is queued, and closes the shard. Its name stays.
    /// Requests that still use the shard release it. Blocks.
    ///
    /// # Errors
    /// [`ShardListError::InUse`] if the map in force names the shard.
    pub fn retire_shard(&self, number: ShardNumber) -> Result<(), ShardListError> {
        let _turn = self.shards_turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.map.remove_shard(number)?;
        let before = self.shards.load_full();
        self.shards.store(Arc::new(before.without(number)));
        if let Some(shard) = before.get(number) {
            shard.close();
        }
        Ok(())
    }
}
