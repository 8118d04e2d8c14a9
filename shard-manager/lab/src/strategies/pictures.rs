//! Pictures: charts of the points on a ring, and of the owners of all slots before and after a
//! change of the shards.

use model::keyspace::Keyspace;
use model::placement::{Placement, rebalance, ring};
use model::shard_map::ShardMap;
use model::simulation::{Algorithm, TopologyChange};
use model::topology::{ShardNumber, Topology};

use super::placements;
use crate::chart::{Chart, RingChart, SlotChart};

/// Numbers of virtual nodes for each unit of weight, each of which gets a picture of its ring.
const VNODES: [u32; 2] = [8, ring::VNODES_DEFAULT];

/// Returns the pictures of a topology and of each change of it.
pub(super) fn of(topology: &Topology, changes: &[TopologyChange]) -> Vec<Chart> {
    let rings = VNODES.iter().filter_map(|vnodes| ring_chart(*vnodes, topology));
    let slots = changes.iter().filter_map(|change| {
        let after = change.apply(topology).ok()?;
        Some(slot_chart(topology, change, &after))
    });
    slots.chain(rings).collect()
}

fn names(topology: &Topology) -> Vec<String> {
    topology.numbers().map(|shard| topology.name(shard).to_owned()).collect()
}

fn ring_chart(vnodes: u32, topology: &Topology) -> Option<Chart> {
    let points = ring::points(vnodes, topology).ok()?;
    let share = |place: u32| f64::from(place) / 2_f64.powi(32);
    let points = points.into_iter().map(|(place, shard)| (share(place), shard.index())).collect();
    let title = format!("Ring with {vnodes} virtual nodes for each unit of weight");
    Some(Chart::Ring(RingChart { title, shards: names(topology), points }))
}

fn slot_chart(before: &Topology, change: &TopologyChange, after: &Topology) -> Chart {
    let mut rows = Vec::new();
    for (name, algorithm) in placements(&Keyspace::Hash, before) {
        let (old, new) = match &algorithm {
            Algorithm::Placement(placement) => {
                (owners(placement, before), owners(placement, after))
            }
            Algorithm::Rebalance(current) => {
                (Some(current.clone()), Some(rebalance(current, before, after)))
            }
        };
        let (Some(old), Some(new)) = (old, new) else { continue };
        rows.push((name, ranges(&old)));
        rows.push(("then".to_owned(), ranges(&new)));
    }
    let title = format!("Owners of the slots before, and after: {change}");
    // A change adds a shard at the end or removes the last one, so every other shard has the same
    // number before and after.
    let larger = if before.len() > after.len() { before } else { after };
    Chart::Slots(SlotChart { title, shards: names(larger), rows })
}

fn owners(placement: &Placement, topology: &Topology) -> Option<Vec<ShardNumber>> {
    let map = ShardMap::first(Keyspace::Hash, placement.clone(), topology.clone()).ok()?;
    Some(map.owners().map(|owner| owner.shard).collect())
}

fn ranges(owners: &[ShardNumber]) -> Vec<(u16, u16, usize)> {
    let mut ranges: Vec<(u16, u16, usize)> = Vec::new();
    for (slot, shard) in (0..).zip(owners) {
        match ranges.last_mut() {
            Some((_, last, owner)) if *owner == shard.index() => *last = slot,
            Some(_) | None => ranges.push((slot, slot, shard.index())),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_has_a_picture_in_which_every_shard_has_a_name() {
        let topology = Topology::with_weights(&[1, 1, 2]).expect("weights");
        let changes = super::super::changes(&topology);
        let titles = ["add a shard", "remove shard3", "shard1 = 2"];
        let pictures = of(&topology, &changes);
        let slots: Vec<&SlotChart> = pictures
            .iter()
            .filter_map(|picture| match picture {
                Chart::Slots(slots) => Some(slots),
                Chart::Bars(_) | Chart::Ring(_) => None,
            })
            .collect();
        assert_eq!(slots.len(), titles.len());
        for (picture, title) in slots.into_iter().zip(titles) {
            assert!(picture.title.ends_with(title), "{}", picture.title);
            let owners = picture.rows.iter().flat_map(|(_, ranges)| ranges);
            let last = owners.map(|(_, _, shard)| *shard).max();
            assert!(last.is_some_and(|last| last < picture.shards.len()), "{title}: {last:?}");
        }
    }
}
