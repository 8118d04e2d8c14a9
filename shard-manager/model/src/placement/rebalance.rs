//! Rebalance: new owners for a topology that has changed, with as few moves as the weights allow.
//!
//! Source: the balancers of Redis (`redis-cli --cluster rebalance`) and of CockroachDB, without
//! their heuristics. Computing a placement again moves slots by its rule; this moves only the slots
//! that the shares require. The result is within one slot of every share, whatever the placement
//! was. The price is a longer map: ranges break up with every change, and only the map itself
//! determines the owner of a slot.
//!
//! **Invariant:** exactly as many slots move as shards lack, and no table within one slot of the
//! shares can be reached with fewer.
//! **Not here:** moving rows; the time of a move.

use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, ShardSpec, ShardState, Topology};

/// Returns the owners under the new topology. Shards with the same name are the same shard. Slots
/// of a removed, draining or weightless shard move, and of a shard with too many slots those with
/// the highest numbers. They go to the shards that lack slots, both in order.
///
/// # Panics
/// If the number of owners is not [`SLOT_COUNT`], or an owner is not in the old topology.
pub fn rebalance(current: &[ShardNumber], old: &Topology, new: &Topology) -> Vec<ShardNumber> {
    assert_eq!(current.len(), usize::from(SLOT_COUNT), "every slot has one owner");
    let find = |spec: &ShardSpec| match spec.state {
        ShardState::Joining | ShardState::Serving | ShardState::Draining => new.find(&spec.name),
        ShardState::Retired => None,
    };
    let renamed: Vec<Option<ShardNumber>> = old.shards().iter().map(find).collect();
    let mut counts = vec![0; new.len()];
    let mut owners: Vec<Option<ShardNumber>> =
        current.iter().map(|shard| renamed[shard.index()]).collect();
    owners.iter().flatten().for_each(|shard| counts[shard.index()] += 1);
    let targets = targets(new, &counts);
    let mut kept = vec![0; new.len()];
    for owner in &mut owners {
        *owner = owner.filter(|shard| {
            kept[shard.index()] += 1;
            kept[shard.index()] <= targets[shard.index()]
        });
    }
    let lacks = |shard: ShardNumber| targets[shard.index()].saturating_sub(counts[shard.index()]);
    let mut takers =
        new.numbers().flat_map(|shard| std::iter::repeat_n(shard, usize::from(lacks(shard))));
    let settled = owners.into_iter().map(|owner| {
        owner.or_else(|| takers.next()).expect("shards lack as many slots as are without owner")
    });
    settled.collect()
}

/// Returns the number of slots of each shard: its share rounded down, or up while slots are left.
/// Shares are first rounded up for shards that have more already, because that saves a move; then
/// in the order of shards.
pub(crate) fn targets(topology: &Topology, counts: &[u16]) -> Vec<u16> {
    let weights = topology.share_weights();
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let shares = weights.iter().map(|weight| u64::from(SLOT_COUNT) * u64::from(*weight));
    let (floors, is_whole): (Vec<u16>, Vec<bool>) =
        shares.map(|share| ((share / total) as u16, share % total == 0)).unzip();
    let mut left = SLOT_COUNT - floors.iter().sum::<u16>();
    let mut targets = floors.clone();
    // The rounded-down shares decide which shards have more: a share that was rounded up in the
    // first turn already has its slot.
    for wants_more in [true, false] {
        for (index, target) in targets.iter_mut().enumerate() {
            let fits = !is_whole[index] && (counts[index] > floors[index]) == wants_more;
            if fits && left > 0 {
                *target += 1;
                left -= 1;
            }
        }
    }
    targets
}
