//! Dead keys: keys that were revoked or have expired.
//!
//! **Not here:** the statements that count and remove them (`sql`).

use access::unix_time::UnixTime;

/// Time in seconds for which a key stays stored after it was revoked or has expired, so that its
/// state can be looked up. The next change after that time deletes the key.
const DEAD_KEYS_KEPT_FOR: u64 = 90 * 86_400;

/// Returns the cutoff time for a change at `now`: the change deletes keys that were revoked or have
/// expired before the cutoff.
pub(super) fn dead_before(now: UnixTime) -> UnixTime {
    UnixTime::from_seconds(now.seconds().saturating_sub(DEAD_KEYS_KEPT_FOR))
}
