//! Limits of moves, each with its reason.
//!
//! **Not here:** the pace of the copy, which depends on the load of the lanes.

use std::time::Duration;

/// Maximum number of slots of one move. The metadata of the move then fits in one short row, and a
/// move takes minutes, so that a rebalance can end after any of its moves.
pub const SLOTS_MAX: usize = 64;

/// Time after which a fence ends by itself. Writers wait at most this long for a mover that died.
pub const FENCE_HOLD: Duration = Duration::from_secs(2);

/// Time between two fences of one shard, in which the writes that waited are carried out.
pub const FENCE_GAP: Duration = Duration::from_millis(200);

/// Maximum number of changes of a short round: the last round is applied while writers wait. The
/// mover raises the limit the longer it follows the source.
pub const SHORT_ROUND_CHANGES: usize = 200;

/// Maximum duration of a short round. The mover raises it the longer it follows the source.
pub const SHORT_ROUND_TIME: Duration = Duration::from_millis(20);

/// Number of consecutive short rounds before a fence: a single one may have met a pause of the
/// writers.
pub const SHORT_ROUNDS: u8 = 3;

/// Time that a moved slot is kept on its source by default, for a rollback without a copy.
pub const KEEP: Duration = Duration::from_mins(15);

/// Longest time that a moved slot may be kept on its source.
pub const KEEP_MAX: Duration = Duration::from_hours(24);

/// Maximum number of rows that one transaction of the cleaning deletes, so that it holds no lock
/// for long. Engines may delete fewer.
pub const CLEANING_ROWS: usize = 1_000;

/// Time without progress after which a move counts as stalled.
pub const STALL: Duration = Duration::from_secs(60);

/// Longest time in which the rows of both shards are compared. A comparison has no result until it
/// has ended, so a move counts as stalled only after this time while it compares.
pub const COMPARISON_MAX: Duration = Duration::from_mins(10);

/// Maximum number of moves of a cluster that are under way at the same time. Each shard is the
/// source of at most one and the target of at most one.
pub const MOVES_MAX: usize = 4;
