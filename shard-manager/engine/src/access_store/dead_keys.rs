//! Dead keys: keys that were revoked or have expired.
//!
//! **Not here:** the statements that count and remove them (`sql`).

use access::unix_time::UnixTime;

/// Seconds for which a key that was revoked or has expired is kept, so that its state can be looked
/// up. The next change after that time removes the key.
const DEAD_KEYS_KEPT_FOR: u64 = 90 * 86_400;

/// Returns the cutoff of a change at `now`: the change removes keys that were revoked or have
/// expired before that time.
pub(super) fn dead_before(now: UnixTime) -> UnixTime {
    UnixTime::from_seconds(now.seconds().saturating_sub(DEAD_KEYS_KEPT_FOR))
}
