//! Sabotage: deliberate violations of guarantees, to test the checks that look for violations.
//!
//! Each mutation violates one guarantee exactly where it is implemented. Mutations exist only with
//! the feature `sabotage`, which no default build has. The environment variable `TESSERA_SABOTAGE`
//! names the active ones, separated by commas. A router with the feature reports that at its start,
//! and in `GET /api/health`.
//!
//! | Mutation | Effect | Violated guarantee | Found by |
//! |---|---|---|---|
//! | `ack_before_commit` | a batch is answered and committed a little later | a success is durable | C3 |
//! | `lost_batch` | a batch of 64 is answered and rolled back | a success is durable | C1, C3, C7 |
//! | `no_token_wait` | reads at `one` take any replica, whatever the token has seen | a session sees what it has seen | C4 |
//! | `token_before_commit` | the token of a write has the position before it | a session reads its own writes | C4 |
//! | `no_staleness_bound` | `x-max-staleness-ms` is ignored | a bounded read is within its bound | C5 |
//! | `quorum_from_any` | strong reads take any replica | a strong read shows everything that was acknowledged | C3 |
//! | `quorum_without_waiting` | writes at `quorum` and `all` wait for no replica | every replica has them on disk | C8 under lag, `tests/power_loss` |
//! | `no_idempotency` | a write that is sent again is executed again | a change happens once | C1 |
//! | `idempotency_other_answer` | a write that is sent again returns another version | it gets the same response | C1 |
//! | `bulk_report_all_ok` | refused rows of a bulk write are reported as stored | each row has its own outcome | C3, C7, C9 |
//! | `torn_transaction` | rows of `tx=per-shard` are applied each on its own | all or nothing | C8, C9 |
//! | `ignore_if_version` | rows are written whatever their version | a condition holds, or nothing is written | C8, C9 |
//! | `version_from_one` | a row that is created has version 1 | versions only grow, also over delete and insert | C1, C3 |
//! | `resurrect` | replicas keep rows that were removed | a deleted row stays deleted | C3 |
//! | `duplicate_pages` | a page begins with the last row of the one before | iteration returns each row once | C7 |
//! | `wrong_row` | one read of 128 returns the row of another key | a read returns the rows of its key | C2 |
//! | `sqlite_sync_off` | nothing is synced to the disk | a success survives a loss of power | `tests/power_loss` |
//! | `cache_set_without_version` | the cache stores any answer, and returns it until it expires | an answer of the cache is proven new enough | C4 |
//! | `token_without_epoch` | tokens have no epoch | a session never goes back, also when a slot has moved | `tests/embedded` |
//! | `cache_keeps_slot` | cache keys lack the epoch in which a slot got its owner | an answer of the cache is of the slot's owner | `tests/cache` |
//! | `read_unowned` | reads of files show rows of slots that the shard does not own | a row has one owner | C7 while slots change hands |
//! | `scatter_unchecked` | answers of shards are merged without a look at their slots | a read of all shards shows each row once | C7 while slots change hands, `tests/embedded` |
//! | `refusal_lost` | a write that a shard refuses for its slot is answered and dropped | a success is stored | C7 while slots change hands |
//! | `unbound_reads` | reads of bound callers are not restricted to their keys | a tenant reads its own rows only | `loadtest --tenants` |
//! | `no_fence` | the fence of a move ends at once, and the commit trusts it | a move loses no write | C3, C6, C7 with moves |
//! | `forget_last_changes` | a move commits without the changes since its last round | a move loses no write | C3, C6, C7 with moves |
//! | `copy_forgets_deletes` | a copy keeps rows that were deleted after they were copied | a deleted row stays deleted | C3, C7 or the comparison, with moves |
//! | `idempotency_stays` | records of idempotency keys do not move | a change happens once, also when its slot has moved | C1 with moves |
//! | `version_not_raised` | a target does not raise its version counter to that of the source | versions only grow, also when a slot has moved | C1, C3 with moves |
//! | `activate_unconfirmed` | a target takes slots before the commit of its source is confirmed | a slot has one owner, also after a failover | `tests/embedded`, simulation of `moves` |
//! | `unverified` | a copy is not compared with its source | a copy that differs does not become the owner | `tests/embedded`, with a damaged row |
//! | `commit_by_clock` | a slow mover commits without a look at changes, as if its fence still held | a move loses no write | C3, C6, C7 with moves |
//! | `one_statement_fence` | PostgreSQL takes the fence lock and looks for changes in one statement, whose snapshot is older than the lock; no fence lasts before it | a move loses no write | C3, C6, C7 with moves on servers |
//!
//! C1 to C9 are the checks of the load tester.
//!
//! # Slots that change hands
//! A router with the feature that finds the variable `TESSERA_HAND_OVERS` hands slots with their
//! rows from one shard to the other, again and again. This violates no guarantee. The embedded
//! cluster must have two shards and no replicas.
//!
//! A single router knows every map that it has published, and removes the cache entries of every
//! key that it writes. So it shows neither the effect of `token_without_epoch` nor that of
//! `cache_keeps_slot`: tests of several routers, and of lost removals, do.
//!
//! # Stop points
//! The variable `TESSERA_STOP_AT` names a place at which a router with the feature kills or freezes
//! itself (`stop_points`).
//!
//! **Invariant:** without the feature no mutation is ever active and no process stops, and an
//! optimised build contains neither.
//! **Not here:** the changes themselves, which are where the guarantees are implemented.

#[cfg(feature = "sabotage")]
mod active;
#[cfg(feature = "sabotage")]
mod stop_points;

#[cfg(feature = "sabotage")]
pub use active::{
    HAND_OVERS, UnknownMutation, VARIABLE, active_mutations, hands_slots_over, is_due, is_on,
};
#[cfg(feature = "sabotage")]
pub use stop_points::{
    LAST_STEP, STEPS, STOP_VARIABLE, StopPoint, UnknownStopPoint, reach, stop_point,
};

/// A guarantee that can be violated: see the table above.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "sabotage", derive(Debug))]
#[expect(missing_docs, reason = "the table of the module describes all of them")]
pub enum Mutation {
    AckBeforeCommit,
    LostBatch,
    NoTokenWait,
    TokenBeforeCommit,
    NoStalenessBound,
    QuorumFromAny,
    QuorumWithoutWaiting,
    NoIdempotency,
    IdempotencyOtherAnswer,
    BulkReportAllOk,
    TornTransaction,
    IgnoreIfVersion,
    VersionFromOne,
    Resurrect,
    DuplicatePages,
    WrongRow,
    SqliteSyncOff,
    CacheSetWithoutVersion,
    TokenWithoutEpoch,
    CacheKeepsSlot,
    ReadUnowned,
    ScatterUnchecked,
    RefusalLost,
    UnboundReads,
    NoFence,
    ForgetLastChanges,
    CopyForgetsDeletes,
    IdempotencyStays,
    VersionNotRaised,
    ActivateUnconfirmed,
    Unverified,
    CommitByClock,
    OneStatementFence,
}

/// Time within a step of a move at which a process may stop: see the table of `stop_points`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the table describes all of them")]
pub enum StopTime {
    Before,
    Inside,
    After,
}

/// Does nothing: without the feature no process stops.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn reach(_: StopTime, _step: &str) {}

/// Returns false: without the feature no mutation is active.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn is_on(_: Mutation) -> bool {
    false
}

/// Returns false: without the feature no mutation is active.
#[cfg(not(feature = "sabotage"))]
#[inline]
pub const fn is_due(_: Mutation, _every: u64) -> bool {
    false
}
