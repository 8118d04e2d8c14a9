//! Slot router: finds the shard of a slot from the shard map and from the reports of former owners.
//!
//! **Invariant:** if a slot has moved but the map does not name its new owner yet, requests go to
//! the shard that the former owner has named. This begins when a position of the former owner is
//! known, and ends when the named shard refuses the slot or a failover of the former owner loses
//! that position. If the map names that shard as well, a refusal changes nothing.
//! **Not here:** the lifetime of a redirect (`slot_redirects`), the wait for an owner (`manager`).

use std::sync::Arc;

use engine::published_map::PublishedMap;
use model::keyspace::Slot;
use model::position::Position;
use model::shard_map::{KeyLocation, ShardMap};
use model::slot_refusal::{RefusedState, SlotRefusal};
use model::topology::ShardNumber;

use crate::slot_redirects::{FormerPosition, SlotRedirects};

/// Routes slots to shards.
pub struct SlotRouter {
    map: Arc<PublishedMap>,
    /// Redirects of slots that have moved to owners that the map does not name yet.
    redirects: SlotRedirects,
}

impl SlotRouter {
    /// Creates the router of a cluster with this map.
    pub fn new(map: &Arc<PublishedMap>) -> Self {
        Self { map: Arc::clone(map), redirects: SlotRedirects::default() }
    }

    /// Returns true if no slot is redirected, so that the map names the owner of every slot as far
    /// as this router knows.
    #[inline]
    pub fn follows_map(&self) -> bool {
        self.redirects.is_empty()
    }

    /// Returns the shard to which a slot is redirected; `None` if it is not redirected, so that the
    /// map names its owner.
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

    /// Returns `place`, which was computed from a recent map, or computes the present location of
    /// its slot if any slot is redirected.
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

    /// Returns the former owners of slots that are redirected to a shard, each with a position at
    /// which the slots had moved.
    pub fn former_owner_positions(&self, to: ShardNumber) -> Vec<(ShardNumber, Position)> {
        self.redirects.former_owner_positions(to)
    }

    /// Learns from a refusal: remembers where the slot has moved, or forgets a redirect to the
    /// shard that refuses the slot. `former_position` is a position of the refusing shard at which
    /// it refused the slot. Without it, a new owner is not remembered: the session tokens in the
    /// new owner's responses would lack the position, and a router with the older map could show a
    /// session less than it has already seen. The same applies to a slot that has come back to the
    /// owner in the map.
    pub fn learn(
        &self,
        refused_by: ShardNumber,
        refusal: SlotRefusal,
        former_position: Option<&FormerPosition>,
    ) {
        // A report from a timeline that has ended does not show which changes the present one has
        // kept.
        let former_position = former_position.filter(|former_position| !former_position.is_lost());
        match refusal.state {
            RefusedState::Moved { to } => {
                let map = self.map.load();
                let is_named = map.owner(refusal.slot) == to
                    && self.redirects.find(&map, refusal.slot) != Some(refused_by);
                let is_known = is_named || !self.is_news(refusal);
                if former_position.is_some() || is_known {
                    self.redirects.remember(&map, refusal.slot, (refused_by, to), former_position);
                }
            }
            RefusedState::Importing | RefusedState::Absent => {
                // A redirect to the owner in the map changes no route, but it keeps the positions
                // of the former owners of the slot, even while the owner has not activated the slot
                // yet.
                if self.map.load().owner(refusal.slot) != refused_by {
                    self.redirects.forget(refusal.slot, refused_by);
                }
            }
            RefusedState::Fenced { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::replication::ReplicationState;
    use model::keyspace::Keyspace;
    use model::placement::Placement;
    use model::position::TimelineHistory;
    use model::topology::Topology;

    use super::*;

    /// Returns a position of a shard of three nodes on timeline 1.
    fn former_position(sequence: u64) -> FormerPosition {
        let history = TimelineHistory::new(vec![(1, 0)]).expect("one timeline");
        let replication = ReplicationState::new(history, sequence, 3).with_shared_writers();
        FormerPosition {
            position: Position { timeline: 1, sequence },
            replication: Arc::new(replication),
        }
    }

    /// Returns the router of two shards, a slot, its owner and the other shard.
    fn router() -> (SlotRouter, Slot, ShardNumber, ShardNumber) {
        let topology = Topology::with_weights(&[1, 1]).expect("two shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("a map");
        let slot = Slot::new(0).expect("a slot");
        let owner = map.owner(slot);
        let router = SlotRouter::new(&Arc::new(PublishedMap::new(map)));
        (router, slot, owner, ShardNumber(1 - owner.0))
    }

    #[test]
    fn a_new_owner_is_followed_only_with_a_position_of_the_former_one() {
        let (router, slot, owner, other) = router();
        let moved = SlotRefusal { slot, state: RefusedState::Moved { to: other } };
        router.learn(owner, moved, None);
        assert_eq!(router.locate(slot).shard, owner);
        assert!(router.is_news(moved), "the position is requested again");
        router.learn(owner, moved, Some(&former_position(7)));
        assert_eq!((router.locate(slot).shard, router.is_news(moved)), (other, false));
        router.learn(owner, moved, None);
        assert_eq!(router.locate(slot).shard, other, "it is known already");
    }

    #[test]
    fn a_former_owner_that_has_lost_the_position_of_a_move_is_read_again_on_its_new_timeline() {
        let (router, slot, owner, other) = router();
        let moved = SlotRefusal { slot, state: RefusedState::Moved { to: other } };
        let before = former_position(100);
        router.learn(owner, moved, Some(&before));
        let timeline = before.replication.timeline();
        before.replication.follow(timeline.history().followed_by(2, 90), 95, 1);
        assert_eq!(router.locate(slot).shard, owner, "the move itself may be lost");
        assert!(router.is_news(moved) && !router.follows_map());
        for lost in [None, Some(&before)] {
            router.learn(owner, moved, lost);
            assert_eq!(router.locate(slot).shard, owner, "the position is requested again");
            assert!(router.is_news(moved));
        }
        let present = Position { timeline: 2, sequence: 97 };
        let after =
            FormerPosition { position: present, replication: Arc::clone(&before.replication) };
        router.learn(owner, moved, Some(&after));
        assert_eq!((router.locate(slot).shard, router.is_news(moved)), (other, false));
        assert_eq!(router.former_owner_positions(other), [(owner, present)]);
        assert!(timeline.holds(present), "a session with this position is not refused");
    }

    #[test]
    fn a_slot_that_came_back_before_the_map_named_the_other_owner_has_the_position_of_that_owner() {
        let (router, slot, owner, other) = router();
        let moved = |to| SlotRefusal { slot, state: RefusedState::Moved { to } };
        router.learn(owner, moved(other), Some(&former_position(7)));
        router.learn(other, moved(owner), None);
        assert_eq!(router.locate(slot).shard, other, "the position of its way back is not known");
        router.learn(other, moved(owner), Some(&former_position(5)));
        for state in [RefusedState::Importing, RefusedState::Absent] {
            router.learn(owner, SlotRefusal { slot, state }, None);
            let place = router.locate(slot);
            assert!(place.since > place.epoch, "the owner is not active yet: {state:?}");
        }
        let place = router.locate(slot);
        assert_eq!(place.shard, owner);
        assert!(place.since > place.epoch, "no cached row of the time before is shown");
        let seen = Position { timeline: 1, sequence: 5 };
        assert_eq!(router.former_owner_positions(owner), [(other, seen)]);
    }
}
