//! Refusal log: writes refusals to the router's own log, not to the audit log.
//!
//! **Invariant:** in the mode `observe`, at most one refusal per route and second is logged.
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
    /// Second, counted from the start of the gate, of the last logged refusal of each route; the
    /// last element is for requests without a route.
    logged: [AtomicU64; ROWS.len() + 1],
}

impl RefusalLog {
    /// Creates the log of a gate that was started at `began`.
    pub(super) fn new(mode: AccessMode, began: Instant) -> Self {
        Self { mode, began, logged: std::array::from_fn(|_| AtomicU64::new(u64::MAX)) }
    }

    /// Logs a refusal, with the route (by its index in [`ROWS`]), the kind of the caller, the
    /// problem and the address of the client.
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
