//! Even: computes the owners of the slots that give each shard its share, with as few changes as
//! possible.
//!
//! **Not here:** the shares (`placement`).

use crate::keyspace::Slot;
use crate::placement::slot_targets;
use crate::slot_set::SlotSet;
use crate::topology::{ShardNumber, Topology};

/// Returns the owners after a plan by number of slots. A shard with too many slots gives those with
/// the highest numbers, except those that are already being moved. Shards with too few take them in
/// the order of the shards.
pub(super) fn desired(
    topology: &Topology,
    owners: &[ShardNumber],
    moving: &SlotSet,
) -> Vec<ShardNumber> {
    let mut counts = vec![0_u16; topology.len()];
    owners.iter().for_each(|owner| counts[owner.index()] += 1);
    let targets = slot_targets(topology, &counts);
    let both = || counts.iter().zip(&targets);
    let mut excess: Vec<u16> = both().map(|(count, goal)| count.saturating_sub(*goal)).collect();
    let mut given = Vec::new();
    for (slot, owner) in owners.iter().enumerate().rev() {
        let moves = Slot::new(slot as u16).is_some_and(|slot| moving.contains(slot));
        if excess[owner.index()] > 0 && !moves {
            excess[owner.index()] -= 1;
            given.push(slot);
        }
    }
    let lacks = both().map(|(count, goal)| usize::from(goal.saturating_sub(*count)));
    let takers = (0..).map(ShardNumber).zip(lacks);
    let takers = takers.flat_map(|(shard, lacks)| std::iter::repeat_n(shard, lacks));
    let mut desired = owners.to_vec();
    given.iter().rev().zip(takers).for_each(|(slot, taker)| desired[*slot] = taker);
    desired
}
