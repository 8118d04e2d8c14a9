//! Pace: the assumed speed of moves, for estimates of the duration of a plan.
//!
//! **Not here:** the moves of a plan (`slot_plan`), the limit of concurrent moves (`moves`).

/// Number of bytes per second that a copy is assumed to transfer if its rate is not limited.
const BYTES_PER_S: f64 = 44e6;
/// Number of seconds that a move is assumed to take in addition to its copy. In "A cluster that
/// grows" of `api-router/benches/RESULTS.md`, 66 moves to one shard took 42 s on files, of which
/// copying about 100 MB took only 2 s. On servers a move takes longer.
const MOVE_S: f64 = 0.6;
/// Number of bytes in a mebibyte.
const MIB: f64 = 1_048_576.0;

/// Assumed speed of moves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MovePace {
    /// Number of bytes per second that one copy transfers.
    pub bytes_per_s: f64,
    /// Number of seconds that a move takes in addition to its copy.
    pub move_s: f64,
    /// Number of moves that run at the same time.
    pub at_a_time: usize,
}

impl MovePace {
    /// Returns the pace of moves whose copies are limited to `rate` MiB/s each; `None` means no
    /// limit.
    pub fn of(rate: Option<u32>, at_a_time: usize) -> Self {
        let bytes_per_s = rate.map_or(BYTES_PER_S, |rate| f64::from(rate) * MIB);
        Self { bytes_per_s, move_s: MOVE_S, at_a_time }
    }

    /// Returns the approximate duration, in seconds, of `moves` moves that run one after another
    /// and copy `bytes` bytes in all.
    pub(super) fn seconds(self, bytes: u64, moves: usize) -> f64 {
        bytes as f64 / self.bytes_per_s + moves as f64 * self.move_s
    }
}
