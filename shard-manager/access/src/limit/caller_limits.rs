//! Limits of one caller: the numbers of its role, and the counters that they limit.
//!
//! **Invariant:** the counters outlive a change of the role, so that it resets nothing.
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
    /// Returns the rows that were used in a day.
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
    /// [`Limited`] if the rate is exceeded or the quota of the day is used up.
    pub fn admit(
        &self,
        cost: u64,
        now: Duration,
        date: UnixTime,
    ) -> Result<Option<RateState>, Limited> {
        if let Some(most) = self.limits.rows_per_day
            && self.state.day.used(date.day()) >= most
        {
            let retry_after = Duration::from_secs(date.until_next_day());
            return Err(Limited { limit: LimitKind::RowsPerDay, retry_after });
        }
        let Some(rate) = self.limits.requests else { return Ok(None) };
        let limited = |retry_after| Limited { limit: LimitKind::Requests, retry_after };
        self.state.requests.take(rate, cost, now).map(Some).map_err(limited)
    }

    /// Counts a request as running until the guard is dropped. Returns `None` if the caller may
    /// have any number of them.
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
}

/// Limit that refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Requests per second.
    Requests,
    /// Requests at the same time.
    Concurrent,
    /// Rows per day.
    RowsPerDay,
}

impl LimitKind {
    /// Returns the name of the limit in a role, in metrics and in errors.
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_s",
            Self::Concurrent => "concurrent",
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
