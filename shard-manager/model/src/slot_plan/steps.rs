//! Steps: divides the slots that change their owner into parts, each of which becomes one move.
//!
//! **Invariant:** the parts are disjoint, and together contain every slot whose owner changes.
//! **Not here:** choosing the new owners (`even`, `drain`, placements).

use std::collections::BTreeMap;

use crate::keyspace::Slot;
use crate::slot_set::SlotSet;
use crate::topology::ShardNumber;

/// Slots that change their owner, in slot order, for each pair of giver (the old owner) and taker
/// (the new owner).
pub(super) struct Transfers(BTreeMap<(ShardNumber, ShardNumber), Vec<Slot>>);

/// Part of the slots that move from one shard to another.
struct SlotGroup {
    from: ShardNumber,
    to: ShardNumber,
    slots: SlotSet,
    /// Index of this part among the parts of its pair of giver and taker, and the number of those
    /// parts.
    place: (usize, usize),
}

impl Transfers {
    /// Returns the slots whose owners differ between two lists of owners, which are in slot order.
    pub(super) fn between(before: &[ShardNumber], after: &[ShardNumber]) -> Self {
        let mut pairs: BTreeMap<_, Vec<Slot>> = BTreeMap::new();
        for (number, (from, to)) in (0..).zip(before.iter().zip(after)) {
            if let Some(slot) = Slot::new(number).filter(|_| from != to) {
                pairs.entry((*from, *to)).or_default().push(slot);
            }
        }
        Self(pairs)
    }

    /// Divides the slots into parts of at most `slots_max` slots. Parts of different pairs of
    /// shards alternate, so that several can be moved at the same time and the shards fill at the
    /// same pace.
    pub(super) fn parts(&self, slots_max: usize) -> Vec<(ShardNumber, ShardNumber, SlotSet)> {
        let mut parts = Vec::new();
        for (&(from, to), slots) in &self.0 {
            let count = slots.len().div_ceil(slots_max);
            for (index, slots) in slots.chunks(slots_max).enumerate() {
                let slots = slots.iter().copied().collect();
                parts.push(SlotGroup { from, to, slots, place: (index, count) });
            }
        }
        // Sorts each part by the fraction of its pair's parts that come before it. The fractions
        // are compared by cross-multiplication, without rounding.
        parts.sort_by(|one, other| {
            let ((first, count), (second, all)) = (one.place, other.place);
            (first * all)
                .cmp(&(second * count))
                .then((one.from, one.to).cmp(&(other.from, other.to)))
        });
        parts.into_iter().map(|SlotGroup { from, to, slots, .. }| (from, to, slots)).collect()
    }
}
