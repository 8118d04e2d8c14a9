//! Sabotage: deliberate violations of guarantees, to test the checks that look for violations.
//!
//! Each mutation violates one guarantee at the place where that guarantee is implemented. Mutations
//! exist only in builds with the feature `sabotage`, which is off by default. The environment
//! variable `TESSERA_SABOTAGE` names the active mutations, separated by commas. A router that was
//! built with the feature reports this when it starts, and in `GET /api/health`.
//!
//! | Mutation | Effect | Violated guarantee | Found by |
//! |---|---|---|---|
//! | `ack_before_commit` | a batch of writes is acknowledged before it is committed | an acknowledged write is durable | C3 |
//! | `lost_batch` | one batch of writes in 64 is acknowledged and rolled back | an acknowledged write is durable | C1, C3, C7 |
//! | `no_token_wait` | reads at `one` use any replica, even one that lags behind the session token | a session never reads older data than it has seen | C4 |
//! | `token_before_commit` | the token of a write contains the position before the write | a session reads its own writes | C4 |
//! | `no_staleness_bound` | `x-max-staleness-ms` is ignored | a bounded read is no older than its bound | C5 |
//! | `quorum_from_any` | reads at `quorum` and `all` use any replica that has what the session has seen | a strong read shows every acknowledged write | C3 |
//! | `quorum_without_waiting` | writes at `quorum` and `all` do not wait for replicas | enough replicas have stored the write | C8 under lag, `tests/power_loss` |
//! | `no_idempotency` | a write that is repeated with its idempotency key is executed again | a change happens once | C1 |
//! | `idempotency_other_answer` | a write that is repeated with its idempotency key returns another version | a repeated write gets the same response | C1 |
//! | `bulk_report_all_ok` | refused rows of a bulk write are reported as stored | each row has its own outcome | C3, C7, C9 |
//! | `torn_transaction` | rows of a bulk write with `tx=per-shard` are applied independently | a transaction is applied completely or not at all | C8, C9 |
//! | `ignore_if_version` | rows are written even if `if_version` does not match | a conditional write changes nothing unless its condition holds | C8, C9 |
//! | `version_from_one` | every new row gets version 1 | versions only grow, even when a row is deleted and inserted again | C1, C3 |
//! | `resurrect` | replicas keep rows that were removed | a deleted row stays deleted | C3 |
//! | `duplicate_pages` | a page begins with the last row of the previous page | an iteration returns each row once | C7 |
//! | `wrong_row` | one read in 128 returns the row of another key | a read returns the rows of its key | C2 |
//! | `sqlite_sync_off` | SQLite does not sync its files to disk | an acknowledged write survives a loss of power | `tests/power_loss` |
//! | `cache_set_without_version` | the cache stores any response, and returns it until it expires | a cache hit is proven to be new enough | C4 |
//! | `token_without_epoch` | session tokens have no epoch | a session never reads older data than it has seen, even after a slot has moved | `tests/embedded` |
//! | `cache_keeps_slot` | cache keys do not contain the epoch in which the slot got its owner | a cache hit comes from the present owner of the slot | `tests/cache` |
//! | `read_unowned` | reads of files show rows of slots that the shard does not own | a row has one owner | C7 while slots change hands |
//! | `scatter_unchecked` | responses of shards are merged without checking which slots they contain | a read of all shards shows each row once | C7 while slots change hands, `tests/embedded` |
//! | `refusal_lost` | a write that a shard refuses because of its slot is acknowledged and dropped | an acknowledged write is stored | C7 while slots change hands |
//! | `unbound_reads` | reads of clients whose rights cover only some shard keys are not restricted to these keys | a tenant reads only its own rows | `loadtest --tenants` |
//! | `no_fence` | the fence of a move ends at once, but the commit assumes that it still holds | a move loses no write | C3, C6, C7 with moves |
//! | `forget_last_changes` | a move commits without copying the changes since its last round | a move loses no write | C3, C6, C7 with moves |
//! | `copy_forgets_deletes` | a copy keeps rows that were deleted after they were copied | a deleted row stays deleted | C3, C7 or the comparison, with moves |
//! | `idempotency_stays` | records of idempotency keys do not move with their slot | a change happens once, even if its slot moves before it is repeated | C1 with moves |
//! | `version_not_raised` | the target of a move does not raise its version counter to that of the source | versions only grow, even when a slot moves | C1, C3 with moves |
//! | `activate_unconfirmed` | the target of a move takes the slots before replicas have confirmed the commit of the source | a slot has one owner, even after a failover | `tests/embedded`, simulation of `moves` |
//! | `unverified` | the copy of a move is not compared with its source before the commit | a copy that differs from its source never becomes the owner | `tests/embedded`, with a damaged row |
//! | `commit_by_clock` | a slow mover, whose fence has already ended, commits without checking for new changes | a move loses no write | C3, C6, C7 with moves |
//! | `one_statement_fence` | on PostgreSQL, one statement takes the fence lock and checks for new changes, so that its snapshot is older than the lock; no fence holds before it | a move loses no write | C3, C6, C7 with moves on servers |
//!
//! C1 to C9 are the checks of the load tester (`loadtest/README.md`).
//!
//! # Slots that change hands
//! If the environment variable `TESSERA_HAND_OVERS` is set, a router with the feature continually
//! transfers slots with their rows from one shard to the other. This violates no guarantee; it
//! makes faults in the handling of slots that change hands visible. The cluster must be embedded
//! and have two shards and no replicas.
//!
//! A single router knows every shard map that it has published, and removes the cache entries of
//! every key that it writes. Therefore `token_without_epoch` and `cache_keeps_slot` have no visible
//! effect with one router. Tests with several routers, and tests in which the removal of a cache
//! entry is lost, show it.
//!
//! # Stop points
//! The environment variable `TESSERA_STOP_AT` names a step of a move at which a router with the
//! feature kills or freezes itself (`stop_points`).
//!
//! **Invariant:** without the feature no mutation is ever active and no process stops itself, and
//! an optimised build does not contain the code for either.
//! **Not here:** the code of each mutation, which is at the place where its guarantee is
//! implemented.

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

/// Violation of a guarantee; the table of this module describes each of them.
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

/// Time within a step of a move at which a process can stop itself; the table of `stop_points`
/// describes each of them.
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
