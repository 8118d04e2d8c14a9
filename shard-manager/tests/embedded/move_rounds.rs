//! Tests of the rounds of a copy between shards of files: their size, and the changes that they
//! follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::value::RawValue;
use shard_manager::engine::row_hashes::{PAGE_KEYS_MAX, RowHashQuery};
use shard_manager::engine::slot_move::{
    MoveChange, MoveChangeError, MoveReader, RoundBudget, RoundError, RoundQuery,
};
use shard_manager::engine::{IndexChange, SchemaChange, Writer};
use shard_manager::error::Error;
use shard_manager::keyspace::ShardKey;
use shard_manager::moves::identity::{MoveSide, MoveTicket};
use shard_manager::moves::move_row::{CopyCursor, MoveRow};
use shard_manager::moves::observation::MoveGoal;
use shard_manager::moves::request::MoveRequest;
use shard_manager::moves::step::MoveStep;
use shard_manager::replication::record_trim;
use shard_manager::row_change::Operation::{Delete, Upsert};
use shard_manager::row_change::RowWrite;
use shard_manager::store::sqlite::move_reader::FileMoveReader;
use shard_manager::table::{Column, Table};
use shard_manager::table_index::TableIndex;
use shard_manager::value::ColumnType;

use MoveSide::{Destination, Origin};

use crate::cluster::{deadline, execute, ints};
use crate::move_pair::{MOVE, MovePair};
use crate::slot_moves::{KEPT, KEYS, assert_counted, nothing};
use crate::slot_nodes::Nodes;

/// Adds 5 000 rows of a key to the file of a primary.
fn insert_many(nodes: &mut Nodes, key: &str) {
    nodes.primary_dies();
    let slot = crate::slot_nodes::slot(key).number();
    let sql = format!(
        "INSERT INTO users SELECT {slot}, '{key}', 'u' || value, 'n', 'e', NULL, 1,
         '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z'
         FROM generate_series_of_5000;
         UPDATE tessera_counts SET rows = 5000 WHERE name = 'users'"
    );
    let series = "(WITH RECURSIVE series(value) AS (SELECT 1 UNION ALL
         SELECT value + 1 FROM series WHERE value < 5000) SELECT value FROM series)";
    execute(&nodes.primary_file, &sql.replace("generate_series_of_5000", series));
    nodes.rebuild();
}

#[test]
fn large_tables_are_copied_in_rounds_and_their_leftovers_are_deleted_before_a_new_copy() {
    let mut pair = MovePair::new(&["ada"]);
    insert_many(pair.shard(Origin), "ada");
    let mut rounds = 0;
    while pair.row(Destination).is_none_or(|row| row.cursor != CopyCursor::Whole) {
        let step = pair.next(MoveGoal::Forward);
        rounds += u32::from(matches!(step, MoveStep::CopyRound { .. }));
        assert!(pair.carry_out(step));
    }
    assert_eq!(rounds, 3, "of at most 2 000 rows");
    assert_eq!(pair.digests(Origin), pair.digests(Destination));
    pair.assert_equal_files();
    let counted = "SELECT rows AS value FROM tessera_move_counts WHERE name = 'users'";
    assert_eq!(ints(&pair.shards[1].primary_file, counted), [5_000]);

    // The log of the source is lost, as if it had become too long.
    pair.shard(Origin).put("ada", 5);
    pair.shard(Origin).put("ada", 5);
    pair.shard(Origin).primary_dies();
    let sql = "DELETE FROM tessera_log WHERE position < (SELECT max(position) FROM tessera_log)";
    execute(&pair.shards[0].primary_file, sql);
    pair.shard(Origin).put("ada", 6);
    assert!(matches!(pair.read_round(Origin, false), Err(RoundError::LostChanges)));
    pair.shard(Origin).rebuild();
    let MoveStep::Send(Destination, request) = pair.next(MoveGoal::Forward) else {
        panic!("no step")
    };
    assert!(matches!(*request, MoveRequest::CopyAgain(_)));
    assert_eq!(pair.run(MoveGoal::Forward, nothing), KEPT);
    assert_eq!(pair.row(Origin).map(|row| row.applied.pass), Some(1));
    assert_eq!(pair.digests(Origin), pair.digests(Destination));
    pair.assert_equal_files();
    assert_counted(&pair);
}

#[test]
fn a_copy_trims_the_log_of_its_target_although_no_client_writes_there() {
    let mut pair = MovePair::new(&KEYS);
    copy_whole(&mut pair);
    for number in 0..200 {
        pair.shard(Origin).put(KEYS[number % KEYS.len()], number as i64);
        assert!(pair.carry_out(MoveStep::CopyRound { from: Origin }));
        pair.shard(Destination).catch_up_on_disk();
    }
    let sql = "SELECT count(*) AS value FROM tessera_log";
    let kept = ints(&pair.shards[1].primary_file, sql)[0];
    assert!(kept <= 128, "{kept} entries are left");
    assert_eq!(pair.digests(Origin), pair.digests(Destination));
    pair.assert_equal_files();
}

#[test]
fn a_copy_that_restarts_after_its_log_was_trimmed_protects_the_log_from_then_on() {
    let mut pair = MovePair::new(&KEYS);
    copy_whole(&mut pair);
    let write_many = |pair: &mut MovePair| {
        for number in 0..300 {
            pair.shard(Origin).put(KEYS[number % KEYS.len()], number as i64);
            pair.shard(Origin).catch_up_on_disk();
        }
    };
    (0..2).for_each(|number| pair.shard(Origin).put(KEYS[0], number));
    // Simulates the limit of the log's size.
    let replication = Arc::clone(&pair.shard(Origin).replication);
    assert_eq!(record_trim(&replication, replication.primary().committed()).len(), 1);
    write_many(&mut pair);
    assert!(matches!(pair.read_round(Origin, false), Err(RoundError::LostChanges)));
    let mut begins = false;
    loop {
        let step = pair.next(MoveGoal::Forward);
        let is_round = matches!(step, MoveStep::CopyRound { .. });
        begins |= matches!(&step, MoveStep::Send(Destination, request)
            if matches!(**request, MoveRequest::CopyAgain(_)));
        assert!(pair.carry_out(step));
        if is_round {
            break;
        }
    }
    assert!(begins, "the copy begins again");
    write_many(&mut pair);
    assert!(pair.read_round(Origin, false).is_ok(), "the log has all changes since then");
    assert_eq!(pair.run(MoveGoal::Forward, nothing), KEPT);
    assert_eq!(pair.digests(Origin), pair.digests(Destination));
    pair.assert_equal_files();
}

/// Takes a move to the end of its copy.
fn copy_whole(pair: &mut MovePair) {
    while pair.row(Destination).is_none_or(|row| row.cursor != CopyCursor::Whole) {
        let step = pair.next(MoveGoal::Forward);
        assert!(pair.carry_out(step));
    }
}

#[test]
fn rows_that_have_grown_since_they_changed_are_copied_in_rounds_of_a_bounded_size() {
    let mut pair = MovePair::new(&KEYS);
    copy_whole(&mut pair);
    KEYS.iter().for_each(|key| pair.shard(Origin).put(key, 1));
    pair.shard(Origin).primary_dies();
    let grow = "UPDATE kv SET value = '\"' || hex(zeroblob(300000)) || '\"'";
    execute(&pair.shards[0].primary_file, grow);
    pair.shard(Origin).rebuild();
    let (mut rounds, mut changes) = (0, 0);
    while changes < KEYS.len() {
        let (ticket, read) = pair.read_round(Origin, true).expect("a round");
        assert!(read.rows.bytes() < 2 << 20, "{} bytes", read.rows.bytes());
        (rounds, changes) = (rounds + 1, changes + read.changes);
        let is_last = changes == KEYS.len();
        assert_eq!(read.digests.is_some(), is_last, "the copy equals no snapshot before that");
        let expected = read.digests;
        let request = MoveRequest::Store(ticket, read.round);
        let change = MoveChange { request, rows: read.rows };
        pair.change(Destination, &change).expect("the round is stored");
        assert!(!is_last || expected == Some(pair.digests(Destination)));
    }
    assert_eq!(rounds, 3, "of two rows each");
    assert_eq!(pair.run(MoveGoal::Forward, nothing), KEPT);
    assert_eq!(pair.digests(Origin), pair.digests(Destination));
    pair.assert_equal_files();
    assert_counted(&pair);
}

#[test]
fn changes_that_the_target_has_are_not_kept_until_the_end_of_a_long_copy() {
    let mut pair = MovePair::new(&KEYS);
    insert_many(pair.shard(Origin), "ada");
    let mut released = Vec::new();
    while pair.row(Destination).is_none_or(|row| row.cursor != CopyCursor::Whole) {
        let step = pair.next(MoveGoal::Forward);
        assert!(pair.carry_out(step));
        pair.shard(Origin).put("ada", 1);
        pair.shards.iter_mut().for_each(Nodes::catch_up);
        for shard in &pair.shards {
            let replicas = shard.replication.replicas();
            replicas.record_durable(0, shard.replication.primary().committed());
        }
        released.push(pair.shards[0].replication.trimmable_position());
    }
    let marked = pair.row(Destination).map(|row| row.applied.mark).expect("a row");
    let last = *released.last().expect("a step");
    released.dedup();
    assert!(released.len() > 2 && marked.covers(last), "{released:?} {marked:?}");
}

#[test]
fn hashes_of_rows_show_the_rows_that_differ_and_those_that_clients_have_changed_since() {
    let mut pair = MovePair::new(&KEYS);
    KEYS.iter().for_each(|key| pair.shard(Origin).put(key, 1));
    insert_many(pair.shard(Origin), "ada");
    copy_whole(&mut pair);
    let applied = pair.row(Destination).expect("a row").applied;
    let mut read = |side, table: &str, (after, until): (Option<String>, Option<String>)| {
        let reader = pair.reader(side);
        let query = RowHashQuery {
            id: MOVE,
            table: table.to_owned(),
            slot: crate::slot_nodes::slot("ada"),
            after,
            until,
            since: (side == Origin).then(|| applied.clone()),
        };
        pair.runtime.block_on(reader.row_hashes(&query, deadline())).expect("a page")
    };
    // Pages of equal rows are equal, and together they have each row once.
    let (mut after, mut keys) = (None, 0);
    loop {
        let source = read(Origin, "users", (after.clone(), None));
        let last = source.rows.last().map(|row| row.key.clone());
        let copy = read(Destination, "users", (after, last.clone()));
        assert_eq!(source.rows, copy.rows);
        assert!(source.rows.is_sorted_by(|one, other| one.key < other.key));
        assert_eq!(source.changed, Some(BTreeSet::new()));
        assert_eq!(copy.changed, None);
        keys += source.rows.len();
        assert!(source.rows.len() <= PAGE_KEYS_MAX);
        if !source.is_full {
            break;
        }
        after = last;
    }
    assert_eq!(keys, 5_000);
    let before = read(Origin, "kv", (None, None)).rows;
    assert_eq!(before.len(), 1);
    let missing = read(Destination, "no_such_table", (None, None));
    assert!(missing.rows.is_empty() && !missing.is_full);
    pair.shard(Origin).put("ada", 2);
    let reader = pair.reader(Origin);
    let (table, slot) = ("kv".to_owned(), crate::slot_nodes::slot("ada"));
    let since = Some(applied);
    let query = RowHashQuery { id: MOVE, table, slot, after: None, until: None, since };
    let read = pair.runtime.block_on(reader.row_hashes(&query, deadline())).expect("a page");
    assert_eq!(read.rows[0].key, before[0].key);
    assert_ne!(read.rows[0].hash, before[0].hash);
    assert_eq!(read.changed, Some(BTreeSet::from([before[0].key.clone()])));
}

/// A table with several rows of a key, no two of which may have the same value.
fn make_unique(pair: &mut MovePair) -> Arc<Table> {
    let column =
        |name: &str, kind| Column { name: name.to_owned(), kind, nullable: false, default: None };
    let columns = vec![column("id", ColumnType::Bigint), column("value", ColumnType::Bigint)];
    let table = Table::new("tags", columns, &["id".to_owned()], None).expect("a table");
    let table = Arc::new(table);
    let index = TableIndex::new(&table, "by_value", &["value".to_owned()], true);
    let index = IndexChange::Make(Arc::new(index.expect("an index")));
    for change in [SchemaChange::Make(Arc::clone(&table)), SchemaChange::Index(index)] {
        for side in [Origin, Destination] {
            pair.shard(side).primary().changes.change_schema(&change).expect("created");
        }
    }
    table
}

/// A change of a row with these members.
fn upsert(table: &Arc<Table>, key: &str, members: serde_json::Value) -> RowWrite {
    let members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_value(members).expect("an object");
    let fields: Vec<_> =
        members.iter().map(|(name, json)| (name.as_str().into(), &**json)).collect();
    let place = (ShardKey::parse(key).expect("a key"), crate::slot_nodes::slot(key));
    RowWrite::parse(table, Upsert, place, &fields).expect("a row")
}

#[test]
fn a_round_that_ends_before_a_unique_value_was_given_up_displaces_the_row_that_had_it() {
    let mut pair = MovePair::new(&KEYS);
    let table = make_unique(&mut pair);
    let put = |pair: &mut MovePair, id: i64, value: i64| {
        let row = upsert(&table, "ada", serde_json::json!({"id": id, "value": value}));
        pair.shard(Origin).apply_row(row).expect("stored");
    };
    put(&mut pair, 1, 10);
    put(&mut pair, 2, 20);
    copy_whole(&mut pair);
    // The round ends with the large changes, but its row has the value of the other one already.
    put(&mut pair, 2, 30);
    let values = pair.shard(Origin).table();
    for _ in 0..11 {
        let large = serde_json::json!({"value": "x".repeat(100_000)});
        pair.shard(Origin).apply_row(upsert(&values, "bob", large)).expect("stored");
    }
    put(&mut pair, 1, 40);
    put(&mut pair, 2, 10);
    let (ticket, read) = pair.read_round(Origin, false).expect("a round");
    assert_eq!((read.has_all, read.changes), (false, 2));
    let request = MoveRequest::Store(ticket, read.round);
    let change = MoveChange { request, rows: read.rows };
    pair.change(Destination, &change).expect("the round is stored");
    let target = pair.shards[1].primary_file.clone();
    assert_eq!(ints(&target, "SELECT id AS value FROM tags"), [2]);
    let counted = "SELECT rows AS value FROM tessera_move_counts WHERE name = 'tags'";
    assert_eq!(ints(&target, counted), [1]);
    pair.assert_equal_files();
    assert_eq!(pair.run(MoveGoal::Forward, nothing), KEPT);
    assert_eq!(pair.digests(Origin), pair.digests(Destination));
    assert_eq!(ints(&target, "SELECT value FROM tags ORDER BY id"), [40, 10]);
    let counted = "SELECT rows AS value FROM tessera_counts WHERE name = 'tags'";
    assert_eq!(ints(&target, counted), [2]);
    pair.assert_equal_files();
}

#[test]
fn a_unique_index_that_only_the_target_has_rejects_a_row_and_displaces_none() {
    let mut pair = MovePair::new(&KEYS);
    let table = make_unique(&mut pair);
    let put = |pair: &mut MovePair, id: i64| {
        let row = upsert(&table, "ada", serde_json::json!({"id": id, "value": 10}));
        pair.shard(Origin).apply_row(row).expect("stored");
    };
    let drop_index = |pair: &mut MovePair, side: MoveSide| {
        let index = TableIndex::new(&table, "by_value", &["value".to_owned()], true);
        let index = IndexChange::Drop(Arc::new(index.expect("an index")));
        pair.shard(side).primary().changes.change_schema(&SchemaChange::Index(index))
    };
    put(&mut pair, 1);
    copy_whole(&mut pair);
    drop_index(&mut pair, Origin).expect("dropped");
    put(&mut pair, 2);
    let (ticket, read) = pair.read_round(Origin, false).expect("a round");
    let request = MoveRequest::Store(ticket, read.round);
    let change = MoveChange { request, rows: read.rows };
    let refused = pair.change(Destination, &change).expect_err("refused");
    let MoveChangeError::Failed { error: Error::NotUnique { index }, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!(index, "by_value");
    let target = pair.shards[1].primary_file.clone();
    assert_eq!(ints(&target, "SELECT id AS value FROM tags"), [1]);
    drop_index(&mut pair, Destination).expect("dropped");
    pair.change(Destination, &change).expect("the round is stored");
    assert_eq!(ints(&target, "SELECT id AS value FROM tags ORDER BY id"), [1, 2]);
    pair.assert_equal_files();
}

#[test]
fn a_row_never_displaces_one_of_another_key_also_if_an_operator_has_made_a_unique_index() {
    let mut pair = MovePair::new(&["ada", "bob"]);
    pair.shard(Origin).put("ada", 1);
    pair.shard(Origin).put("bob", 2);
    copy_whole(&mut pair);
    let target = pair.shards[1].primary_file.clone();
    execute(&target, "CREATE UNIQUE INDEX by_hand ON kv (value)");
    pair.shard(Origin).put("ada", 2);
    let (ticket, read) = pair.read_round(Origin, false).expect("a round");
    let request = MoveRequest::Store(ticket, read.round);
    let change = MoveChange { request, rows: read.rows };
    assert!(pair.change(Destination, &change).is_err());
    assert_eq!(ints(&target, "SELECT count(*) AS value FROM kv"), [2]);
}

#[test]
fn rounds_that_are_read_beside_a_writer_lose_no_change() {
    let mut pair = MovePair::new(&KEYS);
    while pair.row(Origin).is_none() {
        let step = pair.next(MoveGoal::Forward);
        assert!(pair.carry_out(step));
    }
    let reader = pair.reader(Origin);
    let MovePair { shards, plan, runtime, .. } = &mut pair;
    let [origin, destination] = shards;
    let row = |reader: &FileMoveReader| {
        runtime.block_on(reader.rows(deadline())).expect("rows").pop().expect("a row")
    };
    let path = destination.primary_file.clone();
    let target = &mut destination.primary().changes;
    let shared = (&target.slots().gate, &target.slots().compared);
    let copy = FileMoveReader::new(("shard1", &path), target.file_check(), shared);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for number in 0..400 {
                let key = KEYS[number * number % KEYS.len()];
                let operation = if number % 3 > 0 { Upsert } else { Delete };
                let written = origin.write(operation, key, number as i64);
                assert!(matches!(written, Ok(_) | Err(Error::NoSuchRow)), "{written:?}");
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut rounds = 0;
        loop {
            let is_last = done.load(Ordering::SeqCst);
            let MoveRow { applied, cursor, leg, term, .. } = row(&copy);
            let query = RoundQuery {
                id: MOVE,
                slots: Arc::clone(&plan.slots),
                base: applied,
                base_cursor: cursor,
                wants_digests: true,
                budget: RoundBudget::BESIDE_WRITES,
            };
            let read = runtime.block_on(reader.read_round(&query, deadline())).expect("a round");
            let request = MoveRequest::Store(MoveTicket { id: MOVE, leg, term }, read.round);
            let change = MoveChange { request, rows: read.rows };
            target.change_move(&change).expect("the round is stored");
            let digests = runtime.block_on(copy.digests(&plan.slots, deadline()));
            assert_eq!(digests.expect("digests"), read.digests.expect("digests"));
            rounds += 1;
            if is_last {
                break;
            }
        }
        assert!(rounds > 1);
        writing.join().expect("every write was decided");
    });
    pair.assert_equal_files();
    assert_counted(&pair);
}
