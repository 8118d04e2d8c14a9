//! Tests of plans: which slots move, that each single move is an improvement, and for which
//! clusters there is no plan.

use proptest::prelude::*;

use super::paper::{HypotheticalCluster, PaperFault};
use super::*;
use crate::advice::{BYTES_MIN, Observed, SlotLoad, advise};
use crate::keyspace::Keyspace;
use crate::shard_map::SlotRange;
use crate::topology::ShardSpec;

const SLOTS: usize = SLOT_COUNT as usize;
const MAX: usize = 64;

fn topology(weights: &[u32]) -> Topology {
    let spec = |(number, weight): (usize, &u32)| ShardSpec::new(format!("shard{number}"), *weight);
    Topology::restore((1..).zip(weights).map(spec).collect()).expect("good shards")
}

fn with_state(topology: &Topology, shard: usize, state: ShardState) -> Topology {
    let mut shards = topology.shards().to_vec();
    shards[shard].state = state;
    Topology::restore(shards).expect("good shards")
}

fn map(placement: &str, topology: &Topology) -> ShardMap {
    let placement: Placement = placement.parse().expect("a placement");
    ShardMap::first(Keyspace::Hash, placement, topology.clone()).expect("it fits")
}

fn owners(map: &ShardMap) -> Vec<ShardNumber> {
    map.owners().map(|owner| owner.shard).collect()
}

fn slots(numbers: impl IntoIterator<Item = u16>) -> SlotSet {
    numbers.into_iter().filter_map(Slot::new).collect()
}

fn scene<'s>(
    topology: &'s Topology,
    owners: &'s [ShardNumber],
    moving: &'s SlotSet,
) -> PlanScene<'s> {
    PlanScene { topology, owners, moving, sizes: &[], slots_max: MAX }
}

fn apply(owners: &mut [ShardNumber], step: &PlanStep) {
    for slot in step.slots.iter() {
        assert_eq!(owners[slot.index()], step.from, "the giver owns it");
        owners[slot.index()] = step.to;
    }
}

fn counts(owners: &[ShardNumber], shards: usize) -> Vec<usize> {
    let mut counts = vec![0; shards];
    owners.iter().for_each(|owner| counts[owner.index()] += 1);
    counts
}

/// Returns the number of slots by which shards exceed their goals, summed over all shards.
fn excess(counts: &[usize], goal: &[usize]) -> usize {
    counts.iter().zip(goal).map(|(count, goal)| count.saturating_sub(*goal)).sum()
}

#[test]
fn a_fourth_shard_draws_a_quarter_by_slots_in_moves_that_alternate_between_givers() {
    let (old, new) = (topology(&[1; 3]), topology(&[1; 4]));
    let (before, none) = (owners(&map("even", &old)), SlotSet::empty());
    let plan = plan_by_slots(&scene(&new, &before, &none)).expect("a plan");
    assert_eq!((plan.slots(), plan.needed), (4_096, 4_096));
    assert_eq!(plan.shards.iter().map(|shard| shard.slots_after).collect::<Vec<_>>(), [4_096; 4]);
    assert!((plan.skew_before - 4.0 / 3.0).abs() < 0.001, "{}", plan.skew_before);
    assert_eq!(plan.skew_planned, 1.0);
    assert!(plan.steps.iter().all(|step| step.to == ShardNumber(3)));
    let givers: Vec<u16> = plan.steps[..6].iter().map(|step| step.from.0).collect();
    assert_eq!(givers, [0, 1, 2, 0, 1, 2]);
    assert_eq!(plan.note, None);
}

#[test]
fn a_ring_moves_only_what_the_newcomer_draws() {
    let (old, new) = (topology(&[1; 3]), topology(&[1; 4]));
    let current = map("ring:160", &old);
    let (before, none) = (owners(&current), SlotSet::empty());
    let (scene, ring) = (scene(&new, &before, &none), "ring:160".parse().expect("a ring"));
    let plan = plan_by_placement(&scene, &current, &ring).expect("a plan");
    assert!(plan.steps.iter().all(|step| step.to == ShardNumber(3)), "nothing between old shards");
    let share = plan.slots() as f64 / SLOTS as f64;
    assert!((0.2..0.3).contains(&share), "{share}");
    assert_eq!(plan.note, None);
    let mut after = before.clone();
    plan.steps.iter().for_each(|step| apply(&mut after, step));
    assert_eq!(after, owners(&map("ring:160", &new)));
}

#[test]
fn modulo_has_a_warning_that_proposes_the_plan_by_slots() {
    let (old, new) = (topology(&[1; 3]), topology(&[1; 4]));
    let current = map("modulo", &old);
    let (before, none) = (owners(&current), SlotSet::empty());
    let plan = plan_by_placement(&scene(&new, &before, &none), &current, &Placement::Modulo);
    let plan = plan.expect("a plan");
    assert!(plan.slots() > SLOTS * 7 / 10, "{}", plan.slots());
    assert_eq!(plan.needed, 4_096);
    let note = plan.note.expect("a note");
    assert!(note.contains("(75 %)") && note.contains("by slots, 4096"), "{note}");
}

#[test]
fn a_drained_shard_gives_everything_and_nothing_moves_between_others() {
    let shards = topology(&[1, 1, 2, 1]);
    let (before, none) = (owners(&map("even", &shards)), slots(12_288..12_300));
    let plan = plan_drain(&scene(&shards, &before, &none), ShardNumber(3)).expect("a plan");
    assert_eq!((plan.slots(), plan.needed), (4_096, 4_096), "slots that move already as well");
    assert!(plan.steps.iter().all(|step| step.from == ShardNumber(3)));
    let after: Vec<usize> = plan.shards.iter().map(|shard| shard.slots_after).collect();
    assert_eq!(after, [4_096, 4_096, 8_192, 0], "each by its weight");
    assert_eq!(plan.skew_planned, 1.0);
    let draining = with_state(&shards, 3, ShardState::Draining);
    let again = plan_drain(&scene(&draining, &before, &none), ShardNumber(3));
    assert_eq!(again.expect("a plan").steps, plan.steps);
}

#[test]
fn slots_without_a_shard_that_takes_them_have_no_plan() {
    let shards = topology(&[1, 0, 0]);
    let (before, none) = (owners(&map("even", &topology(&[1; 3]))), SlotSet::empty());
    let drain = plan_drain(&scene(&shards, &before, &none), ShardNumber(0));
    assert_eq!(drain, Err(PlanFault::NoTaker));
    let draining = with_state(&shards, 0, ShardState::Draining);
    assert_eq!(plan_by_slots(&scene(&draining, &before, &none)), Err(PlanFault::NoTaker));
    let one = topology(&[1]);
    let all = owners(&map("even", &one));
    let last = plan_drain(&scene(&one, &all, &none), ShardNumber(0));
    assert_eq!(last, Err(PlanFault::NoTaker), "the last shard");
    for state in [ShardState::Joining, ShardState::Retired] {
        let other = with_state(&topology(&[1, 1]), 1, state);
        let drain = plan_drain(&scene(&other, &all, &none), ShardNumber(1));
        assert_eq!(drain, Err(PlanFault::NotDrainable { shard: "shard2".to_owned(), state }));
    }
}

#[test]
fn a_weight_of_zero_and_a_draining_shard_give_all_slots_by_slots() {
    let shards = with_state(&topology(&[1, 0, 1]), 2, ShardState::Draining);
    let (before, none) = (owners(&map("even", &topology(&[1; 3]))), SlotSet::empty());
    let plan = plan_by_slots(&scene(&shards, &before, &none)).expect("a plan");
    let after: Vec<usize> = plan.shards.iter().map(|shard| shard.slots_after).collect();
    assert_eq!(after, [SLOTS, 0, 0]);
}

#[test]
fn slots_being_moved_stay_and_the_plan_notes_the_rest() {
    let new = topology(&[1; 2]);
    let before = owners(&map("even", &topology(&[1])));
    let moving = slots(0..9_000);
    let plan = plan_by_slots(&scene(&new, &before, &moving)).expect("a plan");
    assert_eq!((plan.slots(), plan.needed), (7_384, 8_192));
    assert!(plan.steps.iter().all(|step| step.slots.is_disjoint(&moving)));
    assert!(plan.note.expect("a note").starts_with("808 more slots"));
}

#[test]
fn a_placement_that_does_not_fit_the_cluster_has_no_plan() {
    let shards = topology(&[1, 1]);
    let current = map("even", &shards);
    let (before, none) = (owners(&current), SlotSet::empty());
    let plan = |topology: &Topology, placement: &str| {
        let placement: Placement = placement.parse().expect("a placement");
        plan_by_placement(&scene(topology, &before, &none), &current, &placement)
    };
    let lists = plan(&shards, "partitions:a=1>shard1,b=1>shard2");
    assert!(matches!(lists, Err(PlanFault::Keyspace(_))), "{lists:?}");
    let unknown = plan(&shards, "manual:0-16383=shard9");
    assert!(matches!(unknown, Err(PlanFault::Placement(_))), "{unknown:?}");
    let draining = with_state(&shards, 1, ShardState::Draining);
    let refused = plan(&draining, "manual:0-8000=shard1,8001-16383=shard2");
    assert!(matches!(refused, Err(PlanFault::NotServing { .. })), "{refused:?}");
}

#[test]
fn an_advice_by_size_becomes_moves_of_limited_size_with_rows_and_bytes() {
    let shards = topology(&[1, 1]);
    let current = map("manual:0-12287=shard1,12288-16383=shard2", &shards);
    let size = |slots: u64| ShardSize { rows: Some(slots * 10), bytes: Some(slots * BYTES_MIN) };
    let sizes = [size(12_288), size(4_096)];
    let observed =
        Observed { map: &current, load: &[], sizes: &sizes, keys: &[], open: None, first_slot: 0 };
    let advice = advise(&observed, BalanceBy::Size);
    let (before, none) = (owners(&current), SlotSet::empty());
    let scene = PlanScene { sizes: &sizes, ..scene(&shards, &before, &none) };
    let plan = plan_of_advice(&scene, &advice);
    assert_eq!((plan.skew_before, plan.skew_planned), (1.5, advice.skew_after));
    assert!(plan.skew_planned <= 1.05, "{}", plan.skew_planned);
    assert!(plan.slots() <= 4_096 && plan.steps.len() >= plan.slots().div_ceil(MAX));
    for step in &plan.steps {
        assert!(step.slots.len() <= MAX);
        assert_eq!(step.rows, Some(step.slots.len() as u64 * 10));
        assert_eq!(step.bytes, Some(step.slots.len() as u64 * BYTES_MIN));
    }
    let mebibytes = plan.bytes().expect("known") as f64 / f64::from(1 << 20);
    let pace = MovePace { bytes_per_s: f64::from(1 << 20), move_s: 0.0, at_a_time: 4 };
    let seconds = plan.seconds(pace).expect("known");
    assert!((seconds - mebibytes).abs() < 0.01, "one giver: {seconds} for {mebibytes}");
    let moves = plan.steps.len() as f64;
    let longer = plan.seconds(MovePace { move_s: 2.0, ..pace }).expect("known");
    assert!((longer - seconds - 2.0 * moves).abs() < 0.01, "{moves} moves: {longer}");
}

#[test]
fn rows_and_bytes_of_the_moves_add_up_to_the_share_of_a_shard_with_few_rows() {
    let (old, new) = (topology(&[1; 3]), topology(&[1; 4]));
    let (before, none) = (owners(&map("even", &old)), SlotSet::empty());
    let size = |rows: u64| ShardSize { rows: Some(rows), bytes: Some(rows * 129) };
    let sizes = [size(20), size(0), size(85)];
    let scene = PlanScene { sizes: &sizes, ..scene(&new, &before, &none) };
    let plan = plan_by_slots(&scene).expect("a plan");
    let counted = counts(&before, 3);
    for (number, size) in (0..).zip(sizes) {
        let own = || plan.steps.iter().filter(|step| step.from == ShardNumber(number));
        let slots: usize = own().map(|step| step.slots.len()).sum();
        let share = |whole: Option<u64>| {
            whole.expect("known") * slots as u64 / counted[usize::from(number)] as u64
        };
        assert_eq!(own().filter_map(|step| step.rows).sum::<u64>(), share(size.rows));
        assert_eq!(own().filter_map(|step| step.bytes).sum::<u64>(), share(size.bytes));
    }
    assert_eq!(plan.rows(), Some(5 + 21), "a quarter of each shard");
    let empty = PlanScene { sizes: &[size(0); 3], ..scene };
    let plan = plan_by_slots(&empty).expect("a plan");
    let pace = MovePace { bytes_per_s: 1.0, move_s: 0.5, at_a_time: 4 };
    assert_eq!(plan.seconds(pace), Some(0.5 * plan.steps.len() as f64), "moves to one shard");
}

#[test]
fn a_simulation_of_a_thousand_shards_gives_one_more_its_share() {
    let cluster = HypotheticalCluster { shards: 1_000, add: 1, bytes: 10_000_000_000_000 };
    let plan = cluster.plan(MAX).expect("a plan");
    assert_eq!(plan.slots(), 16);
    assert!(plan.steps.iter().all(|step| step.to == ShardNumber(1_000)));
    let bytes = plan.bytes().expect("known");
    assert!((9_300_000_000..10_100_000_000).contains(&bytes), "{bytes}");
    let seconds = plan.seconds(MovePace::of(None, 4)).expect("known");
    assert!((220.0..240.0).contains(&seconds), "{seconds}");
    for (shards, add) in [(0, 1), (4_096, 1), (usize::MAX, 1)] {
        let none = HypotheticalCluster { shards, add, bytes: 1 }.plan(MAX);
        assert!(matches!(none, Err(PaperFault::Shards(_))), "{none:?}");
    }
}

/// Strategy for clusters with any owners, weights and states, in which at least the first shard may
/// receive slots.
fn clusters() -> impl Strategy<Value = (Topology, Vec<ShardNumber>)> {
    let state = prop_oneof![4 => Just(ShardState::Serving), 1 => Just(ShardState::Draining)];
    let shards = proptest::collection::vec((0_u32..5, state), 1..7);
    (1_u32..5, shards, any::<u64>(), 0..4_u32).prop_map(|(first, mut others, seed, lumps)| {
        others.insert(0, (first, ShardState::Serving));
        let spec = |(number, (weight, state)): (usize, &(u32, ShardState))| ShardSpec {
            state: *state,
            ..ShardSpec::new(format!("shard{number}"), *weight)
        };
        let count = others.len() as u64;
        let topology = Topology::restore((1..).zip(&others).map(spec).collect());
        // The slots are in runs that have one owner; the length of a run is 1, 16, 256 or 4096
        // slots.
        let owner = |slot: u64| {
            let run = (slot >> (4 * lumps)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ seed;
            ShardNumber((run.wrapping_mul(0xD6E8_FEB8_6659_FD93) >> 40) as u16 % count as u16)
        };
        (topology.expect("good shards"), (0..SLOTS as u64).map(owner).collect())
    })
}

/// Strategy for clusters of serving shards with any owners, and the number of requests to each
/// slot.
fn loaded_clusters() -> impl Strategy<Value = (Topology, Vec<ShardNumber>, Vec<u64>)> {
    let weights = proptest::collection::vec(1_u32..5, 2..7);
    (weights, any::<u64>(), 1_usize..3_000, 0_u32..4).prop_map(|(weights, seed, runs, shape)| {
        let mix = |number: u64| {
            let mixed = (number ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed ^ (mixed >> 32)
        };
        let count = weights.len() as u64;
        let owner = |slot: usize| {
            let run = (slot * runs / SLOTS) as u64;
            // The lower of two numbers is taken, so that some shards have far more slots than
            // others.
            ShardNumber((mix(run) % count).min(mix(run + 7) % count) as u16)
        };
        let requests = |slot: u64| match shape {
            0 => 100,
            1 => mix(slot) % 2_000,
            // Only about one slot in 97 has any load.
            2 => u64::from(mix(slot).is_multiple_of(97)) * (mix(slot + 1) % 2_000) * 50,
            _ => 2_000_000 / (1 + mix(slot) % 10_000),
        };
        let requests = (0..SLOTS as u64).map(requests).collect();
        (topology(&weights), (0..SLOTS).map(owner).collect(), requests)
    })
}

fn owned_by(topology: &Topology, owners: &[ShardNumber]) -> ShardMap {
    let range =
        |(slot, shard): (u16, &ShardNumber)| SlotRange { first: slot, last: slot, shard: *shard };
    let ranges: Vec<SlotRange> = (0..).zip(owners).map(range).collect();
    ShardMap::restore(1, Keyspace::Hash, Placement::Even, topology.clone(), &ranges).expect("a map")
}

/// Returns the load of the fullest shard divided by its weight.
fn fullest(loads: &[u64], weights: &[u32]) -> f64 {
    let full = loads.iter().zip(weights).map(|(load, weight)| *load as f64 / f64::from(*weight));
    full.fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn after_any_number_of_moves_of_an_advice_the_fullest_shard_is_no_fuller_than_before(
        (topology, before, requests) in loaded_clusters(),
    ) {
        let (current, none) = (owned_by(&topology, &before), SlotSet::empty());
        let load = requests.iter().map(|&reads| SlotLoad { reads, writes: 0 });
        let load: Vec<SlotLoad> = load.collect();
        let observed = Observed {
            map: &current,
            load: &load,
            sizes: &[],
            keys: &[],
            open: None,
            first_slot: 0,
        };
        let advice = advise(&observed, BalanceBy::Load);
        let plan = plan_of_advice(&scene(&topology, &before, &none), &advice);
        prop_assert_eq!(plan.slots(), advice.moves.iter().map(|moved| moved.slots).sum::<usize>());
        let weights = topology.share_weights();
        let (mut owners, mut loads) = (before.clone(), vec![0_u64; topology.len()]);
        before.iter().zip(&requests).for_each(|(owner, count)| loads[owner.index()] += count);
        let most = fullest(&loads, &weights) * (1.0 + 1e-9);
        for step in &plan.steps {
            prop_assert!((1..=MAX).contains(&step.slots.len()));
            apply(&mut owners, step);
            let moved: u64 = step.slots.iter().map(|slot| requests[slot.index()]).sum();
            loads[step.from.index()] -= moved;
            loads[step.to.index()] += moved;
            prop_assert!(fullest(&loads, &weights) <= most, "{:?} of {}", step, advice.because);
        }
        let shares = advice.shards.iter().map(|shard| shard.slots_after);
        prop_assert_eq!(shares.collect::<Vec<_>>(), counts(&owners, topology.len()));
    }

    #[test]
    fn every_part_of_a_plan_by_slots_improves_the_cluster_in_any_order(
        (topology, before) in clusters(),
        chosen in any::<u64>(),
        moving in proptest::collection::btree_set(0..SLOT_COUNT, 0..300),
    ) {
        let moving = slots(moving);
        let plan = plan_by_slots(&scene(&topology, &before, &moving)).expect("a shard takes slots");
        prop_assert!(plan.slots() <= plan.needed);
        let targets = crate::placement::slot_targets(
            &topology,
            &counts(&before, topology.len()).iter().map(|count| *count as u16).collect::<Vec<_>>(),
        );
        let goal: Vec<usize> = targets.into_iter().map(usize::from).collect();
        let mut owners = before.clone();
        let mut counted = counts(&owners, topology.len());
        let mut left = excess(&counted, &goal);
        prop_assert_eq!(left, plan.needed, "no plan moves fewer");
        // A random subset of the moves is applied in reverse order, because no move may depend on
        // another one.
        for (index, step) in plan.steps.iter().enumerate().rev() {
            prop_assert!((1..=MAX).contains(&step.slots.len()));
            prop_assert!(step.slots.is_disjoint(&moving));
            prop_assert_eq!(topology.shards()[step.to.index()].state, ShardState::Serving);
            if chosen >> (index % 64) & 1 == 0 {
                continue;
            }
            apply(&mut owners, step);
            counted[step.from.index()] -= step.slots.len();
            counted[step.to.index()] += step.slots.len();
            let after = excess(&counted, &goal);
            prop_assert_eq!(after, left - step.slots.len(), "nothing moves twice or too far");
            left = after;
        }
    }

    #[test]
    fn a_whole_plan_by_slots_settles_the_cluster((topology, before) in clusters()) {
        let none = SlotSet::empty();
        let plan = plan_by_slots(&scene(&topology, &before, &none)).expect("a shard takes slots");
        let mut owners = before.clone();
        plan.steps.iter().for_each(|step| apply(&mut owners, step));
        prop_assert_eq!(plan.slots(), plan.needed);
        let simulated = crate::placement::rebalance(&before, &topology, &topology);
        prop_assert!(owners == simulated, "`placement simulate` has the same result");
        let counted = counts(&owners, topology.len());
        for shard in &plan.shards {
            let count = counted[shard.shard.index()];
            prop_assert_eq!(count, shard.slots_after);
            prop_assert!((count as f64 - shard.fair_slots).abs() < 1.0, "{:?}", shard);
        }
        let again = plan_by_slots(&scene(&topology, &owners, &none)).expect("a shard takes slots");
        prop_assert_eq!(again.steps, vec![]);
    }

    #[test]
    fn a_drain_empties_the_shard_and_fills_the_others_by_weight((topology, before) in clusters()) {
        let none = SlotSet::empty();
        let drained = ShardNumber(topology.len() as u16 - 1);
        let plan = plan_drain(&scene(&topology, &before, &none), drained);
        let plan = plan.expect("the first shard takes slots");
        let mut owners = before.clone();
        plan.steps.iter().for_each(|step| apply(&mut owners, step));
        let (had, has) = (counts(&before, topology.len()), counts(&owners, topology.len()));
        prop_assert_eq!(has[drained.index()], 0);
        let takers: Vec<&PlanShard> =
            plan.shards.iter().filter(|shard| shard.fair_slots > 0.0).collect();
        for taker in &takers {
            let index = taker.shard.index();
            prop_assert!(has[index] >= had[index], "nothing moves between others");
            // A shard takes a slot only while no other taker would be less full with one more slot.
            let fullness = |count: usize, shard: &PlanShard| count as f64 / shard.fair_slots;
            for other in takers.iter().filter(|_| has[index] > had[index]) {
                let emptiest = fullness(has[other.shard.index()] + 1, other);
                prop_assert!(fullness(has[index], taker) <= emptiest + 1e-9);
            }
        }
    }
}
