//! Slot redirects: shards to which slots have moved, as their former owners reported, until the
//! shard map names them.
//!
//! A replica of the former owner that lags may still show the rows of such a slot, also to other
//! routers. So a response of the new owner adds a position of the former one to the client's token:
//! its *home*, at which the slot had moved.
//!
//! **Invariant:** a redirect is followed only until the map names an owner with a later epoch than
//! it did when the redirect was learned, and until the target refuses the slot.
//! **Not here:** the map (`model::shard_map`), the refusals (`model::slot_refusal`).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use model::keyspace::Slot;
use model::position::Position;
use model::shard_map::ShardMap;
use model::topology::ShardNumber;

/// Redirects by slot.
#[derive(Debug, Default)]
pub struct SlotRedirects {
    /// Number of redirects, so that nothing is locked while there are none.
    count: AtomicUsize,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    by_slot: HashMap<u16, Redirect>,
    /// Positions of former owners at which slots had moved, by the new owner and the former one. A
    /// position stays until there are no redirects.
    former_owner_positions: BTreeMap<(ShardNumber, ShardNumber), Position>,
}

#[derive(Clone, Copy, Debug)]
struct Redirect {
    to: ShardNumber,
    /// Epoch in which the slot got the owner that the map named when the redirect was learned.
    since: u64,
}

impl SlotRedirects {
    /// Returns true if there are no redirects.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Returns the shard to which a slot has moved; `None` if the map names the owner.
    pub fn find(&self, map: &ShardMap, slot: Slot) -> Option<ShardNumber> {
        if self.is_empty() {
            return None;
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let redirect = *known.by_slot.get(&slot.number())?;
        drop(known);
        if map.since(slot) <= redirect.since && map.owner(slot) != redirect.to {
            return Some(redirect.to);
        }
        self.forget(slot, redirect.to);
        None
    }

    /// Returns true if a slot is redirected to this shard.
    pub fn contains(&self, slot: Slot, to: ShardNumber) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_slot.get(&slot.number()).is_some_and(|redirect| redirect.to == to)
    }

    /// Remembers that a slot has moved from one shard to another. `home` is a position of the
    /// former owner at which it had moved.
    pub fn remember(
        &self,
        map: &ShardMap,
        slot: Slot,
        (from, to): (ShardNumber, ShardNumber),
        home: Option<Position>,
    ) {
        let since = map.since(slot);
        let mut known = self.lock();
        if map.owner(slot) == to {
            known.by_slot.remove(&slot.number());
        } else {
            known.by_slot.insert(slot.number(), Redirect { to, since });
            known.add_positions((from, to), home);
        }
        self.update(&mut known);
    }

    /// Returns the former owners of slots that are redirected to a shard, each with a position at
    /// which they had moved.
    pub fn former_owner_positions(&self, to: ShardNumber) -> Vec<(ShardNumber, Position)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
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
            known.former_owner_positions.clear();
        }
        self.count.store(known.by_slot.len(), Ordering::Release);
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn positions_of(&self, to: ShardNumber) -> Vec<(ShardNumber, Position)> {
        let first = (to, ShardNumber(0));
        let positions = self.former_owner_positions.range(first..);
        let positions = positions.take_while(|((owner, _), _)| *owner == to);
        positions.map(|((_, former), home)| (*former, *home)).collect()
    }

    /// Adds the former owner of a slot, and its own former owners, to those of the new owner.
    fn add_positions(&mut self, (from, to): (ShardNumber, ShardNumber), home: Option<Position>) {
        let earlier = self.positions_of(from);
        for (former, home) in home.map(|home| (from, home)).into_iter().chain(earlier) {
            let known = self.former_owner_positions.entry((to, former)).or_insert(home);
            if known.sequence < home.sequence {
                *known = home;
            }
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
    fn a_redirect_lasts_until_its_target_refuses_the_slot() {
        let topology = Topology::with_weights(&[1, 1]).expect("two shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("a map");
        let (slot, redirects) = (Slot::new(0).expect("a slot"), SlotRedirects::default());
        let owner = map.owner(slot);
        let other = ShardNumber(1 - owner.0);
        assert_eq!(redirects.find(&map, slot), None);
        let home = Some(Position { timeline: 1, sequence: 7 });
        redirects.remember(&map, slot, (owner, other), home);
        assert_eq!(redirects.find(&map, slot), Some(other));
        assert!(redirects.contains(slot, other) && !redirects.contains(slot, owner));
        redirects.forget(slot, owner);
        assert_eq!(redirects.find(&map, slot), Some(other), "another shard has refused it");
        redirects.forget(slot, other);
        assert!(redirects.is_empty() && redirects.former_owner_positions(other).is_empty());
        redirects.remember(&map, slot, (owner, other), home);
        redirects.remember(&map, slot, (other, owner), home);
        assert!(redirects.is_empty(), "the slot came back");
    }

    #[test]
    fn a_new_owner_has_the_homes_of_all_former_ones() {
        let topology = Topology::with_weights(&[1, 1, 1]).expect("three shards");
        let map = ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("a map");
        let (slot, redirects) = (Slot::new(0).expect("a slot"), SlotRedirects::default());
        let [first, second, third] = [0, 1, 2].map(ShardNumber);
        let home = |sequence| Position { timeline: 1, sequence };
        redirects.remember(&map, slot, (first, second), Some(home(9)));
        redirects.remember(&map, slot, (first, second), Some(home(8)));
        assert_eq!(redirects.former_owner_positions(second), [(first, home(9))]);
        redirects.remember(&map, slot, (second, third), Some(home(3)));
        assert_eq!(redirects.former_owner_positions(third), [(first, home(9)), (second, home(3))]);
        assert!(redirects.former_owner_positions(first).is_empty());
    }
}
