//! Slot redirects: shards to which slots have moved, as their former owners reported, until the
//! shard map names them.
//!
//! **Invariant:** a redirect is followed only until the map names an owner with a later epoch than
//! it did when the redirect was learned, and until the target refuses the slot.
//! **Not here:** the map (`model::shard_map`), the refusals (`model::slot_refusal`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockWriteGuard};

use model::keyspace::Slot;
use model::shard_map::ShardMap;
use model::topology::ShardNumber;

/// Redirects by slot.
#[derive(Debug, Default)]
pub struct SlotRedirects {
    /// Number of redirects, so that nothing is locked while there are none.
    count: AtomicUsize,
    by_slot: RwLock<HashMap<u16, Redirect>>,
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
        let by_slot = self.by_slot.read().unwrap_or_else(PoisonError::into_inner);
        let redirect = *by_slot.get(&slot.number())?;
        drop(by_slot);
        if map.since(slot) <= redirect.since && map.owner(slot) != redirect.to {
            return Some(redirect.to);
        }
        self.forget(slot, redirect.to);
        None
    }

    /// Remembers that a slot has moved to a shard.
    pub fn remember(&self, map: &ShardMap, slot: Slot, to: ShardNumber) {
        let since = map.since(slot);
        let mut by_slot = self.lock();
        if map.owner(slot) == to {
            by_slot.remove(&slot.number());
        } else {
            by_slot.insert(slot.number(), Redirect { to, since });
        }
        self.count.store(by_slot.len(), Ordering::Release);
    }

    /// Forgets that a slot has moved to this shard.
    pub fn forget(&self, slot: Slot, to: ShardNumber) {
        if self.is_empty() {
            return;
        }
        let mut by_slot = self.lock();
        if by_slot.get(&slot.number()).is_some_and(|redirect| redirect.to == to) {
            by_slot.remove(&slot.number());
            self.count.store(by_slot.len(), Ordering::Release);
        }
    }

    fn lock(&self) -> RwLockWriteGuard<'_, HashMap<u16, Redirect>> {
        self.by_slot.write().unwrap_or_else(PoisonError::into_inner)
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
        redirects.remember(&map, slot, other);
        assert_eq!(redirects.find(&map, slot), Some(other));
        redirects.forget(slot, owner);
        assert_eq!(redirects.find(&map, slot), Some(other), "another shard has refused it");
        redirects.forget(slot, other);
        assert!(redirects.is_empty());
        redirects.remember(&map, slot, other);
        redirects.remember(&map, slot, owner);
        assert!(redirects.is_empty(), "the slot came back");
    }
}
