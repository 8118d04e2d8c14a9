//! Header values about limits, as in the IETF draft "RateLimit header fields for HTTP".
//!
//! **Invariant:** times are rounded up to whole seconds, so a client that waits as long is never
//! too early.
//! **Not here:** the names of the headers, and the answers that have them (the router).

use std::time::Duration;

use super::{Rate, RateState};

/// Returns the value of `RateLimit-Policy`, such as `"requests";q=400;w=2`.
pub fn policy(rate: Rate) -> String {
    format!("\"requests\";q={};w={}", rate.burst(), seconds(rate.window()).max(1))
}

/// Returns the value of `RateLimit`, such as `"requests";r=371;t=1`.
pub fn state(state: &RateState) -> String {
    format!("\"requests\";r={};t={}", state.remaining, seconds(state.reset))
}

/// Returns the value of `Retry-After`: at least one second, because 0 invites to repeat at once.
pub fn retry_after(time: Duration) -> u64 {
    seconds(time).max(1)
}

fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}
