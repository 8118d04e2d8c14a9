//! Limits of moves, each with its reason.
//!
//! **Not here:** the pace of the copy, which depends on the load of the lanes.

use std::time::Duration;

/// Most slots of one move. Its metadata stays one short row, and each move alone takes minutes, so
/// a rebalance may end after any of them.
pub const SLOTS_MAX: usize = 64;

/// Time after which a fence ends by itself. Writers wait at most this long for a mover that died.
pub const FENCE_HOLD: Duration = Duration::from_secs(2);

/// Longest wait for the fence lock. While a request waits for it, new writes queue behind it.
pub const LOCK_WAIT: Duration = Duration::from_millis(250);

/// Time between two fences of one shard, in which the writes that waited are carried out.
pub const FENCE_GAP: Duration = Duration::from_millis(200);

/// Most changes of a short round. The last round is applied while writers wait.
pub const SHORT_ROUND_CHANGES: usize = 200;

/// Longest short round.
pub const SHORT_ROUND_TIME: Duration = Duration::from_millis(20);

/// Short rounds in sequence before a fence: one alone may have met a pause of the writers.
pub const SHORT_ROUNDS: u8 = 3;

/// Time that a moved slot is kept on its source by default, for a rollback without a copy.
pub const KEEP: Duration = Duration::from_mins(15);

/// Longest time that a moved slot may be kept on its source.
pub const KEEP_MAX: Duration = Duration::from_hours(24);

/// Most changes that flow back while the source is kept. A move back is cheaper after that.
pub const KEPT_CHANGES_MAX: u64 = 1_000_000;

/// Most rows that one transaction of the cleaning deletes, so that it holds no lock for long.
pub const CLEANING_ROWS: usize = 1_000;

/// Time without progress after which a move counts as stalled.
pub const STALL: Duration = Duration::from_secs(60);

/// Time in which a round must become smaller, or else the move gets fewer slots.
pub const CATCH_UP: Duration = Duration::from_secs(30);

/// Longest change log of the source. Beyond it the copy begins again.
pub const LOG_BYTES_MAX: u64 = 1 << 30;

/// Most moves of a cluster at a time. Each shard is the source of one and the target of one.
pub const MOVES_MAX: usize = 16;
