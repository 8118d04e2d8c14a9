//! Slot router: the shard of a slot, by the shard map and by what former owners have reported.
//!
//! **Invariant:** a slot that has moved before the map names its owner is routed to the shard that
//! its former owner has named, until that shard refuses it.
//! **Not here:** the lifetime of a redirect (`slot_redirects`), the wait for an owner (`manager`).

use std::sync::Arc;

use engine::published_map::PublishedMap;
use model::keyspace::Slot;
use model::shard_map::{KeyLocation, ShardMap};
use model::slot_refusal::{RefusedState, SlotRefusal};
use model::topology::ShardNumber;

use crate::slot_redirects::SlotRedirects;

/// Routes slots to shards.
pub struct SlotRouter {
    map: Arc<PublishedMap>,
    /// Slots that have moved, before the map names their owners.
    redirects: SlotRedirects,
}

impl SlotRouter {
    /// Creates the router of a cluster, by its map in force.
    pub fn new(map: &Arc<PublishedMap>) -> Self {
        Self { map: Arc::clone(map), redirects: SlotRedirects::default() }
    }

    /// Returns true if the map names the owner of every slot, as far as is known.
    #[inline]
    pub fn follows_map(&self) -> bool {
        self.redirects.is_empty()
    }

    /// Returns the shard to which a slot has moved; `None` if the map names the owner.
    pub fn redirect(&self, map: &ShardMap, slot: Slot) -> Option<ShardNumber> {
        self.redirects.find(map, slot)
    }

    /// Returns true if a location is still that of the map, and nothing else is known of any slot.
    #[inline]
    pub fn is_current(&self, place: KeyLocation) -> bool {
        self.redirects.is_empty() && self.map.load().epoch() == place.epoch
    }

    /// Returns the location that the map and the redirects give for a slot now.
    pub fn locate(&self, slot: Slot) -> KeyLocation {
        let map = self.map.load();
        let epoch = map.epoch();
        match self.redirects.find(&map, slot) {
            Some(shard) => KeyLocation { slot, shard, epoch, since: epoch + 1 },
            None => KeyLocation { slot, shard: map.owner(slot), epoch, since: map.since(slot) },
        }
    }

    /// Returns the location of a key that was routed by a recent map, or the shard that the slot is
    /// known to have moved to.
    #[inline]
    pub fn redirected(&self, place: KeyLocation) -> KeyLocation {
        if self.redirects.is_empty() { place } else { self.locate(place.slot) }
    }

    /// Remembers where a slot has moved to, or that it has not moved to the shard that refuses it.
    pub fn learn(&self, refused_by: ShardNumber, refusal: SlotRefusal) {
        match refusal.state {
            RefusedState::Moved { to } => {
                self.redirects.remember(&self.map.load(), refusal.slot, to);
            }
            RefusedState::Importing | RefusedState::Absent => {
                self.redirects.forget(refusal.slot, refused_by);
            }
            RefusedState::Fenced { .. } => {}
        }
    }
}
