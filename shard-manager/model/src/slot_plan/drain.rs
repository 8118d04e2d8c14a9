//! Drain: the owners of slots after one shard has given all of its slots away.
//!
//! **Not here:** the state of the shard (`topology`).

use std::cmp::Ordering;

use crate::topology::ShardNumber;

/// Returns the owners after a drain. Each slot goes to the shard that is least full by its weight;
/// the slots that a shard takes are neighbours, so that there are few ranges.
///
/// # Panics
/// If no weight is positive.
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
        // Fullness after taking one more slot.
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
