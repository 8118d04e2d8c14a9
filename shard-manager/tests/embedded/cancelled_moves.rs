//! Tests of moves of a cluster of files that are cancelled before their commit point: nothing of
//! them is left in the files of both shards.
//!
//! A trigger refuses the first statement of the next phase, so that a move stays in its phase until
//! it is cancelled.
//!
//! **Not here:** a cancellation while both sides are compared, which no trigger can hold up.

use std::time::{Duration, Instant};

use shard_manager::engine::move_record::{MoveOrder, MovePhase, NewMove};
use shard_manager::manager::Manager;
use shard_manager::moves::identity::MoveId;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::slot_set::SlotSet;
use shard_manager::topology::ShardNumber;

use crate::cluster::{Cluster, deadline, execute, findings, ints, texts, with_replicas};
use crate::move_steps::{
    LONG, SOURCE, TARGET, begin, kept_up, new, order, owners, slow, store_large, until,
    until_paused,
};

/// Number of large rows of the source.
const ROWS: usize = 60;

/// Everything that a move keeps in a shard's file: rows of moves and their counts, slots that are
/// fenced, imported or have moved, and counts of rows in them.
const LEFT_BEHIND: &str = "SELECT (SELECT count(*) FROM tessera_moves)
    + (SELECT count(*) FROM tessera_move_counts)
    + (SELECT count(*) FROM tessera_slots WHERE state <> 'owned')
    + (SELECT coalesce(sum(rows), 0) FROM tessera_foreign_counts) AS value";

/// Number of rows that a file has.
const STORED: &str = "SELECT count(*) AS value FROM kv";
/// Number of moves of which a file has a row.
const MOVES: &str = "SELECT count(*) AS value FROM tessera_moves";
/// Number of slots whose writes wait.
const FENCED: &str = "SELECT count(*) AS value FROM tessera_slots WHERE state = 'fenced'";

/// Statement that a file refuses: the shard, and the parts of the trigger.
struct RefusedStatement {
    shard: ShardNumber,
    table: &'static str,
    condition: &'static str,
}

/// The source does not begin to record changes.
const BEFORE_TRACING: RefusedStatement =
    RefusedStatement { shard: SOURCE, table: "tessera_moves", condition: "NEW.role = 'source'" };
/// The target stores only the first round of a copy of several rounds.
const WITHIN_COPY: RefusedStatement = RefusedStatement {
    shard: TARGET,
    table: "tessera_moves",
    condition: "EXISTS (SELECT 1 FROM tessera_moves AS own
        WHERE own.id = NEW.id AND own.cursor = 'through' AND NEW.round > own.round)",
};
/// The target stores no round after it has all rows.
const AFTER_COPY: RefusedStatement = RefusedStatement {
    shard: TARGET,
    table: "tessera_moves",
    condition: "EXISTS (SELECT 1 FROM tessera_moves AS own
        WHERE own.id = NEW.id AND own.cursor = 'whole' AND NEW.round > own.round)",
};
/// The source does not give its slots away.
const BEFORE_COMMIT: RefusedStatement =
    RefusedStatement { shard: SOURCE, table: "tessera_slots", condition: "NEW.state = 'moved'" };

impl RefusedStatement {
    /// Returns the statement that makes the trigger.
    fn statement(&self) -> String {
        let Self { table, condition, .. } = self;
        format!(
            "CREATE TRIGGER hold_a_move BEFORE INSERT ON {table} WHEN {condition}
             BEGIN SELECT RAISE(ABORT, 'held by a test'); END"
        )
    }
}

/// Returns the move of these slots without a limit of its rate.
fn fast(slots: &SlotSet) -> NewMove {
    new(slots, LONG)
}

/// Returns the number that a query of the file of a shard selects.
fn number(cluster: &Cluster, shard: ShardNumber, sql: &str) -> i64 {
    ints(&cluster.file(shard.index() + 1), sql)[0]
}

/// Waits until a query of the file of a shard selects more than 0.
async fn until_any(cluster: &Cluster, shard: ShardNumber, sql: &str) {
    let limit = deadline();
    while number(cluster, shard, sql) == 0 {
        assert!(Instant::now() < limit, "{sql} is 0");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Begins a move of all rows that is held, lets `cancel` wait for its phase and cancel it, and
/// checks that nothing is left. `describe` returns the move.
async fn cancelled_while_held(
    hold: &RefusedStatement,
    describe: impl Fn(&SlotSet) -> NewMove,
    cancel: impl AsyncFnOnce(&Cluster, &Manager, MoveId),
) {
    let cluster = Cluster::with(with_replicas(2, 1));
    let manager = &cluster.manager;
    let slots = store_large(manager, ROWS).await;
    let key = texts(&cluster.file(SOURCE.index() + 1), "SELECT min(shard_key) AS value FROM kv");
    let held = cluster.file(hold.shard.index() + 1);
    execute(&held, &hold.statement());
    kept_up(manager, async {
        let id = begin(manager, describe(&slots)).await;
        cancel(&cluster, manager, id).await;
        let ended = until(manager, id, &[MovePhase::Cancelled]).await;
        assert!(ended.owned_at.is_none(), "{ended:?}");
    })
    .await;
    execute(&held, "DROP TRIGGER hold_a_move");
    assert_eq!(owners(manager, &slots), [SOURCE]);
    let of_both = |sql| [SOURCE, TARGET].map(|shard| number(&cluster, shard, sql));
    assert_eq!(of_both(LEFT_BEHIND), [0, 0]);
    assert_eq!(of_both(STORED), [ROWS as i64, 0]);
    let written = cluster.write("kv", Upsert, &key[0], r#"{"value":1}"#).await;
    assert_eq!(written.expect("it is not fenced").receipt.place.shard, SOURCE);
    let dir = cluster.stop();
    assert_eq!(findings(dir.path()), Vec::<String>::new());
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_it_is_prepared_leaves_nothing_behind() {
    cancelled_while_held(&BEFORE_TRACING, fast, async |cluster, manager, id| {
        until(manager, id, &[MovePhase::Preparing]).await;
        until_any(cluster, TARGET, MOVES).await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_it_copies_leaves_nothing_behind() {
    cancelled_while_held(&WITHIN_COPY, slow, async |cluster, manager, id| {
        until(manager, id, &[MovePhase::Copying]).await;
        until_any(cluster, TARGET, STORED).await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_it_is_paused_leaves_nothing_behind() {
    cancelled_while_held(&WITHIN_COPY, slow, async |cluster, manager, id| {
        until_any(cluster, TARGET, STORED).await;
        order(manager, id, MoveOrder::Pause).await;
        until_paused(manager, id).await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_it_follows_leaves_nothing_behind() {
    cancelled_while_held(&AFTER_COPY, fast, async |_cluster, manager, id| {
        until(manager, id, &[MovePhase::Following]).await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_writes_wait_for_it_leaves_nothing_behind() {
    cancelled_while_held(&BEFORE_COMMIT, fast, async |cluster, manager, id| {
        until_any(cluster, SOURCE, FENCED).await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}
