//! Pace: the speed at which the moves of a plan are carried out, for estimates.
//!
//! **Not here:** the moves of a plan (`slot_plan`), the number that runs at a time (`moves`).

/// Bytes that a copy without a limit is assumed to transfer in a second.
const BYTES_PER_S: f64 = 44e6;
/// Seconds that a move is assumed to take apart from its copy. In "A cluster that grows" of
/// `api-router/benches/RESULTS.md`, 66 moves to one shard took 42 s on files, and their copies of
/// about 100 MB account for 2 s of these. On servers a move takes longer.
const MOVE_S: f64 = 0.6;
/// Bytes of a mebibyte.
const MIB: f64 = 1_048_576.0;

/// Speed at which moves are carried out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MovePace {
    /// Bytes that one copy transfers in a second.
    pub bytes_per_s: f64,
    /// Seconds of a move apart from its copy.
    pub move_s: f64,
    /// Number of moves that run at a time.
    pub at_a_time: usize,
}

impl MovePace {
    /// Returns the pace of moves whose copies have this limit in MiB/s.
    pub fn of(rate: Option<u32>, at_a_time: usize) -> Self {
        let bytes_per_s = rate.map_or(BYTES_PER_S, |rate| f64::from(rate) * MIB);
        Self { bytes_per_s, move_s: MOVE_S, at_a_time }
    }

    /// Returns the approximate number of seconds for moves that run one after another.
    pub(super) fn seconds(self, bytes: u64, moves: usize) -> f64 {
        bytes as f64 / self.bytes_per_s + moves as f64 * self.move_s
    }
}
