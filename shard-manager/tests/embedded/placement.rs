//! Tests of placement and shard map: every slot has one owner, each shard has its share, and ranges
//! can be stored and restored.

use proptest::prelude::*;
use shard_manager::keyspace::{Keyspace, SLOT_COUNT, ShardKey, Slot};
use shard_manager::placement::Placement;
use shard_manager::shard_map::{MapError, ShardMap, SlotRange};
use shard_manager::topology::{ShardNumber, ShardSpec, Topology, TopologyError};

fn topology(weights: &[u32]) -> Topology {
    Topology::with_weights(weights).expect("good weights")
}

fn map(placement: Placement, weights: &[u32]) -> ShardMap {
    ShardMap::first(Keyspace::Hash, placement, topology(weights)).expect("it fits")
}

fn ranges(placement: Placement, weights: &[u32]) -> Vec<(u16, u16, u16)> {
    let ranges = map(placement, weights).ranges();
    ranges.into_iter().map(|range| (range.first, range.last, range.shard.0)).collect()
}

fn restore(ranges: &[(u16, u16, u16)]) -> Result<ShardMap, MapError> {
    let ranges: Vec<SlotRange> = ranges
        .iter()
        .map(|&(first, last, shard)| SlotRange { first, last, shard: ShardNumber(shard) })
        .collect();
    ShardMap::restore(7, Keyspace::Hash, Placement::Even, topology(&[1, 1, 1]), &ranges)
}

#[test]
fn the_ranges_of_three_equal_shards_never_change() {
    let golden = [(0, 5461, 0), (5462, 10_922, 1), (10_923, 16_383, 2)];
    assert_eq!(ranges(Placement::Even, &[1, 1, 1]), golden);
    assert_eq!(ranges(Placement::Even, &[9, 1, 5]), golden, "weights are ignored");
}

#[test]
fn weights_of_50_25_and_25_make_a_half_and_two_quarters() {
    let golden = [(0, 8191, 0), (8192, 12_287, 1), (12_288, 16_383, 2)];
    assert_eq!(ranges(Placement::Weighted, &[50, 25, 25]), golden);
    assert_eq!(ranges(Placement::Weighted, &[2, 1, 1]), golden, "only proportions count");
}

#[test]
fn one_shard_owns_everything_and_256_own_64_slots_each() {
    assert_eq!(ranges(Placement::Even, &[1]), [(0, 16_383, 0)]);
    let ranges = ranges(Placement::Even, &[1; 256]);
    assert_eq!(ranges.len(), 256);
    assert!(ranges.iter().all(|(first, last, _)| last - first == 63));
}

#[test]
fn a_placement_is_found_by_its_own_name_only() {
    assert_eq!("even".parse(), Ok(Placement::Even));
    assert_eq!("weighted".parse(), Ok(Placement::Weighted));
    assert!("Even".parse::<Placement>().is_err());
    assert!("geo".parse::<Placement>().is_err());
}

#[test]
fn a_topology_has_1_to_256_shards_with_names_of_their_own_and_positive_weights() {
    let refused = |weights: &[u32]| Topology::with_weights(weights).expect_err("refused");
    assert_eq!(refused(&[]), TopologyError::Count { count: 0, most: 256 });
    assert_eq!(refused(&[1; 257]), TopologyError::Count { count: 257, most: 256 });
    assert!(
        matches!(refused(&[1, 0]), TopologyError::Weight { shard, weight: 0, .. } if shard == "shard2")
    );
    assert!(matches!(refused(&[1_000_001]), TopologyError::Weight { .. }));
    let same = ShardSpec::new("a", 1);
    assert!(matches!(
        Topology::new(vec![same.clone(), same]),
        Err(TopologyError::NameTwice { .. })
    ));
    let names: Vec<String> = topology(&[1; 3]).shards().iter().map(|s| s.name.clone()).collect();
    assert_eq!(names, ["shard1", "shard2", "shard3"]);
    assert_eq!(topology(&[1; 3]).find("shard3"), Some(ShardNumber(2)));
    assert_eq!(topology(&[1; 3]).find("shard4"), None);
}

#[test]
fn a_stored_map_with_a_gap_an_overlap_or_an_unknown_shard_is_refused() {
    const SLOTS: usize = SLOT_COUNT as usize;
    let last = 16_383;
    assert!(restore(&[(0, 99, 2), (100, last, 0)]).is_ok());
    let gap = |expected, found| Err(MapError::Gap { expected, found });
    assert_eq!(restore(&[]), gap(0, SLOTS));
    assert_eq!(restore(&[(1, last, 0)]), gap(0, 1));
    assert_eq!(restore(&[(0, 99, 0), (101, last, 1)]), gap(100, 101));
    assert_eq!(restore(&[(0, 99, 0), (99, last, 1)]), gap(100, 99));
    assert_eq!(restore(&[(0, last - 1, 0)]), gap(16_383, SLOTS));
    assert!(restore(&[(0, last + 1, 0)]).is_err());
    assert!(restore(&[(0, u16::MAX, 0)]).is_err());
    assert!(restore(&[(0, last, 0), (0, last, 0)]).is_err());
    assert!(restore(&[(0, 99, 0), (100, 50, 0), (51, last, 0)]).is_err());
    assert_eq!(restore(&[(0, 99, 0), (100, last, 3)]), Err(MapError::NoSuchShard { first: 100 }),);
}

/// One to 256 shards, usually few, with small and large weights.
fn weights() -> impl Strategy<Value = Vec<u32>> {
    let weight = prop_oneof![1..=10_u32, 1..=Topology::WEIGHT_MAX];
    prop_oneof![
        proptest::collection::vec(weight.clone(), 1..=8),
        proptest::collection::vec(weight, 1..=Topology::SHARDS_MAX),
    ]
}

proptest! {
    #![proptest_config(crate::cases(96))]

    #[test]
    fn every_slot_has_one_owner_ranges_are_contiguous_and_shares_fit_the_weights(
        weights in weights(),
        weighted in any::<bool>(),
    ) {
        let placement = if weighted { Placement::Weighted } else { Placement::Even };
        let owners = placement.assign(&topology(&weights)).expect("it fits");
        prop_assert_eq!(owners.len(), 16_384);
        prop_assert!(owners.is_sorted(), "a shard's slots lie together, in the shards' order");
        prop_assert!(owners.iter().all(|owner| owner.index() < weights.len()));
        let again = placement.assign(&topology(&weights)).expect("it fits");
        prop_assert_eq!(&owners, &again, "the same each time");
        let mut counts = vec![0_u32; weights.len()];
        owners.iter().for_each(|owner| counts[owner.index()] += 1);
        let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        for (&count, &weight) in counts.iter().zip(&weights) {
            let share = if weighted { f64::from(weight) / total } else { 1.0 / weights.len() as f64 };
            let off = (f64::from(count) - 16_384.0 * share).abs();
            prop_assert!(off < 1.0 + 1e-6, "{count} slots, off by {off}");
        }
    }

    #[test]
    fn equal_weights_are_the_even_placement(count in 1_usize..=256, weight in 1..=Topology::WEIGHT_MAX) {
        let topology = topology(&vec![weight; count]);
        prop_assert_eq!(Placement::Weighted.assign(&topology), Placement::Even.assign(&topology));
    }

    #[test]
    fn a_map_restored_from_its_ranges_is_the_same_map(weights in weights()) {
        let map = map(Placement::Weighted, &weights);
        let restored = ShardMap::restore(
            map.epoch(), map.keyspace().clone(), map.placement().clone(), map.topology().clone(), &map.ranges(),
        );
        prop_assert_eq!(restored.as_ref(), Ok(&map));
        for range in map.ranges().iter().take(4) {
            prop_assert!(map.slots_of(range.shard).eq(range.first..=range.last));
        }
    }

    #[test]
    fn a_scattered_map_is_restored_as_well(cuts in proptest::collection::btree_set(1_u16..16_384, 0..60)) {
        let ends: Vec<u16> = cuts.iter().copied().chain([16_384]).collect();
        let starts: Vec<u16> = [0].into_iter().chain(cuts).collect();
        let pairs = starts.iter().zip(&ends).zip(0_u16..);
        let ranges: Vec<_> = pairs.map(|((first, end), n)| (*first, end - 1, n % 3)).collect();
        let restored = restore(&ranges).expect("good ranges");
        let found: Vec<_> = restored.ranges().iter().map(|r| (r.first, r.last, r.shard.0)).collect();
        prop_assert_eq!(&found, &ranges);
        prop_assert_eq!(restored.epoch(), 7);
        for (first, last, shard) in ranges {
            for slot in [first, last].map(|number| Slot::new(number).expect("a slot")) {
                prop_assert_eq!(restored.owner(slot), ShardNumber(shard));
            }
        }
    }

    #[test]
    fn a_key_lives_where_the_owner_of_its_slot_is(key in "[a-z0-9_]{1,20}", weights in weights()) {
        let map = map(Placement::Weighted, &weights);
        let key = ShardKey::parse(&key).expect("a good key");
        let place = map.place(key).expect("a hash has a place for every key");
        prop_assert_eq!(place.slot, Keyspace::Hash.slot_of(key).unwrap());
        prop_assert_eq!(place.shard, map.owner(place.slot));
        prop_assert_eq!(place.epoch, 1);
        prop_assert!(map.slots_of(place.shard).any(|slot| slot == place.slot.number()));
    }
}
