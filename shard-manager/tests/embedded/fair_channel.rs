//! Tests of the channel through which operations of several tenants come.

use shard_manager::engine::fair_channel::{
    FairLimits, FairReceiver, FairSender, Queued, Refused, channel,
};
use shard_manager::fair_share::FairShare;

const LIMITS: FairLimits =
    FairLimits { operations: 256, bytes: 25_600, batch_operations: 16, batch_bytes: 1_600 };

/// A message: tenant, bytes and a number. Tenant 0 stands for callers without a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent(u64, usize, usize);

/// Number of a barrier.
const BARRIER: usize = usize::MAX;

impl Queued for Sent {
    fn share(&self) -> Option<(FairShare, usize)> {
        let Self(tenant, bytes, number) = *self;
        let share = if tenant == 0 { FairShare::COMMON } else { FairShare::new(tenant, 1) };
        (number != BARRIER).then_some((share, bytes))
    }
}

fn send(queue: &FairSender<Sent>, tenant: u64, number: usize) -> Result<(), Refused<Sent>> {
    queue.try_send(Sent(tenant, 1, number), 0)
}

/// Takes the next batch; returns tenants and numbers.
fn batch(waiting: &mut FairReceiver<Sent>) -> Vec<(u64, usize)> {
    waiting.sort(0);
    let taken = std::iter::from_fn(|| waiting.try_next()).take(LIMITS.batch_operations);
    taken.map(|Sent(tenant, _, number)| (tenant, number)).collect()
}

/// Takes all that is left, batch by batch.
fn rest(waiting: &mut FairReceiver<Sent>) -> Vec<(u64, usize)> {
    let mut taken = Vec::new();
    loop {
        let more = batch(waiting);
        if more.is_empty() {
            return taken;
        }
        taken.extend(more);
    }
}

fn of(tenant: u64, taken: &[(u64, usize)]) -> Vec<usize> {
    taken.iter().filter(|(of, _)| *of == tenant).map(|(_, number)| *number).collect()
}

#[test]
fn one_tenant_may_send_as_much_as_the_channel_holds_except_a_reserve() {
    for (tenant, most) in [(0, 256), (5, 252)] {
        let (queue, mut waiting) = channel(LIMITS);
        let sent = (0..).take_while(|number| send(&queue, tenant, *number).is_ok()).count();
        assert_eq!((sent, queue.waiting()), (most, most), "tenant {tenant}");
        assert!(matches!(send(&queue, tenant, 0), Err(Refused::Full(_))));
        let first = batch(&mut waiting);
        assert_eq!(of(tenant, &first), (0..16).collect::<Vec<_>>());
        assert_eq!(queue.waiting(), most - 16);
    }
}

#[test]
fn no_tenant_has_more_than_half_while_another_waits() {
    let (queue, mut waiting) = channel(LIMITS);
    for number in 0..250 {
        assert!(send(&queue, 1, number).is_ok());
    }
    assert!(send(&queue, 2, 0).is_ok(), "there is room for another one");
    assert!(matches!(send(&queue, 1, 250), Err(Refused::Share(_))));
    let first = batch(&mut waiting);
    assert_eq!(of(2, &first), [0], "served in the first batch");
    assert!(matches!(send(&queue, 1, 250), Err(Refused::Share(_))), "the other one may go on");
    let mut taken = of(1, &first);
    taken.extend(of(1, &batch(&mut waiting)));
    assert!(send(&queue, 1, 250).is_ok(), "no other tenant waits");
    // Half of it is its share as long as the other one waits.
    assert!(send(&queue, 2, 1).is_ok());
    let mut next = 251;
    while next < 260 {
        if send(&queue, 1, next).is_ok() {
            assert!(queue.waiting() <= 129 + 1, "{}", queue.waiting());
            next += 1;
        }
        let more = batch(&mut waiting);
        taken.extend(of(1, &more));
        of(2, &more).iter().for_each(|number| assert!(send(&queue, 2, number + 1).is_ok()));
    }
    assert!(taken.is_sorted());
}

#[test]
fn bytes_count_like_operations() {
    let (queue, _waiting) = channel(LIMITS);
    let large = |tenant| queue.try_send(Sent(tenant, 10_000, 0), 0);
    assert!(large(1).is_ok());
    assert!(send(&queue, 2, 0).is_ok());
    assert!(matches!(large(1), Err(Refused::Share(_))));
    assert!(large(2).is_ok());
    assert!(large(3).is_ok(), "a tenant that has nothing may send one of any size");
}

#[test]
fn what_fits_in_one_batch_is_received_in_the_order_of_arrival() {
    let (queue, mut waiting) = channel(LIMITS);
    let arrival: Vec<(u64, usize)> = (0..15).map(|number| (number % 4, number as usize)).collect();
    for (tenant, number) in &arrival {
        assert!(send(&queue, *tenant, *number).is_ok());
    }
    assert_eq!(batch(&mut waiting), arrival);
}

#[test]
fn barriers_stay_between_what_came_before_and_after_them() {
    let (queue, mut waiting) = channel(LIMITS);
    for number in 0..40 {
        assert!(send(&queue, 1, number).is_ok());
    }
    assert!(send(&queue, 2, 0).is_ok());
    assert!(queue.try_send(Sent(0, 0, BARRIER), 0).is_ok());
    assert!(send(&queue, 3, 0).is_ok());
    for number in 40..80 {
        assert!(send(&queue, 1, number).is_ok());
    }
    assert!(send(&queue, 4, 0).is_ok());
    let taken = rest(&mut waiting);
    let barrier = taken.iter().position(|(_, number)| *number == BARRIER).expect("it was sent");
    assert_eq!(barrier, 41);
    assert_eq!(of(1, &taken), (0..80).collect::<Vec<_>>());
    let (before, after) = taken.split_at(barrier);
    assert!(before[..16].contains(&(2, 0)), "{before:?}");
    assert!(after.contains(&(3, 0)) && after[..32].contains(&(4, 0)), "{after:?}");
    assert_eq!(queue.waiting(), 0);
}

#[test]
fn all_that_waits_stays_within_the_capacity() {
    let (queue, mut waiting) = channel(LIMITS);
    let (mut next, mut taken) = ([0; 4], Vec::new());
    for _ in 0..50 {
        for tenant in 1..=3 {
            while send(&queue, tenant, next[tenant as usize]).is_ok() {
                next[tenant as usize] += 1;
            }
        }
        assert!(queue.waiting() <= LIMITS.operations, "{}", queue.waiting());
        taken.extend(batch(&mut waiting));
    }
    taken.extend(rest(&mut waiting));
    for tenant in 1..=3 {
        let all = next[tenant as usize];
        assert!(all > 50, "tenant {tenant} has sent {all}");
        assert_eq!(of(tenant, &taken), (0..all).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_receiver_of_batches_serves_tenants_in_turns() {
    let (queue, mut waiting) = channel(LIMITS);
    for number in 0..100 {
        assert!(send(&queue, 1, number).is_ok());
    }
    assert!(send(&queue, 2, 0).is_ok());
    let mut received = Vec::new();
    assert_eq!(waiting.recv_many(&mut received).await, 16);
    assert!(received.contains(&Sent(2, 1, 0)));
    drop(queue);
    while waiting.recv_many(&mut received).await > 0 {}
    assert_eq!(received.len(), 101);
}

#[test]
fn a_sender_without_receiver_gets_its_message_back() {
    let (queue, waiting) = channel(LIMITS);
    assert!(!queue.is_closed());
    drop(waiting);
    assert!(matches!(send(&queue, 1, 9), Err(Refused::Closed(Sent(1, 1, 9)))));
    assert!(queue.is_closed());
}
