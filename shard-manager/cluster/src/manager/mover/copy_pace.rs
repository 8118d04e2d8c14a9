//! Copy pace: how much a move copies at once, and how long it rests between two rounds.
//!
//! A chunk is stored in one transaction, for which other writes of the target wait, and it takes
//! processor time of both shards. While clients write, chunks are small, and the move rests longer
//! than it works. Without other writes it copies as fast as it can.
//!
//! **Invariant:** a move rests for a bounded time, so that it ends however much clients write.
//! **Not here:** rounds of a whole copy, whose pace decides about the fence
//! ([`super::move_round::RoundPace`]).

use std::time::{Duration, Instant};

use engine::slot_move::RoundBudget;

use super::copy_rate::CopyRate;

/// Time without a write of a client after which a move does not consider clients.
const ALONE_AFTER: Duration = Duration::from_millis(100);
/// Rest beside clients, as a multiple of the time of the round before it.
const REST: u32 = 2;
/// Longest rest.
const REST_MAX: Duration = Duration::from_millis(100);

/// Pace of one move.
#[derive(Debug)]
pub(super) struct CopyPace {
    rate: CopyRate,
    /// Number of writes that both shards have had, as of the last round.
    writes: u64,
    /// Time of the last round that found other writes.
    disturbed: Option<Instant>,
}

impl CopyPace {
    /// Creates the pace of a move with this limit in MiB/s.
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self { rate: CopyRate::new(limit), writes: 0, disturbed: None }
    }

    /// Returns the extent of the next chunk. `writes` is the number of writes that clients have
    /// made on both shards so far, in any unit that grows with them.
    pub(super) fn budget(&mut self, writes: u64, now: Instant) -> RoundBudget {
        if writes != self.writes {
            self.writes = writes;
            self.disturbed = Some(now);
        }
        if self.is_alone(now) { RoundBudget::ALONE } else { RoundBudget::BESIDE_WRITES }
    }

    /// Returns the rest after a round of this size and duration.
    pub(super) fn rest(&mut self, bytes: u64, took: Duration, now: Instant) -> Duration {
        let limited = self.rate.count(bytes, now);
        let rest = if self.is_alone(now) { Duration::ZERO } else { (took * REST).min(REST_MAX) };
        limited.max(rest)
    }

    fn is_alone(&self, now: Instant) -> bool {
        self.disturbed.is_none_or(|at| now.saturating_duration_since(at) >= ALONE_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_copy_rests_and_takes_small_chunks_only_beside_writes() {
        let (mut pace, begun) = (CopyPace::new(None), Instant::now());
        assert_eq!(pace.budget(0, begun), RoundBudget::ALONE);
        assert_eq!(pace.rest(1 << 20, 10 * MS, begun), Duration::ZERO);
        assert_eq!(pace.budget(1, begun), RoundBudget::BESIDE_WRITES);
        assert_eq!(pace.rest(1 << 20, 10 * MS, begun), 20 * MS);
        assert_eq!(pace.rest(1 << 20, 10_000 * MS, begun), REST_MAX);
        assert_eq!(pace.budget(1, begun + 99 * MS), RoundBudget::BESIDE_WRITES);
        assert_eq!(pace.budget(1, begun + 100 * MS), RoundBudget::ALONE);
    }

    #[test]
    fn the_limit_of_an_operator_holds_without_writes_as_well() {
        let (mut pace, now) = (CopyPace::new(Some(1)), Instant::now());
        assert!(pace.rest(2 << 20, MS, now) > 1_900 * MS);
    }
}
