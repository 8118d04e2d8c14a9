//! Rebalance: new owners for a topology that has changed, with as few moves as the weights allow.
//!
//! Source: the balancers of Redis (`redis-cli --cluster rebalance`) and of CockroachDB, without
//! their heuristics. Where a placement built again would move what its rule says, this moves what
//! the shares demand and not a slot more; the result is within one slot of every share, whatever
//! the placement was. The price is the map: ranges break up with every change, and where a slot
//! lies has no rule any more but the map itself.
//!
//! **Invariant:** the moves are exactly as many as shards lack slots, and no table within one slot
//! of the shares can be reached with fewer.
//! **Not here:** moving rows; when to move.

use crate::keyspace::SLOT_COUNT;
use crate::topology::{ShardIndex, Topology};

/// The owners under the new topology. Shards are the same if their names are; slots of a shard that
/// is gone move, and of one that has too many those with the highest numbers. They go to the shards
/// that lack some, both in order.
///
/// # Panics
/// If there are not [`SLOT_COUNT`] owners, all of the old topology.
pub fn rebalance(current: &[ShardIndex], old: &Topology, new: &Topology) -> Vec<ShardIndex> {
    assert_eq!(current.len(), usize::from(SLOT_COUNT), "every slot has one owner");
    let renamed: Vec<Option<ShardIndex>> =
        old.indices().map(|shard| new.find(old.name(shard))).collect();
    let mut counts = vec![0; new.len()];
    let mut owners: Vec<Option<ShardIndex>> =
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
    let lacks = |shard: ShardIndex| targets[shard.index()].saturating_sub(counts[shard.index()]);
    let mut takers =
        new.indices().flat_map(|shard| std::iter::repeat_n(shard, usize::from(lacks(shard))));
    let settled = owners.into_iter().map(|owner| {
        owner.or_else(|| takers.next()).expect("shards lack as many slots as are without owner")
    });
    settled.collect()
}

/// Number of slots of each shard: its share rounded down, or up where slots are left. Shares are
/// rounded up first where the shard has more already, because that saves a move; then in the order
/// of shards.
fn targets(topology: &Topology, counts: &[u16]) -> Vec<u16> {
    let total: u64 = topology.shards().iter().map(|shard| u64::from(shard.weight)).sum();
    let shares =
        topology.shards().iter().map(|shard| u64::from(SLOT_COUNT) * u64::from(shard.weight));
    let (floors, is_whole): (Vec<u16>, Vec<bool>) =
        shares.map(|share| ((share / total) as u16, share % total == 0)).unzip();
    let mut left = SLOT_COUNT - floors.iter().sum::<u16>();
    let mut targets = floors.clone();
    // Who has more is told by the floors: a share that was rounded up in the first turn has had its
    // slot.
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
