//! Limits of moves, each with its reason.
//!
//! **Not here:** the speed of the copy, which depends on the writes of clients.

use std::time::Duration;

/// Maximum number of slots of one move. With so few slots, the metadata of a move fits in one short
/// database row, and a move takes minutes, so that a rebalance, which may stop after each of its
/// moves, can stop soon.
pub const SLOTS_MAX: usize = 64;

/// Time after which a fence expires by itself. If a mover dies during its fence, writers wait at
/// most this long.
pub const FENCE_HOLD: Duration = Duration::from_secs(2);

/// Minimum time between two fences on one shard, in which the writes that waited are carried out.
pub const FENCE_GAP: Duration = Duration::from_millis(200);

/// Number of changes up to which a round counts as short. The last round before the commit is
/// applied while writers wait, so a fence begins only after short rounds. The longer the mover has
/// followed the source, the more it raises this limit.
pub const SHORT_ROUND_CHANGES: usize = 200;

/// Duration up to which a round counts as short. The longer the mover has followed the source, the
/// more it raises this limit. It also raises it to twice the duration of the fastest round.
pub const SHORT_ROUND_TIME: Duration = Duration::from_millis(20);

/// Number of consecutive short rounds that are required before a fence. A single round may be short
/// only because clients happened not to write.
pub const SHORT_ROUNDS: u8 = 3;

/// Default time for which the source keeps the rows of moved slots, so that a rollback needs no
/// copy.
pub const KEEP: Duration = Duration::from_mins(15);

/// Maximum time for which the source may keep the rows of moved slots.
pub const KEEP_MAX: Duration = Duration::from_hours(24);

/// Maximum number of rows that one cleaning transaction deletes, so that it holds no lock for long.
/// Engines may delete fewer rows.
pub const CLEANING_ROWS: usize = 1_000;

/// Time without progress after which a move counts as stalled.
pub const STALL: Duration = Duration::from_secs(60);

/// Maximum time for reading the rows of one shard for a comparison. A comparison shows no progress
/// until it has ended, so during a comparison a move counts as stalled only after this time.
pub const COMPARISON_MAX: Duration = Duration::from_mins(10);

/// Maximum number of moves of a cluster that are in progress at the same time. Each shard is the
/// source of at most one of them and the target of at most one.
pub const MOVES_MAX: usize = 4;
