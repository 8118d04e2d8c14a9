//! In flight: counts the concurrent requests of each caller.
//!
//! **Invariant:** each admitted request is counted until its guard is dropped, and not longer, so a
//! request that fails or is cancelled is no longer counted.
//! **Not here:** the limit itself (`RoleLimits`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::caller_limits::LimitState;

/// Number of a caller's requests that are running.
#[derive(Debug, Default)]
pub(super) struct InFlightCounter(AtomicU32);

impl InFlightCounter {
    fn try_enter(&self, most: u32) -> bool {
        let enter = |known: u32| (known < most).then(|| known + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enter).is_ok()
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Guard of a running request, which is counted as running until the guard is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<LimitState>);

impl InFlight {
    /// Counts a request, if fewer than `most` are running.
    pub(super) fn enter(state: &Arc<LimitState>, most: u32) -> Option<Self> {
        state.in_flight.try_enter(most).then(|| Self(Arc::clone(state)))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.leave();
    }
}
