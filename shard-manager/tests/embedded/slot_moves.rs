//! Tests of moves of slots between shards of files: the rows, the owners, the replicas that follow,
//! and requests that are late, repeated or refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use shard_manager::engine::slot_move::{MoveChange, MoveChangeError, RoundError};
use shard_manager::engine::{SchemaChange, Writer};
use shard_manager::error::Error;
use shard_manager::moves::cutover::SlotCommit;
use shard_manager::moves::identity::{MoveSide, MoveTicket};
use shard_manager::moves::mark::Mark;
use shard_manager::moves::move_row::CopyCursor;
use shard_manager::moves::observation::{MoveGoal, SlotsState};
use shard_manager::moves::refusal::MoveRefusal;
use shard_manager::moves::request::MoveRequest;
use shard_manager::moves::step::{MoveStep, WaitReason};
use shard_manager::row_change::Operation::{Delete, Upsert};
use shard_manager::slot_refusal::{RefusedState, SlotRefusal};
use shard_manager::table::{Column, Table};
use shard_manager::value::ColumnType;

use MoveSide::{Destination, Origin};

use crate::cluster::{execute, ints, log};
use crate::move_pair::{MOVE, MovePair};
use crate::slot_changes::states;
use crate::slot_nodes::{Nodes, keys_of, scan};

pub(crate) const KEYS: [&str; 6] = ["ada", "bob", "cyd", "dan", "eve", "flo"];
/// Keys whose slots do not move.
const OTHERS: [&str; 2] = ["gus", "hal"];
pub(crate) const KEPT: MoveStep = MoveStep::Rest(WaitReason::Keeping);

pub(crate) fn nothing(_: &mut MovePair) {}

/// Clients that write beside a move, and remember what was stored.
#[derive(Default)]
struct Clients {
    random: u64,
    rows: BTreeMap<String, i64>,
    refused: u32,
}

impl Clients {
    fn next(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) % below
    }

    /// Makes a few changes on the shard that owns the slot of each key.
    fn write(&mut self, pair: &mut MovePair) {
        for _ in 0..self.next(6) {
            let all = KEYS.iter().chain(&OTHERS);
            let key = *all.clone().nth(self.next(8) as usize).expect("a key");
            let (value, stores) = (self.next(1_000) as i64, self.next(4) > 0);
            for side in [Origin, Destination] {
                let nodes = pair.shard(side);
                let mut row = nodes.row(if stores { Upsert } else { Delete }, key, value);
                let repeats = self.next(3) == 0;
                row.idempotency_key = repeats.then(|| self.random.to_string());
                match nodes.apply_row(row) {
                    Err(Error::SlotRefused(_)) => self.refused += 1,
                    Ok(_) if stores => drop(self.rows.insert(key.to_owned(), value)),
                    Ok(_) | Err(Error::NoSuchRow) => drop(self.rows.remove(key)),
                    Err(error) => panic!("{key}: {error}"),
                }
            }
        }
    }

    /// Checks that both shards together show exactly the rows that were stored. Between the commit
    /// and the activation, neither shows those of the slots.
    fn check(&self, pair: &mut MovePair) {
        let mut is_owned =
            |side| matches!(pair.facts(side, None).slots, SlotsState::Owned | SlotsState::Fenced);
        if ![Origin, Destination].map(&mut is_owned).contains(&true) {
            return;
        }
        let (mut keys, mut counted) = (Vec::new(), 0);
        for nodes in &mut pair.shards {
            let query = nodes.scan_query();
            let (found, total) = keys_of(&scan(&nodes.primary().readers, &query).expect("read"));
            keys.extend(found);
            counted += total.expect("a total");
        }
        keys.sort_unstable();
        assert_eq!(keys, self.rows.keys().cloned().collect::<Vec<_>>());
        assert_eq!(counted, self.rows.len() as u64);
    }
}

/// Number of rows in both counters of a file, and of those that are there.
fn row_numbers(nodes: &Nodes) -> (i64, i64) {
    let counted = "SELECT (SELECT sum(rows) FROM tessera_counts)
        + (SELECT coalesce(sum(rows), 0) FROM tessera_foreign_counts) AS value";
    let there = "SELECT (SELECT count(*) FROM kv) + (SELECT count(*) FROM users) AS value";
    (ints(&nodes.primary_file, counted)[0], ints(&nodes.primary_file, there)[0])
}

pub(crate) fn assert_counted(pair: &MovePair) {
    for nodes in &pair.shards {
        let (counted, there) = row_numbers(nodes);
        assert_eq!(counted, there);
    }
}

#[test]
fn a_move_beside_writes_takes_every_row_comes_back_and_leaves_nothing() {
    let mut pair = MovePair::new(&KEYS);
    let mut clients = Clients { random: 1, ..Clients::default() };
    for key in KEYS.into_iter().chain(OTHERS) {
        pair.shard(Origin).put(key, 1);
        clients.rows.insert(key.to_owned(), 1);
    }
    for (goal, owner) in [
        (MoveGoal::Forward, Destination),
        (MoveGoal::Back, Origin),
        (MoveGoal::Forward, Destination),
    ] {
        pair.progress = Default::default();
        let mut steps = 0;
        let rests = pair.run(goal, |pair| {
            // Clients that never rest would keep the kept copy behind for ever.
            steps += 1;
            if steps < 40 {
                clients.write(pair);
            }
            clients.check(pair);
        });
        assert_eq!(rests, KEPT);
        assert_eq!(pair.facts(owner, None).slots, SlotsState::Owned);
        assert_eq!(pair.facts(owner.other(), None).slots, SlotsState::Moved);
        assert_eq!(pair.digests(Origin), pair.digests(Destination), "the copy is kept current");
        pair.assert_equal_files();
        assert_counted(&pair);
    }
    assert!(clients.refused > 0, "no write met a slot of another shard");
    pair.progress = Default::default();
    let end = pair.run(MoveGoal::Settle, |pair| clients.write(pair));
    assert_eq!(end, MoveStep::End(Some(Destination)));
    clients.check(&mut pair);
    pair.assert_equal_files();
    assert_counted(&pair);
    assert!(!pair.facts(Origin, None).has_rows);
    for nodes in &pair.shards {
        assert_eq!(ints(&nodes.primary_file, "SELECT count(*) AS value FROM tessera_moves"), [0]);
    }
    for table in ["tessera_foreign_counts", "tessera_move_counts"] {
        let rows = format!("SELECT coalesce(sum(rows), 0) AS value FROM {table}");
        assert_eq!(ints(&pair.shards[0].primary_file, &rows), [0]);
    }
}

#[test]
fn files_that_are_opened_again_at_any_step_go_on_with_the_move() {
    let mut pair = MovePair::new(&KEYS);
    let mut clients = Clients { random: 9, ..Clients::default() };
    for goal in [MoveGoal::Forward, MoveGoal::Back] {
        pair.progress = Default::default();
        let mut steps = 0;
        let rests = pair.run(goal, |pair| {
            steps += 1;
            if steps < 40 {
                clients.write(pair);
            }
            let nodes = &mut pair.shards[steps % 2];
            match steps % 3 {
                0 => nodes.primary_dies(),
                1 => nodes.replica_dies(),
                _ => nodes.rebuild(),
            }
        });
        assert_eq!(rests, KEPT);
        pair.assert_equal_files();
        assert_counted(&pair);
        clients.check(&mut pair);
    }
}

#[test]
fn a_move_that_is_given_up_leaves_the_target_as_it_was() {
    let mut pair = MovePair::new(&KEYS);
    KEYS.iter().for_each(|key| pair.shard(Origin).put(key, 1));
    pair.shards.iter_mut().for_each(Nodes::catch_up);
    let slots = |pair: &MovePair| {
        let sql = "SELECT count(*) AS value FROM tessera_slots";
        ints(&pair.shards[1].primary_file, sql)[0]
    };
    assert_eq!(slots(&pair), 0);
    // Until the fence.
    while !pair.progress.is_fenced {
        let step = pair.next(MoveGoal::Forward);
        assert!(pair.carry_out(step));
    }
    assert!(matches!(
        pair.shard(Origin).write(Upsert, "ada", 2),
        Err(Error::SlotRefused(SlotRefusal { state: RefusedState::Fenced { .. }, .. }))
    ));
    assert_eq!(slots(&pair), KEYS.len() as i64);
    assert_eq!(pair.run(MoveGoal::Back, nothing), MoveStep::End(Some(Origin)));
    pair.shard(Origin).put("ada", 2);
    assert_eq!((slots(&pair), pair.facts(Destination, None).has_rows), (0, false));
    pair.assert_equal_files();
    assert_counted(&pair);
}

#[test]
fn signposts_beneath_a_copy_are_restored_when_it_is_given_up() {
    let mut pair = MovePair::new(&KEYS);
    KEYS.iter().for_each(|key| pair.shard(Origin).put(key, 1));
    assert_eq!(pair.run(MoveGoal::Forward, nothing), KEPT);
    pair.progress = Default::default();
    // Back, until the origin imports; then forward again.
    while pair.facts(Origin, None).slots != SlotsState::Importing {
        let step = pair.next(MoveGoal::Back);
        assert!(pair.carry_out(step));
    }
    let refused = pair.shard(Origin).write(Upsert, "ada", 2);
    assert!(matches!(
        refused,
        Err(Error::SlotRefused(SlotRefusal { state: RefusedState::Importing, .. }))
    ));
    pair.run(MoveGoal::Forward, nothing);
    let away = "SELECT count(*) AS value FROM tessera_slots WHERE state = 'moved'
        AND moved_to = '1'";
    assert_eq!(ints(&pair.shards[0].primary_file, away), [KEYS.len() as i64]);
    pair.assert_equal_files();
    assert_counted(&pair);
}

#[test]
fn a_commit_is_refused_while_the_target_lacks_a_change() {
    let mut pair = MovePair::new(&KEYS);
    KEYS.iter().for_each(|key| pair.shard(Origin).put(key, 1));
    let commit = loop {
        let step = pair.next(MoveGoal::Forward);
        if let MoveStep::Send(_, request) = &step
            && matches!(**request, MoveRequest::Commit(..))
        {
            break MoveRequest::clone(request);
        }
        assert!(pair.carry_out(step));
    };
    let MoveRequest::Commit(ticket, SlotCommit { mut applied, signpost_min_position, way_back }) =
        commit.clone()
    else {
        panic!("{commit:?}")
    };
    // A change of another slot, and one beneath the fence, as if it had ended by itself.
    pair.shard(Origin).put("gus", 2);
    pair.shard(Origin).primary_dies();
    execute(
        &pair.shards[0].primary_file,
        "UPDATE tessera_slots SET fenced_at = '9999' WHERE state = 'fenced'",
    );
    pair.shard(Origin).put("ada", 2);
    let change = MoveChange::from(commit);
    let lacks = Err(MoveChangeError::Refused(MoveRefusal::MissingChanges));
    assert_eq!(pair.change(Origin, &change), lacks);
    applied.mark = Mark::Nothing;
    let nothing =
        MoveRequest::Commit(ticket, SlotCommit { applied, signpost_min_position, way_back });
    assert_eq!(pair.change(Origin, &nothing.into()), lacks);
    assert_eq!(pair.facts(Origin, None).slots, SlotsState::Fenced);
    assert_eq!(pair.run(MoveGoal::Forward, |_| ()), KEPT);
    assert_eq!(pair.digests(Origin), pair.digests(Destination));
    pair.assert_equal_files();
}

#[test]
fn a_copy_with_changes_that_its_source_has_lost_begins_again() {
    let mut pair = MovePair::new(&KEYS);
    KEYS.iter().for_each(|key| pair.shard(Origin).put(key, 1));
    while pair.row(Destination).is_none_or(|row| row.cursor != CopyCursor::Whole) {
        let step = pair.next(MoveGoal::Forward);
        assert!(pair.carry_out(step));
    }
    // The target gets changes that the replica of the source does not have.
    pair.shard(Origin).put("ada", 2);
    pair.shard(Origin).put("bob", 2);
    let (ticket, read) = pair.read_round(Origin, false).expect("a round");
    let request = MoveRequest::Store(ticket, read.round);
    let stored = pair.change(Destination, &MoveChange { request, rows: read.rows });
    stored.expect("the round is stored");
    pair.shard(Origin).promote_replica();
    // Others are given their positions.
    for key in ["cyd", "dan", "eve"] {
        pair.shard(Origin).put(key, 3);
    }
    assert!(matches!(pair.read_round(Origin, false), Err(RoundError::LostChanges)));
    assert_eq!(pair.run(MoveGoal::Forward, nothing), KEPT);
    assert_eq!(pair.digests(Origin), pair.digests(Destination));
    let values = "SELECT CAST(value AS INTEGER) AS value FROM kv ORDER BY key";
    assert_eq!(ints(&pair.shards[1].primary_file, values), [1, 1, 3, 3, 3, 1]);
    // On the way back nothing flows from before, either.
    pair.shard(Destination).put("flo", 4);
    pair.shard(Destination).promote_replica();
    pair.shard(Destination).put("ada", 5);
    pair.progress = Default::default();
    assert_eq!(pair.run(MoveGoal::Back, nothing), KEPT);
    assert_eq!(pair.digests(Origin), pair.digests(Destination));
    pair.assert_equal_files();
    assert_counted(&pair);
}

#[test]
fn requests_that_are_repeated_or_late_change_nothing() {
    let mut pair = MovePair::new(&KEYS);
    KEYS.iter().for_each(|key| pair.shard(Origin).put(key, 1));
    let state = |pair: &MovePair| {
        let rows = |file| shard_manager::store::sqlite::digest::digest(file).expect("read").tables;
        let without_position = |file| {
            let mut states = states(file);
            states.retain(|state| !state.contains("\"fenced\""));
            states
        };
        let files = pair.shards.iter().map(|nodes| &*nodes.primary_file);
        files.map(|file| (rows(file), without_position(file))).collect::<Vec<_>>()
    };
    for goal in [MoveGoal::Forward, MoveGoal::Back] {
        pair.progress = Default::default();
        pair.run(goal, |pair| {
            if let Some((side, change)) = pair.sent.last().cloned()
                && !matches!(change.request, MoveRequest::Fence(_))
            {
                let before = state(pair);
                // Refused, or carried out already.
                let _ = pair.change(side, &change);
                assert_eq!(state(pair), before, "{change:?}");
            }
        });
        let before = state(&pair);
        for (side, change) in pair.sent.clone() {
            let _ = pair.change(side, &change);
            assert_eq!(state(&pair), before, "{change:?}");
        }
    }
    pair.progress = Default::default();
    pair.run(MoveGoal::Settle, nothing);
    let before = state(&pair);
    let begins = |change: &MoveChange| {
        matches!(change.request, MoveRequest::Prepare(_) | MoveRequest::Trace(_))
    };
    for (side, change) in pair.sent.clone().iter().filter(|(_, change)| !begins(change)) {
        let _ = pair.change(*side, change);
        assert_eq!(state(&pair), before, "{change:?}");
    }
    pair.assert_equal_files();
}

#[test]
fn a_table_that_is_created_meanwhile_moves_too() {
    let mut pair = MovePair::new(&KEYS);
    let column =
        |name: &str, kind| Column { name: name.to_owned(), kind, nullable: false, default: None };
    let columns = vec![column("id", ColumnType::Text), column("value", ColumnType::Bigint)];
    let table = |name: &str| {
        let table = Table::new(name, columns.clone(), &["id".to_owned()], Some("id"));
        Arc::new(table.expect("a table"))
    };
    KEYS.iter().for_each(|key| pair.shard(Origin).put(key, 1));
    while pair.row(Destination).is_none_or(|row| row.cursor != CopyCursor::Whole) {
        let step = pair.next(MoveGoal::Forward);
        assert!(pair.carry_out(step));
    }
    let (first, last) = (table("a_first"), table("z_last"));
    for table in [&first, &last] {
        let make = SchemaChange::Make(Arc::clone(table));
        pair.shard(Origin).primary().changes.change_schema(&make).expect("created");
        let row = Nodes::row_of(table, Upsert, "ada", 3);
        pair.shard(Origin).apply_row(row).expect("stored");
    }
    let (ticket, read) = pair.read_round(Origin, false).expect("a round");
    assert_eq!((read.changes, read.rows.row_count()), (2, 2));
    let request = MoveRequest::Store(ticket, read.round);
    let change = MoveChange { request, rows: read.rows };
    let missing = Err(MoveChangeError::NoTable { table: "a_first".to_owned() });
    assert_eq!(pair.change(Destination, &change), missing);
    for table in [&first, &last] {
        let make = SchemaChange::Make(Arc::clone(table));
        pair.shard(Destination).primary().changes.change_schema(&make).expect("created");
    }
    assert_eq!(pair.run(MoveGoal::Forward, nothing), KEPT);
    let sql = "SELECT value FROM z_last UNION ALL SELECT value FROM a_first";
    assert_eq!(ints(&pair.shards[1].primary_file, sql), [3, 3]);
    pair.assert_equal_files();
}

#[test]
fn a_move_ticket_of_another_move_changes_nothing() {
    let mut pair = MovePair::new(&KEYS);
    let ticket = |pair: &mut MovePair| {
        let row = pair.row(Origin);
        row.map(|row| MoveTicket { id: MOVE, leg: row.leg, term: row.term })
    };
    assert_eq!(ticket(&mut pair), None);
    while ticket(&mut pair).is_none() {
        let step = pair.next(MoveGoal::Forward);
        assert!(pair.carry_out(step));
    }
    let entries = log(&pair.shards[0].primary_file).len();
    let known = ticket(&mut pair).expect("a row");
    let other = MoveTicket { id: shard_manager::moves::identity::MoveId(8), ..known };
    let refused = Err(MoveChangeError::Refused(MoveRefusal::UnknownMove));
    assert_eq!(pair.change(Origin, &MoveRequest::Fence(other).into()), refused);
    assert_eq!(log(&pair.shards[0].primary_file).len(), entries);
}

proptest! {
    #![proptest_config(crate::cases(8))]

    #[test]
    fn any_changes_of_direction_beside_writes_keep_every_row(
        seed in any::<u64>(), goals in proptest::collection::vec((0..2_u8, 1..30_usize), 1..6),
    ) {
        let mut pair = MovePair::new(&KEYS);
        let mut clients = Clients { random: seed, ..Clients::default() };
        for (goal, steps) in goals {
            let goal = [MoveGoal::Forward, MoveGoal::Back][usize::from(goal)];
            for _ in 0..steps {
                clients.write(&mut pair);
                let step = pair.next(goal);
                if !pair.carry_out(step) {
                    pair.progress = Default::default();
                }
                clients.check(&mut pair);
            }
            pair.assert_equal_files();
            assert_counted(&pair);
        }
    }
}
