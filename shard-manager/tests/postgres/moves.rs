//! Tests of moves of slots between databases, beside writes and reads of several routers.

use std::time::Duration;

use futures_util::future::join;
use shard_manager::consistency::Level;
use shard_manager::engine::move_record::{MoveOrder, MovePhase};
use shard_manager::keyspace::ShardKey;
use shard_manager::local::Stop;
use shard_manager::manager::{Manager, RequestOptions};
use shard_manager::row_change::Operation::{Delete, Upsert};
use shard_manager::topology::ShardNumber;
use shard_manager::value::ColumnType;

use crate::cluster::{Databases, SideSession, Trio, connect};
use crate::move_clients::{beside, keys_of, rows};
use crate::move_steps::{
    LONG, SOURCE, TARGET, begin, clients, kept_up, new, order, owners, slow, store_large, until,
    until_paused,
};
use crate::read_write_steps::put;
use crate::rows::{acknowledged_rows, make, options, prepare, table, write, write_all};

/// Everything that a move keeps in a shard's database: rows of moves, recorded changes, followed
/// slots, enabled triggers.
const LEFT_BEHIND: &str = "SELECT concat_ws(' ',
    (SELECT count(*) FROM tessera.tessera_slot_moves),
    (SELECT count(*) FROM tessera.tessera_changes),
    (SELECT coalesce(sum(bit_count(bits)), 0) FROM tessera.tessera_followed),
    (SELECT count(*) FROM pg_trigger
        WHERE tgname::text LIKE 'tessera_record%' AND tgenabled <> 'D')) AS value";

/// Rows that are sent together with their row type: more than in the rounds of other tests.
const MANY: usize = 300;

/// Number of rows of all tables of clients in a database.
const STORED: &str =
    "SELECT ((SELECT count(*) FROM kv) + (SELECT count(*) FROM users))::text AS value";

/// Moves 60 large rows, and promotes a replica of one of both shards while they are copied. The
/// first shard also has the catalog.
async fn fail_over_while_copying(failing: ShardNumber) {
    let mut trio = Trio::start();
    let database = Databases::new(1).await;
    let (mut shards, other) = (trio.address(), database.address().shards.remove(0));
    shards.shards.insert(if failing == SOURCE { 1 } else { 0 }, other);
    let manager = tokio::task::spawn_blocking(move || connect(&shards)).await.unwrap();
    let slots = store_large(&manager, 60).await;
    kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Copying]).await;
        // Everything before a write that is on all nodes is there, too.
        let all = RequestOptions { level: Level::All, ..options() };
        let key = (0..).map(|number| format!("last{number}")).find(|key| {
            let key = ShardKey::parse(key).unwrap();
            manager.map().place(key).is_ok_and(|place| place.shard == failing)
        });
        put(&manager, &key.unwrap(), &all).await.unwrap();
        let promoting = tokio::task::spawn_blocking(move || {
            trio.cluster.commands().stop("shard1-primary", Stop::Immediate).unwrap();
            trio.cluster.commands().promote_best("shard1").unwrap();
            trio
        });
        let _trio = promoting.await.unwrap();
        let kept = until(&manager, id, &[MovePhase::Keeping]).await;
        assert!(kept.progress.rows >= 60, "{kept:?}");
        order(&manager, id, MoveOrder::Settle).await;
        until(&manager, id, &[MovePhase::Done]).await;
        assert_eq!(owners(&manager, &slots), [TARGET]);
        let (found, _) = rows(&manager, "kv", None, &options()).await;
        assert_eq!(found.len(), 60);
    })
    .await;
    tokio::task::spawn_blocking(move || manager.close()).await.unwrap();
}

/// A cluster of two shards with a replica each.
async fn two_shards() -> (Databases, Manager) {
    let databases = Databases::new(2).await;
    let manager = connect(&databases.with_replicas().await);
    (databases, manager)
}

async fn direct_sessions(databases: &Databases) -> [SideSession; 2] {
    [databases.direct_session(0).await, databases.direct_session(1).await]
}

async fn stored(direct: &mut SideSession) -> usize {
    direct.text(STORED).await.parse().expect("a number")
}

/// Waits until a move has left nothing behind.
async fn until_clean(sessions: &mut [SideSession; 2]) {
    for direct in sessions {
        direct.until(LEFT_BEHIND, "0 0 0 0").await;
    }
}

#[tokio::test]
async fn slots_move_beside_writes_and_reads_and_nothing_is_left_behind() {
    let (databases, manager) = two_shards().await;
    let mut sessions = direct_sessions(&databases).await;
    let (keys, slots) = keys_of(&manager, SOURCE, 4);
    let mut clients = clients(&manager, &keys);
    kept_up(&manager, async {
        let id = beside(&mut clients, async |rounds| {
            let id = begin(&manager, new(&slots, LONG)).await;
            let kept = until(&manager, id, &[MovePhase::Keeping]).await;
            assert!(kept.owned_at.is_some() && kept.progress.hold_us > 0, "{kept:?}");
            assert_eq!(owners(&manager, &slots), [TARGET]);
            rounds.more(12).await;
            id
        })
        .await;
        order(&manager, id, MoveOrder::Settle).await;
        let done = until(&manager, id, &[MovePhase::Done]).await;
        assert_eq!(done.progress.reason, None);
        beside(&mut clients, async |_| ()).await;
    })
    .await;
    // A replica may be behind.
    let quorum = RequestOptions { level: Level::Quorum, ..options() };
    let all = rows(&manager, "kv", None, &quorum).await.0.len()
        + rows(&manager, "users", None, &quorum).await.0.len();
    let stored = [stored(&mut sessions[0]).await, stored(&mut sessions[1]).await];
    assert_eq!(stored.iter().sum::<usize>(), all, "the source has no rows of the slots any more");
    until_clean(&mut sessions).await;
}

#[tokio::test]
async fn a_rollback_keeps_the_writes_that_the_target_has_accepted() {
    let (databases, manager) = two_shards().await;
    let (keys, slots) = keys_of(&manager, SOURCE, 4);
    let mut clients = clients(&manager, &keys);
    kept_up(&manager, async {
        beside(&mut clients, async |rounds| {
            let id = begin(&manager, new(&slots, LONG)).await;
            until(&manager, id, &[MovePhase::Keeping]).await;
            rounds.more(12).await;
            order(&manager, id, MoveOrder::Rollback).await;
            until(&manager, id, &[MovePhase::RolledBack]).await;
            assert_eq!(owners(&manager, &slots), [SOURCE]);
        })
        .await;
        // The slots may move again.
        beside(&mut clients, async |_| {
            let id = begin(&manager, new(&slots, Duration::ZERO)).await;
            until(&manager, id, &[MovePhase::Done]).await;
        })
        .await;
    })
    .await;
    until_clean(&mut direct_sessions(&databases).await).await;
}

#[tokio::test]
async fn a_rollback_copies_only_what_has_changed_since_the_move() {
    let (databases, manager) = two_shards().await;
    let slots = store_large(&manager, 60).await;
    kept_up(&manager, async {
        let id = begin(&manager, new(&slots, LONG)).await;
        let kept = until(&manager, id, &[MovePhase::Keeping]).await;
        order(&manager, id, MoveOrder::Rollback).await;
        let back = until(&manager, id, &[MovePhase::RolledBack]).await;
        assert_eq!((kept.progress.rows, back.progress.rows), (60, 60));
        assert_eq!(owners(&manager, &slots), [SOURCE]);
    })
    .await;
    until_clean(&mut direct_sessions(&databases).await).await;
}

#[tokio::test]
async fn many_rows_of_every_type_move_unchanged_also_if_an_operator_has_added_a_column() {
    let (databases, manager) = two_shards().await;
    let mut sessions = direct_sessions(&databases).await;
    let (keys, slots) = keys_of(&manager, SOURCE, 1);
    let key = &keys[0][0];
    let columns = [
        ("id", ColumnType::Text),
        ("amount", ColumnType::Bigint),
        ("share", ColumnType::Double),
        ("is_paid", ColumnType::Boolean),
        ("at", ColumnType::Timestamp),
        ("more", ColumnType::Json),
        ("number", ColumnType::Uuid),
    ];
    for name in ["plain", "widened"] {
        make(&manager, &table(name, &columns, 1, &["id"], None)).await;
        let row = |number: usize| {
            let whole = format!(
                r#"{{"id":"{number}é","amount":-{number},"share":0.{number},"is_paid":true,
                "at":"2026-11-26T02:00:00.00{number:04}Z","more":{{"a":[{number},null]}},
                "number":"01a21566-4efe-744b-bd4f-{number:012}"}}"#
            );
            let json =
                if number.is_multiple_of(3) { format!(r#"{{"id":"{number}"}}"#) } else { whole };
            prepare(&manager, name, Upsert, key, &json)
        };
        let done = write_all(&manager, (1..=MANY).map(row).collect(), false).await;
        assert!(done.iter().all(Result::is_ok), "{done:?}");
    }
    for direct in &mut sessions {
        direct.run("ALTER TABLE widened ADD COLUMN by_hand text").await;
    }
    let read = async |name| acknowledged_rows(&manager, name, Some(key)).await;
    let before = [read("plain").await, read("widened").await];
    assert!(before.iter().all(|rows| rows.len() == MANY));
    kept_up(&manager, async {
        let id = begin(&manager, new(&slots, Duration::ZERO)).await;
        let done = until(&manager, id, &[MovePhase::Done]).await;
        assert_eq!(done.progress.rows, 2 * MANY as u64);
        assert_eq!(owners(&manager, &slots), [TARGET]);
    })
    .await;
    assert_eq!([read("plain").await, read("widened").await], before);
    until_clean(&mut sessions).await;
}

#[tokio::test]
async fn a_move_is_paused_resumed_and_cancelled_while_it_copies() {
    let (databases, manager) = two_shards().await;
    let mut sessions = direct_sessions(&databases).await;
    let slots = store_large(&manager, 60).await;
    let before = stored(&mut sessions[0]).await;
    kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Copying]).await;
        order(&manager, id, MoveOrder::Pause).await;
        until_paused(&manager, id).await;
        order(&manager, id, MoveOrder::Resume).await;
        order(&manager, id, MoveOrder::Cancel).await;
        until(&manager, id, &[MovePhase::Cancelled]).await;
        assert_eq!(owners(&manager, &slots), [SOURCE]);
    })
    .await;
    assert_eq!([stored(&mut sessions[0]).await, stored(&mut sessions[1]).await], [before, 0]);
    until_clean(&mut sessions).await;
}

#[tokio::test]
async fn a_copy_with_a_damaged_row_does_not_become_the_owner_and_its_key_is_named() {
    let (databases, manager) = two_shards().await;
    let mut sessions = direct_sessions(&databases).await;
    let slots = store_large(&manager, 60).await;
    let before = stored(&mut sessions[0]).await;
    kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        sessions[1].until("SELECT (count(*) > 0)::text AS value FROM kv", "true").await;
        let key = sessions[1].text("SELECT min(shard_key) AS value FROM kv").await;
        let slot = format!("SELECT slot::text AS value FROM kv WHERE shard_key = '{key}'");
        let slot = sessions[1].text(&slot).await;
        let damage = format!("UPDATE kv SET value = '\"damaged\"' WHERE shard_key = '{key}'");
        sessions[1].run(&damage).await;
        let failed = until(&manager, id, &[MovePhase::Failed]).await;
        let reason = failed.progress.reason.expect("a reason");
        let start = format!(
            "the copy of kv differs from its source in 1 slot, such as {slot}; in slot {slot}, the \
             row of key \"{key}\" with id ["
        );
        assert!(reason.starts_with(&start), "{reason}");
        assert!(reason.ends_with("] has other values on the target"), "{reason}");
        assert_eq!(owners(&manager, &slots), [SOURCE]);
    })
    .await;
    assert_eq!([stored(&mut sessions[0]).await, stored(&mut sessions[1]).await], [before, 0]);
    until_clean(&mut sessions).await;
}

#[tokio::test]
async fn a_round_that_ends_before_a_unique_value_was_given_up_displaces_the_row_that_had_it() {
    let (databases, manager) = two_shards().await;
    let mut sessions = direct_sessions(&databases).await;
    let columns = [("id", ColumnType::Bigint), ("value", ColumnType::Bigint)];
    // Its rows are copied before all others.
    make(&manager, &table("a_tags", &columns, 2, &["id"], None)).await;
    for direct in &mut sessions {
        let unique = "CREATE UNIQUE INDEX tessera_ix_by_value_0123456789
            ON a_tags (slot, shard_key, value)";
        direct.run(unique).await;
    }
    let slots = store_large(&manager, 60).await;
    let key = sessions[0].text("SELECT min(shard_key) AS value FROM kv").await;
    let put = async |id: i64, value: i64| {
        let json = format!(r#"{{"id":{id},"value":{value}}}"#);
        write(&manager, "a_tags", Upsert, &key, &json).await.unwrap();
    };
    put(1, 10).await;
    put(2, 20).await;
    let tags = "SELECT string_agg(id || '=' || value, ' ' ORDER BY id) AS value FROM a_tags
        WHERE id < 3";
    kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        sessions[1].until(tags, "1=10 2=20").await;
        order(&manager, id, MoveOrder::Pause).await;
        until_paused(&manager, id).await;
        // The next round ends with the first change, because the second one has too many rows.
        put(2, 30).await;
        let many = "INSERT INTO a_tags SELECT slot, shard_key, number, number, version,
            created_at, updated_at FROM a_tags, generate_series(1001, 7000) AS number
            WHERE id = 1";
        sessions[0].run(many).await;
        put(1, 40).await;
        put(2, 10).await;
        order(&manager, id, MoveOrder::Resume).await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        assert_eq!(sessions[1].text(tags).await, "1=40 2=10");
        order(&manager, id, MoveOrder::Settle).await;
        until(&manager, id, &[MovePhase::Done]).await;
    })
    .await;
    assert_eq!(owners(&manager, &slots), [TARGET]);
    until_clean(&mut sessions).await;
}

#[tokio::test]
async fn a_move_waits_while_only_an_index_of_the_target_refuses_a_row() {
    let (databases, manager) = two_shards().await;
    let mut sessions = direct_sessions(&databases).await;
    let columns = [("id", ColumnType::Bigint), ("value", ColumnType::Bigint)];
    // Its rows are copied before all others.
    make(&manager, &table("a_tags", &columns, 2, &["id"], None)).await;
    let unique = "CREATE UNIQUE INDEX tessera_ix_one_0123456789 ON a_tags (slot, shard_key, value)";
    sessions[1].run(unique).await;
    let slots = store_large(&manager, 60).await;
    let key = sessions[0].text("SELECT min(shard_key) AS value FROM kv").await;
    let put = |json| write(&manager, "a_tags", Upsert, &key, json);
    put(r#"{"id":1,"value":10}"#).await.unwrap();
    let tags = "SELECT string_agg(id::text, ' ' ORDER BY id) AS value FROM a_tags";
    kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        sessions[1].until(tags, "1").await;
        put(r#"{"id":2,"value":10}"#).await.unwrap();
        let reason = "SELECT (progress LIKE '%unique index one%')::text AS value
            FROM tessera_moves";
        sessions[0].until(reason, "true").await;
        assert_eq!(sessions[1].text(tags).await, "1");
        sessions[1].run("DROP INDEX tessera_ix_one_0123456789").await;
        until(&manager, id, &[MovePhase::Keeping]).await;
        assert_eq!(sessions[1].text(tags).await, "1 2");
        order(&manager, id, MoveOrder::Settle).await;
        until(&manager, id, &[MovePhase::Done]).await;
    })
    .await;
    until_clean(&mut sessions).await;
}

#[tokio::test]
async fn a_mover_that_ends_anywhere_is_continued_by_the_next() {
    let (databases, manager) = two_shards().await;
    let (keys, slots) = keys_of(&manager, SOURCE, 3);
    let mut clients = clients(&manager, &keys);
    beside(&mut clients, async |_| {
        let id = begin(&manager, new(&slots, LONG)).await;
        for (arrival, next) in
            [(MovePhase::Keeping, Some(MoveOrder::Settle)), (MovePhase::Done, None)]
        {
            // Ended movers get a little further each time.
            for life in (20..).step_by(8) {
                let mover = manager.shards().keep_up();
                let _ended = tokio::time::timeout(Duration::from_millis(life), mover).await;
                let record = manager.moves().get(id).await.expect("listed");
                if record.phase == arrival {
                    break;
                }
                assert!(!record.phase.has_ended(), "{record:?}");
            }
            if let Some(next) = next {
                order(&manager, id, next).await;
            }
        }
    })
    .await;
    assert_eq!(owners(&manager, &slots), [TARGET]);
    kept_up(&manager, until_clean(&mut direct_sessions(&databases).await)).await;
}

#[tokio::test]
async fn another_router_carries_a_move_on_after_the_first_one_has_ended() {
    let (databases, manager) = two_shards().await;
    let mut sessions = direct_sessions(&databases).await;
    let other = connect(&databases.with_replicas().await);
    let slots = store_large(&manager, 60).await;
    let id = kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Copying]).await;
        id
    })
    .await;
    manager.close();
    drop(manager);
    kept_up(&other, async {
        until(&other, id, &[MovePhase::Keeping]).await;
        order(&other, id, MoveOrder::Settle).await;
        until(&other, id, &[MovePhase::Done]).await;
    })
    .await;
    assert_eq!([stored(&mut sessions[0]).await, stored(&mut sessions[1]).await], [0, 60]);
    assert_eq!(owners(&other, &slots), [TARGET]);
    until_clean(&mut sessions).await;
}

#[tokio::test]
async fn clients_of_two_routers_see_their_writes_while_slots_move_there_and_back() {
    let (databases, manager) = two_shards().await;
    let other = connect(&databases.with_replicas().await);
    let (keys, slots) = keys_of(&manager, SOURCE, 6);
    let (mut of_one, mut of_other) = (clients(&manager, &keys[..3]), clients(&other, &keys[3..]));
    let moving = kept_up(&manager, async {
        beside(&mut of_one, async |rounds| {
            let id = begin(&manager, new(&slots, LONG)).await;
            until(&manager, id, &[MovePhase::Keeping]).await;
            rounds.more(12).await;
            order(&manager, id, MoveOrder::Rollback).await;
            until(&manager, id, &[MovePhase::RolledBack]).await;
        })
        .await;
    });
    let beside_it = kept_up(&other, beside(&mut of_other, async |rounds| rounds.more(100).await));
    join(moving, beside_it).await;
}

/// Marks of a snapshot of another server, whose transactions have higher numbers.
const RESTORED: &str = "UPDATE tessera.tessera_slot_moves SET system='1',
    mark=CASE WHEN mark IS NULL THEN NULL ELSE '4000000000:4000000000:' END;
    INSERT INTO tessera.tessera_changes
    SELECT xid8 '4000000000', 'kv', slot, shard_key, ARRAY['k'] FROM kv LIMIT 1";

#[tokio::test]
async fn a_copy_begins_again_in_databases_that_were_restored_on_another_server() {
    let (databases, manager) = two_shards().await;
    let mut sessions = direct_sessions(&databases).await;
    let slots = store_large(&manager, 60).await;
    let id = kept_up(&manager, async {
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Copying]).await;
        id
    })
    .await;
    for direct in &mut sessions {
        direct.run(RESTORED).await;
    }
    kept_up(&manager, async {
        let kept = until(&manager, id, &[MovePhase::Keeping]).await;
        assert!(kept.progress.rows >= 60, "{kept:?}");
        // The changes of the target no longer flow back, so the move is settled without an order.
        sessions[1].run(RESTORED).await;
        until(&manager, id, &[MovePhase::Done]).await;
    })
    .await;
    assert_eq!([stored(&mut sessions[0]).await, stored(&mut sessions[1]).await], [0, 60]);
    until_clean(&mut sessions).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_on_after_its_source_has_failed_over() {
    fail_over_while_copying(SOURCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_on_after_its_target_has_failed_over() {
    fail_over_while_copying(TARGET).await;
}

#[tokio::test]
async fn tables_that_are_created_and_dropped_meanwhile_move_too() {
    let (databases, manager) = two_shards().await;
    let slots = store_large(&manager, 60).await;
    let key = (0..).map(|number| format!("large{number}")).find(|key| {
        let key = ShardKey::parse(key).unwrap();
        manager.map().place(key).is_ok_and(|place| place.shard == SOURCE)
    });
    let key = key.unwrap();
    let notes = |name: &str| table(name, &[("id", ColumnType::Bigint)], 1, &["id"], None);
    kept_up(&manager, async {
        make(&manager, &notes("a_notes")).await;
        let id = begin(&manager, slow(&slots)).await;
        until(&manager, id, &[MovePhase::Copying]).await;
        for name in ["b_notes", "z_notes"] {
            make(&manager, &notes(name)).await;
        }
        for name in ["a_notes", "b_notes", "z_notes"] {
            for number in 0..3 {
                let json = format!(r#"{{"id":{number}}}"#);
                write(&manager, name, Upsert, &key, &json).await.unwrap();
            }
            write(&manager, name, Delete, &key, r#"{"id":1}"#).await.unwrap();
        }
        until(&manager, id, &[MovePhase::Keeping]).await;
        for name in ["a_notes", "b_notes", "z_notes"] {
            let (found, read) = rows(&manager, name, Some(&key), &options()).await;
            assert_eq!(found.len(), 2, "{name}: {found:?}");
            assert_eq!(read.shards, [TARGET]);
        }
        order(&manager, id, MoveOrder::Settle).await;
        until(&manager, id, &[MovePhase::Done]).await;
    })
    .await;
    until_clean(&mut direct_sessions(&databases).await).await;
}
