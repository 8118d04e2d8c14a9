//! Tests of movement: how many slots change owner when a placement is rebuilt, compared with the
//! bound that each placement documents.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shard_manager::keyspace::{Keyspace, ShardKey};
use shard_manager::placement::Placement;
use shard_manager::shard_map::ShardMap;
use shard_manager::topology::{ShardSpec, Topology};

const SLOTS: f64 = 16_384.0;

/// Placements that are valid for any topology.
const ANY: [&str; 6] = ["even", "weighted", "modulo", "ring:160", "rendezvous", "jump"];

/// A shard with its weights before and after a change; 0 while it does not exist.
#[derive(Clone, Debug)]
struct Changing {
    name: String,
    before: u32,
    after: u32,
}

/// The owner's name of every slot: indices change when shards come and go.
fn names(placement: &str, shards: &[(&str, u32)]) -> Vec<String> {
    let spec = |(name, weight): &(&str, u32)| ShardSpec::new(*name, *weight);
    let topology = Topology::new(shards.iter().map(spec).collect()).expect("good shards");
    let placement: Placement = placement.parse().expect("a good placement");
    let owners = placement.assign(&topology).expect("it fits");
    owners.into_iter().map(|owner| topology.name(owner).to_owned()).collect()
}

fn tables(placement: &str, shards: &[Changing]) -> (Vec<String>, Vec<String>) {
    let at = |weight: fn(&Changing) -> u32| {
        let there = shards.iter().filter(|shard| weight(shard) > 0);
        let there: Vec<(&str, u32)> = there.map(|shard| (&*shard.name, weight(shard))).collect();
        names(placement, &there)
    };
    (at(|shard| shard.before), at(|shard| shard.after))
}

/// Number of slots that change owner, by old and new owner.
fn moves((before, after): &(Vec<String>, Vec<String>)) -> BTreeMap<(&str, &str), u32> {
    let mut moves = BTreeMap::new();
    for (old, new) in before.iter().zip(after).filter(|(old, new)| old != new) {
        *moves.entry((&**old, &**new)).or_default() += 1;
    }
    moves
}

/// Two to nine shards, and the index of the one that is added, removed or reweighted.
fn changes() -> impl Strategy<Value = (Vec<Changing>, usize)> {
    let shards = proptest::collection::btree_map("[a-z]{1,6}", 1_u32..20, 2..10)
        .prop_map(|shards| shards.into_iter().collect::<Vec<_>>())
        .prop_shuffle();
    (shards, any::<proptest::sample::Index>(), 0_u32..3, 1_u32..20).prop_map(
        |(shards, which, kind, other)| {
            let which = which.index(shards.len());
            let mut shards: Vec<Changing> = shards
                .into_iter()
                .map(|(name, weight)| Changing { name, before: weight, after: weight })
                .collect();
            match kind {
                0 => shards[which].before = 0,
                1 => shards[which].after = 0,
                _ => shards[which].after = other,
            }
            (shards, which)
        },
    )
}

/// Change of one shard's share, as a fraction of the total.
fn change_of_share(weights: &[(f64, f64)], which: usize) -> f64 {
    let total = |of: fn(&(f64, f64)) -> f64| weights.iter().map(of).sum::<f64>();
    let (before, after) = weights[which];
    (after / total(|weight| weight.1) - before / total(|weight| weight.0)).abs()
}

/// Maximum number of slots that may move, as documented in the placement's file.
fn bound(placement: &str, shards: &[Changing], which: usize) -> f64 {
    let is_weighted = placement.parse::<Placement>().expect("a placement").is_weighted();
    let count = |weight: u32| f64::from(if is_weighted { weight } else { weight.min(1) });
    let weights: Vec<(f64, f64)> =
        shards.iter().map(|shard| (count(shard.before), count(shard.after))).collect();
    let share = SLOTS * change_of_share(&weights, which);
    if share == 0.0 {
        return 0.0;
    }
    let shards = shards.len();
    match placement {
        // Slots that a shard gains or loses pass through the shards between it and the ends.
        "even" | "weighted" => {
            let weight = |index: usize| weights[index].0;
            let others = (0..shards).filter(|index| *index != which);
            let total: f64 = others.clone().map(weight).sum();
            let beyond = others.map(|index| {
                let outer = if index < which { 0..index } else { index + 1..shards };
                outer.map(weight).sum::<f64>() / total
            });
            // Each border is rounded before and after the change.
            share * (1.0 + beyond.sum::<f64>()) + 2.0 * shards as f64
        }
        // In each period of the two shard counts, all slots but one per shard.
        "modulo" => {
            let period = shards * (shards - 1);
            (16_384 - 16_384 / period * (shards - 1)) as f64
        }
        "jump" => {
            let behind = SLOTS * (shards - which) as f64 / shards as f64;
            behind + 6.0 * behind.sqrt() + 1.0
        }
        "rendezvous" => share + 6.0 * share.sqrt() + 1.0,
        _ => {
            let points = 160.0 * (weights[which].1 - weights[which].0).abs();
            share + 6.0 * (share.sqrt() + share / points.sqrt())
        }
    }
}

proptest! {
    #![proptest_config(crate::cases(48))]

    #[test]
    fn no_placement_moves_more_slots_than_its_bound(
        (shards, which) in changes(),
        placement in proptest::sample::select(&ANY[..]),
    ) {
        let tables = tables(placement, &shards);
        let (moved, bound) = (moves(&tables).values().sum::<u32>(), bound(placement, &shards, which));
        prop_assert!(f64::from(moved) <= bound, "{placement}: {moved} moved, {bound} allowed");
    }

    #[test]
    fn a_manual_placement_moves_nothing_when_shards_are_added_or_reweighted((shards, which) in changes()) {
        let stay: Vec<&str> =
            shards.iter().map(|shard| &*shard.name).filter(|name| *name != shards[which].name).collect();
        let (first, last) = (stay[0], stay[stay.len() - 1]);
        for text in [
            format!("partitions:A=30>{first},B=70>{last}"),
            format!("manual:0-99={first},100-16383={last}"),
        ] {
            let tables = tables(&text, &shards);
            prop_assert!(moves(&tables).is_empty(), "{text}");
        }
    }

    #[test]
    fn when_a_shard_goes_jump_moves_nothing_of_those_before_it(count in 2_usize..30, which in any::<u16>()) {
        let which = usize::from(which) % count;
        let name = |index: usize| format!("s{index:02}");
        let weight = |index| u32::from(index != which);
        let shards: Vec<Changing> = (0..count)
            .map(|index| Changing { name: name(index), before: 1, after: weight(index) })
            .collect();
        let tables = tables("jump", &shards);
        for ((from, to), moved) in moves(&tables) {
            prop_assert!(*from >= *name(which), "{moved} slots moved from {from} to {to}");
        }
    }

    /// Each shard gives up its share of the total, within random variation.
    #[test]
    fn a_new_shard_takes_slots_from_all_others_in_proportion_to_their_shares(
        shards in proptest::collection::btree_map("[a-z]{1,6}", 1_u32..5, 2..8),
        placement in proptest::sample::select(vec!["ring:160", "rendezvous", "jump"]),
    ) {
        let is_weighted = placement != "jump";
        let weight = |weight: u32| if is_weighted { weight } else { 1 };
        let mut shards: Vec<Changing> = shards
            .into_iter()
            .map(|(name, own)| Changing { name, before: weight(own), after: weight(own) })
            .collect();
        // The last shard: jump hashing adds shards only at the end.
        let guest = shards.len() - 1;
        shards[guest].before = 0;
        let total: f64 = shards.iter().map(|shard| f64::from(shard.after)).sum();
        let (own, others) = (f64::from(shards[guest].after), total - f64::from(shards[guest].after));
        let tables = tables(placement, &shards);
        let moves = moves(&tables);
        for giver in &shards[..guest] {
            let part = f64::from(giver.before) / others;
            let (expected, points) = (SLOTS * own / total * part, 160.0 * own * part);
            let luck = if placement == "ring:160" { expected * (2.0 / points).sqrt() } else { 0.0 };
            let given = moves.get(&(&*giver.name, &*shards[guest].name)).copied().unwrap_or(0);
            let off = (f64::from(given) - expected).abs();
            prop_assert!(off <= 6.0 * (expected.sqrt() + luck) + 1.0, "{placement}: {given} of {expected}");
        }
    }
}

/// Number of slots that move when a shard of this weight is appended.
fn moved_by_one_more(placement: &str, weights: &[u32], more: u32) -> u32 {
    let shard = |index: usize, before: u32, after: u32| Changing {
        name: format!("s{index:03}"),
        before,
        after,
    };
    let mut shards: Vec<Changing> =
        weights.iter().enumerate().map(|(index, own)| shard(index, *own, *own)).collect();
    shards.push(shard(weights.len(), 0, more));
    moves(&tables(placement, &shards)).values().sum()
}

#[test]
fn contiguous_ranges_move_by_half_for_an_equal_shard_and_little_for_a_light_one() {
    for count in [1, 2, 3, 7, 50] {
        for placement in ["even", "weighted"] {
            let moved = moved_by_one_more(placement, &vec![1000; count], 1000);
            assert!(moved.abs_diff(8192) <= 2 * count as u32, "{placement} {count}: {moved}");
        }
    }
    assert_eq!(moved_by_one_more("weighted", &[1000; 3], 1), 10);
}

#[test]
fn a_modulo_placement_moves_all_but_one_of_as_many_as_there_are_shards() {
    // 1/2, 2/3, 3/4 and 7/8 of 16384; slightly less in the last period, which is incomplete.
    for (count, moved) in [(1, 8192), (2, 10_922), (3, 12_286), (7, 14_333)] {
        assert_eq!(moved_by_one_more("modulo", &vec![1; count], 1), moved, "{count} and one more");
    }
}

#[test]
fn sequential_ids_are_distributed_evenly_by_the_modulo_placement_only() {
    let on_shards = |placement: &str| {
        let topology = Topology::with_weights(&[1, 1, 1]).expect("good weights");
        let placement = placement.parse().expect("a good placement");
        let map = ShardMap::first(Keyspace::Modulo, placement, topology).expect("it fits");
        let mut counts = [0; 3];
        for id in 0..5000 {
            let key = format!("user_{id}");
            let key = ShardKey::parse(&key).expect("a good key");
            counts[map.place(key).expect("a place").shard.index()] += 1;
        }
        counts
    };
    assert_eq!(on_shards("modulo"), [1667, 1667, 1666]);
    assert_eq!(on_shards("even"), [5000, 0, 0]);
}
