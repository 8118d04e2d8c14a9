//! Tests of limits: rates, quotas, concurrent requests and failures, at times that the tests
//! choose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use access::limit::caller_limits::{CallerLimits, LimitKind, LimitState};
use access::limit::day_quota::DayQuota;
use access::limit::failures::FailureLimiter;
use access::limit::headers;
use access::limit::limit_cells::{LimitCells, LimitSubject};
use access::limit::{Rate, RateCell, RoleLimits};
use access::unix_time::UnixTime;
use proptest::prelude::*;

const START: Duration = Duration::from_secs(1_000);

fn after(millis: u64) -> Duration {
    START + Duration::from_millis(millis)
}

#[test]
fn a_burst_is_possible_at_once_and_then_the_rate() {
    let (cell, rate) = (RateCell::default(), Rate::new(200, 400).unwrap());
    for taken in 1..=400 {
        assert_eq!(cell.take(rate, 1, START).unwrap().remaining, 400 - taken);
    }
    assert_eq!(cell.take(rate, 1, START), Err(Duration::from_millis(5)));
    assert!(cell.take(rate, 1, after(4)).is_err(), "a refusal uses up nothing");
    assert!(cell.take(rate, 1, after(5)).is_ok());
    assert_eq!(cell.take(rate, 1, after(60_000)).unwrap().remaining, 399);
}

#[test]
fn a_request_dearer_than_the_burst_takes_all_of_it() {
    let (cell, rate) = (RateCell::default(), Rate::new(10, 20).unwrap());
    assert_eq!(cell.take(rate, 256, START).unwrap().remaining, 0);
    assert!(cell.take(rate, 256, after(1_999)).is_err());
    assert!(cell.take(rate, 256, after(2_000)).is_ok());
}

#[test]
fn a_stream_is_slowed_down_by_the_rows_it_has_used() {
    let (cell, rate) = (RateCell::default(), Rate::new(1_000, 1_000).unwrap());
    assert_eq!(cell.charge(rate, 1_000, START), Duration::ZERO);
    assert_eq!(cell.charge(rate, 500, START), Duration::from_millis(500));
    assert_eq!(cell.charge(rate, 500, after(1_000)), Duration::ZERO);
}

#[test]
fn headers_are_as_in_the_draft() {
    let (cell, rate) = (RateCell::default(), Rate::new(200, 400).unwrap());
    let state = cell.take(rate, 29, START).unwrap();
    assert_eq!(headers::policy(rate), "\"requests\";q=400;w=2");
    assert_eq!(headers::state(&state), "\"requests\";r=371;t=1");
    assert_eq!(headers::retry_after(Duration::from_millis(1)), 1);
    assert_eq!(headers::retry_after(Duration::from_millis(1_001)), 2);
    assert_eq!(headers::policy(Rate::new(100, 1).unwrap()), "\"requests\";q=1;w=1");
}

#[test]
fn headers_list_each_limit_that_applies() {
    let limits = RoleLimits {
        requests: Rate::new(200, 400),
        rows: Rate::new(5_000, 5_000),
        concurrent: Some(4),
        rows_per_day: Some(1_000_000),
    };
    let caller = CallerLimits::new(limits, Arc::default());
    let date = UnixTime::from_seconds(86_400 * 20_000 + 86_300);
    caller.admit(1, START, date).unwrap();
    caller.charge_rows(1_000, START, date);
    let states = caller.states(START, date);
    assert_eq!(
        headers::policies(&states).unwrap(),
        "\"requests\";q=400;w=2, \"rows\";q=5000;w=1, \"day\";q=1000000;w=86400"
    );
    assert_eq!(
        headers::states(&states).unwrap(),
        "\"requests\";r=399;t=1, \"rows\";r=4000;t=1, \"day\";r=999000;t=100"
    );
    let only = RoleLimits { concurrent: Some(4), ..RoleLimits::default() };
    let states = CallerLimits::new(only, Arc::default()).states(START, date);
    assert_eq!((headers::policies(&states), headers::states(&states)), (None, None));
}

#[test]
fn a_caller_whose_rows_exceed_the_rate_is_refused_until_one_is_available() {
    let limits = RoleLimits { rows: Rate::new(10, 10), ..RoleLimits::default() };
    let caller = CallerLimits::new(limits, Arc::default());
    let date = UnixTime::default();
    assert!(caller.admit(1, START, date).is_ok());
    assert_eq!(caller.charge_rows(9, START, date), Duration::ZERO);
    assert!(caller.admit(1, START, date).is_ok(), "one row is left");
    assert_eq!(caller.charge_rows(31, START, date), Duration::from_secs(3));
    let refused = caller.admit(1, START, date).unwrap_err();
    assert_eq!(refused.limit, LimitKind::Rows);
    assert_eq!(refused.retry_after, Duration::from_millis(3_100));
    assert_eq!(refused.to_string(), "the limit rows_per_s of this caller is reached");
    assert!(caller.admit(1, after(3_099), date).is_err());
    assert!(caller.admit(1, after(3_100), date).is_ok());
}

#[test]
fn a_cost_that_is_known_later_is_charged_as_if_it_had_been_known() {
    let rate = Rate::new(10, 20).unwrap();
    for cost in [1, 2, 7, 20, 256] {
        let limits = RoleLimits { requests: Some(rate), ..RoleLimits::default() };
        let caller = CallerLimits::new(limits, Arc::default());
        caller.admit(1, START, UnixTime::default()).unwrap();
        caller.charge_request(1, cost, START);
        let (cell, states) = (RateCell::default(), caller.states(START, UnixTime::default()));
        assert_eq!(states.requests.unwrap(), cell.take(rate, cost, START).unwrap(), "{cost}");
    }
}

#[test]
fn routers_divide_rates_among_them() {
    let rate = Rate::new(10, 20);
    let limits = RoleLimits { requests: rate, concurrent: Some(4), ..RoleLimits::default() };
    assert_eq!(limits.shared_by(2).requests, Rate::new(5, 10));
    assert_eq!(limits.shared_by(100).requests, Rate::new(1, 1), "never nothing");
    assert_eq!(limits.shared_by(0).requests, rate);
}

#[test]
fn a_quota_is_of_one_day() {
    let quota = DayQuota::default();
    assert_eq!(quota.add(5, 100), 5);
    quota.set_elsewhere(7, 100);
    assert_eq!((quota.add(1, 100), quota.used(100), quota.here(100)), (13, 13, 6));
    assert_eq!(quota.used(101), 0);
    assert_eq!(quota.add(2, 101), 2);
    assert_eq!(quota.add(u64::MAX, 101), (1 << 40) - 1, "it stops, and does not begin again");
}

#[test]
fn a_caller_is_refused_by_the_limit_that_is_reached() {
    let limits = RoleLimits {
        requests: Rate::new(1, 2),
        rows: Rate::new(10, 10),
        concurrent: Some(1),
        rows_per_day: Some(20),
    };
    let caller = CallerLimits::new(limits, Arc::new(LimitState::default()));
    let date = UnixTime::from_seconds(86_400 * 20_000 + 86_300);
    let place = caller.enter().unwrap();
    assert_eq!(caller.enter().unwrap_err().limit, LimitKind::Concurrent);
    drop(place);
    assert!(caller.enter().is_ok());
    assert!(caller.admit(2, START, date).unwrap().is_some());
    assert_eq!(caller.admit(1, START, date).unwrap_err().limit, LimitKind::Requests);
    assert_eq!(caller.charge_rows(20, START, date), Duration::from_secs(1));
    let refused = caller.admit(1, after(9_000), date).unwrap_err();
    assert_eq!(
        (refused.limit, refused.retry_after),
        (LimitKind::RowsPerDay, Duration::from_secs(100))
    );
    assert!(caller.admit(1, after(9_000), date.plus(100)).is_ok());
    let free = CallerLimits::new(RoleLimits::default(), Arc::default());
    assert!(free.enter().unwrap().is_none() && free.admit(9, START, date).unwrap().is_none());
}

#[test]
fn threads_together_get_no_more_than_the_burst() {
    let (cell, rate) = (RateCell::default(), Rate::new(1, 1_000).unwrap());
    let taken: usize = std::thread::scope(|scope| {
        let take = || (0..1_000).filter(|_| cell.take(rate, 1, START).is_ok()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(taken, 1_000);
}

#[test]
fn failures_of_an_address_are_limited_and_forgiven() {
    let (limiter, address) = (FailureLimiter::new([3; 16]), IpAddr::V4(Ipv4Addr::LOCALHOST));
    for _ in 0..10 {
        assert!(limiter.limited_for(address, START).is_none());
        assert!(limiter.record(address, START).is_none());
    }
    assert!(limiter.limited_for(address, START).is_some());
    assert!(limiter.record(address, START).is_some());
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    assert!(limiter.limited_for(other, START).is_none());
    assert!(limiter.limited_for(address, after(99)).is_some());
    assert!(limiter.limited_for(address, after(100)).is_none());
}

#[test]
fn addresses_of_one_client_count_together() {
    let limiter = FailureLimiter::new([3; 16]);
    let v6 = |last: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 9, 9, 9, last));
    for last in 0..10 {
        assert!(limiter.record(v6(last), START).is_none());
    }
    assert!(limiter.limited_for(v6(77), START).is_some());
    let neighbour = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 2, 0, 0, 0, 1));
    assert!(limiter.limited_for(neighbour, START).is_none());
    let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
    for _ in 0..10 {
        limiter.record(mapped, START);
    }
    assert!(limiter.limited_for(IpAddr::V4(Ipv4Addr::LOCALHOST), START).is_some());
}

#[test]
fn a_million_addresses_take_no_more_memory() {
    let limiter = FailureLimiter::new([3; 16]);
    let before = limiter.bytes();
    for number in 0..1_000_000_u32 {
        limiter.record(IpAddr::V4(Ipv4Addr::from_bits(number)), START);
    }
    assert_eq!(limiter.bytes(), before);
    assert!(before < 1 << 20);
    let last = IpAddr::V4(Ipv4Addr::from_bits(999_999));
    for _ in 0..9 {
        limiter.record(last, START);
    }
    assert!(limiter.limited_for(last, START).is_some(), "an address is still counted");
}

#[test]
fn subjects_that_differ_have_different_counters() {
    let cells = LimitCells::new([4; 16]);
    let subject = |issuer, subject| cells.state(&LimitSubject::Subject { issuer, subject });
    assert!(Arc::ptr_eq(&subject("a", "bc"), &subject("a", "bc")));
    assert!(!Arc::ptr_eq(&subject("a", "bc"), &subject("ab", "c")));
}

#[test]
fn no_rate_gives_more_than_its_burst_at_once() {
    // At most of these rates, a unit does not take a whole number of nanoseconds to become
    // available.
    for per_second in [3, 7, 700_000, 600_000_000, 999_999_999, 3_000_000_000, u64::MAX] {
        let (cell, rate) = (RateCell::default(), Rate::new(per_second, 1_000).unwrap());
        let taken = (0..3_000).filter(|_| cell.take(rate, 1, START).is_ok()).count();
        assert_eq!(taken, 1_000, "{per_second}");
    }
}

#[test]
fn the_edges_of_time_and_numbers_neither_panic_nor_free_a_caller() {
    let edges = [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    let times = edges.map(Duration::from_nanos).into_iter().chain([Duration::MAX]);
    for now in times {
        for (number, cost) in edges.iter().zip(edges.iter().rev()) {
            let Some(rate) = Rate::new(*number, *cost) else { continue };
            let cell = RateCell::default();
            let _ = (cell.take(rate, *cost, now), cell.charge(rate, *cost, now));
            let _ = (headers::policy(rate), headers::state(&cell.state(rate, now)));
        }
        let limiter = FailureLimiter::new([3; 16]);
        for _ in 0..20 {
            limiter.record(IpAddr::V4(Ipv4Addr::LOCALHOST), now);
            limiter.limited_for(IpAddr::V4(Ipv4Addr::LOCALHOST), now);
        }
    }
    assert_eq!(headers::retry_after(Duration::MAX), u64::MAX);
}

#[test]
fn a_clock_that_goes_back_gives_no_second_burst() {
    let (cell, rate) = (RateCell::default(), Rate::new(10, 20).unwrap());
    assert!(cell.take(rate, 20, after(5_000)).is_ok());
    assert!(cell.take(rate, 1, START).is_err());
    assert_eq!(cell.state(rate, START).remaining, 0);
    assert!(cell.take(rate, 1, after(5_100)).is_ok());
}

#[test]
fn a_late_request_at_midnight_does_not_reset_a_quota() {
    let quota = DayQuota::default();
    quota.add(50, 101);
    assert_eq!(quota.add(5, 100), 55, "rows of a thread that still has yesterday's date");
    assert_eq!(
        (quota.used(100), quota.used(101), quota.here(100), quota.here(101)),
        (55, 55, 0, 55)
    );
    quota.add(7, 400);
    assert_eq!(quota.add(1, 102), 1, "a day that was far ahead is forgotten");
}

#[test]
fn addresses_make_no_caller_lose_its_counters() {
    let cells = LimitCells::new([4; 16]);
    let subject = LimitSubject::Subject { issuer: "issuer", subject: "ann" };
    let state = cells.state(&subject);
    for number in 0..3 * LimitCells::MAX as u32 {
        let address = LimitSubject::Address(IpAddr::V4(Ipv4Addr::from_bits(number)));
        // Each address is used several times, so that the cache treats it as frequently used.
        (0..3).for_each(|_| drop(cells.state(&address)));
    }
    assert!(Arc::ptr_eq(&state, &cells.state(&subject)));
}

#[test]
fn nothing_prints_the_secret_of_a_table() {
    let printed = format!("{:?} {:?}", LimitCells::new([201; 16]), FailureLimiter::new([202; 16]));
    assert!(!printed.contains("201") && !printed.contains("202"), "{printed}");
}

proptest! {
    #[test]
    fn no_order_of_requests_exceeds_burst_and_rate(
        per_second in 1_u64..1_000, burst in 1_u64..100,
        requests in proptest::collection::vec((0_u64..50, 1_u64..10), 1..200),
    ) {
        let (cell, rate) = (RateCell::default(), Rate::new(per_second, burst).unwrap());
        let (mut now, mut taken) = (0, 0);
        for (pause, cost) in requests {
            now += pause;
            if cell.take(rate, cost, after(now)).is_ok() {
                taken += cost.min(burst);
            }
            // The time per unit is rounded up, so no more units than this are available. 0.01
            // allows for the rounding of floating-point numbers.
            prop_assert!(taken as f64 <= burst as f64 + (per_second * now) as f64 / 1_000.0 + 0.01);
        }
    }
}
