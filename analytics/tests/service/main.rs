//! Tests of the service: its program with real routers, with fake routers, and alone.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod access;
mod alert_of_stalled_moves;
mod alerts;
mod clocks;
mod config;
mod failed_rebalances;
mod fake;
mod fleet;
#[path = "../../../shard-manager/tests/support/free_port.rs"]
mod free_port;
mod garbage;
mod http;
#[path = "../../../shard-manager/tests/support/killed_child.rs"]
mod killed_child;
#[path = "../../../shard-manager/tests/support/other_program.rs"]
mod other_program;
mod pages;
mod process;
mod restarts;
mod ringing;
mod router;
mod secure;

use std::time::{Duration, Instant};

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until the closure returns a value.
fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, look)
}

/// Waits until the closure returns a value, for at most this time.
fn eventually_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < patience, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
