//! Replication: after any order of batches, crashes and replays, a replica holds the same rows as
//! its primary.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use serde_json::value::RawValue;
use shard_manager::engine::{SchemaChange, WriteGroup, Writer};
use shard_manager::keyspace::{Keyspace, ShardKey};
use shard_manager::replication::ReplicationState;
use shard_manager::row_change::{Operation, RowWrite};
use shard_manager::store::sqlite::applier::{Applier, ApplyError};
use shard_manager::store::sqlite::digest::digest;
use shard_manager::store::sqlite::shard_file::{self, FileIdentity};
use shard_manager::store::sqlite::snapshot;
use shard_manager::store::sqlite::writer::SqliteWriter;
use shard_manager::table::{Column, Registry, Table};
use shard_manager::value::ColumnType;
use tempfile::TempDir;

use crate::scratch;
use crate::slot_nodes::unless_trimmed;

/// An event in the life of a shard.
#[derive(Clone, Debug)]
enum Event {
    /// Batches are committed; each change is an operation on one of a few rows.
    Batches(Vec<Vec<(Operation, u8, i64, bool)>>),
    /// A table is created if it does not exist, or dropped if it exists and is empty.
    Table(u8),
    /// The replica applies a piece of the log, with or without a sync.
    Apply { sync: bool },
    /// The replica dies just before its commit.
    DieBeforeCommit,
    /// The replica's process dies between two transactions.
    ReplicaDies,
    /// The primary's process dies between two transactions.
    PrimaryDies,
    /// The replica's file is lost.
    Rebuild,
}

fn event() -> impl Strategy<Value = Event> {
    let operation = prop::sample::select(Operation::ALL.to_vec());
    let change = (operation, 0..12_u8, any::<i64>(), prop::bool::weighted(0.2));
    let batch = proptest::collection::vec(change, 1..6);
    prop_oneof![
        4 => proptest::collection::vec(batch, 1..40).prop_map(Event::Batches),
        2 => (0..4_u8).prop_map(Event::Table),
        6 => any::<bool>().prop_map(|sync| Event::Apply { sync }),
        1 => Just(Event::DieBeforeCommit),
        1 => Just(Event::ReplicaDies),
        1 => Just(Event::PrimaryDies),
        1 => Just(Event::Rebuild),
    ]
}

/// A primary and a replica, connected by the test itself.
struct Pair {
    _dir: TempDir,
    primary: PathBuf,
    replica: PathBuf,
    tables: Registry,
    /// Client tables that have held rows.
    used: BTreeSet<String>,
    shapes: u32,
    replication: Arc<ReplicationState>,
    writer: Option<SqliteWriter>,
    applier: Option<Applier>,
    rebuilt: u32,
}

impl Pair {
    fn new() -> Self {
        let dir = scratch::folder();
        let (primary, replica) = (dir.path().join("p.db"), dir.path().join("r.db"));
        let slots: Vec<u16> = (0..16_384).collect();
        let identity =
            FileIdentity { cluster_id: "c", shard: "shard1", slots: &slots, table_groups: &[] };
        let prepared = shard_file::prepare(&primary, &identity, true).expect("a new file");
        let history = shard_file::begin_timeline(&primary, None).expect("a timeline");
        let replication = Arc::new(ReplicationState::new(history, prepared.position, 1));
        let tables = prepared.tables;
        let (writer, applier) = (None, None);
        let mut pair = Self {
            _dir: dir,
            primary,
            replica,
            tables,
            used: BTreeSet::new(),
            shapes: 0,
            replication,
            writer,
            applier,
            rebuilt: 0,
        };
        pair.rebuild();
        pair
    }

    fn writer(&mut self) -> &mut SqliteWriter {
        self.writer.get_or_insert_with(|| {
            SqliteWriter::open("shard1", &self.primary, &self.replication).expect("it opens")
        })
    }

    fn applier(&mut self) -> &mut Applier {
        let current = self.replication.timeline().history().current();
        self.applier.get_or_insert_with(|| {
            Applier::open(&self.primary, &self.replica, current).expect("it opens")
        })
    }

    fn rebuild(&mut self) {
        self.applier = None;
        snapshot::make(&self.primary, &self.replica).expect("a snapshot");
        self.rebuilt += 1;
        let position = self.applier().position();
        self.replication.replicas().reset_to(0, position);
    }

    fn write(&mut self, batch: &[(Operation, u8, i64, bool)]) {
        let rows: Vec<RowWrite> = batch.iter().map(|change| self.row(change)).collect();
        let group = WriteGroup { rows: &rows, atomic_rows: None };
        self.writer().apply(&[group]).expect("the batch is stored");
    }

    fn row(&mut self, (operation, id, amount, keyed): &(Operation, u8, i64, bool)) -> RowWrite {
        let key = format!("u{}", id % 3);
        let (table, fields) = match (id % 2 == 0, operation) {
            (true, Operation::Delete) => ("orders", json!({"order_id": id.to_string()})),
            (true, _) => (
                "orders",
                json!({"order_id": id.to_string(), "amount": amount,
                "note": if amount % 2 == 0 { json!(null) } else { json!("line\nbreak \"quoted\" é") }}),
            ),
            (false, Operation::Delete) => ("kv", json!({})),
            (false, _) => ("kv", json!({"value": {"n": [amount, null, "\u{1}\n"]}})),
        };
        let extra = if *id == 11 { self.extra() } else { None };
        let (table, fields) = match extra {
            Some(extra) => (extra, json!({"id": amount.rem_euclid(4)})),
            None => (Arc::clone(self.tables.find(table).expect("it is there")), fields),
        };
        let members: std::collections::BTreeMap<String, Box<RawValue>> =
            serde_json::from_value(fields).expect("an object");
        let fields: Vec<_> =
            members.iter().map(|(name, json)| (name.as_str().into(), &**json)).collect();
        let key = ShardKey::parse(&key).expect("a key");
        let slot = Keyspace::Hash.slot_of(key).expect("a slot");
        let mut row = RowWrite::parse(&table, *operation, (key, slot), &fields).expect("a row");
        // Few keys, so that some are reused, for equal and for different requests.
        row.idempotency_key = keyed.then(|| format!("k{}", amount.rem_euclid(5)));
        row
    }

    fn make_or_drop(&mut self, number: u8) {
        let name = format!("extra{number}");
        if self.used.contains(&name) {
            return;
        }
        let change = match self.tables.find(&name) {
            Some(table) => SchemaChange::Drop(Arc::clone(table)),
            None => {
                // The table has another shape each time.
                self.shapes += 1;
                let column =
                    |name: String, kind| Column { name, kind, nullable: true, default: None };
                let mut columns = vec![column(format!("c{}", self.shapes), ColumnType::Double)];
                columns.push(Column { nullable: false, ..column("id".into(), ColumnType::Bigint) });
                let table = Table::new(&name, columns, &["id".into()], None);
                SchemaChange::Make(Arc::new(table.expect("a good table")))
            }
        };
        self.writer().change_schema(&change).expect("it is done");
        self.tables = match &change {
            SchemaChange::Make(table) => self.tables.with(Arc::clone(table)),
            SchemaChange::Drop(_) => self.tables.without(&[&name]),
            SchemaChange::Index(_) => self.tables.clone(),
        };
    }

    /// The most recently created client table, if there is one; it counts as having held rows from
    /// now on.
    fn extra(&mut self) -> Option<Arc<Table>> {
        let extra = self.tables.tables().find(|table| table.name().starts_with("extra"))?;
        self.used.insert(extra.name().to_owned());
        Some(Arc::clone(extra))
    }

    /// Runs one transaction of the applier and handles its outcome like the real replication loop.
    /// Returns whether there may be more to apply.
    fn apply(&mut self, sync: bool) -> bool {
        let applied = self.applier().step(sync, None, |_| {});
        let Some(more) = unless_trimmed(applied) else {
            self.rebuild();
            return true;
        };
        let position = self.applier().position();
        self.replication.replicas().record_applied(0, position, None);
        if sync {
            self.applier().sync().expect("it syncs");
            self.replication.replicas().record_durable(0, position);
        }
        more
    }

    fn meet(&mut self, event: &Event) {
        match event {
            Event::Batches(batches) => batches.iter().for_each(|batch| self.write(batch)),
            Event::Table(number) => self.make_or_drop(*number),
            Event::Apply { sync } => drop(self.apply(*sync)),
            Event::DieBeforeCommit => {
                let died = catch_unwind(AssertUnwindSafe(|| {
                    self.applier().step(true, None, |_| panic!("it dies here"))
                }));
                if died.is_err() {
                    self.applier = None;
                }
            }
            Event::ReplicaDies => self.applier = None,
            Event::PrimaryDies => self.writer = None,
            Event::Rebuild => self.rebuild(),
        }
    }
}

proptest! {
    #![proptest_config(crate::cases(12))]

    #[test]
    fn any_interleaving_of_batches_crashes_and_replays_ends_with_equal_files(
        events in proptest::collection::vec(event(), 1..40)
    ) {
        let mut pair = Pair::new();
        for event in &events {
            pair.meet(event);
        }
        while pair.apply(true) {}
        let (primary, replica) = (digest(&pair.primary), digest(&pair.replica));
        prop_assert_eq!(primary.expect("read"), replica.expect("read"));
        let counts = "SELECT json_group_array(json_array(name, rows)) AS value FROM tessera_counts";
        let declared = "SELECT json_array(name, column_list, id, routing, made_at) AS value FROM tessera_tables ORDER BY name";
        for sql in [counts, declared] {
            prop_assert_eq!(crate::cluster::texts(&pair.primary, sql), crate::cluster::texts(&pair.replica, sql));
        }
    }
}

#[test]
fn the_log_is_trimmed_once_replicas_have_it_on_disk_and_kept_until_then() {
    let mut pair = Pair::new();
    let batch = [(Operation::Upsert, 2, 1, false)];
    let kept = |pair: &Pair| {
        crate::cluster::ints(&pair.primary, "SELECT count(*) AS value FROM tessera_log")[0]
    };
    (0..200).for_each(|_| pair.write(&batch));
    assert_eq!(kept(&pair), 200, "the replica has nothing yet");
    while pair.apply(false) {}
    (0..64).for_each(|_| pair.write(&batch));
    assert_eq!(kept(&pair), 264, "it has it, but a loss of power could take it back");
    while pair.apply(true) {}
    (0..64).for_each(|_| pair.write(&batch));
    assert!(kept(&pair) <= 128, "{} entries are left", kept(&pair));
    while pair.apply(true) {}
    assert_eq!(digest(&pair.primary).expect("read"), digest(&pair.replica).expect("read"));
    assert_eq!(pair.rebuilt, 1, "by the log alone");
}

#[test]
fn several_holders_keep_the_log_each_from_its_position() {
    let mut pair = Pair::new();
    let batch = [(Operation::Upsert, 2, 1, false)];
    let began = pair.replication.primary().committed();
    let first = |pair: &Pair| {
        let sql = "SELECT min(position) AS value FROM tessera_log";
        crate::cluster::ints(&pair.primary, sql)[0] as u64 - began
    };
    let write = |pair: &mut Pair| {
        (0..100).for_each(|_| pair.write(&batch));
        while pair.apply(true) {}
    };
    write(&mut pair);
    let backup = pair.replication.retain_log("backup", None);
    write(&mut pair);
    let mover = pair.replication.retain_log("move 1", None);
    write(&mut pair);
    write(&mut pair);
    // A trim takes less than 64 more entries than needed.
    assert!((37..=101).contains(&first(&pair)), "{}", first(&pair));
    mover.advance(began + 300);
    write(&mut pair);
    assert!((37..=101).contains(&first(&pair)), "{}", first(&pair));
    drop(backup);
    write(&mut pair);
    assert!((237..=301).contains(&first(&pair)), "{}", first(&pair));
    assert!(mover.is_kept());
    // Simulates the limit of the log's size.
    assert_eq!(shard_manager::replication::record_trim(&pair.replication, began + 310), ["move 1"]);
    assert!(!mover.is_kept());
    write(&mut pair);
    assert!(first(&pair) > 500, "{}", first(&pair));
    drop(mover);
    assert_eq!(digest(&pair.primary).expect("read"), digest(&pair.replica).expect("read"));
}

#[test]
fn a_replica_older_than_the_trimmed_log_gets_an_error() {
    let mut pair = Pair::new();
    let batch = [(Operation::Upsert, 2, 1, false)];
    (0..10).for_each(|_| pair.write(&batch));
    // Simulates the limit of the log's size.
    crate::cluster::execute(&pair.primary, "DELETE FROM tessera_log WHERE position < 6");
    let reported = pair.applier().step(true, None, |_| {});
    assert!(matches!(reported, Err(ApplyError::LogTrimmed)), "{reported:?}");
    crate::cluster::execute(&pair.primary, "DELETE FROM tessera_log");
    let reported = pair.applier().step(true, None, |_| {});
    assert!(matches!(reported, Err(ApplyError::LogTrimmed)), "{reported:?}");
    pair.rebuild();
    assert!(!pair.apply(true));
    assert_eq!(digest(&pair.primary).expect("read"), digest(&pair.replica).expect("read"));
}

#[test]
fn a_delayed_replica_skips_no_entry_although_the_times_in_the_log_go_back() {
    let mut pair = Pair::new();
    let began = pair.applier().position();
    for (id, amount) in [(2, 1), (4, 2), (6, 3)] {
        pair.write(&[(Operation::Upsert, id, amount, false)]);
    }
    // The clock went back after the second entry.
    let set = "UPDATE tessera_log SET at = '2999-01-01T00:00:00.000000Z' WHERE position =";
    crate::cluster::execute(&pair.primary, &format!("{set} {}", began + 2));
    let none = pair.applier().step(true, Some(began), |_| {});
    assert!(matches!(none, Ok(false)), "{none:?}");
    let two = pair.applier().step(true, Some(began + 2), |_| {});
    assert!(matches!(two, Ok(true)), "{two:?}");
    assert_eq!(pair.applier().position(), began + 2);
    while pair.apply(true) {}
    assert_eq!((pair.applier().position(), pair.rebuilt), (began + 3, 1));
    assert_eq!(digest(&pair.primary).expect("read"), digest(&pair.replica).expect("read"));
}

#[test]
fn strong_reads_never_go_back_behind_an_earlier_one() {
    let replication = ReplicationState::new(
        shard_manager::position::TimelineHistory::new(vec![(1, 0)]).expect("a history"),
        7,
        1,
    );
    assert_eq!(replication.primary().strong_min_position(), 7);
    // A reader of the primary has seen a commit that the writer has not announced yet.
    replication.primary().begin(9);
    replication.primary().raise_read_high_watermark(9);
    assert_eq!(
        (replication.primary().committed(), replication.primary().strong_min_position()),
        (7, 9)
    );
    replication.commit(9, std::time::Instant::now());
    replication.primary().raise_read_high_watermark(8);
    assert_eq!(replication.primary().strong_min_position(), 9);
}
