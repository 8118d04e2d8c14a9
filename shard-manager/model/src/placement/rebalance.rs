//! Rebalance: computes the owners of the slots for a changed topology, so that as few slots as
//! possible move.
//!
//! Source: the balancers of Redis (`redis-cli --cluster rebalance`) and of CockroachDB, without
//! their heuristics. Computing a placement again moves every slot to which its rule gives another
//! owner; a rebalance moves only as many slots as the new shares require. Afterwards each shard is
//! within one slot of its exact share, whatever the placement was. The price is a longer map: every
//! change breaks ranges up, and no rule gives the owner of a slot any more, only the map.
//!
//! **Invariant:** the number of slots that move is the number that shards are short of their
//! targets, and no table within one slot of the shares can be reached with fewer moves.
//! **Not here:** moving rows; the choice of the time of a move.

use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardNumber, ShardSpec, ShardState, Topology};

/// Returns the owner of each slot under the new topology. Shards with the same name in both
/// topologies are the same shard. All slots of a shard that is removed, draining or of weight 0
/// move; a shard with too many slots gives those with the highest numbers. These slots, in
/// ascending order, go to the shards that have too few, in the order of the shards.
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

/// Returns the number of slots that each shard should have: its share rounded down, or up as long
/// as slots are left over. The first shares to be rounded up are those of shards that have more
/// slots than the rounded-down share already, because that saves a move; then come the others, in
/// the order of the shards.
pub(crate) fn targets(topology: &Topology, counts: &[u16]) -> Vec<u16> {
    let weights = topology.share_weights();
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let shares = weights.iter().map(|weight| u64::from(SLOT_COUNT) * u64::from(*weight));
    let (floors, is_whole): (Vec<u16>, Vec<bool>) =
        shares.map(|share| ((share / total) as u16, share % total == 0)).unzip();
    let mut left = SLOT_COUNT - floors.iter().sum::<u16>();
    let mut targets = floors.clone();
    // The comparison is with the rounded-down shares, not with the targets, so that the second pass
    // does not round up a share again that the first pass has rounded up.
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
