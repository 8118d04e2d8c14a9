//! Tests of topologies with shards that join, drain, are retired or have no weight: they get no
//! slots, and nothing is divided by their share.

use proptest::prelude::*;
use shard_manager::advice::{BalanceBy, Observed, ShardSize, SlotLoad, Verdict, advise};
use shard_manager::keyspace::Keyspace;
use shard_manager::placement::{Placement, rebalance};
use shard_manager::shard_map::{ShardMap, SlotRange};
use shard_manager::simulation::{Algorithm, Load, TopologyChange, simulate};
use shard_manager::topology::{ShardNumber, ShardSpec, ShardState, Topology};

/// Placements that are valid for any topology.
const ANY: [&str; 6] = ["even", "weighted", "modulo", "ring:16", "rendezvous", "jump"];
const SLOTS: usize = 16_384;

fn state() -> impl Strategy<Value = ShardState> {
    prop_oneof![
        4 => Just(ShardState::Serving),
        1 => Just(ShardState::Joining),
        1 => Just(ShardState::Draining),
        2 => Just(ShardState::Retired),
    ]
}

/// One to seven shards, at least one of which is a member with a weight.
fn topologies() -> impl Strategy<Value = Topology> {
    let shard = (0_u32..4, state());
    proptest::collection::vec(shard, 1..8).prop_filter_map("no weight", |shards| {
        let spec = |(number, (weight, state))| ShardSpec {
            state,
            ..ShardSpec::new(format!("shard{number}"), weight)
        };
        Topology::restore((1..).zip(shards).map(spec).collect()).ok()
    })
}

/// Owners among the members, in runs drawn from the seed.
fn owners(topology: &Topology, seed: u64) -> Vec<ShardNumber> {
    let members: Vec<ShardNumber> = topology.numbers().collect();
    let draw = |slot: u64| (slot / 97).wrapping_mul(seed | 1) >> 7;
    (0..SLOTS as u64).map(|slot| members[(draw(slot) % members.len() as u64) as usize]).collect()
}

fn map_of(topology: &Topology, owners: &[ShardNumber]) -> ShardMap {
    let range =
        |(slot, shard): (u16, &ShardNumber)| SlotRange { first: slot, last: slot, shard: *shard };
    let ranges: Vec<SlotRange> = (0..).zip(owners).map(range).collect();
    ShardMap::restore(1, Keyspace::Hash, Placement::Even, topology.clone(), &ranges).expect("a map")
}

/// Shards that may get slots.
fn takers(topology: &Topology) -> Vec<ShardNumber> {
    let numbered = (0..).map(ShardNumber).zip(topology.share_weights());
    numbered.filter(|(_, weight)| *weight > 0).map(|(number, _)| number).collect()
}

fn counts(owners: &[ShardNumber], shards: usize) -> Vec<u32> {
    let mut counts = vec![0; shards];
    owners.iter().for_each(|owner| counts[owner.index()] += 1);
    counts
}

#[test]
fn weights_of_shards_that_do_not_serve_count_only_if_no_other_does() {
    let of = |shards: &[(u32, ShardState)]| {
        let spec = |(number, (weight, state)): (usize, &(u32, ShardState))| ShardSpec {
            state: *state,
            ..ShardSpec::new(format!("shard{number}"), *weight)
        };
        Topology::restore((1..).zip(shards).map(spec).collect())
    };
    use ShardState::{Draining, Joining, Retired, Serving};
    let mixed = of(&[(2, Serving), (3, Retired), (0, Serving), (4, Draining), (5, Joining)]);
    let mixed = mixed.expect("a topology");
    assert_eq!(mixed.share_weights(), [2, 0, 0, 0, 0]);
    assert_eq!(mixed.numbers().count(), 4);
    let last = of(&[(0, Serving), (3, Retired), (4, Draining)]).expect("a topology");
    assert_eq!(last.share_weights(), [0, 0, 4]);
    assert!(of(&[(0, Serving), (3, Retired)]).is_err(), "no member has a weight");
}

#[test]
fn a_shard_without_weight_that_has_load_is_skewed_and_gives_all_of_it() {
    let mut shards: Vec<_> = (1..=3).map(|n| ShardSpec::new(format!("shard{n}"), 1)).collect();
    shards[1].weight = 0;
    let topology = Topology::restore(shards).expect("a topology");
    // The second shard has a few slots, the others are even.
    let owner = |slot: usize| ShardNumber(if slot < 64 { 1 } else { slot as u16 % 2 * 2 });
    let owners: Vec<ShardNumber> = (0..SLOTS).map(owner).collect();
    let map = map_of(&topology, &owners);
    let load = vec![SlotLoad { reads: 1, writes: 1 }; SLOTS];
    let advice = advise(
        &Observed { map: &map, load: &load, sizes: &[], keys: &[], open: None, first_slot: 0 },
        BalanceBy::Load,
    );
    assert_eq!(advice.verdict, Verdict::Skewed, "{}", advice.because);
    assert!(advice.because.starts_with("shard2 should carry nothing"), "{}", advice.because);
    assert!(advice.skew < 1.1 && advice.skew_after < 1.1, "{advice:?}");
    assert_eq!(advice.shards[1].slots_after, 0);
}

proptest! {
    #![proptest_config(crate::cases(64))]

    #[test]
    fn every_placement_gives_slots_only_to_shards_with_a_share(topology in topologies()) {
        let takers = takers(&topology);
        for text in ANY {
            let placement: Placement = text.parse().expect("a placement");
            let owners = placement.assign(&topology).expect("it fits");
            prop_assert_eq!(owners.len(), SLOTS);
            prop_assert!(owners.iter().all(|owner| takers.contains(owner)), "{}", text);
        }
    }

    #[test]
    fn a_rebalance_empties_shards_without_a_share_and_fills_the_others(
        topology in topologies(),
        seed in any::<u64>(),
    ) {
        let before = owners(&topology, seed);
        let after = rebalance(&before, &topology, &topology);
        let weights = topology.share_weights();
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts(&after, topology.len()).into_iter().zip(&weights) {
            let share = SLOTS as f64 * f64::from(*weight) / f64::from(total);
            prop_assert!((f64::from(count) - share).abs() < 1.0, "{} of {}", count, share);
        }
        prop_assert_eq!(rebalance(&after, &topology, &topology), after);
    }

    #[test]
    fn advice_lists_members_and_moves_nothing_to_shards_without_a_share(
        topology in topologies(),
        seed in any::<u64>(),
        loads in proptest::collection::vec(0_u64..50, 32),
    ) {
        let map = map_of(&topology, &owners(&topology, seed));
        let load: Vec<SlotLoad> =
            (0..SLOTS).map(|slot| SlotLoad { reads: loads[slot % 32], writes: 0 }).collect();
        let sizes = vec![ShardSize { rows: Some(1_000), bytes: Some(64 << 20) }; topology.len()];
        for by in BalanceBy::ALL {
            let observed = Observed { map: &map, load: &load, sizes: &sizes, keys: &[], open: None, first_slot: 0 };
            let advice = advise(&observed, by);
            let listed: Vec<ShardNumber> = advice.shards.iter().map(|shard| shard.shard).collect();
            prop_assert_eq!(listed, topology.numbers().collect::<Vec<_>>());
            prop_assert!(advice.skew.is_finite() && advice.skew_after.is_finite());
            let takers = takers(&topology);
            prop_assert!(advice.moves.iter().all(|step| takers.contains(&step.to)));
            let shares = advice.shards.iter().flat_map(|shard| [shard.share, shard.fair_share, shard.share_after]);
            prop_assert!(shares.clone().all(f64::is_finite));
            let weights = topology.share_weights();
            for shard in advice.shards.iter().filter(|shard| weights[shard.shard.index()] == 0) {
                prop_assert!(shard.share_after <= shard.share + 1e-9);
            }
        }
    }

    #[test]
    fn simulations_of_a_cluster_that_has_changed_are_finite(
        topology in topologies(),
        seed in any::<u64>(),
    ) {
        let owners = owners(&topology, seed);
        let algorithms = Algorithm::all(&topology, Some(owners)).expect("they fit");
        let names = topology.members().map(|(_, shard)| shard.name.clone());
        let removed = names.map(TopologyChange::Remove);
        let changes = [TopologyChange::Add(1)].into_iter().chain(removed);
        for change in changes.filter(|change| change.apply(&topology).is_ok()) {
            for algorithm in &algorithms {
                let changes = std::slice::from_ref(&change);
                let one = simulate(&topology, algorithm, changes, &Load::of_slots());
                let one = one.expect("it is possible");
                prop_assert!(one.before.skew.is_finite() && one.changes[0].after.skew.is_finite());
                prop_assert!((0.0..=1.0 + 1e-9).contains(&one.changes[0].needed));
                prop_assert_eq!(one.before.shards.len(), topology.numbers().count());
            }
        }
    }
}
