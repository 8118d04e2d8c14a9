//! Limits: limit the rates, the rows per day and the concurrent requests of each caller.
//!
//! Rates use the generic cell rate algorithm (ITU-T I.371): one number per rate of a caller, the
//! theoretical arrival time, replaces a token bucket and the thread that would refill it. The crate
//! `governor` implements the same algorithm but is not used, for three reasons. Its limiter owns
//! the clock; here the time is a parameter, so that tests can choose it and all limits of a request
//! share one reading of the clock. In `governor`, a request that costs more than the burst can
//! never succeed. It also cannot charge units after they were used, as is necessary for the rows of
//! a stream. The algorithm itself is short and allocates nothing.
//!
//! A role states the limits, and each combination of a role and tenants has one set of counters, so
//! a tenant does not get more requests by using more keys. Two roles of a tenant do not share
//! counters: their limits differ, and a bulk import under one role could use up the burst of an
//! application under the other. A caller without tenants has counters of its own.
//!
//! **Invariant:** [`RateCell::take`] never gives a caller more than its burst at once, nor more
//! than its rate over time, however many threads take units. A refused request uses up no units.
//! **Not here:** the order in which waiting writes are served (the write lanes, which are the write
//! queues of the shards); storing the rows per day that all routers have counted. Rates apply to
//! one router only.

pub mod caller_limits;
pub mod day_quota;
pub mod failures;
pub mod headers;
pub mod in_flight;
pub mod limit_cells;
pub mod usage;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Limits that a role sets for each of its callers. `None` stands for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleLimits {
    /// `requests_per_s` and `burst`: rate of requests.
    pub requests: Option<Rate>,
    /// `rows_per_s`: rate of rows that are read or written.
    pub rows: Option<Rate>,
    /// `concurrent`: maximum number of requests at the same time.
    pub concurrent: Option<u32>,
    /// `rows_per_day`: maximum number of rows in one day in UTC.
    pub rows_per_day: Option<u64>,
}

impl RoleLimits {
    /// Returns true if no limit is set.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the limits of one router if this number of routers share the rates. The other limits
    /// are unchanged.
    #[must_use]
    pub fn shared_by(&self, routers: u64) -> Self {
        let share = |rate: Option<Rate>| rate.map(|rate| rate.shared_by(routers.max(1)));
        Self { requests: share(self.requests), rows: share(self.rows), ..*self }
    }

    /// Returns true if `other` permits no more than these limits: it has every limit that is set
    /// here, and none of its limits is higher.
    pub fn covers(&self, other: &Self) -> bool {
        fn covers<T: PartialOrd>(here: Option<T>, other: Option<T>) -> bool {
            match (here, other) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(here), Some(other)) => other <= here,
            }
        }
        let per_second = |rate: Option<Rate>| rate.map(Rate::per_second);
        let burst = |rate: Option<Rate>| rate.map(Rate::burst);
        covers(per_second(self.requests), per_second(other.requests))
            && covers(burst(self.requests), burst(other.requests))
            && covers(per_second(self.rows), per_second(other.rows))
            && covers(self.concurrent, other.concurrent)
            && covers(self.rows_per_day, other.rows_per_day)
    }
}

/// Rate in units per second and burst in units, both above 0. A unit is, for example, a request or
/// a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// Creates a rate. Returns `None` if one of the numbers is 0.
    pub const fn new(per_second: u64, burst: u64) -> Option<Self> {
        if per_second == 0 || burst == 0 { None } else { Some(Self { per_second, burst }) }
    }

    /// Returns the number of units per second.
    #[inline]
    pub const fn per_second(self) -> u64 {
        self.per_second
    }

    /// Returns the maximum number of units that can be taken at once.
    #[inline]
    pub const fn burst(self) -> u64 {
        self.burst
    }

    fn shared_by(self, routers: u64) -> Self {
        let share = |number: u64| (number / routers).max(1);
        Self { per_second: share(self.per_second), burst: share(self.burst) }
    }

    /// Returns the number of nanoseconds in which one unit becomes available, rounded up. If it
    /// were rounded down, many small requests could exceed the rate, and a rate above 10⁹ per
    /// second would have no effect.
    #[inline]
    const fn interval(self) -> u64 {
        NANOS_PER_SECOND.div_ceil(self.per_second)
    }

    /// Returns the number of nanoseconds in which this many units become available.
    #[inline]
    const fn nanos(self, units: u64) -> u64 {
        units.saturating_mul(self.interval())
    }

    /// Returns the number of units that become available in this time.
    #[inline]
    const fn units(self, nanos: u64) -> u64 {
        nanos / self.interval()
    }

    /// Returns the time after which the whole burst is available again once it was used up.
    pub(crate) fn window(self) -> Duration {
        Duration::from_nanos(self.nanos(self.burst))
    }
}

/// State of a rate at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateState {
    /// The rate.
    pub rate: Rate,
    /// Number of units that are available now.
    pub remaining: u64,
    /// Time until the whole burst is available again.
    pub reset: Duration,
}

/// Counter of one rate of one caller.
#[derive(Debug, Default)]
pub struct RateCell {
    /// Theoretical arrival time, in nanoseconds since the process began: the time from which the
    /// whole burst is available again.
    full_at: AtomicU64,
}

impl RateCell {
    /// Takes units, if they are available at `now`, the time since the process began. A request
    /// that costs more than the burst takes the whole burst: otherwise no such request could
    /// succeed.
    ///
    /// # Errors
    /// The time to wait until the units are available.
    pub fn take(&self, rate: Rate, cost: u64, now: Duration) -> Result<RateState, Duration> {
        let now = nanos(now);
        let (cost, most) = (rate.nanos(cost.min(rate.burst)), rate.nanos(rate.burst));
        let mut known = self.full_at.load(Ordering::Relaxed);
        loop {
            let full_at = known.max(now).saturating_add(cost);
            if full_at - now > most {
                return Err(Duration::from_nanos(full_at - now - most));
            }
            // Relaxed ordering suffices: the number protects no other memory, and a failed exchange
            // is retried.
            let swap = self.full_at.compare_exchange_weak(
                known,
                full_at,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swap {
                Ok(_) => return Ok(state(rate, full_at - now)),
                Err(newer) => known = newer,
            }
        }
    }

    /// Takes units that were already used, even if they were not available, and returns the time to
    /// wait before further units are used. A stream of rows waits for this time: it is slowed down
    /// to the rate instead of being aborted.
    pub fn charge(&self, rate: Rate, cost: u64, now: Duration) -> Duration {
        let now = nanos(now);
        let cost = rate.nanos(cost);
        let charge = |known: u64| known.max(now).saturating_add(cost);
        let known = self
            .full_at
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |known| Some(charge(known)));
        let full_at = charge(known.unwrap_or_else(|known| known));
        Duration::from_nanos((full_at - now).saturating_sub(rate.nanos(rate.burst)))
    }

    /// Checks that one unit is available at the time `now`, without taking it.
    ///
    /// # Errors
    /// The time to wait until a unit is available.
    pub fn check(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let now = nanos(now);
        let full_at = self.full_at.load(Ordering::Relaxed).max(now).saturating_add(rate.nanos(1));
        match (full_at - now).checked_sub(rate.nanos(rate.burst)) {
            None | Some(0) => Ok(()),
            Some(wait) => Err(Duration::from_nanos(wait)),
        }
    }

    /// Returns the state of the rate without taking units.
    pub fn state(&self, rate: Rate, now: Duration) -> RateState {
        state(rate, self.full_at.load(Ordering::Relaxed).saturating_sub(nanos(now)))
    }
}

#[inline]
fn state(rate: Rate, missing: u64) -> RateState {
    let remaining = rate.units(rate.nanos(rate.burst).saturating_sub(missing)).min(rate.burst);
    RateState { rate, remaining, reset: Duration::from_nanos(missing) }
}

#[inline]
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
