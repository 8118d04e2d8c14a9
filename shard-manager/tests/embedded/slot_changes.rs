//! Tests of slots that change hands on files: fences, owners, the rows that reads show, and the
//! replicas that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use shard_manager::engine::slot_change::{FENCE_MAX, SlotChangeError, SlotStep};
use shard_manager::engine::{WriteGroup, Writer};
use shard_manager::error::Error;
use shard_manager::query::ReadQuery;
use shard_manager::row_change::Operation::{Delete, Insert, Upsert};
use shard_manager::slot_refusal::{RefusedState, SlotRefusal};
use shard_manager::slot_set::SlotSet;
use shard_manager::store::sqlite::digest::digest;
use shard_manager::store::sqlite::reader::ReaderPool;
use shard_manager::topology::ShardNumber;

use SlotStep::{Fence, HandOver, Release, TakeOver};

use crate::cluster::{execute, ints, log, texts};
use crate::slot_nodes::{Nodes, keys_of, read_key, scan, slot, slots};

const HOLD: SlotStep = Fence { hold: Duration::from_secs(60) };
const TO_2: SlotStep = HandOver { to: ShardNumber(2) };

fn refused(key: &str, state: RefusedState) -> Error {
    Error::SlotRefused(SlotRefusal { slot: slot(key), state })
}

fn moved(key: &str) -> Error {
    refused(key, RefusedState::Moved { to: ShardNumber(2) })
}

/// Contents of the system tables that a replica shares with its primary at the same position.
pub(crate) fn states(file: &Path) -> Vec<String> {
    let all = [
        "SELECT json_array(slot, state, until, fenced_at, moved_to) AS value FROM tessera_slots
         ORDER BY slot",
        "SELECT json_array(name, rows) AS value FROM tessera_counts ORDER BY name",
        "SELECT json_array(name, rows) AS value FROM tessera_foreign_counts WHERE rows > 0",
        "SELECT json_array(generation, version, position) AS value FROM tessera_shard",
        "SELECT json_array(id, role, leg, term, pass, round, mark, cursor, copied_to, traced_after,
         version, home) AS value FROM tessera_moves ORDER BY id",
        "SELECT json_array(id, name, rows) AS value FROM tessera_move_counts ORDER BY id, name",
    ];
    all.iter().flat_map(|sql| texts(file, sql)).collect()
}

fn generation(file: &Path) -> i64 {
    ints(file, "SELECT generation AS value FROM tessera_shard")[0]
}

fn row_count(file: &Path) -> i64 {
    ints(file, "SELECT rows AS value FROM tessera_counts WHERE name = 'kv'")[0]
}

pub(crate) fn assert_equal_files(nodes: &Nodes) {
    let (primary, replica) = (&nodes.primary_file, &nodes.replica_file);
    assert_eq!(digest(primary).expect("read"), digest(replica).expect("read"));
    let (primary, replica) = (states(primary), states(replica));
    assert_eq!(primary.len(), replica.len());
    // All states together are too long for a message.
    let differs = primary.iter().zip(&replica).find(|(primary, replica)| primary != replica);
    assert_eq!(differs, None);
}

#[test]
fn a_fence_holds_writes_and_not_reads_until_it_is_lifted() {
    let mut nodes = Nodes::new();
    nodes.put("ada", 1);
    nodes.put("bob", 1);
    let ada = slots(&["ada"]);
    let news = nodes.primary().changes.slots().news.subscribe();
    let before = generation(&nodes.primary_file);
    let fenced_at = nodes.change(&ada, HOLD).expect("fenced");
    assert!(news.has_changed().expect("it is open"), "waiting writes are woken");
    let refusal = nodes.write(Upsert, "ada", 2).expect_err("fenced");
    let Error::SlotRefused(SlotRefusal { slot: of, state: RefusedState::Fenced { left } }) =
        refusal
    else {
        panic!("{refusal:?}");
    };
    assert_eq!(of, slot("ada"));
    assert!(left > Duration::ZERO && left <= FENCE_MAX, "{left:?}");
    nodes.put("bob", 2);
    let query = nodes.scan_query();
    let readers = &nodes.primary().readers;
    assert_eq!(keys_of(&scan(readers, &query).expect("read")).1, Some(2));
    assert_eq!(read_key(readers, &query, "ada").expect("read").rows.len(), 1);
    assert!(nodes.change(&ada, HOLD).expect("renewed") > fenced_at);
    let released_at = nodes.change(&ada, Release).expect("lifted");
    assert_eq!(nodes.change(&ada, Release), Ok(released_at), "a repeat changes nothing");
    nodes.put("ada", 3);
    assert_eq!(generation(&nodes.primary_file), before, "a fence moves no slot");
    nodes.catch_up();
    assert_equal_files(&nodes);
}

#[test]
fn a_fence_ends_by_itself_and_does_not_hold_for_a_clock_that_was_set_back() {
    let mut nodes = Nodes::new();
    let ada = slots(&["ada"]);
    nodes.change(&ada, Fence { hold: Duration::from_millis(1) }).expect("fenced");
    let until = Instant::now() + Duration::from_secs(30);
    while nodes.write(Upsert, "ada", 1).is_err() {
        assert!(Instant::now() < until, "the fence does not end");
        std::thread::yield_now();
    }
    nodes.change(&ada, Fence { hold: Duration::from_secs(1_000_000) }).expect("fenced");
    assert!(nodes.write(Upsert, "ada", 2).is_err());
    let left = "SELECT unixepoch(until) - unixepoch(fenced_at) AS value FROM tessera_slots
        WHERE state = 'fenced'";
    assert_eq!(ints(&nodes.primary_file, left), [60], "no fence is longer");
    let sql = "UPDATE tessera_slots SET fenced_at = '9000-01-01T00:00:00.000000Z',
        until = '9000-01-01T00:00:10.000000Z' WHERE state = 'fenced'";
    execute(&nodes.primary_file, sql);
    nodes.put("ada", 3);
    // Fences of earlier versions have no begin.
    execute(&nodes.primary_file, "UPDATE tessera_slots SET fenced_at = NULL");
    assert!(nodes.write(Upsert, "ada", 4).is_err());
}

#[test]
fn a_transaction_with_a_fenced_slot_is_refused_as_a_whole_and_leaves_no_answer_behind() {
    let mut nodes = Nodes::new();
    nodes.put("bob", 1);
    let mut rows = [nodes.row(Insert, "bob", 2), nodes.row(Upsert, "ada", 2)];
    rows.iter_mut().for_each(|row| row.idempotency_key = Some("k".into()));
    let apply = |nodes: &mut Nodes| {
        let group = WriteGroup { rows: &rows, atomic_rows: Some(&[0, 1]) };
        nodes.primary().changes.apply(&[group]).expect("the batch is committed").rows
    };
    nodes.change(&slots(&["ada"]), HOLD).expect("fenced");
    let done = apply(&mut nodes);
    assert!(matches!(done[1], Err(Error::SlotRefused(_))), "{done:?}");
    let cause = done[1].clone().expect_err("refused");
    assert_eq!(done[0], Err(Error::Undone { row: 1, cause: Box::new(cause) }));
    let records = "SELECT count(*) AS value FROM tessera_idempotency";
    assert_eq!(ints(&nodes.primary_file, records), [0]);
    nodes.change(&slots(&["ada"]), Release).expect("lifted");
    assert_eq!(apply(&mut nodes)[0], Err(Error::Exists));
}

/// Checks that readers show the rows of `there` alone, of `ada`, `bob` and `cyd`.
fn assert_shows(readers: &ReaderPool, query: &ReadQuery, there: &[&str]) {
    let all = ["ada", "bob", "cyd"];
    let gone: Vec<&str> = all.into_iter().filter(|key| !there.contains(key)).collect();
    let owned = SlotSet::full().without(&slots(&gone));
    for key in all {
        let read = read_key(readers, query, key).map(|read| (read.rows.len(), read.owned));
        let is_there = there.contains(&key);
        assert_eq!(read, if is_there { Ok((1, None)) } else { Err(moved(key)) }, "{key}");
        // A scan of named keys covers the same slots as one of all keys.
        let named = ReadQuery { keys: vec![(slot(key), key.to_owned())], ..query.clone() };
        let found = scan(readers, &ReadQuery { counts: false, ..named }).expect("read");
        assert_eq!(found.rows.len(), usize::from(is_there), "{key}");
        assert_eq!(found.owned.as_deref(), Some(&owned));
    }
    let read = scan(readers, query).expect("read");
    assert_eq!(read.owned.as_deref(), Some(&owned));
    let there: Vec<String> = there.iter().map(|key| (*key).to_owned()).collect();
    let total = Some(there.len() as u64);
    assert_eq!(keys_of(&read), (there, total));
    // A count under conditions is not that of the writer.
    let key = query.table.columns().iter().position(|column| column.name == "key");
    let any = shard_manager::query::Test::Is(shard_manager::query::ValueState::NotNull);
    let condition = shard_manager::query::Condition::Column(key.expect("a column"), any);
    let some = ReadQuery { conditions: vec![condition], ..query.clone() };
    assert_eq!(scan(readers, &some).expect("read").rows.total, total);
}

#[test]
fn rows_of_a_slot_about_which_a_file_knows_nothing_are_counted_from_its_takeover_on() {
    let mut nodes = Nodes::new();
    nodes.put("ada", 1);
    let ada = slots(&["ada"]);
    nodes.change(&ada, TO_2).expect("handed over");
    nodes.catch_up();
    let forget = format!("DELETE FROM tessera_slots WHERE slot = {}", slot("ada").number());
    [&nodes.primary_file, &nodes.replica_file].iter().for_each(|file| execute(file, &forget));
    nodes.change(&ada, TakeOver).expect("taken over");
    assert_eq!(row_count(&nodes.primary_file), 1);
    nodes.catch_up();
    assert_equal_files(&nodes);
}

#[test]
fn rows_of_slots_that_are_handed_over_are_neither_read_nor_counted_until_they_come_back() {
    let mut nodes = Nodes::new();
    ["ada", "bob", "cyd"].iter().for_each(|key| nodes.put(key, 1));
    nodes.catch_up();
    let (gone, query) = (slots(&["ada", "cyd"]), nodes.scan_query());
    assert_shows(&nodes.primary().readers, &query, &["ada", "bob", "cyd"]);
    nodes.change(&gone, HOLD).expect("fenced");
    let position = nodes.change(&gone, TO_2).expect("handed over");
    assert_eq!(nodes.change(&gone, TO_2), Ok(position), "a repeat changes nothing");
    assert_eq!(generation(&nodes.primary_file) as u64, position);
    assert_eq!(nodes.replication.primary().schema_position(), position);
    assert_eq!(nodes.write(Upsert, "ada", 2), Err(moved("ada")));
    assert_eq!(row_count(&nodes.primary_file), 1);
    assert_shows(&nodes.primary().readers, &query, &["bob"]);
    // The replica answers for its own position.
    assert_shows(&nodes.replica().readers, &query, &["ada", "bob", "cyd"]);
    nodes.catch_up();
    assert_shows(&nodes.replica().readers, &query, &["bob"]);
    assert_equal_files(&nodes);
    for step in [HOLD, Release, HandOver { to: ShardNumber(3) }] {
        let not_owned = SlotChangeError::NotOwned { shard: "shard1".into(), slots: gone.clone() };
        let some = slots(&["ada", "bob", "cyd"]);
        assert_eq!(nodes.change(&some, step), Err(not_owned), "{step:?}");
    }
    assert_shows(&nodes.primary().readers, &query, &["bob"]);

    nodes.primary_dies();
    nodes.replica_dies();
    assert_shows(&nodes.primary().readers, &query, &["bob"]);
    assert_shows(&nodes.replica().readers, &query, &["bob"]);
    assert_eq!(nodes.replication.primary().schema_position(), position);
    nodes.put("bob", 3);

    let back_at = nodes.change(&slots(&["ada"]), TakeOver).expect("taken over");
    assert_eq!(nodes.change(&slots(&["ada", "bob"]), TakeOver), Ok(back_at), "owned already");
    nodes.put("ada", 4);
    assert_eq!(row_count(&nodes.primary_file), 2);
    assert_shows(&nodes.primary().readers, &query, &["ada", "bob"]);
    nodes.rebuild();
    assert_shows(&nodes.replica().readers, &query, &["ada", "bob"]);
    nodes.change(&gone, TakeOver).expect("taken over");
    nodes.catch_up();
    assert_shows(&nodes.replica().readers, &query, &["ada", "bob", "cyd"]);
    assert_equal_files(&nodes);
}

#[test]
fn rows_that_another_shard_stored_keep_their_versions_when_their_slot_is_taken_over() {
    let mut nodes = Nodes::new();
    nodes.put("ada", 1);
    nodes.catch_up();
    let ada = slots(&["ada"]);
    nodes.change(&ada, TO_2).expect("handed over");
    nodes.catch_up();
    for file in [&nodes.primary_file, &nodes.replica_file] {
        execute(file, "UPDATE tessera_slots SET state='importing' WHERE state='moved'");
        execute(file, "UPDATE kv SET version = 9000");
    }
    nodes.primary_dies();
    let query = nodes.scan_query();
    let read = read_key(&nodes.primary().readers, &query, "ada");
    assert_eq!(read, Err(refused("ada", RefusedState::Importing)));
    assert_eq!(nodes.write(Delete, "ada", 0), Err(refused("ada", RefusedState::Importing)));
    nodes.change(&ada, TakeOver).expect("taken over");
    let done = nodes.write(Upsert, "ada", 2).expect("stored");
    assert_eq!(done.version, 9001);
    nodes.catch_up();
    assert_equal_files(&nodes);
}

#[test]
fn a_replica_that_dies_before_the_commit_of_a_change_of_slots_repeats_it() {
    let mut nodes = Nodes::new();
    nodes.put("ada", 1);
    nodes.change(&slots(&["ada"]), TO_2).expect("handed over");
    assert!(nodes.apply(), "the row");
    let died = catch_unwind(AssertUnwindSafe(|| {
        nodes.replica().changes.step(true, None, |_| panic!("it dies here"))
    }));
    assert!(died.is_err());
    nodes.replica_dies();
    let query = nodes.scan_query();
    assert_eq!(read_key(&nodes.replica().readers, &query, "ada").expect("read").rows.len(), 1);
    nodes.catch_up();
    assert_eq!(read_key(&nodes.replica().readers, &query, "ada"), Err(moved("ada")));
    assert_equal_files(&nodes);
}

#[test]
fn a_log_line_that_a_replica_does_not_know_stops_it() {
    let mut nodes = Nodes::new();
    nodes.change(&slots(&["ada"]), TO_2).expect("handed over");
    let lines = log(&nodes.primary_file).pop().expect("an entry").1;
    assert_eq!(lines.len(), 1, "such a line is alone in its entry");
    assert_eq!(lines[0]["slots"], "moved");
    let sql =
        r#"UPDATE tessera_log SET changes = CAST('{"slots":"split","ranges":[[1,2]]}' AS BLOB)"#;
    execute(&nodes.primary_file, sql);
    let stopped = nodes.replica().changes.step(true, None, |_| {});
    assert!(stopped.is_err(), "{stopped:?}");
}

#[test]
fn reads_beside_slots_that_change_hands_see_all_rows_of_a_slot_or_none() {
    let mut nodes = Nodes::new();
    let keys: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    keys.iter().for_each(|key| nodes.put(key, 1));
    let query = nodes.scan_query();
    let (readers, done) = (nodes.primary().readers.clone(), AtomicBool::new(false));
    let watch = || {
        let mut reads = 0_u32;
        while !done.load(Ordering::SeqCst) || reads == 0 {
            let read = scan(&readers, &query).expect("read");
            let owned = read.owned.as_deref().expect("the slots of a scan");
            let (found, total) = keys_of(&read);
            let mut expected: Vec<String> =
                keys.iter().filter(|key| owned.contains(slot(key))).cloned().collect();
            expected.sort_unstable();
            assert_eq!((&found, total), (&expected, Some(found.len() as u64)));
            for key in &keys {
                match read_key(&readers, &query, key) {
                    Ok(read) => assert_eq!(read.rows.len(), 1, "{key}"),
                    Err(error) => assert_eq!(error, moved(key)),
                }
            }
            reads += 1;
        }
    };
    std::thread::scope(|scope| {
        let watchers = [scope.spawn(watch), scope.spawn(watch)];
        let changed = (0..60).try_for_each(|round| {
            let some = keys.iter().skip(round % 7).step_by(3);
            let some: SlotSet = some.map(|key| slot(key)).collect();
            nodes.change(&some, TO_2)?;
            nodes.change(&some, TakeOver).map(drop)
        });
        done.store(true, Ordering::SeqCst);
        changed.expect("each change is carried out");
        watchers.into_iter().for_each(|watcher| watcher.join().expect("it saw whole slots"));
    });
}

/// An event in the life of a shard.
#[derive(Clone, Debug)]
enum Event {
    /// A batch of changes: key, value, and true to store rather than to delete.
    Batch(Vec<(usize, i64, bool)>),
    /// A change of the slots of some keys.
    Change(Vec<usize>, u8),
    Apply,
    PrimaryDies,
    ReplicaDies,
    Rebuild,
}

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

fn event() -> impl Strategy<Value = Event> {
    let change = (0..KEYS.len(), any::<i64>(), prop::bool::weighted(0.8));
    let some = proptest::collection::vec(0..KEYS.len(), 1..5);
    prop_oneof![
        5 => proptest::collection::vec(change, 1..8).prop_map(Event::Batch),
        5 => (some, 0..4_u8).prop_map(|(keys, step)| Event::Change(keys, step)),
        4 => Just(Event::Apply),
        1 => Just(Event::PrimaryDies),
        1 => Just(Event::ReplicaDies),
        1 => Just(Event::Rebuild),
    ]
}

/// State of the keys as the events leave it: rows, keys that moved away, keys that are fenced.
#[derive(Default)]
struct Expected {
    rows: BTreeMap<usize, i64>,
    away: BTreeSet<usize>,
    fenced: BTreeSet<usize>,
}

impl Expected {
    fn batch(&mut self, nodes: &mut Nodes, changes: &[(usize, i64, bool)]) {
        let row = |(key, value, stores): &(usize, i64, bool)| {
            nodes.row(if *stores { Upsert } else { Delete }, KEYS[*key], *value)
        };
        let rows: Vec<_> = changes.iter().map(row).collect();
        let group = WriteGroup { rows: &rows, atomic_rows: None };
        let done = nodes.primary().changes.apply(&[group]).expect("the batch is committed").rows;
        for ((key, value, stores), done) in changes.iter().zip(done) {
            let held = self.away.contains(key) || self.fenced.contains(key);
            let is_refused = matches!(done, Err(Error::SlotRefused(_)));
            assert_eq!(is_refused, held, "{key} {done:?}");
            match (held, *stores) {
                (true, _) => {}
                (false, true) => drop(self.rows.insert(*key, *value)),
                (false, false) => drop(self.rows.remove(key)),
            }
        }
    }

    fn change(&mut self, nodes: &mut Nodes, keys: &[usize], step: u8) {
        let of_keys: SlotSet = keys.iter().map(|key| slot(KEYS[*key])).collect();
        let step = [HOLD, Release, TO_2, TakeOver][usize::from(step)];
        let none_moved = keys.iter().all(|key| !self.away.contains(key));
        let changed = nodes.change(&of_keys, step);
        match step {
            Fence { .. } | Release => {
                assert_eq!(changed.is_ok(), none_moved, "{changed:?}");
                if none_moved && step == Release {
                    self.fenced.retain(|key| !keys.contains(key));
                } else if none_moved {
                    self.fenced.extend(keys);
                }
            }
            HandOver { .. } => {
                changed.expect("handed over");
                self.away.extend(keys);
                self.fenced.retain(|key| !keys.contains(key));
            }
            TakeOver => {
                changed.expect("taken over");
                self.away.retain(|key| !keys.contains(key));
            }
        }
    }

    fn check(&self, nodes: &mut Nodes) {
        let query = nodes.scan_query();
        let there = self.rows.keys().filter(|key| !self.away.contains(*key));
        let there: Vec<String> = there.map(|key| KEYS[*key].to_owned()).collect();
        let total = Some(there.len() as u64);
        let readers = &nodes.primary().readers;
        assert_eq!(keys_of(&scan(readers, &query).expect("read")), (there, total));
        for (index, key) in KEYS.iter().enumerate() {
            let read = read_key(readers, &query, key).map(|read| read.rows.len());
            let expected = match self.away.contains(&index) {
                true => Err(moved(key)),
                false => Ok(usize::from(self.rows.contains_key(&index))),
            };
            assert_eq!(read, expected, "{key}");
        }
        let foreign = self.rows.keys().filter(|key| self.away.contains(*key)).count();
        let sql = "SELECT coalesce(sum(rows), 0) AS value FROM tessera_foreign_counts";
        assert_eq!(ints(&nodes.primary_file, sql), [foreign as i64]);
    }
}

proptest! {
    #![proptest_config(crate::cases(12))]

    #[test]
    fn any_order_of_writes_and_changes_of_slots_shows_the_rows_of_the_owner(
        events in proptest::collection::vec(event(), 1..30)
    ) {
        let (mut nodes, mut expected) = (Nodes::new(), Expected::default());
        for event in &events {
            match event {
                Event::Batch(changes) => expected.batch(&mut nodes, changes),
                Event::Change(keys, step) => expected.change(&mut nodes, keys, *step),
                Event::Apply => drop(nodes.apply()),
                Event::PrimaryDies => nodes.primary_dies(),
                Event::ReplicaDies => nodes.replica_dies(),
                Event::Rebuild => nodes.rebuild(),
            }
            expected.check(&mut nodes);
        }
        nodes.catch_up();
        assert_equal_files(&nodes);
    }
}
