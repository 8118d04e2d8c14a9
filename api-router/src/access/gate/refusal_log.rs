//! Refusal log: writes refused requests to the log.
//!
//! **Invariant:** while the gate observes, at most one refusal of a route is logged in a second.
//! **Not here:** the audit log, which has every refusal (`audit`).

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::access::scopes::ROWS;
use crate::config::AccessMode;
use crate::problem::Problem;

/// Writes refused requests to the log.
pub(super) struct RefusalLog {
    mode: AccessMode,
    began: Instant,
    /// Second of the last logged refusal of each route, counted from the start.
    logged: [AtomicU64; ROWS.len() + 1],
}

impl RefusalLog {
    /// Creates the log of a gate that began at this time.
    pub(super) fn new(mode: AccessMode, began: Instant) -> Self {
        Self { mode, began, logged: std::array::from_fn(|_| AtomicU64::new(u64::MAX)) }
    }

    /// Logs a refusal, with the route of the row, the kind of the caller, the problem and the
    /// address.
    pub(super) fn log(
        &self,
        row: Option<usize>,
        (kind, problem): (&str, &Problem),
        address: impl FnOnce() -> IpAddr,
    ) {
        let (mode, code) = (self.mode.name(), problem.code().name());
        let route = row.map_or("no route", |row| ROWS[row].path);
        let detail = problem.detail();
        if self.mode == AccessMode::On {
            let address = address();
            tracing::debug!(mode, kind, route, code, %address, "access was refused: {detail}");
            return;
        }
        let second = self.began.elapsed().as_secs();
        let last = &self.logged[row.unwrap_or(ROWS.len())];
        if last.swap(second, Ordering::Relaxed) != second {
            let address = address();
            tracing::warn!(mode, kind, route, code, %address, "access would be refused: {detail}");
        }
    }
}
