//! Drain: computes the owners of the slots after one shard has given all its slots to others.
//!
//! **Not here:** the state of the shard (`topology`).

use std::cmp::Ordering;

use crate::topology::ShardNumber;

/// Returns the owners after a drain. The number of slots that each shard takes follows from giving
/// one slot at a time to the shard that has the fewest in proportion to its weight. The slots that
/// a shard takes are consecutive among those of the drained shard, so that the map has few ranges.
///
/// # Panics
/// If the drained shard has slots and no weight is above 0.
pub(super) fn desired(
    owners: &[ShardNumber],
    weights: &[u32],
    drained: ShardNumber,
) -> Vec<ShardNumber> {
    let mut counts = vec![0_u64; weights.len()];
    owners.iter().for_each(|owner| counts[owner.index()] += 1);
    let mut takes = vec![0_usize; weights.len()];
    for _ in 0..counts[drained.index()] {
        let takers = (0..weights.len()).filter(|index| weights[*index] > 0);
        // Compares the fullness that two shards would have with one more slot.
        let fuller = |one: &usize, other: &usize| -> Ordering {
            let this = (counts[*one] + 1) * u64::from(weights[*other]);
            this.cmp(&((counts[*other] + 1) * u64::from(weights[*one])))
        };
        let taker = takers.min_by(fuller).expect("a shard has a weight");
        counts[taker] += 1;
        takes[taker] += 1;
    }
    let takers = (0..).map(ShardNumber).zip(takes);
    let mut takers = takers.flat_map(|(shard, takes)| std::iter::repeat_n(shard, takes));
    let owner = |owner: &ShardNumber| {
        let taker = if *owner == drained { takers.next() } else { None };
        taker.unwrap_or(*owner)
    };
    owners.iter().map(owner).collect()
}
