//! Tests of the order in which operations of several tenants are taken.

use std::collections::{BTreeMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;
use shard_manager::engine::fair_queue::FairQueue;
use shard_manager::fair_share::FairShare;

use crate::cases;

/// Units of credit in a round, and the operations of a batch.
const ROUND: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// An operation of this tenant and cost is sent.
    Send { tenant: u64, cost: u64 },
    /// A barrier is sent.
    Barrier,
    /// Something is taken.
    Take,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let send = (1..6_u64, 0..300_u64).prop_map(|(tenant, cost)| Step::Send { tenant, cost });
    vec(prop_oneof![4 => send, 1 => Just(Step::Barrier), 4 => Just(Step::Take)], 0..400)
}

fn share(tenant: u64, weight: u32) -> FairShare {
    FairShare::new(tenant, weight)
}

/// Moves what was sent to the queue, up to a barrier, as a receiver does.
fn fill(queue: &mut FairQueue<(usize, Step)>, sent: &mut VecDeque<(usize, Step)>) {
    while !queue.is_closed() {
        let Some(next) = sent.pop_front() else { return };
        match next.1 {
            Step::Send { tenant, cost } => queue.push(share(tenant, tenant as u32), cost, next),
            Step::Barrier => queue.close(next),
            Step::Take => unreachable!("it is not sent"),
        }
    }
}

/// Credit of a turn among these weights, rounded up.
fn credit(weight: u32, weights: u32) -> usize {
    (ROUND * weight as usize).div_ceil(weights as usize).max(1)
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn nothing_passes_a_barrier_nor_an_earlier_operation_of_its_tenant(steps in steps()) {
        let mut queue = FairQueue::new(ROUND as u64);
        let (mut sent, mut taken) = (VecDeque::new(), Vec::new());
        for (number, step) in steps.iter().copied().enumerate() {
            if step == Step::Take {
                fill(&mut queue, &mut sent);
                taken.extend(queue.pop());
            } else {
                sent.push_back((number, step));
            }
        }
        loop {
            fill(&mut queue, &mut sent);
            let Some(next) = queue.pop() else { break };
            taken.push(next);
        }
        prop_assert!(queue.is_empty());
        let all = steps.iter().copied().enumerate().filter(|(_, step)| *step != Step::Take);
        let mut sorted = taken.clone();
        sorted.sort_unstable_by_key(|(number, _)| *number);
        prop_assert_eq!(&sorted, &all.collect::<Vec<_>>(), "each exactly once");
        let (mut latest, mut passed) = (BTreeMap::new(), 0);
        let mut highest = 0;
        for (number, step) in taken {
            prop_assert!(number >= passed, "it was sent before the barrier {passed}");
            match step {
                Step::Send { tenant, .. } => {
                    let before = latest.insert(tenant, number);
                    prop_assert!(before.is_none_or(|before| before < number));
                }
                Step::Barrier => {
                    prop_assert!(highest <= number, "{highest} was sent after the barrier");
                    passed = number;
                }
                Step::Take => unreachable!("it is not sent"),
            }
            highest = highest.max(number);
        }
    }

    #[test]
    fn one_tenant_is_served_first_come_first_served(steps in steps()) {
        let mut queue = FairQueue::new(ROUND as u64);
        let mut waiting = VecDeque::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Send { cost, .. } => {
                    queue.push(share(7, 3), cost, number);
                    waiting.push_back(number);
                }
                Step::Barrier | Step::Take => prop_assert_eq!(queue.pop(), waiting.pop_front()),
            }
            prop_assert_eq!(queue.len(), waiting.len());
            let only = (!waiting.is_empty()).then_some(7);
            prop_assert_eq!(queue.only_tenant(), only);
        }
    }

    /// The bound holds for every sequence of messages and all weights of the other tenants.
    #[test]
    fn a_tenant_that_begins_to_wait_is_served_within_two_rounds(
        weights in vec(1..=1_000_u32, 1..40),
        largest in 1..400_u64,
        before in 0..2_000_usize,
        own in 1..=1_000_u32,
    ) {
        let mut queue = FairQueue::new(ROUND as u64);
        let tenants = || (1_u64..).zip(&weights);
        let mut number = 0;
        let mut refill = |queue: &mut FairQueue<(u64, u64)>, tenant, weight: u32| {
            number += 1;
            let cost = 1 + number * 7_919 % largest;
            queue.push(share(tenant, weight), cost, (tenant, cost));
        };
        for (tenant, weight) in tenants() {
            for _ in 0..50 {
                refill(&mut queue, tenant, *weight);
            }
        }
        let weight = |tenant: u64| weights[tenant as usize - 1];
        for _ in 0..before {
            let (tenant, _) = queue.pop().expect("all wait");
            refill(&mut queue, tenant, weight(tenant));
        }
        queue.push(share(u64::MAX, own), largest, (0, largest));
        let mut costs = BTreeMap::new();
        loop {
            let (tenant, cost) = queue.pop().expect("all wait");
            if tenant == 0 {
                break;
            }
            *costs.entry(tenant).or_insert(0) += cost;
            refill(&mut queue, tenant, weight(tenant));
        }
        let all = weights.iter().sum::<u32>();
        for (tenant, cost) in costs {
            // The rest of a turn that had begun among the others, and one whole turn.
            let turn = credit(weight(tenant), all) as u64 + largest;
            prop_assert!(cost <= 2 * turn, "{cost} of tenant {tenant}, whose turn is {turn}");
        }
    }

    #[test]
    fn a_batch_is_shared_by_weight(weights in vec(1..=20_u32, 1..20)) {
        let mut queue = FairQueue::new(ROUND as u64);
        for (tenant, weight) in (1_u64..).zip(&weights) {
            (0..ROUND).for_each(|_| queue.push(share(tenant, *weight), 1, tenant));
        }
        let mut taken = vec![0_usize; weights.len()];
        for _ in 0..ROUND {
            taken[queue.pop().expect("all wait") as usize - 1] += 1;
        }
        let all = weights.iter().sum::<u32>() as usize;
        for (taken, weight) in taken.into_iter().zip(&weights) {
            let share = ROUND * *weight as usize / all;
            prop_assert!(taken.abs_diff(share) <= weights.len() + 1, "{taken}, not {share}");
        }
    }

    /// One has few large operations, the other many small ones.
    #[test]
    fn tenants_of_equal_weight_get_the_same_cost(large in 2..600_u64, rounds in 1..20_usize) {
        let mut queue = FairQueue::new(ROUND as u64);
        let operations = rounds * ROUND;
        for _ in 0..operations {
            queue.push(share(1, 5), large, large);
            queue.push(share(2, 5), 1, 1);
        }
        let (mut of_large, mut of_small) = (0, 0);
        while of_small < operations as u64 / 2 {
            match queue.pop().expect("both wait") {
                1 => of_small += 1,
                cost => of_large += cost,
            }
        }
        let turn = ROUND as u64 / 2 + large;
        prop_assert!(of_large.abs_diff(of_small) <= turn, "{of_large} and {of_small}");
    }
}

#[test]
fn debts_do_not_outlive_the_last_operation() {
    let mut queue = FairQueue::new(ROUND as u64);
    for tenant in [1, 2] {
        queue.push(share(tenant, 1), 100_000, tenant);
    }
    assert_eq!((queue.pop(), queue.pop(), queue.pop()), (Some(1), Some(2), None));
    for number in 0..10 {
        queue.push(share(1, 1), 1, 1);
        queue.push(share(3, 1), 1, 3);
        assert_eq!(queue.len(), 2 * number + 2);
    }
    assert_eq!(queue.pop(), Some(1), "its turn is the first");
}

#[test]
fn a_thousand_tenants_are_served_one_after_the_other() {
    let mut queue = FairQueue::new(ROUND as u64);
    for round in 0..3 {
        for tenant in 1..=1_000 {
            queue.push(share(tenant, 1), 1, (round, tenant));
        }
    }
    for round in 0..3 {
        for tenant in 1..=1_000 {
            assert_eq!(queue.pop(), Some((round, tenant)));
        }
    }
    assert!(queue.is_empty());
}
