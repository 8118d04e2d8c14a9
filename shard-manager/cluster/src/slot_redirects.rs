//! Slot redirects: the shards to which slots have moved according to reports of their former
//! owners. Each redirect is kept until the shard map names the new owner.
//!
//! A lagging replica of the former owner may still return the rows of such a slot, also through
//! other routers. So with a response of the new owner, the client's session token receives a
//! position of the former owner at which the slot had already moved.
//!
//! A failover of the former owner may lose this position, and with it the move of the slot. The
//! redirect is then marked as doubted: requests go to the owner in the map again, and its report on
//! the new timeline decides. Tokens receive a position of that timeline instead of the lost one.
//! The new position is at or after every change that the failover has kept, and no session is
//! refused because of it.
//!
//! **Invariant:** a redirect is followed only while three conditions hold: the map has not recorded
//! a new owner of the slot since the redirect was learned; the target has not refused the slot
//! (unless the map names the target as well); and the positions of the target's former owners are
//! in the histories of their shards.
//! **Not here:** the map (`model::shard_map`), the refusals (`model::slot_refusal`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use engine::replication::ReplicationState;
use model::keyspace::Slot;
use model::position::Position;
use model::shard_map::ShardMap;
use model::topology::ShardNumber;

/// Position of a former owner at which a slot had moved.
#[derive(Clone, Debug)]
pub struct FormerPosition {
    /// The position.
    pub position: Position,
    /// Replication state of the former owner, whose history may lose the position in a failover.
    pub replication: Arc<ReplicationState>,
}

impl FormerPosition {
    /// Returns true if a failover of the former owner has lost the position.
    pub(crate) fn is_lost(&self) -> bool {
        !self.replication.timeline().holds(self.position)
    }

    /// Replaces a lost position with the position that the primary of the present timeline has
    /// reached, which is at or after every change that this timeline has kept.
    fn renew(&mut self) {
        // The timeline is read first, because a promotion sets the positions before the history.
        let timeline = self.replication.timeline().id();
        let sequence = self.replication.primary().committed();
        self.position = Position { timeline, sequence };
    }
}

/// Redirects by slot.
#[derive(Debug, Default)]
pub struct SlotRedirects {
    /// Number of redirects. While it is 0, no lock is taken.
    count: AtomicUsize,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_slot: HashMap<u16, Redirect>,
    /// Positions of former owners at which slots had moved. The key is the new owner and the former
    /// owner. Positions are kept until no redirects are left.
    former_positions: BTreeMap<(ShardNumber, ShardNumber), FormerPosition>,
}

#[derive(Clone, Copy, Debug)]
struct Redirect {
    to: ShardNumber,
    /// Epoch in which the map last changed the owner of the slot, as of the time when the redirect
    /// was learned. A later change in the map ends the redirect.
    since: u64,
    /// True if a former owner of the target's slots has lost its position since: the move may be
    /// lost as well.
    is_doubted: bool,
}

impl SlotRedirects {
    /// Returns true if there are no redirects.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Returns the shard to which a slot has moved; `None` if the map names the owner, or if a
    /// failover may have lost the move.
    pub fn find(&self, map: &ShardMap, slot: Slot) -> Option<ShardNumber> {
        if self.is_empty() {
            return None;
        }
        let known = self.read();
        let redirect = *known.by_slot.get(&slot.number())?;
        let is_lost = known.has_lost(redirect.to);
        drop(known);
        if map.since(slot) > redirect.since {
            self.forget(slot, redirect.to);
            return None;
        }
        if is_lost {
            self.lock().doubt_lost();
        }
        (!is_lost && !redirect.is_doubted).then_some(redirect.to)
    }

    /// Returns true if a slot is redirected to this shard.
    pub fn contains(&self, slot: Slot, to: ShardNumber) -> bool {
        let known = self.read();
        let redirect = known.by_slot.get(&slot.number());
        redirect.is_some_and(|redirect| {
            redirect.to == to && !redirect.is_doubted && !known.has_lost(to)
        })
    }

    /// Remembers that a slot has moved from one shard to another. `former_position` is a position
    /// of the former owner at which the slot had moved. A slot that has come back to the owner in
    /// the map is also redirected, to that owner, so that tokens receive the position of the shard
    /// that owned the slot in the meantime.
    pub fn remember(
        &self,
        map: &ShardMap,
        slot: Slot,
        (from, to): (ShardNumber, ShardNumber),
        former_position: Option<&FormerPosition>,
    ) {
        let since = map.since(slot);
        let mut known = self.lock();
        known.doubt_lost();
        let redirect = known.by_slot.get(&slot.number()).copied();
        let redirect = redirect.filter(|redirect| redirect.since == since);
        let came_back =
            former_position.is_some() && redirect.is_some_and(|redirect| redirect.to != to);
        if map.owner(slot) == to && !came_back {
            // A repeated report of a slot that came back changes nothing.
            if redirect.is_none_or(|redirect| redirect.to != to) {
                known.by_slot.remove(&slot.number());
            }
        } else {
            known.by_slot.insert(slot.number(), Redirect { to, since, is_doubted: false });
            known.add_former_positions((from, to), former_position);
        }
        self.update(&mut known);
    }

    /// Returns the former owners of slots that are redirected to a shard, each with a position at
    /// which the slots had moved. A position that was lost in a failover is first replaced with one
    /// of the present timeline.
    pub fn former_owner_positions(&self, to: ShardNumber) -> Vec<(ShardNumber, Position)> {
        let known = self.read();
        if !known.has_lost(to) {
            return known.positions_of(to);
        }
        drop(known);
        let mut known = self.lock();
        known.doubt_lost();
        known.positions_of(to)
    }

    /// Forgets that a slot has moved to this shard.
    pub fn forget(&self, slot: Slot, to: ShardNumber) {
        if self.is_empty() {
            return;
        }
        let mut known = self.lock();
        if known.by_slot.get(&slot.number()).is_some_and(|redirect| redirect.to == to) {
            known.by_slot.remove(&slot.number());
            self.update(&mut known);
        }
    }

    fn update(&self, known: &mut Known) {
        if known.by_slot.is_empty() {
            known.former_positions.clear();
        }
        self.count.store(known.by_slot.len(), Ordering::Release);
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Returns the former owners of slots that are redirected to a shard, with their positions.
    fn former_positions_of(
        &self,
        to: ShardNumber,
    ) -> impl Iterator<Item = (ShardNumber, &FormerPosition)> {
        let former_positions = self.former_positions.range((to, ShardNumber(0))..);
        let former_positions = former_positions.take_while(move |((owner, _), _)| *owner == to);
        former_positions.map(|((_, former), former_position)| (*former, former_position))
    }

    fn positions_of(&self, to: ShardNumber) -> Vec<(ShardNumber, Position)> {
        self.former_positions_of(to)
            .map(|(former, former_position)| (former, former_position.position))
            .collect()
    }

    /// Returns true if a former owner of this shard's slots has lost its former position.
    fn has_lost(&self, to: ShardNumber) -> bool {
        self.former_positions_of(to).any(|(_, former_position)| former_position.is_lost())
    }

    /// Renews the former positions that were lost, and marks the redirects that rely on them as
    /// doubted.
    fn doubt_lost(&mut self) {
        let mut targets = BTreeSet::new();
        for ((to, _), former_position) in &mut self.former_positions {
            if former_position.is_lost() {
                former_position.renew();
                targets.insert(*to);
            }
        }
        if targets.is_empty() {
            return;
        }
        for redirect in self.by_slot.values_mut() {
            redirect.is_doubted |= targets.contains(&redirect.to);
        }
    }

    /// Adds the former owner of a slot, and the former owners recorded for that shard, to the
    /// former owners of the new owner.
    fn add_former_positions(
        &mut self,
        (from, to): (ShardNumber, ShardNumber),
        former_position: Option<&FormerPosition>,
    ) {
        let earlier = self
            .former_positions_of(from)
            .map(|(former, former_position)| (former, former_position.clone()));
        let mut added: Vec<(ShardNumber, FormerPosition)> = earlier.collect();
        added.extend(former_position.map(|former_position| (from, former_position.clone())));
        // The new owner itself is left out: a slot may return to a shard that has owned it before.
        for (former, former_position) in added.into_iter().filter(|(former, _)| *former != to) {
            let known = self.former_positions.get(&(to, former));
            if known.is_none_or(|known| known.position.sequence < former_position.position.sequence)
            {
                self.former_positions.insert((to, former), former_position);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use model::keyspace::Keyspace;
    use model::placement::Placement;
    use model::position::TimelineHistory;
    use model::topology::Topology;

    use super::*;

    fn position(sequence: u64) -> Position {
        Position { timeline: 1, sequence }
    }

    /// Returns a position of a shard of three nodes on timeline 1.
    fn former_position(sequence: u64) -> FormerPosition {
        let history = TimelineHistory::new(vec![(1, 0)]).expect("one timeline");
        let replication = ReplicationState::new(history, sequence, 3).with_shared_writers();
        FormerPosition { position: position(sequence), replication: Arc::new(replication) }
    }

    /// Promotes a node that has the changes up to `kept`, and has reached `reached` since.
    fn promote(former_position: &FormerPosition, kept: u64, reached: u64) {
        let history = former_position.replication.timeline().history().followed_by(2, kept);
        former_position.replication.follow(history, reached, 1);
    }

    #[test]
    fn a_redirect_lasts_until_its_target_refuses_the_slot() {
        let topology = Topology::with_weights(&[1, 1]).expect("two shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("a map");
        let (slot, redirects) = (Slot::new(0).expect("a slot"), SlotRedirects::default());
        let owner = map.owner(slot);
        let other = ShardNumber(1 - owner.0);
        assert_eq!(redirects.find(&map, slot), None);
        let former_position = former_position(7);
        redirects.remember(&map, slot, (owner, other), Some(&former_position));
        assert_eq!(redirects.find(&map, slot), Some(other));
        assert!(redirects.contains(slot, other) && !redirects.contains(slot, owner));
        redirects.forget(slot, owner);
        assert_eq!(redirects.find(&map, slot), Some(other), "another shard has refused it");
        redirects.forget(slot, other);
        assert!(redirects.is_empty() && redirects.former_owner_positions(other).is_empty());
        redirects.remember(&map, slot, (other, owner), Some(&former_position));
        assert!(redirects.is_empty(), "the map names the owner, and no other was followed");
    }

    #[test]
    fn a_slot_that_came_back_is_redirected_to_the_owner_in_the_map() {
        let topology = Topology::with_weights(&[1, 1]).expect("two shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("a map");
        let (slot, redirects) = (Slot::new(0).expect("a slot"), SlotRedirects::default());
        let owner = map.owner(slot);
        let other = ShardNumber(1 - owner.0);
        redirects.remember(&map, slot, (owner, other), Some(&former_position(7)));
        for _ in 0..2 {
            redirects.remember(&map, slot, (other, owner), Some(&former_position(4)));
            assert_eq!(redirects.find(&map, slot), Some(owner));
            assert_eq!(redirects.former_owner_positions(owner), [(other, position(4))]);
        }
        redirects.remember(&map, slot, (owner, other), Some(&former_position(9)));
        assert_eq!(redirects.find(&map, slot), Some(other), "it moved again");
        assert_eq!(redirects.former_owner_positions(other), [(owner, position(9))]);
    }

    #[test]
    fn a_lost_former_position_is_replaced_in_tokens_by_a_position_of_the_new_timeline() {
        let topology = Topology::with_weights(&[1, 1]).expect("two shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("a map");
        let redirects = SlotRedirects::default();
        let owner = map.owner(Slot::new(0).expect("a slot"));
        let other = ShardNumber(1 - owner.0);
        let mut slots = (0..).filter_map(Slot::new).filter(|slot| map.owner(*slot) == owner);
        let [first, second] = [(); 2].map(|()| slots.next().expect("a slot of the owner"));
        let before = former_position(100);
        for slot in [first, second] {
            redirects.remember(&map, slot, (owner, other), Some(&before));
        }
        promote(&before, 100, 110);
        assert_eq!(redirects.former_owner_positions(other), [(owner, position(100))], "it is kept");
        assert_eq!(redirects.find(&map, first), Some(other));
        let before = former_position(105);
        redirects.remember(&map, first, (owner, other), Some(&before));
        promote(&before, 90, 95);
        let renewed = Position { timeline: 2, sequence: 95 };
        assert_eq!(redirects.former_owner_positions(other), [(owner, renewed)]);
        assert!(before.replication.timeline().holds(renewed));
        assert!([first, second].iter().all(|slot| redirects.find(&map, *slot).is_none()));
        let after = FormerPosition { position: Position { timeline: 2, sequence: 96 }, ..before };
        redirects.remember(&map, first, (owner, other), Some(&after));
        assert_eq!(redirects.find(&map, first), Some(other));
        assert_eq!(redirects.find(&map, second), None, "its own move may still be lost");
    }

    #[test]
    fn a_new_owner_has_the_positions_of_all_former_ones() {
        let topology = Topology::with_weights(&[1, 1, 1]).expect("three shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("a map");
        let (slot, redirects) = (Slot::new(0).expect("a slot"), SlotRedirects::default());
        let [first, second, third] = [0, 1, 2].map(ShardNumber);
        redirects.remember(&map, slot, (first, second), Some(&former_position(9)));
        redirects.remember(&map, slot, (first, second), Some(&former_position(8)));
        assert_eq!(redirects.former_owner_positions(second), [(first, position(9))]);
        redirects.remember(&map, slot, (second, third), Some(&former_position(3)));
        let former_positions = [(first, position(9)), (second, position(3))];
        assert_eq!(redirects.former_owner_positions(third), former_positions);
        assert!(redirects.former_owner_positions(first).is_empty());
    }
}
