//! Meter: charges the limits of a request's caller for the rows and shards that the request used.
//!
//! The number of rows is not known when a request is admitted. So rows are charged afterwards, and
//! if they exceed the rate, the next requests of the caller have to wait. All shards of a request
//! but the first are also charged afterwards.
//!
//! **Invariant:** a caller without limits has an empty meter, and charging it costs a single
//! branch.
//! **Not here:** the counters (`shard_manager::access::limit`), the refusal of a caller that has
//! used too much (`gate`).

use std::time::{Duration, Instant};

use actix_web::{HttpMessage, HttpRequest};
use shard_manager::access::limit::caller_limits::{CallerLimits, Limited};

use super::clock::unix_now;

/// Meter of the caller of a request; empty if the caller has no limits.
#[derive(Clone, Debug, Default)]
pub struct CallerMeter(Option<Metered>);

/// Limits that the meter charges.
#[derive(Clone, Debug)]
pub(super) struct Metered {
    pub(super) limits: CallerLimits,
    /// Start of the clock with which the limits are measured.
    pub(super) began: Instant,
    /// Cost of the request for each shard to which it is sent. One shard was charged at admission.
    pub(super) cost: u64,
}

impl CallerMeter {
    /// Returns a meter that charges nothing.
    #[inline]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Returns the meter that was attached to a request when it was admitted.
    pub fn of(request: &HttpRequest) -> Self {
        Self(request.extensions().get::<Metered>().cloned())
    }

    /// Returns true if nothing is charged.
    #[inline]
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// Charges rows that were read or written. Returns the time to wait before using further ones.
    #[inline]
    pub fn charge_rows(&self, rows: usize) -> Duration {
        let Some(metered) = &self.0 else { return Duration::ZERO };
        metered.limits.charge_rows(rows as u64, metered.began.elapsed(), unix_now())
    }

    /// Charges the shards to which the request was sent; `shards` is their total number.
    #[inline]
    pub fn charge_shards(&self, shards: usize) {
        let Some(metered) = &self.0 else { return };
        let cost = metered.cost.saturating_mul(shards as u64);
        metered.limits.charge_request(metered.cost, cost, metered.began.elapsed());
    }

    /// Checks that the daily quota of rows is not used up.
    ///
    /// # Errors
    /// [`Limited`] until the end of the day if it is.
    pub fn check_day(&self) -> Result<(), Limited> {
        self.0.as_ref().map_or(Ok(()), |metered| metered.limits.check_day(unix_now()))
    }
}
