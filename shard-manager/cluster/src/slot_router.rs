//! Slot router: the shard of a slot, by the shard map and by what former owners have reported.
//!
//! **Invariant:** a slot that has moved before the map names its owner is routed to the shard that
//! its former owner has named, as soon as a position of the former owner is known, and until the
//! named shard refuses the slot.
//! **Not here:** the lifetime of a redirect (`slot_redirects`), the wait for an owner (`manager`).

use std::sync::Arc;

use engine::published_map::PublishedMap;
use model::keyspace::Slot;
use model::position::Position;
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

    /// Returns true if a location was computed from the map in force, and no slot is redirected.
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

    /// Returns a location that was computed from a recent map, or the present one if any slot is
    /// redirected.
    #[inline]
    pub fn redirected(&self, place: KeyLocation) -> KeyLocation {
        if self.redirects.is_empty() { place } else { self.locate(place.slot) }
    }

    /// Returns true if a refusal names an owner of the slot that is not known yet.
    pub fn is_news(&self, refusal: SlotRefusal) -> bool {
        match refusal.state {
            RefusedState::Moved { to } => !self.redirects.contains(refusal.slot, to),
            RefusedState::Importing | RefusedState::Absent | RefusedState::Fenced { .. } => false,
        }
    }

    /// Returns the former owners of slots that were routed to a shard before the map names it, each
    /// with a position at which the slots had moved.
    pub fn former_owner_positions(&self, to: ShardNumber) -> Vec<(ShardNumber, Position)> {
        self.redirects.former_owner_positions(to)
    }

    /// Remembers where a slot has moved to, or that it has not moved to the shard that refuses it.
    /// `home` is a position of that shard at which it refused the slot. Without a position, a new
    /// owner is not remembered: the tokens of its responses would lack the position, and a router
    /// with the former map could show a session less than it has seen.
    pub fn learn(&self, refused_by: ShardNumber, refusal: SlotRefusal, home: Option<Position>) {
        match refusal.state {
            RefusedState::Moved { to } => {
                let map = self.map.load();
                let is_known = map.owner(refusal.slot) == to || !self.is_news(refusal);
                if home.is_some() || is_known {
                    self.redirects.remember(&map, refusal.slot, (refused_by, to), home);
                }
            }
            RefusedState::Importing | RefusedState::Absent => {
                self.redirects.forget(refusal.slot, refused_by);
            }
            RefusedState::Fenced { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use model::keyspace::Keyspace;
    use model::placement::Placement;
    use model::topology::Topology;

    use super::*;

    #[test]
    fn a_new_owner_is_followed_only_with_a_position_of_the_former_one() {
        let topology = Topology::with_weights(&[1, 1]).expect("two shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("a map");
        let slot = Slot::new(0).expect("a slot");
        let owner = map.owner(slot);
        let other = ShardNumber(1 - owner.0);
        let router = SlotRouter::new(&Arc::new(PublishedMap::new(map)));
        let moved = SlotRefusal { slot, state: RefusedState::Moved { to: other } };
        router.learn(owner, moved, None);
        assert_eq!(router.locate(slot).shard, owner);
        assert!(router.is_news(moved), "the position is requested again");
        router.learn(owner, moved, Some(Position { timeline: 1, sequence: 7 }));
        assert_eq!((router.locate(slot).shard, router.is_news(moved)), (other, false));
        router.learn(owner, moved, None);
        assert_eq!(router.locate(slot).shard, other, "it is known already");
    }
}
