//! Limits of one caller: the numbers of its role, and the counters that they limit.
//!
//! **Invariant:** the counters outlive a change of the role, so that the change resets nothing.
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
    /// Returns the counter of rows per day.
    pub fn day(&self) -> &DayQuota {
        &self.day
    }
}

/// Limits of one caller.
#[derive(Clone, Debug)]
pub struct CallerLimits {
    limits: RoleLimits,
    state: Arc<LimitState>,
}

impl CallerLimits {
    /// Creates limits that count with this state.
    pub fn new(limits: RoleLimits, state: Arc<LimitState>) -> Self {
        Self { limits, state }
    }

    /// Returns the counters.
    pub fn state(&self) -> &Arc<LimitState> {
        &self.state
    }

    /// Counts a request that costs this many units. Returns the state of the rate, if the caller
    /// has one.
    ///
    /// # Errors
    /// [`Limited`] if a rate is exceeded or the quota of the day is used up.
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

    /// Checks that the quota of the day is not used up.
    ///
    /// # Errors
    /// [`Limited`] until the day ends.
    pub fn check_day(&self, date: UnixTime) -> Result<(), Limited> {
        match self.limits.rows_per_day {
            Some(most) if self.state.day.used(date.day()) >= most => {
                let retry_after = Duration::from_secs(date.until_next_day());
                Err(Limited { limit: LimitKind::RowsPerDay, retry_after })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Charges a request, which was admitted at the cost `admitted`, for the rest of its real cost,
    /// which was known only later. Together the two take at most the burst, as if the cost had been
    /// known.
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
    /// [`Limited`] if as many as permitted are running.
    pub fn enter(&self) -> Result<Option<InFlight>, Limited> {
        /// Requests last milliseconds, so a place is soon free.
        const RETRY_AFTER: Duration = Duration::from_secs(1);
        let Some(most) = self.limits.concurrent else { return Ok(None) };
        let limited = Limited { limit: LimitKind::Concurrent, retry_after: RETRY_AFTER };
        InFlight::enter(&self.state, most).map(Some).ok_or(limited)
    }

    /// Counts rows that were read or written, and returns the time to wait before the next ones.
    pub fn charge_rows(&self, rows: u64, now: Duration, date: UnixTime) -> Duration {
        if self.limits.rows_per_day.is_some() {
            self.state.day.add(rows, date.day());
        }
        let rate = self.limits.rows;
        rate.map_or(Duration::ZERO, |rate| self.state.rows.charge(rate, rows, now))
    }

    /// Returns the states of all limits except that of concurrent requests, for a response.
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

/// States of the limits of a caller; `None` for those that it does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitStates {
    /// Requests per second.
    pub requests: Option<RateState>,
    /// Rows per second.
    pub rows: Option<RateState>,
    /// Rows per day.
    pub day: Option<DayState>,
}

/// State of the quota of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DayState {
    /// Rows that are permitted in a whole day.
    pub most: u64,
    /// Rows that are left.
    pub remaining: u64,
    /// Time until the next day.
    pub reset: Duration,
}

/// Limit that refused a request.
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
    /// Time after which the request may succeed.
    pub retry_after: Duration,
}
