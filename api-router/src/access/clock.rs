//! Clock: the system time with which expiry times are compared.
//!
//! **Not here:** intervals, which are measured with the monotonic clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shard_manager::access::unix_time::UnixTime;

/// Returns the system time in whole seconds since 1970, the unit of expiry times.
pub fn unix_now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    UnixTime::from_seconds(since.unwrap_or(Duration::ZERO).as_secs())
}
