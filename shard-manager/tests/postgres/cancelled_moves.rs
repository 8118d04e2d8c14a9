//! Tests of moves that are cancelled before their commit point: nothing of them is left in the
//! databases of both shards.
//!
//! A trigger refuses the first statement of the next phase, so that a move stays in its phase until
//! it is cancelled.

use shard_manager::engine::move_record::{MoveOrder, MovePhase, NewMove};
use shard_manager::manager::Manager;
use shard_manager::moves::identity::MoveId;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::slot_set::SlotSet;

use crate::cluster::{Databases, SideSession, connect};
use crate::move_steps::{
    LONG, SOURCE, begin, kept_up, new, order, owners, slow, store_large, until, until_paused,
};
use crate::rows::write;

/// Number of large rows of the source.
const ROWS: usize = 60;

/// Everything that a move keeps in a shard's database: rows of moves, recorded changes, followed
/// slots, enabled triggers, slots that are fenced, imported or have moved.
const LEFT_BEHIND: &str = "SELECT concat_ws(' ',
    (SELECT count(*) FROM tessera.tessera_slot_moves),
    (SELECT count(*) FROM tessera.tessera_changes),
    (SELECT coalesce(sum(bit_count(bits)), 0) FROM tessera.tessera_followed),
    (SELECT count(*) FROM pg_trigger
        WHERE tgname::text LIKE 'tessera_record%' AND tgenabled <> 'D'),
    (SELECT count(*) FROM tessera.tessera_slots WHERE state <> 'owned')) AS value";

/// Number of rows that a database has.
const STORED: &str = "SELECT count(*)::text AS value FROM kv";
/// True if a copy has rows.
const HAS_ROWS: &str = "SELECT (count(*) > 0)::text AS value FROM kv";
/// Number of moves of which a database has a row.
const MOVES: &str = "SELECT count(*)::text AS value FROM tessera.tessera_slot_moves";
/// True if writes of slots wait.
const IS_FENCED: &str =
    "SELECT (count(*) > 0)::text AS value FROM tessera.tessera_slots WHERE state = 'fenced'";
/// True if the comparison of both sides waits for a table of this database.
const IS_COMPARING: &str = "SELECT (count(*) > 0)::text AS value
    FROM pg_locks AS held JOIN pg_stat_activity AS own USING (pid)
    WHERE NOT held.granted AND held.relation = 'tessera.tessera_idempotency'::regclass
        AND own.datname = current_database() AND own.query LIKE '%GROUP BY slot'";

/// Statement that a database refuses: the shard, by its index, and the parts of the trigger.
struct RefusedStatement {
    shard: usize,
    event: &'static str,
    condition: &'static str,
}

/// The source does not begin to record changes.
const BEFORE_TRACING: RefusedStatement = RefusedStatement {
    shard: 0,
    event: "INSERT ON tessera.tessera_slot_moves",
    condition: "NEW.role = 'source'",
};
/// The target stores only the first round of a copy of several rounds.
const WITHIN_COPY: RefusedStatement = RefusedStatement {
    shard: 1,
    event: "UPDATE ON tessera.tessera_slot_moves",
    condition: "OLD.cursor = 'through' AND NEW.round > OLD.round",
};
/// The target stores no round after it has all rows.
const AFTER_COPY: RefusedStatement = RefusedStatement {
    shard: 1,
    event: "UPDATE ON tessera.tessera_slot_moves",
    condition: "OLD.cursor = 'whole' AND NEW.round > OLD.round",
};
/// The source does not give its slots away.
const BEFORE_COMMIT: RefusedStatement = RefusedStatement {
    shard: 0,
    event: "UPDATE ON tessera.tessera_slots",
    condition: "NEW.state = 'moved'",
};

/// Statement that ends [`AFTER_COPY`].
const RELEASE: &str = "DROP TRIGGER hold_a_move ON tessera.tessera_slot_moves";

impl RefusedStatement {
    /// Returns the statements that make the trigger.
    fn statements(&self) -> String {
        let Self { event, condition, .. } = self;
        format!(
            "CREATE FUNCTION public.hold_a_move() RETURNS TRIGGER LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'held by a test'; END $$;
             CREATE TRIGGER hold_a_move BEFORE {event} FOR EACH ROW WHEN ({condition})
             EXECUTE FUNCTION public.hold_a_move()"
        )
    }
}

/// Returns the move of these slots without a limit of its rate.
fn fast(slots: &SlotSet) -> NewMove {
    new(slots, LONG)
}

/// Sessions of a test: one of the source, and two of the target.
type Sessions = [SideSession; 3];

/// Begins a move of all rows that is held, lets `cancel` wait for its phase and cancel it, and
/// checks that nothing is left. `describe` returns the move.
async fn cancelled_while_held(
    hold: &RefusedStatement,
    describe: impl Fn(&SlotSet) -> NewMove,
    cancel: impl AsyncFnOnce(&Manager, MoveId, &mut Sessions),
) {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.with_replicas().await);
    let mut sessions = [
        databases.direct_session(0).await,
        databases.direct_session(1).await,
        databases.direct_session(1).await,
    ];
    let slots = store_large(&manager, ROWS).await;
    let key = sessions[0].text("SELECT min(shard_key) AS value FROM kv").await;
    sessions[hold.shard].run(&hold.statements()).await;
    kept_up(&manager, async {
        let id = begin(&manager, describe(&slots)).await;
        cancel(&manager, id, &mut sessions).await;
        let ended = until(&manager, id, &[MovePhase::Cancelled]).await;
        assert!(ended.owned_at.is_none(), "{ended:?}");
        for direct in &mut sessions {
            direct.until(LEFT_BEHIND, "0 0 0 0 0").await;
        }
    })
    .await;
    assert_eq!(owners(&manager, &slots), [SOURCE]);
    let stored = [sessions[0].text(STORED).await, sessions[1].text(STORED).await];
    assert_eq!(stored, [ROWS.to_string(), "0".to_owned()]);
    let moving = "SELECT count(*)::text AS value FROM tessera_moving";
    assert_eq!(sessions[0].text(moving).await, "0", "the slots may move again");
    let written = write(&manager, "kv", Upsert, &key, r#"{"value":1}"#).await;
    assert_eq!(written.expect("it is not fenced").receipt.place.shard, SOURCE);
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_it_is_prepared_leaves_nothing_behind() {
    cancelled_while_held(&BEFORE_TRACING, fast, async |manager, id, sessions| {
        until(manager, id, &[MovePhase::Preparing]).await;
        sessions[1].until(MOVES, "1").await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_it_copies_leaves_nothing_behind() {
    cancelled_while_held(&WITHIN_COPY, slow, async |manager, id, sessions| {
        until(manager, id, &[MovePhase::Copying]).await;
        sessions[1].until(HAS_ROWS, "true").await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_it_is_paused_leaves_nothing_behind() {
    cancelled_while_held(&WITHIN_COPY, slow, async |manager, id, sessions| {
        sessions[1].until(HAS_ROWS, "true").await;
        order(manager, id, MoveOrder::Pause).await;
        until_paused(manager, id).await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_it_follows_leaves_nothing_behind() {
    cancelled_while_held(&AFTER_COPY, fast, async |manager, id, _sessions| {
        until(manager, id, &[MovePhase::Following]).await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}

/// The comparison waits for a table that a session of the test has locked. The order is stored
/// before the comparison ends, and the mover receives it with the report of this phase.
#[tokio::test]
async fn a_move_that_is_cancelled_while_both_sides_are_compared_leaves_nothing_behind() {
    cancelled_while_held(&AFTER_COPY, fast, async |manager, id, sessions| {
        until(manager, id, &[MovePhase::Following]).await;
        let lock = "BEGIN; LOCK TABLE tessera.tessera_idempotency IN ACCESS EXCLUSIVE MODE";
        sessions[2].run(lock).await;
        sessions[1].run(RELEASE).await;
        sessions[1].until(IS_COMPARING, "true").await;
        order(manager, id, MoveOrder::Cancel).await;
        sessions[2].run("ROLLBACK").await;
    })
    .await;
}

#[tokio::test]
async fn a_move_that_is_cancelled_while_writes_wait_for_it_leaves_nothing_behind() {
    cancelled_while_held(&BEFORE_COMMIT, fast, async |manager, id, sessions| {
        sessions[0].until(IS_FENCED, "true").await;
        order(manager, id, MoveOrder::Cancel).await;
    })
    .await;
}
