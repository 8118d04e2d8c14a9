//! Tests of rebalancing: exactly the slots move that the weights require.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use shard_manager::placement::{Placement, rebalance};
use shard_manager::topology::{ShardNumber, ShardSpec, Topology};

const SLOTS: f64 = 16_384.0;

fn topology(shards: &[(&str, u32)]) -> Topology {
    let spec = |(name, weight): &(&str, u32)| ShardSpec::new(*name, *weight);
    Topology::new(shards.iter().map(spec).collect()).expect("good shards")
}

/// Number of slots of each shard.
fn counts(owners: &[ShardNumber], shards: usize) -> Vec<u32> {
    let mut counts = vec![0; shards];
    owners.iter().for_each(|owner| counts[owner.index()] += 1);
    counts
}

fn moved(before: (&[ShardNumber], &Topology), after: (&[ShardNumber], &Topology)) -> usize {
    let pairs = before.0.iter().zip(after.0);
    pairs.filter(|(old, new)| before.1.name(**old) != after.1.name(**new)).count()
}

#[test]
fn a_fourth_shard_takes_a_quarter_from_the_others_and_nothing_else_moves() {
    let old = topology(&[("a", 1), ("b", 1), ("c", 1)]);
    let new = topology(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
    let before = Placement::Even.assign(&old).expect("a table");
    let after = rebalance(&before, &old, &new);
    assert_eq!(counts(&after, 4), [4096; 4]);
    assert_eq!(moved((&before, &old), (&after, &new)), 4096);
    // The highest slots of each shard move: a keeps 0 to 4095.
    assert!(after[..4096].iter().all(|owner| *owner == ShardNumber(0)));
    assert!(after[4096..5462].iter().all(|owner| *owner == ShardNumber(3)));
}

#[test]
fn a_balanced_table_stays_as_it_is_whichever_shard_has_the_extra_slot() {
    let shards = topology(&[("a", 1), ("b", 1), ("c", 1)]);
    // 16384 = 3 * 5461 + 1: the last shard has the extra slot.
    let before: Vec<ShardNumber> =
        (0..16_384).map(|slot| ShardNumber((slot % 3 + 2) as u16 % 3)).collect();
    assert_eq!(rebalance(&before, &shards, &shards), before);
}

#[test]
fn a_shard_that_goes_leaves_its_slots_to_the_others() {
    let old = topology(&[("a", 1), ("b", 1), ("c", 1)]);
    // The order of shards does not matter: they are identified by name.
    let new = topology(&[("c", 1), ("a", 1)]);
    let before = Placement::Modulo.assign(&old).expect("a table");
    let after = rebalance(&before, &old, &new);
    assert_eq!(counts(&after, 2), [8192; 2]);
    assert_eq!(moved((&before, &old), (&after, &new)), 5461);
}

#[test]
fn a_share_is_rounded_up_once() {
    let shards = [("shard1", 1), ("shard2", 1), ("shard3", 1), ("shard4", 1), ("shard5", 1)];
    let (old, new) = (topology(&shards[..4]), topology(&shards));
    // 16384 = 5 * 3276 + 4, and the first shard already has one more than 3276.
    let text = "manual:0-3276=shard1,3277-6552=shard2,6553-9828=shard3,9829-16383=shard4";
    let before = text.parse::<Placement>().expect("a placement").assign(&old).expect("it fits");
    let after = rebalance(&before, &old, &new);
    assert_eq!(counts(&after, 5), [3277, 3277, 3277, 3277, 3276]);
    assert_eq!(moved((&before, &old), (&after, &new)), 3278);
}

fn shards() -> impl Strategy<Value = Vec<(String, u32)>> {
    let weight = prop_oneof![1_u32..10, 1..=Topology::WEIGHT_MAX];
    proptest::collection::btree_map("[a-f]", weight, 1..6)
        .prop_map(|shards| shards.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

fn named(shards: &[(String, u32)]) -> Topology {
    let shards: Vec<(&str, u32)> = shards.iter().map(|(name, weight)| (&**name, *weight)).collect();
    topology(&shards)
}

/// A table in which each shard has nearly its new share: the share rounded down, plus or minus this
/// many slots. The last shard has the rest.
fn nearly_settled(old: &Topology, new: &Topology, off: &[i32]) -> Vec<ShardNumber> {
    let total: u64 = new.shards().iter().map(|shard| u64::from(shard.weight)).sum();
    let mut owners = Vec::new();
    for (shard, off) in old.numbers().zip(off) {
        let weight =
            new.find(old.name(shard)).map_or(0, |found| new.shards()[found.index()].weight);
        let floor = (16_384 * u64::from(weight) / total) as i32;
        owners.extend(std::iter::repeat_n(shard, (floor + off).max(0) as usize));
    }
    owners.resize(16_384, ShardNumber(old.len() as u16 - 1));
    owners
}

/// Asserts that shares are met within one slot, and that no plan with fewer moves could meet them.
fn check(before: &[ShardNumber], old: &Topology, new: &Topology) -> Result<(), TestCaseError> {
    let after = rebalance(before, old, new);
    prop_assert_eq!(after.len(), 16_384);
    let total: f64 = new.shards().iter().map(|shard| f64::from(shard.weight)).sum();
    let mut kept = vec![0_u32; new.len()];
    for owner in before {
        if let Some(shard) = new.find(old.name(*owner)) {
            kept[shard.index()] += 1;
        }
    }
    let (mut demanded, mut lacking) = (0.0, 0);
    for ((count, had), shard) in counts(&after, new.len()).into_iter().zip(&kept).zip(new.shards())
    {
        let share = SLOTS * f64::from(shard.weight) / total;
        prop_assert!((f64::from(count) - share).abs() < 1.0, "{count} of {share}");
        demanded += (share - f64::from(*had)).max(0.0);
        lacking += count.saturating_sub(*had);
    }
    let moved = moved((before, old), (&after, new));
    prop_assert_eq!(moved, lacking as usize, "only what a shard lacks moves");
    prop_assert!(moved as f64 <= (demanded - 1e-6).ceil(), "{moved} moved, {demanded} demanded");
    prop_assert_eq!(rebalance(&after, new, new), after, "and then it is settled");
    Ok(())
}

proptest! {
    #![proptest_config(crate::cases(96))]

    #[test]
    fn shares_are_met_within_a_slot_and_no_fewer_moves_could_meet_them(
        old in shards(),
        new in shards(),
        seed in any::<u64>(),
        runs in 1_u64..400,
    ) {
        let (old, new) = (named(&old), named(&new));
        // Any table: runs of slots, with owners drawn from the seed.
        let draw = |slot: u64| (slot / (16_384 / runs)).wrapping_mul(seed | 1) >> 7;
        let before: Vec<ShardNumber> =
            (0..16_384).map(|slot| ShardNumber((draw(slot) % old.len() as u64) as u16)).collect();
        check(&before, &old, &new)?;
    }

    #[test]
    fn the_same_holds_where_shards_lack_or_have_a_slot_or_two(
        shards in proptest::collection::btree_map("[a-z]", 1_u32..10, 2..20),
        off in proptest::collection::vec(prop_oneof![3 => -1_i32..1, 1 => 1_i32..3], 20),
    ) {
        // A shard joins many others that have already made room for it, within a slot or two.
        let shards: Vec<_> = shards.into_iter().collect();
        let (old, new) = (named(&shards[1..]), named(&shards));
        check(&nearly_settled(&old, &new, &off), &old, &new)?;
    }
}
