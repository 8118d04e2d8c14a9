//! Tests of the findings of an advice: the remedy for a hot slot, the finding about a key that no
//! move helps, and that slots which are already being moved are left alone.

use shard_manager::advice::{
    Advice, AdviceFinding, BalanceBy, Help, ImbalanceKind, KeyLoad, Observed, OpenMoves, Remedy,
    SlotLoad, Verdict, advise, skew_of_owners,
};
use shard_manager::keyspace::{Keyspace, SLOT_COUNT, Slot};
use shard_manager::placement::Placement;
use shard_manager::shard_map::ShardMap;
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::{ShardNumber, Topology};

/// First slots of the three shards of an even map.
const FIRST: [u16; 3] = [0, 5_462, 10_923];
/// Slots of a shard with load that is not hot.
const COOL: u16 = 1_000;
/// A hot slot of the first shard.
const HOT: u16 = 7;

fn even() -> ShardMap {
    let topology = Topology::with_weights(&[1, 1, 1]).expect("good weights");
    ShardMap::first(Keyspace::Hash, Placement::Even, topology).expect("it fits")
}

fn slot(number: u16) -> Slot {
    Slot::new(number).expect("a slot")
}

/// Load of three shards, with the given requests for each of their cool slots, and of hot slots.
/// All requests are reads.
fn load(cool: [u64; 3], hot: &[(u16, u64)]) -> Vec<SlotLoad> {
    let mut load = vec![SlotLoad::default(); usize::from(SLOT_COUNT)];
    for (first, requests) in FIRST.into_iter().zip(cool) {
        let first = usize::from(first);
        load[first..first + usize::from(COOL)].fill(SlotLoad { reads: requests, writes: 0 });
    }
    for (slot, requests) in hot {
        load[usize::from(*slot)] = SlotLoad { reads: *requests, writes: 0 };
    }
    load
}

fn advice(load: &[SlotLoad], keys: &[KeyLoad], open: Option<OpenMoves<'_>>) -> Advice {
    let map = even();
    let observed = Observed { map: &map, load, sizes: &[], keys, open, first_slot: 0 };
    let advice = advise(&observed, BalanceBy::Load);
    assert_eq!(advice, advise(&observed, BalanceBy::Load), "the same once more");
    advice
}

fn key(key: &str, slot: Slot, requests: u64) -> KeyLoad {
    KeyLoad { key: key.into(), slot, requests }
}

#[track_caller]
fn only<const N: usize>(advice: &Advice) -> [&AdviceFinding; N] {
    let findings: Vec<&AdviceFinding> = advice.findings.iter().collect();
    findings.try_into().unwrap_or_else(|_| panic!("{advice:#?}"))
}

/// Owners of all slots after moves of single slots.
fn owners(moved: &[(u16, u16)]) -> Vec<ShardNumber> {
    let map = even();
    let mut owners: Vec<ShardNumber> = map.owners().map(|owner| owner.shard).collect();
    moved.iter().for_each(|(slot, to)| owners[usize::from(*slot)] = ShardNumber(*to));
    owners
}

#[test]
fn an_even_cluster_has_no_findings() {
    assert_eq!(advice(&load([10; 3], &[]), &[], None).findings, []);
    assert_eq!(advice(&load([0; 3], &[(HOT, 400)]), &[], None).findings, [], "too few requests");
}

#[test]
fn a_hot_slot_among_cool_ones_is_moved_to_the_shard_that_lacks_as_much() {
    // The first shard has 15 000 requests, the second 5 000, and the third its share.
    let load = load([10, 5, 10], &[(HOT, 5_010)]);
    let hot = key("ada", slot(HOT), 4_800);
    let advice = advice(&load, &[hot, key("bob", slot(HOT), 200)], None);
    assert_eq!(advice.verdict, Verdict::Skewed);
    let [hot, uneven] = only(&advice);
    assert_eq!(
        (hot.kind, hot.slot, hot.shard),
        (ImbalanceKind::HotKey, Some(slot(HOT)), ShardNumber(0))
    );
    assert_eq!(
        (hot.key.as_deref(), &hot.remedy),
        (Some("ada"), &Remedy::Move { to: ShardNumber(1) })
    );
    assert!(hot.skew_after.is_some_and(|skew| skew < 1.01), "{hot:?}");
    for part in [
        "key ada, in slot 7 on shard1, has 16.0 %",
        "shard1 carries 1.50",
        "shard2 would carry 1.00",
    ] {
        assert!(hot.because.contains(part), "{part}: {}", hot.because);
    }
    assert_eq!((uneven.kind, &uneven.remedy), (ImbalanceKind::UnevenShards, &Remedy::Rebalance));
    assert_eq!(uneven.because, advice.because);
    // The rebalance is this one move.
    let [step] = &advice.moves[..] else { panic!("{advice:#?}") };
    assert_eq!((&step.ranges, step.to), (&vec![(HOT, HOT)], ShardNumber(1)));
}

#[test]
fn one_of_two_hot_slots_leaves_before_thousands_of_cool_ones_do() {
    let load = load([1; 3], &[(HOT, 2_000), (HOT + 1, 2_000)]);
    let advice = advice(&load, &[], None);
    let [first, second, uneven] = only(&advice);
    assert_eq!((first.kind, first.slot), (ImbalanceKind::HotSlot, Some(slot(HOT + 1))));
    assert_eq!(first.remedy, Remedy::Move { to: ShardNumber(1) });
    // The other one stays on its shard, and cool slots are moved away.
    assert_eq!((second.slot, &second.remedy), (Some(slot(HOT)), &Remedy::Rebalance));
    assert!(
        second.because.contains("the cooler slots of its shard are moved"),
        "{}",
        second.because
    );
    assert!(uneven.skew_after.is_some_and(|skew| skew < 1.05), "{uneven:?}");
    assert_eq!(advice.moves[0].ranges, [(HOT + 1, HOT + 1)], "the heaviest first");
}

#[test]
fn a_key_that_outweighs_every_shard_has_no_action_but_a_reason_and_other_help() {
    let requests = 100_000;
    let keys = [key("celebrity", slot(HOT), requests)];
    let mut load = load([20; 3], &[(HOT, requests)]);
    let advised = advice(&load, &keys, None);
    let [hot, uneven] = only(&advised);
    assert_eq!(
        (hot.kind, hot.key.as_deref(), hot.skew_after),
        (ImbalanceKind::HotKey, Some("celebrity"), None)
    );
    let Remedy::None { reason, helps } = &hot.remedy else { panic!("{hot:?}") };
    assert!(reason.contains("the key alone is more than the 33.3 %"), "{reason}");
    assert_eq!(helps, &[Help::Cache, Help::SplitKey]);
    // The other slots of its shard are moved.
    assert_eq!(uneven.remedy, Remedy::Rebalance);

    // A cache does not help writes.
    load[usize::from(HOT)] = SlotLoad { reads: 0, writes: requests };
    let written = advice(&load, &keys, None);
    let Remedy::None { helps, .. } = &only::<2>(&written)[0].remedy else { panic!("{written:?}") };
    assert_eq!(helps, &[Help::Batches, Help::SplitKey]);

    // Only several keys together exceed it, so the slot is named.
    let halves = ["a", "b"].map(|name| key(name, slot(HOT), requests / 2));
    let several = advice(&load, &halves, None);
    let [hot, _] = only(&several);
    assert_eq!((hot.kind, &hot.key), (ImbalanceKind::HotSlot, &None));
    let Remedy::None { reason, helps } = &hot.remedy else { panic!("{hot:?}") };
    assert!(reason.contains("the slot alone is more"), "{reason}");
    assert_eq!(helps, &[Help::Batches, Help::RenameKeys]);
}

#[test]
fn a_hot_key_beside_nothing_else_has_no_action_at_all() {
    let load = load([0; 3], &[(HOT, 100_000)]);
    let advice = advice(&load, &[key("celebrity", slot(HOT), 100_000)], None);
    let [hot, uneven] = only(&advice);
    for finding in [hot, uneven] {
        assert!(matches!(finding.remedy, Remedy::None { .. }), "{finding:?}");
    }
}

#[test]
fn slots_that_move_already_are_left_alone_and_their_effect_is_foreseen() {
    let load = load([10, 5, 10], &[(HOT, 5_010)]);
    let (owners, moving) = (owners(&[(HOT, 1)]), [slot(HOT)].into_iter().collect());
    let advice = advice(&load, &[], Some(OpenMoves { owners: &owners, moving: &moving }));
    assert_eq!((advice.verdict, advice.moves.len()), (Verdict::Skewed, 0));
    assert!(advice.skew > 1.4 && advice.skew_after < 1.01, "{advice:?}");
    assert!(advice.because.contains("1 slot is being moved already"), "{}", advice.because);
    for finding in only::<2>(&advice) {
        let Remedy::None { reason, .. } = &finding.remedy else { panic!("{finding:?}") };
        assert!(reason.contains("already"), "{reason}");
    }
    assert_eq!((advice.shards[0].slots_after, advice.shards[1].slots_after), (5_461, 5_462));
}

#[test]
fn what_is_left_to_do_beside_open_moves_is_planned_from_where_they_lead() {
    // Two hot slots are too much, and one of them is already being moved.
    let load = load([1; 3], &[(HOT, 2_000), (HOT + 1, 2_000)]);
    let (owners, moving) = (owners(&[(HOT, 2)]), [slot(HOT)].into_iter().collect::<SlotSet>());
    let advice = advice(&load, &[], Some(OpenMoves { owners: &owners, moving: &moving }));
    assert!(!advice.moves.is_empty() && advice.skew_after < 1.05, "{advice:#?}");
    for step in &advice.moves {
        assert_eq!(step.to, ShardNumber(1), "the third shard is getting a hot slot: {step:?}");
        assert!(step.ranges.iter().all(|&(first, last)| !(first..=last).contains(&HOT)));
    }
}

#[test]
fn the_effect_of_moves_is_the_skew_that_the_same_requests_would_have_had() {
    let load = load([10, 5, 10], &[(HOT, 5_010)]);
    let map = even();
    let observed =
        Observed { map: &map, load: &load, sizes: &[], keys: &[], open: None, first_slot: 0 };
    let (before, after) = (owners(&[]), owners(&[(HOT, 1)]));
    assert!((skew_of_owners(&observed, &before) - 1.5).abs() < 1e-9);
    assert!((skew_of_owners(&observed, &after) - 1.0).abs() < 1e-2);
}
