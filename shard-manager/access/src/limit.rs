//! Limits: rates, a day's quota and concurrent requests of a caller.
//!
//! Rates use the generic cell rate algorithm (ITU-T I.371): one number per caller, the theoretical
//! arrival time, replaces a bucket and the thread that would fill it. The crate `governor` has the
//! same algorithm and is not used, because it lacks three things that are needed here. Its clock is
//! part of the limiter; here the time is a parameter, so that tests choose it and one reading of
//! the clock serves all limits of a request. A request that costs more than its burst fails there
//! forever. And units that were used already cannot be charged afterwards, as the rows of a stream
//! must be. The algorithm itself is forty lines, none of which allocates.
//!
//! Limits are those of a role, and each combination of a role and tenants has one set of counters:
//! more keys of a tenant give it no more requests. Two roles of a tenant do not share counters,
//! because their numbers differ, and an importer would use up the burst of the shop. A caller
//! without tenants has counters of its own.
//!
//! **Invariant:** a caller is never admitted to more than its burst at once, nor to more than its
//! rate over time, however many threads take units. A refused request uses up nothing.
//! **Not here:** the order in which waiting writes are served (the write lanes); storing the sums
//! of rows per day over all routers. Rates are those of one router.

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

/// Limits of each caller of a role. A missing limit does not limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoleLimits {
    /// `requests_per_s` and `burst`.
    pub requests: Option<Rate>,
    /// `rows_per_s`: rows that are read or written.
    pub rows: Option<Rate>,
    /// `concurrent`: requests at the same time.
    pub concurrent: Option<u32>,
    /// `rows_per_day`: rows in a day in UTC.
    pub rows_per_day: Option<u64>,
}

impl RoleLimits {
    /// Returns true if there is no limit.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the rates of one of several routers that share them.
    #[must_use]
    pub fn shared_by(&self, routers: u64) -> Self {
        let share = |rate: Option<Rate>| rate.map(|rate| rate.shared_by(routers.max(1)));
        Self { requests: share(self.requests), rows: share(self.rows), ..*self }
    }

    /// Returns true if the other has every limit that these have, and none of them is higher.
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

/// Rate with a burst, both above 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
}

impl Rate {
    /// Creates a rate; `None` if a number is 0.
    pub const fn new(per_second: u64, burst: u64) -> Option<Self> {
        if per_second == 0 || burst == 0 { None } else { Some(Self { per_second, burst }) }
    }

    /// Returns the units per second.
    #[inline]
    pub const fn per_second(self) -> u64 {
        self.per_second
    }

    /// Returns the units that are possible at once.
    #[inline]
    pub const fn burst(self) -> u64 {
        self.burst
    }

    fn shared_by(self, routers: u64) -> Self {
        let share = |number: u64| (number / routers).max(1);
        Self { per_second: share(self.per_second), burst: share(self.burst) }
    }

    /// Returns the nanoseconds in which one unit becomes available, rounded up: rounded down, many
    /// small requests would get more than the rate, and a rate above 10⁹ per second would not limit
    /// at all.
    #[inline]
    const fn interval(self) -> u64 {
        NANOS_PER_SECOND.div_ceil(self.per_second)
    }

    /// Returns the nanoseconds in which this many units become available.
    #[inline]
    const fn nanos(self, units: u64) -> u64 {
        units.saturating_mul(self.interval())
    }

    /// Returns the units that become available in this time.
    #[inline]
    const fn units(self, nanos: u64) -> u64 {
        nanos / self.interval()
    }

    /// Returns the time in which an empty bucket fills.
    pub(crate) fn window(self) -> Duration {
        Duration::from_nanos(self.nanos(self.burst))
    }
}

/// State of a rate after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateState {
    /// The rate.
    pub rate: Rate,
    /// Units that are possible at once now.
    pub remaining: u64,
    /// Time until the whole burst is possible again.
    pub reset: Duration,
}

/// Counter of one rate of one caller.
#[derive(Debug, Default)]
pub struct RateCell {
    /// Theoretical arrival time, in nanoseconds since the process began: the moment at which the
    /// whole burst is possible again.
    full_at: AtomicU64,
}

impl RateCell {
    /// Takes units, if they are available at `now`, the time since the process began. A request
    /// that costs more than the burst takes the whole burst: otherwise no such request could
    /// succeed.
    ///
    /// # Errors
    /// The time after which the units are available.
    pub fn take(&self, rate: Rate, cost: u64, now: Duration) -> Result<RateState, Duration> {
        let now = nanos(now);
        let (cost, most) = (rate.nanos(cost.min(rate.burst)), rate.nanos(rate.burst));
        let mut known = self.full_at.load(Ordering::Relaxed);
        loop {
            let full_at = known.max(now).saturating_add(cost);
            if full_at - now > most {
                return Err(Duration::from_nanos(full_at - now - most));
            }
            // Relaxed: the number protects no other memory, and a lost race is repeated.
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

    /// Takes units that were used already, even if they were not available, and returns the time to
    /// wait before more are used. A stream that waits is slowed down and not broken off; without
    /// the wait the rate would limit nothing.
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

    /// Checks that a unit is available at this time, and takes nothing.
    ///
    /// # Errors
    /// The time after which a unit is available.
    pub fn check(&self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let now = nanos(now);
        let full_at = self.full_at.load(Ordering::Relaxed).max(now).saturating_add(rate.nanos(1));
        match (full_at - now).checked_sub(rate.nanos(rate.burst)) {
            None | Some(0) => Ok(()),
            Some(wait) => Err(Duration::from_nanos(wait)),
        }
    }

    /// Returns the state without taking anything.
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
