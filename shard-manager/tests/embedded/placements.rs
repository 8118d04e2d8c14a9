//! Tests of every placement: golden vectors, shares, and which slots move when a shard is added,
//! removed or reweighted.

use proptest::prelude::*;
use shard_manager::keyspace::{Keyspace, SLOT_COUNT};
use shard_manager::placement::{Placement, PlacementError};
use shard_manager::topology::{ShardNumber, ShardSpec, Topology};

/// The partition table of Infra-Crafter, as the configuration writes it.
const PARTITIONS: &str = "partitions:A=30>shard1,B=20>shard1,D=25>shard2,C=15>shard3,E=10>shard3";

/// Placements that are valid for any topology.
const ANY: [&str; 6] = ["even", "weighted", "modulo", "ring:160", "rendezvous", "jump"];

fn topology(weights: &[u32]) -> Topology {
    Topology::with_weights(weights).expect("good weights")
}

fn placement(text: &str) -> Placement {
    text.parse().expect("a good placement")
}

fn owners(text: &str, topology: &Topology) -> Vec<ShardNumber> {
    placement(text).assign(topology).expect("it fits")
}

/// Number of slots of each shard.
fn counts(owners: &[ShardNumber], shards: usize) -> Vec<u32> {
    let mut counts = vec![0; shards];
    owners.iter().for_each(|owner| counts[owner.index()] += 1);
    counts
}

/// XXH3-64 of the table, two bytes per owner, little-endian.
fn digest(owners: &[ShardNumber]) -> u64 {
    let bytes: Vec<u8> = owners.iter().flat_map(|owner| owner.0.to_le_bytes()).collect();
    xxhash(&bytes)
}

fn xxhash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// Computed independently: the papers' algorithms in Python 3.11, with floating-point logarithms
/// for the rendezvous, and package xxhash 4.1.0. They must never change: a map is computed only
/// once, but operators compute it again to predict where a new shard will be placed.
#[test]
fn the_tables_of_placements_never_change() {
    for (text, weights, golden) in [
        ("ring:160", vec![1; 3], 0xca20_e264_01a8_5191),
        ("ring", vec![2, 1, 1], 0x1f0e_7e88_3b3a_f1d5),
        ("ring:10", vec![1; 256], 0x9edc_fa67_f78a_7b0b),
        ("rendezvous", vec![1; 3], 0x65b3_e333_c90d_1175),
        ("rendezvous", vec![50, 25, 25], 0x2b20_730f_b854_93ae),
        ("rendezvous", (1..=8).collect(), 0x4da7_4c5f_3d5c_de88),
        ("jump", vec![1; 3], 0x143d_bfac_7241_65a5),
        ("jump", vec![1; 256], 0xa68d_05ac_a85e_5b01),
        ("modulo", vec![1; 3], 0x0ba1_b5db_f575_7025),
    ] {
        let owners = owners(text, &topology(&weights));
        assert_eq!(digest(&owners), golden, "{text} {weights:?}");
    }
    let first = |text: &str, weights: &[u32]| -> Vec<u16> {
        let owners = owners(text, &topology(weights));
        [0, 1, 2, 3, 8191, 16_382, 16_383].map(|slot: usize| owners[slot].0).to_vec()
    };
    assert_eq!(first("ring", &[1, 1, 1]), [1, 1, 1, 1, 1, 1, 1]);
    assert_eq!(first("rendezvous", &[1, 1, 1]), [2, 1, 1, 2, 2, 2, 1]);
    assert_eq!(first("jump", &[1, 1, 1]), [2, 2, 2, 2, 1, 1, 0]);
    assert_eq!(first("modulo", &[1, 1, 1]), [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn partitions_are_placed_in_order_on_the_shards_that_were_named() {
    let owners = owners(PARTITIONS, &topology(&[1, 1, 1]));
    // A and B end at slot 8191, D at 12287, C and E at the last slot.
    let ends = [(0, 0), (8191, 0), (8192, 1), (12_287, 1), (12_288, 2), (16_383, 2)];
    for (slot, shard) in ends {
        assert_eq!(owners[slot], ShardNumber(shard), "slot {slot}");
    }
}

#[test]
fn a_partition_of_the_list_keyspace_lies_on_the_shard_of_the_partition_of_its_name() {
    let list: Keyspace = "list:A=30,B=20,D=25,C=15,E=10".parse().expect("a good keyspace");
    let Keyspace::List(list) = list else { panic!("a list") };
    let owners = owners(PARTITIONS, &topology(&[1, 1, 1]));
    for (part, shard) in list.partitions().iter().zip([0, 0, 1, 2, 2]) {
        let block = &owners[part.first.index()..=part.last.index()];
        assert!(block.iter().all(|owner| *owner == ShardNumber(shard)), "{}", part.name);
    }
}

#[test]
fn a_manual_placement_is_applied_as_written() {
    let text = "manual:0-99=shard2,100-100=shard1,101-16383=shard2";
    let table = owners(text, &topology(&[1, 1]));
    assert_eq!(counts(&table, 2), [1, 16_383]);
    assert_eq!(table[100], ShardNumber(0));
    let other = "manual: 101-16383 = shard2, 100=shard1, 0-99=shard2";
    assert_eq!(owners(other, &topology(&[1, 1])), table, "in any order");
    assert_eq!(placement(other), placement(text));
}

#[test]
fn an_unknown_shard_is_named() {
    for text in [PARTITIONS, "manual:0-16382=shard1,16383=shard3"] {
        let refused = placement(text).assign(&topology(&[1, 1]));
        assert_eq!(refused, Err(PlacementError::NoSuchShard { shard: "shard3".into(), count: 2 }));
    }
}

#[test]
fn a_ring_of_too_many_points_is_refused_instead_of_built() {
    let refused = placement("ring").assign(&topology(&[1_000_000, 1]));
    assert_eq!(refused, Err(PlacementError::TooManyPoints { points: 160_000_160 }));
    assert!(placement("ring:1").assign(&topology(&[1_000_000, 1])).is_ok());
}

#[test]
fn every_placement_comes_back_from_configuration_and_from_the_catalog() {
    let manual = "manual:0-5461=shard1,5462-16383=shard2";
    for text in ANY.into_iter().chain([PARTITIONS, manual]) {
        let placement = placement(text);
        assert_eq!(placement.to_string(), text);
        let restored = Placement::restore(placement.name(), &placement.parameters());
        assert_eq!(restored.as_ref(), Ok(&placement), "{}", placement.parameters());
        assert!(Placement::NAMES.contains(&placement.name()));
    }
    assert_eq!(placement("ring"), placement("ring:160"));
    for (text, golden) in [
        ("even", "{}"),
        ("ring", r#"{"vnodes":160}"#),
        ("partitions:A=1>shard1", r#"{"partitions":[["A",1,"shard1"]]}"#),
        ("manual:0-16383=shard1", r#"{"ranges":[[0,16383,"shard1"]]}"#),
    ] {
        assert_eq!(placement(text).parameters(), golden);
    }
    for (name, parameters) in [
        ("even", r#"{"a":1}"#),
        ("ring", r#"{"vnodes":0}"#),
        ("ring", "{}"),
        ("ring:9", r#"{"vnodes":9}"#),
        ("partitions", r#"{"partitions":[]}"#),
        ("manual", r#"{"ranges":[[0,99,"shard1"]]}"#),
    ] {
        assert!(Placement::restore(name, parameters).is_err(), "{name} {parameters}");
    }
}

#[test]
fn invalid_placement_parameters_are_refused_with_the_reason() {
    for (text, reason) in [
        ("random", "`random` is not a placement"),
        ("Even", "`Even` is not a placement"),
        ("even:1", "there are none"),
        ("ring:", "is not a number"),
        ("ring:0", "1 to 10000 virtual nodes, not 0"),
        ("ring:10001", "not 10001"),
        ("partitions", "`` is not NAME=WEIGHT>SHARD"),
        ("partitions:A=1", "`A=1` is not NAME=WEIGHT>SHARD"),
        ("partitions:A>shard1", "`A` is not NAME=WEIGHT"),
        ("partitions:A=1>shard1,A=1>shard2", "two partitions are called A"),
        ("manual", "`` is not FIRST-LAST=SHARD"),
        ("manual:0-99=shard1", "no shard owns the slots 100 to 16383"),
        ("manual:1-16383=shard1", "no shard owns the slots 0 to 0"),
        ("manual:0-9=shard1,9-16383=shard1", "slot 9 has two owners"),
        ("manual:0-9=shard1,11-16383=shard1", "no shard owns the slots 10 to 10"),
        ("manual:0-16384=shard1", "the last slot is 16383"),
        ("manual:9-0=shard1", "ends before it begins"),
        ("manual:0-70000=shard1", "is not FIRST-LAST=SHARD"),
    ] {
        let reported = text.parse::<Placement>().expect_err("refused").to_string();
        assert!(reported.contains(reason), "{text}: {reported}");
    }
}

/// Named shards with weights, for topologies that change.
fn named(shards: &[(String, u32)]) -> Topology {
    let spec = |(name, weight): &(String, u32)| ShardSpec::new(name.clone(), *weight);
    Topology::new(shards.iter().map(spec).collect()).expect("good shards")
}

fn shards() -> impl Strategy<Value = Vec<(String, u32)>> {
    proptest::collection::btree_map("[a-z]{1,6}", 1_u32..20, 2..12)
        .prop_map(|shards| shards.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

/// The owner's name of every slot: indices change when shards come and go.
fn names(text: &str, shards: &[(String, u32)]) -> Vec<String> {
    let topology = named(shards);
    owners(text, &topology).into_iter().map(|owner| topology.name(owner).to_owned()).collect()
}

proptest! {
    #![proptest_config(crate::cases(32))]

    #[test]
    fn every_slot_has_one_owner_and_shares_are_within_the_documented_tolerance(
        weights in proptest::collection::vec(1_u32..9, 1..16),
        text in proptest::sample::select(&ANY[..]),
    ) {
        let (topology, placement) = (topology(&weights), placement(text));
        let owners = placement.assign(&topology).expect("it fits");
        prop_assert_eq!(owners.len(), 16_384);
        prop_assert_eq!(&owners, &placement.assign(&topology).expect("it fits"), "the same each time");
        let weight = |&weight: &u32| if placement.is_weighted() { f64::from(weight) } else { 1.0 };
        let total: f64 = weights.iter().map(weight).sum();
        for (count, own) in counts(&owners, weights.len()).into_iter().zip(&weights) {
            let share = 16_384.0 * weight(own) / total;
            // Lots drawn for each slot deviate by √share. Points on a ring additionally deviate by
            // share/√points. The tolerance is six times that, which fails once in a billion.
            let drawn = share.sqrt();
            let bound = match text {
                "even" | "weighted" | "modulo" => 1.0 + 1e-6,
                "ring:160" => 6.0 * (drawn + share / (160.0 * weight(own)).sqrt()),
                _ => 6.0 * drawn + 1.0,
            };
            let off = (f64::from(count) - share).abs();
            prop_assert!(off <= bound, "{text}: {count} slots of {share}, off by {off}");
        }
    }

    #[test]
    fn when_a_shard_comes_or_goes_only_its_slots_move(
        shards in shards(),
        text in proptest::sample::select(vec!["ring:20", "rendezvous"]),
    ) {
        let (whole, without) = (names(text, &shards), names(text, &shards[1..]));
        let (guest, _) = &shards[0];
        for (slot, (with, before)) in whole.iter().zip(&without).enumerate() {
            prop_assert!(with == before || with == guest, "slot {slot} moved from {before} to {with}");
        }
        let mut shuffled = shards.clone();
        shuffled.reverse();
        prop_assert_eq!(names(text, &shuffled), whole, "the order of shards does not matter");
    }

    #[test]
    fn when_a_weight_grows_only_its_shard_gains_slots(
        shards in shards(),
        more in 1_u32..20,
        text in proptest::sample::select(vec!["ring:20", "rendezvous"]),
    ) {
        let mut heavier = shards.clone();
        heavier[0].1 += more;
        let (before, after) = (names(text, &shards), names(text, &heavier));
        for (slot, (old, new)) in before.iter().zip(&after).enumerate() {
            prop_assert!(old == new || *new == shards[0].0, "slot {slot} moved from {old} to {new}");
        }
    }

    #[test]
    fn jump_gives_a_shard_at_the_end_its_share_and_moves_nothing_else(count in 1_usize..60) {
        let before = owners("jump", &topology(&vec![1; count]));
        let after = owners("jump", &topology(&vec![1; count + 1]));
        let last = ShardNumber(count as u16);
        prop_assert!(before.iter().zip(&after).all(|(old, new)| old == new || *new == last));
    }

    /// Compared with the formula in floating point: the winner's score is the highest, within the
    /// precision of doubles.
    #[test]
    fn a_rendezvous_is_won_by_the_highest_weighted_lot(
        weights in proptest::collection::vec(1..=Topology::WEIGHT_MAX, 2..9),
    ) {
        let topology = topology(&weights);
        let owners = owners("rendezvous", &topology);
        for slot in (0..SLOT_COUNT).step_by(61) {
            let scores: Vec<f64> = topology.shards().iter().map(|shard| score(slot, shard)).collect();
            let best = scores.iter().copied().fold(0.0, f64::max);
            let won = scores[owners[usize::from(slot)].index()];
            prop_assert!(won >= best * (1.0 - 1e-6), "slot {slot}: {won} of {scores:?}");
        }
    }

    #[test]
    fn partitions_with_one_shard_each_are_the_weighted_placement(
        weights in proptest::collection::vec(1_u32..50, 1..20),
    ) {
        let parts: Vec<String> = weights
            .iter()
            .enumerate()
            .map(|(index, weight)| format!("p{index}={weight}>shard{}", index + 1))
            .collect();
        let topology = topology(&weights);
        let partitions = owners(&format!("partitions:{}", parts.join(",")), &topology);
        prop_assert_eq!(partitions, owners("weighted", &topology));
    }
}

/// `weight / -log2(u)` of a shard's lot for a slot, in floating point.
fn score(slot: u16, shard: &ShardSpec) -> f64 {
    let mix = |bits: u64| {
        let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    };
    let of_slot = mix((u64::from(slot) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let lot = mix(of_slot ^ xxhash(shard.name.as_bytes()));
    f64::from(shard.weight) / (64.0 - (lot as f64 + 1.0).log2())
}

#[test]
fn placements_can_be_tried_out_on_more_shards_than_a_router_serves() {
    let specs = |count: usize| -> Vec<ShardSpec> {
        (1..=count).map(|n| ShardSpec::new(format!("shard{n}"), 1)).collect()
    };
    assert!(Topology::new(specs(257)).is_err());
    assert!(Topology::simulated(specs(4097)).is_err());
    let topology = Topology::simulated(specs(1000)).expect("to try out");
    for text in ANY {
        let counts = counts(&owners(text, &topology), 1000);
        assert_eq!(counts.iter().sum::<u32>(), 16_384, "{text}");
    }
}
