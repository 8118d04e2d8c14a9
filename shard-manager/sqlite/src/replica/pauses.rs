//! Pauses: the times between attempts to recover a replica. Each pause is twice as long as the one
//! before, up to a limit.
//!
//! **Not here:** the attempts themselves (`replica`).

use std::time::Duration;

/// Pause after the first failure; it doubles with each further failure.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(10);
/// Longest pause if the only cause is a full disk. It is short because an attempt costs little, and
/// writes at `quorum` may be waiting for the replica.
const RETRY_ROOM_MAX: Duration = Duration::from_secs(1);

/// Returns the pause after this failure, and the value of `retry` for the next failure.
pub(super) fn pauses(retry: Duration, only_lacks_room: bool) -> (Duration, Duration) {
    let most = if only_lacks_room { RETRY_ROOM_MAX } else { RETRY_MAX };
    let pause = retry.min(most);
    (pause, (pause * 2).min(RETRY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the pauses after this number of consecutive failures.
    fn pauses_of(failures: usize, only_lack_room: bool) -> Vec<Duration> {
        let mut retry = RETRY_FIRST;
        let failed = std::iter::repeat_with(|| {
            let (pause, next) = pauses(retry, only_lack_room);
            retry = next;
            pause
        });
        failed.take(failures).collect()
    }

    #[test]
    fn a_replica_without_disk_space_is_retried_at_least_every_second() {
        let pauses = pauses_of(20, true);
        assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(1)), "{pauses:?}");
        assert_eq!(pauses[0], RETRY_FIRST);
    }

    #[test]
    fn other_failures_of_a_replica_are_retried_after_increasing_pauses() {
        let pauses = pauses_of(20, false);
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!((pauses[0], pauses[19]), (RETRY_FIRST, RETRY_MAX));
    }
}
