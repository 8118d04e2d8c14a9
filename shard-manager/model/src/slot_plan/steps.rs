//! Steps: the slots that change their owner, in parts that are moved one by one.
//!
//! **Invariant:** the parts are disjoint and hold every slot whose owner changes.
//! **Not here:** the owners (`even`, `drain`, placements).

use std::collections::BTreeMap;

use crate::keyspace::Slot;
use crate::slot_set::SlotSet;
use crate::topology::ShardNumber;

/// Slots that change their owner, by giver and taker, in order.
pub(super) struct Transfers(BTreeMap<(ShardNumber, ShardNumber), Vec<Slot>>);

/// Part of the slots that go from one shard to another.
struct SlotGroup {
    from: ShardNumber,
    to: ShardNumber,
    slots: SlotSet,
    /// Index among the parts of this giver and taker, and their number.
    place: (usize, usize),
}

impl Transfers {
    /// Returns the changes from one list of owners to another.
    pub(super) fn between(before: &[ShardNumber], after: &[ShardNumber]) -> Self {
        let mut pairs: BTreeMap<_, Vec<Slot>> = BTreeMap::new();
        for (number, (from, to)) in (0..).zip(before.iter().zip(after)) {
            if let Some(slot) = Slot::new(number).filter(|_| from != to) {
                pairs.entry((*from, *to)).or_default().push(slot);
            }
        }
        Self(pairs)
    }

    /// Returns the slots in parts of at most this size. Parts of different shards alternate, so
    /// that several run at a time and the shards fill at the same pace.
    pub(super) fn parts(&self, slots_max: usize) -> Vec<(ShardNumber, ShardNumber, SlotSet)> {
        let mut parts = Vec::new();
        for (&(from, to), slots) in &self.0 {
            let count = slots.len().div_ceil(slots_max);
            for (index, slots) in slots.chunks(slots_max).enumerate() {
                let slots = slots.iter().copied().collect();
                parts.push(SlotGroup { from, to, slots, place: (index, count) });
            }
        }
        // Sorts by the fraction of a pair's parts that come before, compared without rounding.
        parts.sort_by(|one, other| {
            let ((first, count), (second, all)) = (one.place, other.place);
            (first * all)
                .cmp(&(second * count))
                .then((one.from, one.to).cmp(&(other.from, other.to)))
        });
        parts.into_iter().map(|SlotGroup { from, to, slots, .. }| (from, to, slots)).collect()
    }
}
