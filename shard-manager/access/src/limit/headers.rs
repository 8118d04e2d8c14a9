//! Headers: writes the values of HTTP headers about limits, as the IETF draft "RateLimit header
//! fields for HTTP" defines them.
//!
//! **Invariant:** times are rounded up to whole seconds, so that a client that waits for such a
//! time never returns too early.
//! **Not here:** adding the headers to responses (the router).

use std::time::Duration;

use super::caller_limits::LimitStates;
use super::{Rate, RateState};

const REQUESTS: &str = "requests";
const ROWS: &str = "rows";
const DAY: &str = "day";
const DAY_SECONDS: u64 = 86_400;

/// Returns the value of `RateLimit-Policy` for the rate of requests, such as
/// `"requests";q=400;w=2`.
pub fn policy(rate: Rate) -> String {
    rate_policy(REQUESTS, rate)
}

/// Returns the value of `RateLimit` for the rate of requests, such as `"requests";r=371;t=1`.
pub fn state(state: &RateState) -> String {
    limit_state(REQUESTS, state.remaining, state.reset)
}

/// Returns the value of `RateLimit-Policy` for all limits of a caller except the limit of
/// concurrent requests; `None` if the caller has no other limit.
pub fn policies(states: &LimitStates) -> Option<String> {
    let rate = |name, state: Option<RateState>| state.map(|state| rate_policy(name, state.rate));
    let day = states.day.map(|day| format!("\"{DAY}\";q={};w={DAY_SECONDS}", day.most));
    join([rate(REQUESTS, states.requests), rate(ROWS, states.rows), day])
}

/// Returns the value of `RateLimit` for all limits of a caller except the limit of concurrent
/// requests; `None` if the caller has no other limit.
pub fn states(states: &LimitStates) -> Option<String> {
    let rate = |name, state: Option<RateState>| {
        state.map(|state| limit_state(name, state.remaining, state.reset))
    };
    let day = states.day.map(|day| limit_state(DAY, day.remaining, day.reset));
    join([rate(REQUESTS, states.requests), rate(ROWS, states.rows), day])
}

fn rate_policy(name: &str, rate: Rate) -> String {
    format!("\"{name}\";q={};w={}", rate.burst(), seconds(rate.window()).max(1))
}

fn limit_state(name: &str, remaining: u64, reset: Duration) -> String {
    format!("\"{name}\";r={remaining};t={}", seconds(reset))
}

fn join(items: [Option<String>; 3]) -> Option<String> {
    let items: Vec<String> = items.into_iter().flatten().collect();
    (!items.is_empty()).then(|| items.join(", "))
}

/// Returns the value of `Retry-After` in seconds. It is at least 1, because 0 would invite an
/// immediate retry.
pub fn retry_after(time: Duration) -> u64 {
    seconds(time).max(1)
}

fn seconds(time: Duration) -> u64 {
    time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0))
}
