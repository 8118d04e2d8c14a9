//! Limits of one caller: the limits that its role sets, and the counters to which they apply.
//!
//! **Invariant:** the counters are kept when the role changes, so that a change of the role resets
//! no counter.
//! **Not here:** finding the counters of a caller (`limit_cells`).

use std::sync::Arc;
use std::time::Duration;

use super::day_quota::DayQuota;
use super::in_flight::{InFlight, InFlightCounter};
use super::{RateCell, RateState, RoleLimits};
use crate::unix_time::UnixTime;

/// Counters of one caller.
#[derive(Debug, Default)]
pub struct LimitState {
    requests: RateCell,
    rows: RateCell,
    day: DayQuota,
    pub(super) in_flight: InFlightCounter,
}

impl LimitState {
    /// Returns the counter of the rows per day.
    pub fn day(&self) -> &DayQuota {
        &self.day
    }
}

/// Limits of one caller, with its counters.
#[derive(Clone, Debug)]
pub struct CallerLimits {
    limits: RoleLimits,
    state: Arc<LimitState>,
}

impl CallerLimits {
    /// Creates limits that apply to these counters.
    pub fn new(limits: RoleLimits, state: Arc<LimitState>) -> Self {
        Self { limits, state }
    }

    /// Returns the counters.
    pub fn state(&self) -> &Arc<LimitState> {
        &self.state
    }

    /// Admits a request that costs `cost` units of the rate of requests, and takes these units.
    /// Returns the state of that rate afterwards; `None` if the rate of requests is not limited.
    ///
    /// # Errors
    /// [`Limited`] if the rate of requests or rows is exceeded, or the quota of rows for the day is
    /// used up.
    pub fn admit(
        &self,
        cost: u64,
        now: Duration,
        date: UnixTime,
    ) -> Result<Option<RateState>, Limited> {
        self.check_day(date)?;
        if let Some(rate) = self.limits.rows {
            let limited = |retry_after| Limited { limit: LimitKind::Rows, retry_after };
            self.state.rows.check(rate, now).map_err(limited)?;
        }
        let Some(rate) = self.limits.requests else { return Ok(None) };
        let limited = |retry_after| Limited { limit: LimitKind::Requests, retry_after };
        self.state.requests.take(rate, cost, now).map(Some).map_err(limited)
    }

    /// Checks that the quota of rows for the day is not used up.
    ///
    /// # Errors
    /// [`Limited`] if it is used up; the request may succeed when the next day begins.
    pub fn check_day(&self, date: UnixTime) -> Result<(), Limited> {
        match self.limits.rows_per_day {
            Some(most) if self.state.day.used(date.day()) >= most => {
                let retry_after = Duration::from_secs(date.until_next_day());
                Err(Limited { limit: LimitKind::RowsPerDay, retry_after })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Charges the rest of the cost of a request whose real cost became known only after it had
    /// been admitted at the cost `admitted`. In total the request is charged at most the burst, as
    /// if `cost` had been known when it was admitted.
    pub fn charge_request(&self, admitted: u64, cost: u64, now: Duration) {
        let Some(rate) = self.limits.requests else { return };
        let rest = cost.min(rate.burst()).saturating_sub(admitted);
        if rest > 0 {
            self.state.requests.charge(rate, rest, now);
        }
    }

    /// Counts a request as running until the guard is dropped. Returns `None` if the number of
    /// concurrent requests of the caller is not limited.
    ///
    /// # Errors
    /// [`Limited`] if the maximum number of requests is already running.
    pub fn enter(&self) -> Result<Option<InFlight>, Limited> {
        /// Requests usually last milliseconds, so another request can soon be admitted.
        const RETRY_AFTER: Duration = Duration::from_secs(1);
        let Some(most) = self.limits.concurrent else { return Ok(None) };
        let limited = Limited { limit: LimitKind::Concurrent, retry_after: RETRY_AFTER };
        InFlight::enter(&self.state, most).map(Some).ok_or(limited)
    }

    /// Counts rows that were read or written, and returns the time to wait before further rows are
    /// read or written.
    pub fn charge_rows(&self, rows: u64, now: Duration, date: UnixTime) -> Duration {
        if self.limits.rows_per_day.is_some() {
            self.state.day.add(rows, date.day());
        }
        let rate = self.limits.rows;
        rate.map_or(Duration::ZERO, |rate| self.state.rows.charge(rate, rows, now))
    }

    /// Returns the states of all limits except the limit of concurrent requests, for the headers of
    /// a response.
    pub fn states(&self, now: Duration, date: UnixTime) -> LimitStates {
        let of_day = |most: u64| DayState {
            most,
            remaining: most.saturating_sub(self.state.day.used(date.day())),
            reset: Duration::from_secs(date.until_next_day()),
        };
        LimitStates {
            requests: self.limits.requests.map(|rate| self.state.requests.state(rate, now)),
            rows: self.limits.rows.map(|rate| self.state.rows.state(rate, now)),
            day: self.limits.rows_per_day.map(of_day),
        }
    }
}

/// States of the limits of a caller; `None` for each limit that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitStates {
    /// Requests per second.
    pub requests: Option<RateState>,
    /// Rows per second.
    pub rows: Option<RateState>,
    /// Rows per day.
    pub day: Option<DayState>,
}

/// State of the quota of rows per day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayState {
    /// Number of rows that are permitted in a whole day.
    pub most: u64,
    /// Number of rows that are left today.
    pub remaining: u64,
    /// Time until the next day in UTC begins.
    pub reset: Duration,
}

/// Kind of limit that refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests per second.
    Requests,
    /// Requests at the same time.
    Concurrent,
    /// Rows per second.
    Rows,
    /// Rows per day.
    RowsPerDay,
}

impl LimitKind {
    /// Returns the name of the limit in a role, in metrics and in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_s",
            Self::Concurrent => "concurrent",
            Self::Rows => "rows_per_s",
            Self::RowsPerDay => "rows_per_day",
        }
    }
}

/// Refusal of a request that exceeds a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit {} of this caller is reached", limit.name())]
pub struct Limited {
    /// The limit.
    pub limit: LimitKind,
    /// Time after which the same request may succeed.
    pub retry_after: Duration,
}
