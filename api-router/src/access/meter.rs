//! Meter: charges the caller of a request for the rows and shards that it used.
//!
//! A request is admitted before its rows are known. So they are charged afterwards, and the next
//! requests of the caller wait for them. A request to several shards is charged likewise for all
//! but the first.
//!
//! **Invariant:** a request of a caller without limits has no meter, and charging it is one branch.
//! **Not here:** the counters (`shard_manager::access::limit`), the refusal of a caller that has
//! used too much (`gate`).

use std::time::{Duration, Instant};

use actix_web::{HttpMessage, HttpRequest};
use shard_manager::access::limit::caller_limits::{CallerLimits, Limited};

use super::clock::unix_now;

/// Meter of the caller of a request. Without limits it charges nothing.
#[derive(Clone, Debug, Default)]
pub struct CallerMeter(Option<Metered>);

/// Limits of the caller of a request.
#[derive(Clone, Debug)]
pub(super) struct Metered {
    pub(super) limits: CallerLimits,
    /// Beginning of the clock of the limits.
    pub(super) began: Instant,
    /// Cost of the request for each shard that it is sent to. One shard is charged already.
    pub(super) cost: u64,
}

impl CallerMeter {
    /// Returns a meter that charges nothing.
    #[inline]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Returns the meter of a request; it was attached when the request was admitted.
    pub fn of(request: &HttpRequest) -> Self {
        Self(request.extensions().get::<Metered>().cloned())
    }

    /// Returns true if nothing is charged.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Charges rows that are read or written. Returns the time to wait before the next ones.
    #[inline]
    pub fn charge_rows(&self, rows: usize) -> Duration {
        let Some(metered) = &self.0 else { return Duration::ZERO };
        metered.limits.charge_rows(rows as u64, metered.began.elapsed(), unix_now())
    }

    /// Charges the shards to which the request was sent, all together.
    #[inline]
    pub fn charge_shards(&self, shards: usize) {
        let Some(metered) = &self.0 else { return };
        let cost = metered.cost.saturating_mul(shards as u64);
        metered.limits.charge_request(metered.cost, cost, metered.began.elapsed());
    }

    /// Checks that the quota of the day permits more rows.
    ///
    /// # Errors
    /// [`Limited`] until the day ends.
    pub fn check_day(&self) -> Result<(), Limited> {
        self.0.as_ref().map_or(Ok(()), |metered| metered.limits.check_day(unix_now()))
    }
}
