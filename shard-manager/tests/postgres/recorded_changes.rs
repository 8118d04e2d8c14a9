//! Tests of the changes that a shard records for a move: when there are too many of them, when they
//! can no longer be followed, and what is left of them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::{Either, select};
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::engine::slot_move::{
    MoveChange, MoveChangeError, RoundBudget, RoundError, RoundQuery, RoundRead, ShardMoves,
};
use shard_manager::keyspace::{ShardKey, Slot};
use shard_manager::manager::Manager;
use shard_manager::moves::applied::AppliedRows;
use shard_manager::moves::beginning::NewMoveRow;
use shard_manager::moves::identity::{MoveId, MoveLeg, MoveTerm, MoveTicket};
use shard_manager::moves::move_row::CopyCursor;
use shard_manager::moves::request::MoveRequest;
use shard_manager::row_change::Operation::Upsert;
use shard_manager::value::ColumnType;

use crate::cluster::{Databases, SideSession, connect};
use crate::move_steps::{
    LONG, SOURCE, TARGET, begin, kept_up, new, order, owners, slow, store_large, until,
    until_paused,
};
use crate::rows::{deadline, make, table, write};
use crate::slot_router::SlotRouter;

/// Number of recorded changes in a shard's database.
const RECORDED: &str = "SELECT count(*)::text AS value FROM tessera.tessera_changes";

/// Returns the statement that records this many changes of a slot.
fn record(slot: u16, count: u32) -> String {
    format!(
        "INSERT INTO tessera.tessera_changes
         SELECT pg_current_xact_id(), 'users', {slot}, 'k', ARRAY['k']
         FROM generate_series(1, {count})"
    )
}

/// Returns the statement that begins or ends the recording of changes of slots.
fn follow(slots: &str, is_followed: bool) -> String {
    format!("SELECT tessera.tessera_follow('{{{slots}}}', {is_followed})")
}

/// Returns the statement that inserts tags with these ids in one transaction.
fn many_tags(first: u32, last: u32) -> String {
    format!(
        "INSERT INTO a_tags SELECT slot, shard_key, number, number, version, created_at, updated_at
         FROM a_tags, generate_series({first}, {last}) AS number WHERE id = 1"
    )
}

/// Makes a table whose rows are copied before all others, with one row under the key of a row of
/// the source.
async fn make_tags(manager: &Manager, source: &mut SideSession) {
    let columns = [("id", ColumnType::Bigint), ("value", ColumnType::Bigint)];
    make(manager, &table("a_tags", &columns, 2, &["id"], None)).await;
    let key = source.text("SELECT min(shard_key) AS value FROM kv").await;
    write(manager, "a_tags", Upsert, &key, r#"{"id":1,"value":10}"#).await.unwrap();
}

#[tokio::test]
async fn changes_that_a_recording_leaves_are_deleted_after_its_end_and_those_of_others_stay() {
    let databases = Databases::new(1).await;
    drop(connect(&databases.address()));
    let mut direct = databases.direct_session(0).await;
    direct.run("BEGIN").await;
    direct.run(&follow("7,8", true)).await;
    direct.run(&record(7, 3)).await;
    direct.run(&record(8, 20_001)).await;
    direct.run(&follow("7,8", false)).await;
    assert_eq!(direct.text(RECORDED).await, "20004", "writes wait for the end of a recording");
    // A recording that begins does not follow what another one has left.
    direct.run(&follow("7", true)).await;
    assert_eq!(direct.text(RECORDED).await, "20001");
    direct.run(&record(7, 2)).await;
    direct.run("COMMIT").await;
    let manager = connect(&databases.address());
    direct.until(RECORDED, "2").await;
    drop(manager);
}

#[tokio::test]
async fn changes_are_too_many_only_if_those_of_the_slots_reach_the_limit() {
    let databases = Databases::new(1).await;
    let router = SlotRouter::open(&databases.address());
    let mut direct = databases.direct_session(0).await;
    direct.run(&follow("7,8", true)).await;
    direct.run(&record(7, 3)).await;
    direct.run(&record(8, 5)).await;
    direct.run("SELECT pg_stat_force_next_flush()").await;
    let reader = &moves_of(&router, 0).reader;
    let slots = |numbers: &[u16]| numbers.iter().copied().filter_map(Slot::new).collect();
    let (one, both): (Arc<[Slot]>, Arc<[Slot]>) = (slots(&[7]), slots(&[7, 8]));
    for (slots, most, are_too_many) in
        [(&one, 1, true), (&one, 3, true), (&one, 4, false), (&one, 9, false), (&both, 8, true)]
    {
        let found = reader.has_too_many_changes(slots, most, deadline()).await;
        assert_eq!(found, Ok(are_too_many), "{most} of {slots:?}");
    }
}

fn moves_of(router: &SlotRouter, shard: usize) -> &ShardMoves {
    router.opened.shards[shard].moves.as_ref().unwrap()
}

/// Sends a change until no lock holds it up.
async fn send(router: &SlotRouter, shard: usize, change: MoveChange) {
    let writer = moves_of(router, shard).writer.as_ref().unwrap();
    let limit = deadline();
    loop {
        match writer.change(change.clone(), limit).await {
            Err(MoveChangeError::Busy { holder }) => {
                assert!(Instant::now() < limit, "{holder} holds the change up");
            }
            changed => {
                changed.unwrap();
                return;
            }
        }
    }
}

/// Makes the commit of a transaction that deletes the record of a move wait for a lock.
const COMMITS_WAIT: &str = "CREATE FUNCTION wait() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN
        PERFORM set_config('lock_timeout', '0', true), pg_advisory_xact_lock(42);
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER wait AFTER DELETE ON tessera.tessera_slot_moves
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait()";

/// Number of sessions of movers that wait for a lock.
const WAITING: &str = "SELECT count(*)::text AS value FROM pg_stat_activity
    WHERE datname = current_database() AND application_name LIKE '%mover%'
    AND wait_event_type = 'Lock'";

#[tokio::test]
async fn changes_of_a_recording_are_deleted_if_the_mover_is_cancelled_before_its_end_is_committed()
{
    let databases = Databases::new(1).await;
    let router = SlotRouter::open(&databases.address());
    let slot = router.slot("k");
    let (id, term) = (MoveId(7), MoveTerm { number: 1, mover: 1 });
    let ticket = MoveTicket { id, leg: MoveLeg::FIRST, term };
    let row = NewMoveRow { ticket, other: TARGET, slots: [slot].into() };
    send(&router, 0, MoveRequest::Trace(row).into()).await;
    let [mut direct, mut blocking] =
        [databases.direct_session(0).await, databases.direct_session(0).await];
    direct.run(&record(slot.number(), 3)).await;
    blocking.run(COMMITS_WAIT).await;
    blocking.run("BEGIN; SELECT pg_advisory_xact_lock(42)").await;
    let writer = moves_of(&router, 0).writer.as_ref().unwrap();
    {
        let ending = writer.change(MoveRequest::Lift(ticket).into(), deadline());
        let waiting = pin!(direct.until(WAITING, "1"));
        let cancelled = select(ending, waiting).await;
        assert!(matches!(cancelled, Either::Right(_)), "the end is not committed");
    }
    assert_eq!(direct.text(RECORDED).await, "3");
    blocking.run("COMMIT").await;
    direct.until(RECORDED, "0").await;
}

/// Reads a round of the first shard.
async fn read_round(router: &SlotRouter, query: &RoundQuery) -> Result<RoundRead, RoundError> {
    moves_of(router, 0).reader.read_round(query, deadline()).await
}

#[tokio::test]
async fn a_recording_that_was_ended_begins_again_with_a_copy_of_all_rows() {
    let databases = Databases::new(2).await;
    let mut router = SlotRouter::open(&databases.address());
    let map = router.opened.map.load_full();
    let is_owned = |key: &String| {
        let key = ShardKey::parse(key).unwrap();
        map.place(key).is_ok_and(|place| place.shard == SOURCE)
    };
    let key = (0..).map(|number| format!("k{number}")).find(is_owned).unwrap();
    let slots: Arc<[Slot]> = [router.slot(&key)].into_iter().collect();
    let (id, term) = (MoveId(7), MoveTerm { number: 1, mover: 1 });
    let ticket = MoveTicket { id, leg: MoveLeg::FIRST, term };
    let new = |other| NewMoveRow { ticket, other, slots: Arc::clone(&slots) };
    let query = |base| {
        let (base_cursor, budget) = (CopyCursor::Empty, RoundBudget::ALONE);
        let slots = Arc::clone(&slots);
        RoundQuery { id, slots, base, base_cursor, wants_digests: false, budget }
    };

    send(&router, 1, MoveRequest::Prepare(new(SOURCE)).into()).await;
    send(&router, 0, MoveRequest::Trace(new(TARGET)).into()).await;
    assert!(router.write_users(Upsert, &[&key]).await[0].is_ok());
    let read = read_round(&router, &query(AppliedRows::begin(1))).await.unwrap();
    let (copied, rows) = (read.round.next.clone(), read.rows);
    let request = MoveRequest::Store(ticket, read.round);
    send(&router, 1, MoveChange { request, rows }).await;

    send(&router, 0, MoveRequest::Lift(ticket).into()).await;
    assert!(router.write_users(Upsert, &[&key]).await[0].is_ok());
    send(&router, 0, MoveRequest::Trace(new(TARGET)).into()).await;
    let lost = read_round(&router, &query(copied)).await.map(|read| read.changes);
    assert_eq!(lost, Err(RoundError::LostChanges));
    assert_eq!(databases.direct_session(0).await.text(RECORDED).await, "0");

    send(&router, 1, MoveRequest::CopyAgain(ticket).into()).await;
    let read = read_round(&router, &query(AppliedRows::begin(2))).await.unwrap();
    let (rows, request) = (read.rows, MoveRequest::Store(ticket, read.round));
    assert_eq!(rows.row_count(), 1);
    send(&router, 1, MoveChange { request, rows }).await;
    let source = moves_of(&router, 0).reader.digests(&slots, deadline()).await;
    let target = moves_of(&router, 1).reader.digests(&slots, deadline()).await;
    assert_eq!(source.unwrap(), target.unwrap());
}

#[tokio::test]
async fn a_source_is_given_up_when_changes_can_no_longer_flow_back_to_it() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let slots = store_large(&manager, 1).await;
    make_tags(&manager, &mut databases.direct_session(0).await).await;
    let mut target = databases.direct_session(1).await;
    kept_up(&manager, async {
        let id = begin(&manager, new(&slots, LONG)).await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        // One transaction may change 100 000 rows.
        target.run(&many_tags(1_001, 101_001)).await;
        until(&manager, id, &[MovePhase::Done]).await;
        assert_eq!(owners(&manager, &slots), [TARGET]);
        target.until(RECORDED, "0").await;
    })
    .await;
    let tags = target.text("SELECT count(*)::text AS value FROM a_tags").await;
    assert_eq!(tags, "100002", "the owner keeps its rows");
}

/// Gives the copy the mark of a transaction that its source has yet to begin. Returns the number of
/// changed rows.
const BEYOND: &str = "WITH changed AS (
    UPDATE tessera.tessera_slot_moves SET mark = '4000000000:4000000000:'
    WHERE mark IS NOT NULL RETURNING 1) SELECT count(*)::text AS value FROM changed";

#[tokio::test]
async fn a_copy_begins_again_when_its_source_reuses_transaction_ids() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let slots = store_large(&manager, 60).await;
    let [mut source, mut target] =
        [databases.direct_session(0).await, databases.direct_session(1).await];
    let id = kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        target.until("SELECT (count(*) > 0)::text AS value FROM kv", "true").await;
        id
    })
    .await;
    let key = target.text("SELECT min(shard_key) AS value FROM kv").await;
    assert_eq!(target.text(BEYOND).await, "1", "the copy has a mark");
    // Its transaction has an id that the mark seems to have.
    let later = format!("UPDATE kv SET value = '\"later\"' WHERE shard_key = '{key}'");
    source.run(&later).await;
    kept_up(&manager, async {
        until(&manager, id, &[MovePhase::Keeping]).await;
        let value = format!("SELECT value::text AS value FROM kv WHERE shard_key = '{key}'");
        assert_eq!(target.text(&value).await, "\"later\"");
        order(&manager, id, MoveOrder::Settle).await;
        until(&manager, id, &[MovePhase::Done]).await;
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_stays_open_on_the_source_does_not_hold_up_a_move() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let slots = store_large(&manager, 60).await;
    let [mut source, mut target] =
        [databases.direct_session(0).await, databases.direct_session(1).await];
    make_tags(&manager, &mut source).await;
    let mut foreign = databases.direct_session(0).await;
    let tags = "SELECT count(*)::text AS value FROM a_tags";
    kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        target.until(tags, "1").await;
        order(&manager, id, MoveOrder::Pause).await;
        until_paused(&manager, id).await;
        foreign.run("BEGIN; SELECT pg_current_xact_id()").await;
        // Together they are too many for one round.
        source.run(&many_tags(1_001, 7_000)).await;
        source.run(&many_tags(7_001, 13_000)).await;
        order(&manager, id, MoveOrder::Resume).await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        assert_eq!(target.text(tags).await, "12001");
        foreign.run("COMMIT").await;
        order(&manager, id, MoveOrder::Settle).await;
        until(&manager, id, &[MovePhase::Done]).await;
    })
    .await;
    assert_eq!(owners(&manager, &slots), [TARGET]);
}

/// Number of triggers that record changes and are enabled.
const ENABLED: &str = "SELECT count(*)::text AS value FROM pg_trigger
    WHERE tgname::text LIKE 'tessera_record%' AND tgenabled <> 'D'";

/// Checks that a table of values cannot be truncated, and keeps its rows.
async fn assert_not_truncated(direct: &mut SideSession) {
    let count = "SELECT count(*)::text AS value FROM kv";
    let before = direct.text(count).await;
    let refused = direct.try_run("TRUNCATE kv").await.expect_err("its changes are recorded");
    assert!(refused.contains("slots of kv move: delete rows instead"), "{refused}");
    assert_eq!(direct.text(count).await, before);
}

#[tokio::test]
async fn a_table_cannot_be_truncated_while_its_changes_are_recorded_and_can_be_afterwards() {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.address());
    let slots = store_large(&manager, 60).await;
    let [mut source, mut target] =
        [databases.direct_session(0).await, databases.direct_session(1).await];
    kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Copying]).await;
        order(&manager, id, MoveOrder::Pause).await;
        until_paused(&manager, id).await;
        assert_not_truncated(&mut source).await;
        order(&manager, id, MoveOrder::Resume).await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        // The target records changes for a rollback.
        assert_not_truncated(&mut target).await;
        order(&manager, id, MoveOrder::Settle).await;
        until(&manager, id, &[MovePhase::Done]).await;
    })
    .await;
    for direct in [&mut source, &mut target] {
        direct.until(ENABLED, "0").await;
        direct.run("TRUNCATE kv").await;
    }
}
