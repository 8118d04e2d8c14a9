//! Tests of advice: which moves balance the shards by their weights, and which imbalances no move
//! can fix.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use shard_manager::advice::{
    Advice, BalanceBy, KeyLoad, MOVES_MAX, Observed, REQUESTS_MIN, SKEW_TOLERATED, ShardSize,
    SlotLoad, Verdict, advise,
};
use shard_manager::keyspace::{Keyspace, Slot};
use shard_manager::placement::Placement;
use shard_manager::shard_map::{ShardMap, SlotRange};
use shard_manager::topology::{ShardNumber, Topology};

const SLOTS: usize = 16_384;

fn even(weights: &[u32]) -> ShardMap {
    let topology = Topology::with_weights(weights).expect("good weights");
    ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("it fits")
}

fn owned_by(weights: &[u32], owners: &[usize]) -> ShardMap {
    let ranges = (0..).zip(owners).map(|(slot, &owner)| SlotRange {
        first: slot,
        last: slot,
        shard: ShardNumber(owner as u16),
    });
    let topology = Topology::with_weights(weights).expect("good weights");
    let ranges: Vec<_> = ranges.collect();
    ShardMap::restore(1, Keyspace::Hash, Placement::Even, topology, &ranges).expect("a map")
}

/// Load of each slot, with half of the requests being reads.
fn load(requests: impl IntoIterator<Item = u64>) -> Vec<SlotLoad> {
    let half = |requests| SlotLoad { reads: requests / 2, writes: requests - requests / 2 };
    requests.into_iter().map(half).collect()
}

fn by_load(map: &ShardMap, load: &[SlotLoad], keys: &[KeyLoad]) -> Advice {
    advise(&Observed { map, load, sizes: &[], keys, open: None, first_slot: 0 }, BalanceBy::Load)
}

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("a slot")
}

/// The owner of every slot after all moves. Asserts that each move takes slots from their owner,
/// and that no slot moves twice.
fn carried_out(map: &ShardMap, advice: &Advice) -> Vec<ShardNumber> {
    let mut owners: Vec<_> = (0..SLOTS as u16).map(|number| map.owner(slot(number))).collect();
    let mut moved = vec![false; SLOTS];
    for step in &advice.moves {
        let slots =
            step.ranges.iter().flat_map(|&(first, last)| usize::from(first)..=usize::from(last));
        let mut count = 0;
        for slot in slots {
            assert_eq!(owners[slot], step.from, "slot {slot} is not there");
            assert!(!std::mem::replace(&mut moved[slot], true), "slot {slot} moves twice");
            owners[slot] = step.to;
            count += 1;
        }
        assert_eq!(count, step.slots);
    }
    owners
}

/// Load of each shard.
fn carries(owners: &[ShardNumber], load: &[SlotLoad], shards: usize) -> Vec<u64> {
    let mut carries = vec![0; shards];
    for (owner, load) in owners.iter().zip(load) {
        carries[owner.index()] += load.reads + load.writes;
    }
    carries
}

#[test]
fn an_even_cluster_is_left_alone() {
    let map = even(&[1, 1, 1]);
    let advice = by_load(&map, &load(vec![10; SLOTS]), &[]);
    assert_eq!((advice.verdict, advice.moves.len()), (Verdict::Balanced, 0), "{advice:?}");
    assert!(advice.skew < 1.001 && advice.skew_after == advice.skew);
    // Small deviations count as balanced.
    let bent = load((0..SLOTS).map(|slot| if slot < 5_000 { 108 } else { 100 }));
    let advice = by_load(&map, &bent, &[]);
    assert!(advice.skew > 1.04 && advice.skew < SKEW_TOLERATED);
    assert_eq!(advice.verdict, Verdict::Balanced, "{}", advice.because);
}

#[test]
fn few_requests_and_random_variation_cause_no_moves() {
    let map = even(&[1, 1, 1]);
    let one_sided = |requests: u64| {
        let mut all = vec![0; SLOTS];
        all[..100].fill(requests / 100);
        load(all)
    };
    let advice = by_load(&map, &one_sided(REQUESTS_MIN - 100), &[]);
    assert_eq!(advice.verdict, Verdict::TooLittleToSay, "{advice:?}");
    assert!(advice.because.contains("900 requests"), "{}", advice.because);
    assert_eq!(by_load(&map, &one_sided(REQUESTS_MIN), &[]).verdict, Verdict::Skewed);
    // 1200 requests: 400 per shard on average; 460 are within the tolerance.
    let mut all = vec![0; SLOTS];
    for (at, requests) in [(0, 460), (6_000, 370), (12_000, 370)] {
        all[at..at + 10].fill(requests / 10);
    }
    let advice = by_load(&map, &load(all), &[]);
    assert!(advice.skew > SKEW_TOLERATED);
    assert_eq!(advice.verdict, Verdict::Balanced, "{}", advice.because);
    assert!(advice.because.contains("chance"), "{}", advice.because);
}

#[test]
fn an_overloaded_shard_gives_the_others_their_deficit_and_no_idle_slot() {
    let map = even(&[1, 1, 1]);
    // shard1 has 60 % of the load, all in its first thousand slots.
    let heavy = load((0..SLOTS).map(|slot| match slot {
        0..1_000 => 600,
        5_462..6_462 | 11_000..12_000 => 200,
        _ => 0,
    }));
    let advice = by_load(&map, &heavy, &[]);
    assert_eq!((advice.verdict, advice.hot.len()), (Verdict::Skewed, 0), "{advice:?}");
    assert!((advice.skew - 1.8).abs() < 1e-9);
    assert!(advice.skew_after < 1.01, "{advice:?}");
    let reported: Vec<_> = advice.moves.iter().map(|step| (step.from.0, step.to.0)).collect();
    assert_eq!(reported, [(0, 1), (0, 2)]);
    for step in &advice.moves {
        assert_eq!(step.ranges.len(), 1, "neighbours stay together: {step:?}");
        assert!((220..=222).contains(&step.slots), "{step:?}");
        assert!(
            (step.share - step.slots as f64 * 0.0006).abs() < 1e-9
                && step.to_share_after < 1.0 / 3.0 + 1e-9
        );
    }
    let text = &advice.because;
    assert!(text.contains("shard1 carries 1.80") && text.contains("after 2 moves"), "{text}");
}

#[test]
fn a_key_that_outweighs_a_shard_is_named_and_stays_where_it_is() {
    let map = even(&[1, 1, 1]);
    let mut all = vec![10; SLOTS];
    all[7] = 200_000;
    let key = KeyLoad { key: "celebrity".into(), slot: slot(7), requests: 199_000 };
    let other = KeyLoad { key: "nobody".into(), slot: slot(8), requests: 10 };
    let advice = by_load(&map, &load(all.clone()), &[other.clone(), key.clone()]);
    assert_eq!(advice.verdict, Verdict::Hot, "{advice:?}");
    let [spot] = &advice.hot[..] else { panic!("{advice:?}") };
    assert_eq!(
        (spot.slot, spot.shard, spot.key.as_deref()),
        (slot(7), ShardNumber(0), Some("celebrity"))
    );
    let total = 200_000.0 + 163_830.0;
    assert!((spot.key_share.expect("its share") - 199_000.0 / total).abs() < 1e-9);
    assert!((spot.fair_share - 1.0 / 3.0).abs() < 1e-9);
    // Nearly all other slots leave the shard.
    let owners = carried_out(&map, &advice);
    assert_eq!(owners[7], ShardNumber(0));
    let left = carries(&owners, &load(all.clone()), 3)[0];
    assert!((200_000..=204_000).contains(&left), "{left}");
    assert!(advice.because.contains("no move can change"), "{}", advice.because);

    // Nothing else has any load: there is nothing to move.
    let mut only = vec![0; SLOTS];
    only[7] = 200_000;
    let advice = by_load(&map, &load(only), std::slice::from_ref(&key));
    assert_eq!((advice.verdict, advice.moves.len()), (Verdict::Hot, 0));
    assert!(advice.because.contains("no move helps"), "{}", advice.because);

    // Several keys of one slot together: the slot is named, and none of the keys.
    let halves =
        ["a", "b"].map(|key| KeyLoad { key: key.into(), slot: slot(7), requests: 100_000 });
    let advice = by_load(&map, &load(all), &halves);
    let [spot] = &advice.hot[..] else { panic!("{advice:?}") };
    assert_eq!((spot.key.as_ref(), spot.key_share), (None, None));
}

#[test]
fn a_hot_slot_may_go_to_a_larger_shard_where_it_weighs_less() {
    let map = even(&[1, 9]);
    let mut all = vec![0; SLOTS];
    (all[3], all[9_000]) = (5_000, 5_000);
    let advice = by_load(&map, &load(all.clone()), &[]);
    assert_eq!((advice.verdict, advice.moves.len()), (Verdict::Skewed, 1), "{advice:?}");
    assert_eq!(carries(&carried_out(&map, &advice), &load(all), 2), [0, 10_000]);
}

#[test]
fn by_size_bytes_count_and_slots_are_assumed_equal() {
    let map = even(&[1, 1]);
    let mib = |bytes: u64| ShardSize { rows: Some(bytes * 1_000), bytes: Some(bytes << 20) };
    let observed =
        |sizes| Observed { map: &map, load: &[], sizes, keys: &[], open: None, first_slot: 0 };
    let (small, one_sided) = ([mib(10), mib(2)], [mib(90), mib(30)]);
    let advice = advise(&observed(&small), BalanceBy::Size);
    assert_eq!(advice.verdict, Verdict::TooLittleToSay, "{advice:?}");
    let advice = advise(&observed(&one_sided[..1]), BalanceBy::Size);
    assert_eq!(advice.verdict, Verdict::TooLittleToSay);
    assert_eq!(advice.because, "how much shard2 holds is not known");

    let advice = advise(&observed(&one_sided), BalanceBy::Size);
    assert_eq!((advice.verdict, advice.total), (Verdict::Skewed, 120 << 20));
    let [step] = &advice.moves[..] else { panic!("{advice:?}") };
    // A third of shard1's slots, as one range, with a third of its rows and bytes.
    assert_eq!((step.from, step.to, step.ranges.len()), (ShardNumber(0), ShardNumber(1), 1));
    assert!((2_600..=2_731).contains(&step.slots), "{step:?}");
    let part = step.slots as f64 / 8_192.0;
    let near =
        |reported: Option<u64>, whole: f64| (reported.expect("known") as f64 - part * whole).abs();
    assert!(near(step.rows, 90_000.0) <= 1.0 && near(step.bytes, 90.0 * 1_048_576.0) <= 1.0);
    assert!(advice.skew_after < 1.03, "{advice:?}");
}

#[test]
fn when_all_others_are_nearly_full_a_few_moves_still_suffice() {
    // One shard of 64 has half as much again as its share; each other one lacks less than a
    // hundredth.
    let map = even(&[1; 64]);
    let all = load((0..SLOTS).map(|slot| if slot < 256 { 150 } else { 100 }));
    let advice = by_load(&map, &all, &[]);
    assert_eq!(advice.verdict, Verdict::Skewed);
    assert!(advice.moves.len() <= 12 && advice.skew_after <= 1.06, "{advice:?}");
}

/// Weights, the owner of each slot and its requests. Drawn from few numbers, so that a failing case
/// is easy to read.
fn clusters() -> impl Strategy<Value = (Vec<u32>, Vec<usize>, Vec<u64>)> {
    let weight = prop_oneof![3 => Just(1_u32), 1 => 1_u32..20];
    let weights = proptest::collection::vec(weight, 1..12);
    (weights, any::<u64>(), 1_usize..3_000, 0_u32..4, 1_u64..2_000).prop_map(
        |(weights, seed, runs, shape, most)| {
            let mix = |n: u64| {
                let n = (n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let n = (n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                n ^ (n >> 32)
            };
            let owners = (0..SLOTS).map(|slot| {
                let run = (slot * runs / SLOTS) as u64;
                // One shard may have far more slots than another, or none.
                (mix(run) % weights.len() as u64).min(mix(run + 7) % weights.len() as u64) as usize
            });
            let costs = (0..SLOTS as u64).map(|slot| match shape {
                0 => 100,
                1 => mix(slot) % most,
                // A few slots carry all the load.
                2 => u64::from(mix(slot).is_multiple_of(97)) * (mix(slot + 1) % most) * 50,
                // A heavy-tailed distribution.
                _ => most * 1_000 / (1 + mix(slot) % 10_000),
            });
            (weights.clone(), owners.collect(), costs.collect())
        },
    )
}

/// Compares load per weight of two shards exactly.
fn is_fuller((load, weight): (u64, u32), than: (u64, u32)) -> bool {
    u128::from(load) * u128::from(than.1) > u128::from(than.0) * u128::from(weight)
}

fn fullest(loads: &[u64], weights: &[u32]) -> (u64, u32) {
    let all = loads.iter().copied().zip(weights.iter().copied());
    all.reduce(|most, one| if is_fuller(one, most) { one } else { most }).expect("a shard")
}

fn check(weights: &[u32], owners: &[usize], costs: &[u64]) -> Result<(), TestCaseError> {
    let (map, load) = (owned_by(weights, owners), load(costs.iter().copied()));
    let advice = by_load(&map, &load, &[]);
    prop_assert_eq!(&advice, &by_load(&map, &load, &[]), "the same once more");
    prop_assert!(advice.moves.len() <= MOVES_MAX);
    let total: u64 = costs.iter().sum();
    let share = |load: u64| load as f64 / total.max(1) as f64;
    let before: Vec<_> = (0..SLOTS as u16).map(|number| map.owner(slot(number))).collect();
    let mut loads = carries(&before, &load, weights.len());
    for step in &advice.moves {
        let giver = (loads[step.from.index()], weights[step.from.index()]);
        let slots = step.ranges.iter().flat_map(|&(first, last)| first..=last);
        let moved: u64 = slots.map(|slot| costs[usize::from(slot)]).sum();
        prop_assert!(moved > 0 && (share(moved) - step.share).abs() < 1e-9);
        loads[step.from.index()] -= moved;
        loads[step.to.index()] += moved;
        for shard in [step.from.index(), step.to.index()] {
            let now = (loads[shard], weights[shard]);
            prop_assert!(is_fuller(giver, now), "{:?} is as full as {:?} was", now, giver);
        }
        prop_assert!((share(loads[step.to.index()]) - step.to_share_after).abs() < 1e-9);
        prop_assert!((share(loads[step.from.index()]) - step.from_share_after).abs() < 1e-9);
    }
    let after = carried_out(&map, &advice);
    prop_assert_eq!(&carries(&after, &load, weights.len()), &loads, "no slot is lost");
    for (shard, outlook) in advice.shards.iter().enumerate() {
        let slots = after.iter().filter(|owner| owner.index() == shard).count();
        prop_assert_eq!(slots, outlook.slots_after);
        prop_assert!((share(loads[shard]) - outlook.share_after).abs() < 1e-9);
    }
    let before = carries(&before, &load, weights.len());
    let worse = is_fuller(fullest(&loads, weights), fullest(&before, weights));
    prop_assert!(!worse && advice.skew_after <= advice.skew + 1e-9);
    check_settled(&advice, weights, costs)
}

/// If every slot is light enough, no shard stays overloaded, and carrying out the advice yields no
/// further advice.
fn check_settled(advice: &Advice, weights: &[u32], costs: &[u64]) -> Result<(), TestCaseError> {
    let (total, weight): (u64, u32) = (costs.iter().sum(), weights.iter().sum());
    let least = u64::from(*weights.iter().min().expect("a shard"));
    let heaviest = *costs.iter().max().expect("a slot");
    let is_fine = heaviest * 100 < total * least / u64::from(weight);
    let judged = advice.verdict != Verdict::TooLittleToSay && advice.moves.len() < MOVES_MAX;
    if is_fine && judged && !advice.because.contains("chance") {
        prop_assert!(advice.skew_after <= SKEW_TOLERATED + 0.01, "{}", advice.skew_after);
        prop_assert!(advice.hot.is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(crate::cases(48))]

    #[test]
    fn no_plan_makes_a_fullest_shard_fuller_loses_a_slot_or_moves_one_twice(
        (weights, owners, costs) in clusters(),
    ) {
        check(&weights, &owners, &costs)?;
    }

    #[test]
    fn a_single_hot_key_is_never_moved_among_equals(
        (weights, owners, mut costs) in clusters(),
        at in 0..SLOTS,
        times in 1_u64..20,
    ) {
        let equals = vec![1; weights.len()];
        let rest: u64 = costs.iter().sum::<u64>() - costs[at];
        // Every slot is light compared with the hot key.
        costs[at] = rest.max(REQUESTS_MIN * weights.len() as u64) * times;
        let map = owned_by(&equals, &owners);
        let advice = by_load(&map, &load(costs.iter().copied()), &[]);
        prop_assert_eq!(carried_out(&map, &advice)[at], map.owner(slot(at as u16)));
        if weights.len() > 2 {
            prop_assert_eq!(advice.verdict, Verdict::Hot);
            prop_assert_eq!(advice.hot[0].slot, slot(at as u16));
        }
        check(&equals, &owners, &costs)?;
    }
}
